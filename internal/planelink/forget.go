package planelink

import (
	"sync"

	"github.com/rampart-security/rampart/internal/wire"
)

// forgetting is what this plane and its service must not serve any more, and
// what they still use. The zero value is ready.
type forgetting struct {
	mu     sync.Mutex // guards below
	hooks  []func(wire.Forget)
	inUse  func() map[string]int
	forgot uint64
}

// OnForget calls fn with what caches must not serve any more, from the link's
// own goroutine and in order; fn must not block. Whoever carried one out that has
// an id says so with Forgot. A plane that registers nothing caches nothing, and
// has carried out each as it arrives.
func (l *Link) OnForget(fn func(wire.Forget)) {
	l.forget.mu.Lock()
	defer l.forget.mu.Unlock()
	l.forget.hooks = append(l.forget.hooks, fn)
}

// Forgot tells the control plane, with the next heartbeat, that this plane and
// its service carried out every Forget up to this id.
func (l *Link) Forgot(id uint64) {
	l.forget.mu.Lock()
	defer l.forget.mu.Unlock()
	l.forget.forgot = max(l.forget.forgot, id)
}

// OnSecretsInUse has heartbeats tell which versions of credentials are in use,
// by the name at wire.PathSecret. fn is asked once a second and must not block;
// the last one registered counts.
func (l *Link) OnSecretsInUse(fn func() map[string]int) {
	l.forget.mu.Lock()
	defer l.forget.mu.Unlock()
	l.forget.inUse = fn
}

// forgetNow passes one Forget on.
func (l *Link) forgetNow(f wire.Forget) {
	l.forget.mu.Lock()
	hooks := l.forget.hooks[:len(l.forget.hooks):len(l.forget.hooks)]
	l.forget.mu.Unlock()
	for _, fn := range hooks {
		fn(f)
	}
	if len(hooks) == 0 {
		l.Forgot(f.ID)
	}
}

// reportForget fills what a heartbeat says of it.
func (l *Link) reportForget(hb *wire.Heartbeat) {
	l.forget.mu.Lock()
	fn := l.forget.inUse
	hb.Forgot = l.forget.forgot
	l.forget.mu.Unlock()
	if fn != nil {
		hb.Trust.Secrets = fn()
	}
}
