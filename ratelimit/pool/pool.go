// Package pool protects a database from overload: the fourth layer of limits.
//
// It is a semaphore with a bounded, first come, first served queue. Every place
// in the queue has a deadline, and a standing queue is shed in the manner of
// CoDel (RFC 8289): when waits have stayed above 100 ms for more than 100 ms,
// those who waited that long are refused, and newcomers at once while it lasts.
// So a burst is absorbed, but an overload does not make everybody slow.
package pool

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
)

// The bounds of a queue.
const (
	target   = 100 * time.Millisecond // a wait that is still good
	interval = 100 * time.Millisecond // how long waits may be bad before shedding
	maxWait  = time.Second            // nobody waits longer, whatever the context allows
)

// Options of a Pool.
type Options struct {
	Size  int              // holders at once; must be positive
	Queue int              // waiters at most; if 0, four per holder
	Now   func() time.Time // if nil, time.Now
}

// Pool hands out Size places. Its methods may be called concurrently.
type Pool struct {
	queue int
	now   func() time.Time

	mu      sync.Mutex
	free    int
	waiters list.List // of *waiter, oldest first
	bad     time.Time // since when the served have waited longer than target; zero if they have not
	shed    uint64
}

type waiter struct {
	since  time.Time
	answer chan error // buffered: nil is a place
}

// New returns a Pool. It panics if opt.Size is not positive.
func New(opt Options) *Pool {
	if opt.Size <= 0 {
		panic("pool: size must be positive")
	}
	if opt.Queue <= 0 {
		opt.Queue = 4 * opt.Size
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Pool{queue: opt.Queue, now: opt.Now, free: opt.Size}
}

// Shed returns how many were refused.
func (p *Pool) Shed() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shed
}

// Acquire takes a place, waiting at most a second or until ctx ends. The caller
// must call release; calling it again does nothing. An error is a rampart.Error
// of kind Unavailable, control limit.pool, and then release is nil.
func (p *Pool) Acquire(ctx context.Context) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, refusal("request ended before a place was free", err)
	}
	w, err := p.enter()
	if err != nil {
		return nil, err
	}
	if w != nil {
		if err := p.wait(ctx, w); err != nil {
			return nil, err
		}
	}
	var once sync.Once
	return func() { once.Do(p.leave) }, nil
}

// enter takes a place at once (nil, nil), queues, or refuses.
func (p *Pool) enter() (*list.Element, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free > 0 && p.waiters.Len() == 0 {
		p.free--
		p.bad = time.Time{}
		return nil, nil
	}
	now := p.now()
	if p.waiters.Len() >= p.queue || p.overloadedLocked(now) {
		p.shed++
		return nil, refusal("database is busy", nil)
	}
	return p.waiters.PushBack(&waiter{since: now, answer: make(chan error, 1)}), nil
}

// overloadedLocked reports whether waits have been bad for an interval. The
// oldest waiter counts too, for when nobody is served at all.
func (p *Pool) overloadedLocked(now time.Time) bool {
	if oldest := p.waiters.Front(); oldest != nil && now.Sub(oldest.Value.(*waiter).since) > target+interval {
		return true
	}
	return !p.bad.IsZero() && now.Sub(p.bad) > interval
}

func (p *Pool) wait(ctx context.Context, e *list.Element) error {
	w := e.Value.(*waiter)
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	var cause error
	select {
	case err := <-w.answer:
		return err
	case <-ctx.Done():
		cause = ctx.Err()
	case <-timer.C:
		cause = context.DeadlineExceeded
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case err := <-w.answer: // answered while we gave up
		if err == nil {
			p.passLocked()
		}
	default:
		p.waiters.Remove(e)
	}
	p.shed++
	return refusal("database is busy", cause)
}

func (p *Pool) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passLocked()
}

// passLocked gives the place in hand to the oldest waiter that is worth it.
// Under overload those who waited longest are refused: their callers are the
// likeliest to have given up.
func (p *Pool) passLocked() {
	now := p.now()
	for e := p.waiters.Front(); e != nil; e = p.waiters.Front() {
		w := p.waiters.Remove(e).(*waiter)
		late := now.Sub(w.since) > target
		switch {
		case !late:
			p.bad = time.Time{}
		case p.bad.IsZero():
			p.bad = now
		case now.Sub(p.bad) > interval:
			p.shed++
			w.answer <- refusal("database is busy", nil)
			continue
		}
		w.answer <- nil
		return
	}
	p.free++
	p.bad = time.Time{}
}

func refusal(msg string, cause error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: "limit.pool", Msg: msg, Err: cause}
}
