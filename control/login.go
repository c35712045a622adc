package control

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

const maxName = 64 // bytes of a user name

// attempt is one try to log in.
type attempt struct {
	name     string
	password string
	client   string // "ip:port" as the gateway saw it
	agent    string
	cookie   string // of the session that this browser had before
}

// login checks a password and returns the id of a new session. The attempt is
// counted before the compare, and recorded before anybody holds the result.
func (p *Plane) login(ctx context.Context, a attempt) (string, error) {
	e := audit.Event{Class: audit.ClassAuthentication, Action: "session.login", Control: "authn.password", Peer: a.client}
	a.name = a.name[:min(len(a.name), maxName+1)] // no account's either, and small enough to be counted by
	giveBack, err := p.countGuess(ctx, a)
	if err != nil {
		e.Class = audit.ClassLimit
		return "", p.refuse(ctx, e, err)
	}
	u, err := p.checkPassword(ctx, a)
	e.Subject = u.Facts.Subject // known accounts only: an unknown name may be a password in the wrong field
	if err != nil {
		return "", p.refuse(ctx, e, err)
	}
	giveBack()
	if err := p.opt.Store.PutLogin(ctx, u.Name, ipKey(a.client), p.opt.Now()); err != nil {
		return "", unavailable(err)
	}
	if err := p.endOld(ctx, a.cookie); err != nil {
		return "", err
	}
	host, _, err := net.SplitHostPort(a.client)
	if err != nil {
		return "", err
	}
	id, s, err := p.sessions.Create(ctx, session.Login{Subject: u.Facts.Subject, IP: host, Agent: a.agent, ACR: "aal1", AMR: []string{"pwd"}})
	if err != nil {
		return "", err
	}
	e.Outcome = audit.Allowed
	if err := p.opt.Audit.Record(ctx, e); err != nil {
		_, endErr := p.sessions.End(ctx, s.SID) // nobody holds it, nobody ever shall
		return "", errors.Join(err, endErr)
	}
	return id, nil
}

// countGuess counts the attempt before its password is looked at. giveBack
// takes that back.
func (p *Plane) countGuess(ctx context.Context, a attempt) (giveBack func(), err error) {
	if p.opt.System.Off("limit.login") {
		return func() {}, nil
	}
	address := ipKey(a.client)
	known, err := p.opt.Store.LoggedIn(ctx, a.name, address, p.opt.Now().Add(-knownFor))
	if err != nil {
		return nil, unavailable(err)
	}
	return p.guesses.take(a.name, address, known)
}

// checkPassword returns the account if the password is its own. An unknown
// name costs the same work and gets the same answer.
func (p *Plane) checkPassword(ctx context.Context, a attempt) (store.User, error) {
	wrong := rampart.Errorf(rampart.Unauthenticated, "authn.password", "user name or password is wrong")
	u, err := p.opt.Store.User(ctx, a.name)
	if errors.Is(err, store.ErrNotFound) {
		if err := p.hasher.VerifyNone(ctx, a.password); err != nil {
			return store.User{}, err
		}
		return store.User{}, wrong
	}
	if err != nil {
		return store.User{}, unavailable(err)
	}
	ok, rehash, err := p.hasher.Verify(ctx, u.Hash, a.password)
	if err != nil {
		return u, err
	}
	if !ok {
		return u, wrong
	}
	if rehash {
		return u, p.rehash(ctx, u, a.password)
	}
	return u, nil
}

// rehash stores a password under today's parameters.
func (p *Plane) rehash(ctx context.Context, u store.User, password string) error {
	hash, err := p.hasher.Hash(ctx, password)
	if rampart.KindOf(err) == rampart.Invalid && err != nil {
		return nil // chosen under older rules; still theirs
	}
	if err != nil {
		return err
	}
	u.Hash = hash
	return unavailable(p.opt.Store.PutUser(ctx, u))
}

// endOld ends the session that the browser had: a login never continues one
// that somebody else may have planted.
func (p *Plane) endOld(ctx context.Context, cookie string) error {
	old, err := p.sessions.Resolve(ctx, cookie)
	if err != nil && rampart.KindOf(err) == rampart.Unauthenticated {
		return nil
	}
	if err != nil {
		return err
	}
	return p.revoke(ctx, "sid", old.SID)
}

// retrySeconds rounds up, to one at least.
func retrySeconds(d time.Duration) string {
	return strconv.FormatInt(max(1, int64((d+time.Second-1)/time.Second)), 10)
}
