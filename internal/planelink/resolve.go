package planelink

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

const (
	resolveFresh = 10 * time.Second // a resolved credential is asked for again after this; revocations void it at once
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
	until time.Time
}

// Resolve says whom a credential stands for, as the control plane knew at most
// ten seconds ago; a revocation voids what is kept. An unknown credential is
// Unauthenticated.
func (l *Link) Resolve(ctx context.Context, q wire.ResolveRequest) (wire.Resolved, error) {
	key, epoch := resolveKey(q), l.State().Epoch
	r, turn, ok := l.resolved.get(key, epoch, l.opt.Now())
	if ok {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := l.Call(ctx, http.MethodPost, wire.PathResolve, q, &r); err != nil {
		return wire.Resolved{}, err
	}
	if r.Principal.IsZero() {
		return wire.Resolved{}, errors.New("planelink: the control plane resolved a credential to nobody")
	}
	now := l.opt.Now()
	until := now.Add(resolveFresh)
	if r.Expires.Before(until) {
		until = r.Expires
	}
	l.resolved.put(key, epoch, turn, resolved{r, until})
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

// get returns the answer that is kept, or the turn to hand to put.
func (rs *resolutions) get(key [sha256.Size]byte, epoch uint64, now time.Time) (wire.Resolved, uint64, bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.epoch != epoch {
		rs.byKey, rs.epoch = nil, epoch
	}
	r, ok := rs.byKey[key]
	if !ok || now.After(r.until) {
		return wire.Resolved{}, rs.turn, false
	}
	return r.Resolved, rs.turn, true
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
