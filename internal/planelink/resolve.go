package planelink

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
)

const (
	resolveFresh = 10 * time.Second // a resolved credential is asked for again after this; revocations void it at once
	resolveStale = 10 * time.Minute // or after this while nobody answers, which no flow outlasts
	quiet        = 2 * time.Second  // without a beat for so long, asking would only wait
	maxResolved  = 50_000
)

// resolutions keep what the control plane said of sessions and API keys. The
// zero value is ready.
type resolutions struct {
	mu    sync.Mutex // guards below
	byKey map[[sha256.Size]byte]resolved
	epoch uint64
	turn  uint64 // grows when something is forgotten: what was asked before then may be that
}

type resolved struct {
	wire.Resolved
	at time.Time
}

// holds reports whether an answer of this age may still be used.
func (r resolved) holds(now time.Time, life time.Duration) bool {
	return !r.at.IsZero() && now.Before(r.Expires) && now.Sub(r.at) <= life
}

// Resolve says whom a credential stands for, as the control plane knew at most
// ten seconds ago; a revocation voids what is kept. While the control plane does
// not answer the last answer stays, for until when that may be relied on Bound
// says of each flow. An unknown credential is Unauthenticated.
func (l *Link) Resolve(ctx context.Context, q wire.ResolveRequest) (wire.Resolved, error) {
	key, epoch, now := resolveKey(q), l.State().Epoch, l.opt.Now()
	kept, turn := l.resolved.get(key, epoch)
	if kept.holds(now, resolveFresh) || kept.holds(now, resolveStale) && l.Age() > quiet {
		return kept.Resolved, nil
	}
	r, err := l.resolve(ctx, q)
	if rampart.KindOf(err) == rampart.Unavailable && kept.holds(now, resolveStale) {
		return kept.Resolved, nil
	}
	if err != nil {
		return wire.Resolved{}, err
	}
	l.resolved.put(key, epoch, turn, resolved{r, now})
	return r, nil
}

func (l *Link) resolve(ctx context.Context, q wire.ResolveRequest) (wire.Resolved, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var r wire.Resolved
	if err := l.Call(ctx, http.MethodPost, wire.PathResolve, q, &r); err != nil {
		return wire.Resolved{}, err
	}
	if r.Principal.IsZero() {
		return wire.Resolved{}, errors.New("planelink: the control plane resolved a credential to nobody")
	}
	return r, nil
}

// Forget drops what is kept of one session, and whatever is being asked of it.
func (l *Link) Forget(cookie string) {
	l.resolved.forget(resolveKey(wire.ResolveRequest{Type: wire.TypeSession, Value: cookie}))
}

// resolveKey: what an API key stands for may depend on where it comes from.
func resolveKey(q wire.ResolveRequest) [sha256.Size]byte {
	b := make([]byte, 0, 256) // stays on the stack for credentials that are usual
	b = append(append(append(b, q.Type...), 0), q.Value...)
	if q.Type == wire.TypeAPIKey {
		b = append(append(b, 0), q.IP...)
	}
	return sha256.Sum256(b)
}

// get returns the answer that is kept, if any, and the turn to hand to put.
func (rs *resolutions) get(key [sha256.Size]byte, epoch uint64) (resolved, uint64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.epoch != epoch {
		rs.byKey, rs.epoch = nil, epoch
	}
	return rs.byKey[key], rs.turn
}

func (rs *resolutions) put(key [sha256.Size]byte, epoch, turn uint64, r resolved) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.epoch != epoch || rs.turn != turn {
		return
	}
	if rs.byKey == nil || len(rs.byKey) >= maxResolved {
		rs.byKey = map[[sha256.Size]byte]resolved{}
	}
	rs.byKey[key] = r
}

func (rs *resolutions) forget(key [sha256.Size]byte) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.turn++
	delete(rs.byKey, key)
}
