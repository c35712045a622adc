package acme

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
)

// Bounds of a lock. A gateway that dies holds one for a lease at most.
const (
	lease      = 2 * time.Minute
	extend     = lease / 4
	lockPause  = 500 * time.Millisecond
	storeLimit = 15 * time.Second // of one call to the control plane
)

// storage is what certmagic keeps, at the control plane. Every write under a
// lock carries the lock's fence, so that a gateway that slept past its lease
// cannot overwrite what the next one wrote.
type storage struct {
	call   Call
	issuer string // key of the authority
	now    func() time.Time

	mu   sync.Mutex // guards held
	held map[string]*held
}

// held is a lock that this gateway has, as far as it knows.
type held struct {
	key   string
	owner string
	fence uint64
	stop  context.CancelFunc // ends the goroutine that extends it
	done  chan struct{}
}

var (
	_ certmagic.Storage   = (*storage)(nil)
	_ certmagic.TryLocker = (*storage)(nil)
)

func newStorage(call Call, issuer string, now func() time.Time) *storage {
	return &storage{call: call, issuer: issuer, now: now, held: map[string]*held{}}
}

// ask makes one call. What is not there is fs.ErrNotExist, as certmagic wants it.
func (s *storage) ask(ctx context.Context, q wire.EdgeStoreRequest) (wire.EdgeStoreAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	a, err := s.call(ctx, q)
	if err != nil && rampart.KindOf(err) == rampart.NotFound {
		return a, fs.ErrNotExist
	}
	if err != nil {
		return a, fmt.Errorf("%s of %s: %w", q.Op, q.Key, err)
	}
	return a, nil
}

// Store implements certmagic.Storage.
func (s *storage) Store(ctx context.Context, key string, value []byte) error {
	_, err := s.ask(ctx, wire.EdgeStoreRequest{Op: wire.EdgeStore, Key: key, Value: value, Fence: s.fence(key)})
	return err
}

// Load implements certmagic.Storage.
func (s *storage) Load(ctx context.Context, key string) ([]byte, error) {
	a, err := s.ask(ctx, wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: key})
	return a.Value, err
}

// Delete implements certmagic.Storage.
func (s *storage) Delete(ctx context.Context, key string) error {
	_, err := s.ask(ctx, wire.EdgeStoreRequest{Op: wire.EdgeDelete, Key: key, Fence: s.fence(key)})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Exists implements certmagic.Storage. It cannot tell an error from absence,
// so an order may follow that was not needed; the lock's holder looks again.
func (s *storage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// List implements certmagic.Storage.
func (s *storage) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	a, err := s.ask(ctx, wire.EdgeStoreRequest{Op: wire.EdgeList, Key: path, Deeper: recursive})
	return a.Keys, err
}

// Stat implements certmagic.Storage.
func (s *storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	a, err := s.ask(ctx, wire.EdgeStoreRequest{Op: wire.EdgeStat, Key: key})
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	return certmagic.KeyInfo{Key: key, Modified: a.Modified, Size: a.Size, IsTerminal: len(a.Keys) == 0}, nil
}

// lockKey is the folder that a lock of certmagic's name guards: what is stored
// below it needs the lock's fence.
func (s *storage) lockKey(name string) string {
	if host, ok := strings.CutPrefix(name, "issue_cert_"); ok {
		return certmagic.StorageKeys.CertsSitePrefix(s.issuer, host)
	}
	if strings.Contains(name, "/") {
		return name // our own: the account's
	}
	return "locks/" + certmagic.StorageKeys.Safe(name)
}

// fence is that of the held lock which guards key, 0 if there is none.
func (s *storage) fence(key string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.held {
		if key == h.key || strings.HasPrefix(key, h.key+"/") {
			return h.fence
		}
	}
	return 0
}

// Lock implements certmagic.Locker. It waits for as long as somebody else holds
// the lock and ctx lasts.
func (s *storage) Lock(ctx context.Context, name string) error {
	for {
		ok, err := s.TryLock(ctx, name)
		if ok || err != nil {
			return err
		}
		if err := wait(ctx, lockPause); err != nil {
			return err
		}
	}
}

// TryLock implements certmagic.TryLocker.
func (s *storage) TryLock(ctx context.Context, name string) (bool, error) {
	h := &held{key: s.lockKey(name), owner: rand.Text(), done: make(chan struct{})}
	a, err := s.ask(ctx, s.lockRequest(h))
	if err != nil || a.Fence == 0 {
		return false, err
	}
	h.fence = a.Fence
	// The lock outlives the call that took it, and ends with Unlock.
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	h.stop = stop
	s.mu.Lock()
	s.held[name] = h
	s.mu.Unlock()
	go s.keep(keep, h)
	return true, nil
}

func (s *storage) lockRequest(h *held) wire.EdgeStoreRequest {
	return wire.EdgeStoreRequest{Op: wire.EdgeLock, Key: h.key, Owner: h.owner, Until: s.now().Add(lease)}
}

// keep extends a lock until it is unlocked or lost. One that is lost stays
// noted: its fence is old then, and the control plane refuses what is written
// with it.
func (s *storage) keep(ctx context.Context, h *held) {
	defer close(h.done)
	for wait(ctx, extend) == nil {
		a, err := s.ask(ctx, s.lockRequest(h))
		if err == nil && a.Fence != h.fence {
			return
		}
	}
}

// Unlock implements certmagic.Locker. It works on a context that has ended: the
// next gateway should not have to wait for the lease.
func (s *storage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	h := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if h == nil {
		return nil
	}
	h.stop()
	<-h.done
	_, err := s.ask(context.WithoutCancel(ctx), wire.EdgeStoreRequest{Op: wire.EdgeUnlock, Key: h.key, Owner: h.owner})
	return err
}

// wait sleeps, or returns the context's error.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
