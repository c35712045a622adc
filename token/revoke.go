package token

import (
	"context"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
)

// cutoffs holds the revocations in force. A revocation is a cut-off: every
// credential of its subject issued at or before NotBefore is void, so that
// "log out everywhere" is one entry however many tokens exist.
//
// The zero cutoffs holds none. Safe for concurrent use.
type cutoffs struct {
	mu   sync.RWMutex
	byID map[revokedID]wire.Revocation
}

const (
	revocationLife   = 65 * time.Minute           // outlasts every token: the longest lives an hour at most
	certificateSlack = time.Hour                  // verifiers' clocks may run behind
	foreverLife      = 100 * 365 * 24 * time.Hour // a service stays disabled until it joins anew, a stolen key for good

	// The cut-off of a service lies that far ahead: another control plane that has
	// not heard of it yet may date what it issues meanwhile by a clock that is ahead.
	// 2 s are for hearing of it (it takes a quarter of one, and commits take time),
	// 5 s for the clocks. Who joins anew in these seconds is dated past the cut-off.
	cutoffAhead = 2*time.Second + 5*time.Second
)

type revokedID struct{ kind, id string }

// add takes a revocation in; the latest cut-off of one subject counts.
func (r *cutoffs) add(v wire.Revocation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID == nil {
		r.byID = map[revokedID]wire.Revocation{}
	}
	key := revokedID{v.Kind, v.ID}
	if old, ok := r.byID[key]; ok && old.NotBefore.After(v.NotBefore) {
		return
	}
	r.byID[key] = v
}

// sweep forgets those that have outlived every credential they void.
func (r *cutoffs) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, v := range r.byID {
		if now.After(v.Expires) {
			delete(r.byID, key)
		}
	}
}

// cutoff returns the latest cut-off that concerns p, or the zero time.
func (r *cutoffs) cutoff(p rampart.Principal) time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var latest time.Time
	keys := []revokedID{{"sub", p.Subject}, {"sid", p.Session}, {"client", p.Client}, {"svid", p.Subject}}
	for _, id := range p.Actors {
		keys = append(keys, revokedID{"svid", id})
	}
	for _, key := range keys {
		if v, ok := r.byID[key]; ok && key.id != "" && v.NotBefore.After(latest) {
			latest = v.NotBefore
		}
	}
	return latest
}

// token reports whether a single token is revoked by its id.
func (r *cutoffs) token(jti string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.byID[revokedID{"jti", jti}]
	return ok
}

// named reports whether this very id is revoked, whatever the date of anything.
func (r *cutoffs) named(kind, id string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.byID[revokedID{kind, id}]
	return ok
}

// of is the cut-off of this very id, or the zero time.
func (r *cutoffs) of(kind, id string) time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byID[revokedID{kind, id}].NotBefore
}

// svid reports whether a service's identity was revoked after a certificate of
// it, or a token with it in its chain, was issued.
func (r *cutoffs) svid(id string, issued time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, ok := r.byID[revokedID{"svid", id}]
	return ok && !issued.After(v.NotBefore)
}

// after moves an iat past the cut-off of an actor whose certificate is younger
// than it.
func (r *cutoffs) after(iat time.Time, actor string) time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if v := r.byID[revokedID{"svid", actor}]; !iat.After(v.NotBefore) {
		return v.NotBefore.Truncate(time.Second).Add(time.Second)
	}
	return iat
}

// issuedAt picks the iat of a token for p minted now from a credential that
// was issued at from. A credential at or before a cut-off is dead. A younger
// one gets an iat after the cut-off: iat counts whole seconds, and a new login
// within the cut-off's own second would otherwise be dead at birth.
func (r *cutoffs) issuedAt(p rampart.Principal, from, now time.Time) (time.Time, error) {
	iat := now.Truncate(time.Second)
	cutoff := r.cutoff(p)
	if cutoff.IsZero() {
		return iat, nil
	}
	if !from.After(cutoff) {
		return time.Time{}, rampart.Errorf(rampart.Unauthenticated, "token.exchange", "token: the subject's credentials were revoked")
	}
	if !iat.After(cutoff) {
		iat = cutoff.Truncate(time.Second).Add(time.Second)
	}
	return iat, nil
}

// Revoke makes every credential of a subject void. It is durable, in force
// here and handed to OnRevoke when Revoke returns.
//
// Kinds: "sid" one login, browser's or client's; "sub" one subject; "client"
// one client; "key" one API key; "jti" one access token; "family" one refresh
// family with its access tokens; "svid" one service, gateway or queue by its
// SPIFFE ID, which is disabled until it has joined anew: nothing is exchanged by it
// or with it in the act chain, and its cut-off lies some seconds ahead; "kid" one signing key, which SetRings must have taken out of
// the rings before. Clients that a person let in from a browser session end
// with that session.
func (s *Service) Revoke(ctx context.Context, kind, id string) (wire.Revocation, error) {
	if id == "" || len(id) > maxID {
		return wire.Revocation{}, rampart.Errorf(rampart.Invalid, "", "token: a revocation needs an id of 1 to %d bytes", maxID)
	}
	switch kind {
	case "key", "jti", "kid":
		return s.revoke(ctx, kind, id)
	case "svid":
		if !s.certified(id) {
			return wire.Revocation{}, rampart.Errorf(rampart.Invalid, "", "token: %.100q is no service, gateway or queue of this system", id)
		}
		return s.revokeService(ctx, id)
	case "family":
		return s.endFamily(ctx, id)
	case "sub", "client":
		v, err := s.revoke(ctx, kind, id) // this cut-off covers the access tokens of its families too
		if err != nil {
			return v, err
		}
		_, err = s.opt.Store.RevokeFamilies(ctx, kind, id)
		return v, unavailable(err)
	case "sid":
		return s.endSession(ctx, id)
	}
	return wire.Revocation{}, rampart.Errorf(rampart.Invalid, "", "token: %.20q is no kind of revocation; use sid, sub, client, key, jti, family, kid, svid, serial or issuer", kind)
}

