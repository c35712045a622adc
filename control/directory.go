package control

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/token"
)

// maxCredential bounds what a plane may send to be resolved, in bytes.
const maxCredential = 8 << 10

// keyHorizon is how long an API key's answer may be held on to: the key itself
// has no end.
const keyHorizon = 5 * time.Minute

// directory answers whom credentials stand for. It implements token.Directory.
type directory struct{ p *Plane }

// Session implements token.Directory.
func (d directory) Session(ctx context.Context, id string) (token.Subject, error) {
	s, err := d.p.sessions.Resolve(ctx, id)
	if err != nil {
		return token.Subject{}, err
	}
	return d.bySession(ctx, s)
}

func (d directory) bySession(ctx context.Context, s session.Session) (token.Subject, error) {
	who, err := d.Facts(ctx, s.Subject)
	if err != nil {
		return token.Subject{}, err
	}
	who.Session, who.AuthTime, who.ACR, who.AMR = s.SID, s.AuthTime, s.ACR, s.AMR
	return token.Subject{Principal: who, Issued: s.Created, Expires: d.p.sessions.Until(s)}, nil
}

// APIKey implements token.Directory: a key used alone stands for its client.
func (d directory) APIKey(ctx context.Context, text string) (token.Subject, error) {
	k, c, err := d.key(ctx, text)
	if err != nil {
		return token.Subject{}, err
	}
	return d.byKey(k, c), nil
}

// key returns a key that is good, with its client, which may act at all. From
// where it may be used, only the plane that was shown it can ask: see
// resolveKey.
func (d directory) key(ctx context.Context, text string) (apikey.Key, token.Client, error) {
	k, err := d.p.apikeys.Verify(ctx, text)
	if err != nil {
		return k, token.Client{}, err
	}
	c, err := d.p.opt.Store.Client(ctx, k.Client)
	if err != nil && !errors.Is(err, token.ErrNotFound) {
		return k, c, unavailable(err)
	}
	if err != nil || c.Disabled {
		return k, c, apikey.Refused("client " + k.Client + " is disabled or gone")
	}
	// An empty scope would look like none, which is everything, where it is sent on.
	if scope := c.Permits(k.Scopes); scope != nil && len(scope) == 0 {
		return k, c, apikey.Refused("no permission is left of key " + k.ID)
	}
	return k, c, nil
}

// byKey is the client that a key stands for, limited to what the key and the
// registration both allow.
func (d directory) byKey(k apikey.Key, c token.Client) token.Subject {
	who := c.Self()
	who.Scope = c.Permits(k.Scopes)
	until := d.p.opt.Now().Add(keyHorizon)
	if !k.Expires.IsZero() && k.Expires.Before(until) {
		until = k.Expires
	}
	return token.Subject{Principal: who, Issued: k.Created, Expires: until}
}

// Facts implements token.Directory.
func (d directory) Facts(ctx context.Context, subject string) (rampart.Principal, error) {
	name, ok := strings.CutPrefix(subject, "user:")
	if !ok {
		return rampart.Principal{}, rampart.Errorf(rampart.Unauthenticated, "authn.session", "control: no such account")
	}
	u, err := d.p.opt.Store.User(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return rampart.Principal{}, rampart.Errorf(rampart.Unauthenticated, "authn.session", "control: no such account")
	}
	if err == nil && u.Disabled {
		return rampart.Principal{}, rampart.Errorf(rampart.Unauthenticated, "authn.session", "control: no such account")
	}
	return u.Facts, unavailable(err)
}

// Live implements token.Directory.
func (d directory) Live(ctx context.Context, subject, sid string) (time.Time, error) {
	list, err := d.p.sessions.List(ctx, subject)
	for _, s := range list {
		if s.SID == sid {
			return s.Expires, err
		}
	}
	return time.Time{}, err
}

// EndSession implements token.Directory.
func (d directory) EndSession(ctx context.Context, sid string) error {
	_, err := d.p.sessions.End(ctx, sid)
	return err
}

// resolve says whom a credential stands for, with the facts as they are now,
// and what rampart.yaml calls its owner.
func (p *Plane) resolve(ctx context.Context, q wire.ResolveRequest) (wire.Resolved, error) {
	if len(q.Value) > maxCredential {
		return wire.Resolved{}, rampart.Errorf(rampart.Invalid, "", "control: a credential has at most %d bytes", maxCredential)
	}
	switch q.Type {
	case wire.TypeSession:
		return resolved(directory{p}.Session(ctx, q.Value))
	case wire.TypeAccess, wire.TypeJWT:
		return resolved(p.tokens.AccessToken(ctx, q.Value))
	case wire.TypeAPIKey:
		return p.resolveKey(ctx, q.Value, q.IP)
	}
	return wire.Resolved{}, rampart.Errorf(rampart.Invalid, "", "control: %.100q is no kind of credential", q.Type)
}

// resolveKey lets a key in from the address that shows it.
func (p *Plane) resolveKey(ctx context.Context, text, ip string) (wire.Resolved, error) {
	k, c, err := directory{p}.key(ctx, text)
	if err != nil {
		return wire.Resolved{}, err
	}
	if err := p.apikeys.Admit(ctx, k, ip); err != nil {
		return wire.Resolved{}, err
	}
	res, err := resolved(directory{p}.byKey(k, c), nil)
	res.KeyID, res.Declared, res.Plan = k.ID, c.Principal, p.system().Principals[c.Principal].Plan
	return res, err
}

func resolved(s token.Subject, err error) (wire.Resolved, error) {
	if err != nil {
		return wire.Resolved{}, err
	}
	return wire.Resolved{Principal: s.Principal, Issued: s.Issued, Expires: s.Expires}, nil
}

// revoke ends credentials in their own rows first, then tells every plane: a
// credential that is gone cannot be shown again when the cut-off has expired.
func (p *Plane) revoke(ctx context.Context, kind, id string) error {
	var err error
	switch kind {
	case "kid":
		return p.RevokeKey(ctx, id)
	case wire.RevokedSerial, wire.RevokedIssuer:
		return p.revokeCertificate(ctx, kind, id)
	case "sid":
		_, err = p.sessions.End(ctx, id)
	case "sub":
		_, err = p.sessions.EndAll(ctx, id)
	case "client":
		err = p.apikeys.DisableAll(ctx, id)
	case "key":
		_, err = p.apikeys.Disable(ctx, id)
	}
	if err != nil {
		return err
	}
	_, err = p.tokens.Revoke(ctx, kind, id)
	return err
}

// sessionsEnded tells every plane of sessions that a newer login pushed out.
func (p *Plane) sessionsEnded(ctx context.Context, sids []string) error {
	for _, sid := range sids {
		if _, err := p.tokens.Revoke(ctx, "sid", sid); err != nil {
			return err
		}
	}
	return nil
}