// endSession ends a browser session's tokens and those of the clients that
// were let in from it.
func (s *Service) endSession(ctx context.Context, sid string) (wire.Revocation, error) {
	v, err := s.revoke(ctx, "sid", sid)
	if err != nil {
		return v, err
	}
	families, err := s.opt.Store.RevokeFamilies(ctx, "sid", sid)
	if err != nil {
		return wire.Revocation{}, unavailable(err)
	}
	for _, f := range families {
		if _, err := s.revoke(ctx, "sid", f); err != nil {
			return wire.Revocation{}, err
		}
	}
	return v, nil
}

// endFamily ends one client's login: its refresh tokens and, as the family is
// the sid of its access tokens, those too.
func (s *Service) endFamily(ctx context.Context, id string) (wire.Revocation, error) {
	if _, err := s.opt.Store.RevokeFamilies(ctx, "family", id); err != nil {
		return wire.Revocation{}, unavailable(err)
	}
	return s.revoke(ctx, "sid", id)
}

// RevokeCertificates voids one certificate (kind "serial", id "ISSUER.SERIAL") or
// all below an authority (kind "issuer", id its key id), whatever their dates. It
// is durable, in force here and handed to OnRevoke when it returns. until is when
// the last certificate that it voids ends.
func (s *Service) RevokeCertificates(ctx context.Context, kind, id string, until time.Time) (wire.Revocation, error) {
	if kind != wire.RevokedSerial && kind != wire.RevokedIssuer || id == "" || len(id) > maxID {
		return wire.Revocation{}, rampart.Errorf(rampart.Invalid, "", "token: certificates are revoked by serial or issuer, with an id of 1 to %d bytes", maxID)
	}
	life := until.Sub(s.opt.Now()) + certificateSlack
	return s.revokeFor(ctx, kind, id, max(life, revocationLife))
}

// Disabled reports whether a service was disabled after a certificate of it was
// issued.
func (s *Service) Disabled(id string, issued time.Time) bool { return s.revoked.svid(id, issued) }

// Cutoff is until when certificates of a SPIFFE ID are void, as far as this control
// plane has heard; the zero time if none was revoked.
func (s *Service) Cutoff(id string) time.Time { return s.revoked.of("svid", id) }

// certified reports whether the file knows a service, gateway or queue by this
// SPIFFE ID.
func (s *Service) certified(id string) bool {
	for name, st := range s.system().Stores {
		if st.Kind == "nats" && s.system().StoreID(name) == id {
			return true
		}
	}
	return s.presented[id] != nil
}

// revokeService appends a cut-off ahead of every clock, and past the one before:
// a certificate may be dated just after that.
func (s *Service) revokeService(ctx context.Context, id string) (wire.Revocation, error) {
	if err := s.Follow(ctx); err != nil {
		return wire.Revocation{}, err
	}
	now := s.opt.Now()
	at := now.Add(cutoffAhead)
	if next := s.Cutoff(id).Add(time.Second); next.After(at) {
		at = next
	}
	return s.put(ctx, wire.Revocation{Kind: "svid", ID: id, NotBefore: at, Expires: now.Add(foreverLife)})
}

// Voided reports whether this very id was revoked, of a kind whose dates do not
// count: a certificate or an authority, wire.RevokedSerial and wire.RevokedIssuer.
func (s *Service) Voided(kind, id string) bool { return s.revoked.named(kind, id) }

// revoke appends one cut-off. It outlives the tokens it voids; refresh
// families, sessions and API keys are ended in their own rows.
func (s *Service) revoke(ctx context.Context, kind, id string) (wire.Revocation, error) {
	if kind == "kid" {
		return s.revokeFor(ctx, kind, id, foreverLife)
	}
	return s.revokeFor(ctx, kind, id, revocationLife)
}

func (s *Service) revokeFor(ctx context.Context, kind, id string, life time.Duration) (wire.Revocation, error) {
	now := s.opt.Now()
	return s.put(ctx, wire.Revocation{Kind: kind, ID: id, NotBefore: now, Expires: now.Add(life)})
}

func (s *Service) put(ctx context.Context, v wire.Revocation) (wire.Revocation, error) {
	v, err := s.opt.Store.PutRevocation(ctx, v)
	if err != nil {
		return wire.Revocation{}, unavailable(err)
	}
	s.revoked.add(v)
	if s.opt.OnRevoke == nil {
		return v, nil
	}
	return v, s.opt.OnRevoke(ctx, v)
}

// Follow puts in force what other control planes on the same store have revoked
// since the last call, and hands it to OnRevoke. Revocations of this Service
// come by a second time, which changes nothing. When it returns, every revocation
// counts that was durable when it was called.
func (s *Service) Follow(ctx context.Context) error {
	s.following.Lock()
	defer s.following.Unlock()
	list, err := s.opt.Store.RevocationsAfter(ctx, s.followed, s.opt.Now())
	if err != nil {
		return unavailable(err)
	}
	for _, v := range list {
		s.revoked.add(v)
		if s.opt.OnRevoke != nil {
			if err := s.opt.OnRevoke(ctx, v); err != nil {
				return err
			}
		}
		s.followed = v.Seq
	}
	return nil
}

// Revocations returns those in force, by Seq.
func (s *Service) Revocations(ctx context.Context) ([]wire.Revocation, error) {
	list, err := s.opt.Store.Revocations(ctx, s.opt.Now())
	if err != nil {
		return nil, unavailable(err)
	}
	return list, nil
}
