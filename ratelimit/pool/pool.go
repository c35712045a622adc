// Package pool protects a database from overload: the fourth layer of limits.
//
// It is a semaphore with a bounded, first come, first served queue. Work takes one
// slot or several, by what it costs the database: a report weighs more than a
// lookup, and waits at the head of the queue until there is room for all of it.
// Every place
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
	Size  int              // slots; must be positive
	Queue int              // waiters at most; if 0, four per slot
	Now   func() time.Time // if nil, time.Now
}

// Pool hands out Size slots. Its methods may be called concurrently.
type Pool struct {
	size  int
	queue int
	now   func() time.Time

	mu      sync.Mutex
	free    int
	waiters list.List // of *waiter, oldest first
	bad     time.Time // since when the served have waited longer than target; zero if they have not
	shed    uint64
}

type waiter struct {
	slots  int
	since  time.Time
	answer chan error // buffered: nil is the slots
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
	return &Pool{size: opt.Size, queue: opt.Queue, now: opt.Now, free: opt.Size}
}

// Shed returns how many were refused.
func (p *Pool) Shed() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shed
}

// Acquire takes slots, waiting at most a second or until ctx ends. Below 1 counts
// as 1, and more than there are as all. The caller must call release; calling it
// again does nothing. An error is a rampart.Error of kind Unavailable, control
// limit.pool, and then release is nil.
func (p *Pool) Acquire(ctx context.Context, slots int) (release func(), err error) {
	slots = min(max(1, slots), p.size)
	if err := ctx.Err(); err != nil {
		return nil, refusal("request ended before a place was free", err)
	}
	w, err := p.enter(slots)
	if err != nil {
		return nil, err
	}
	if w != nil {
		if err := p.wait(ctx, w); err != nil {
			return nil, err
		}
	}
	var once sync.Once
	return func() { once.Do(func() { p.leave(slots) }) }, nil
}

// enter takes slots at once (nil, nil), queues, or refuses.
func (p *Pool) enter(slots int) (*list.Element, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free >= slots && p.waiters.Len() == 0 {
		p.free -= slots
		p.bad = time.Time{}
		return nil, nil
	}
	now := p.now()
	if p.waiters.Len() >= p.queue || p.overloadedLocked(now) {
		p.shed++
		return nil, refusal("database is busy", nil)
	}
	return p.waiters.PushBack(&waiter{slots: slots, since: now, answer: make(chan error, 1)}), nil
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
			p.free += w.slots
		}
	default:
		p.waiters.Remove(e)
	}
	p.passLocked() // who waited behind may fit now
	p.shed++
	return refusal("database is busy", cause)
}

func (p *Pool) leave(slots int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free += slots
	p.passLocked()
}

// passLocked gives what is free to the oldest waiters that are worth it. The
// oldest is served first even if a younger one needs less: else a stream of small
// ones would starve it. Under overload those who waited longest are refused: their
// callers are the likeliest to have given up.
func (p *Pool) passLocked() {
	now, served := p.now(), false
	for e := p.waiters.Front(); e != nil; e = p.waiters.Front() {
		w := e.Value.(*waiter)
		if p.free < w.slots {
			return
		}
		p.waiters.Remove(e)
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
		p.free -= w.slots
		w.answer <- nil
		served = true
	}
	if !served {
		p.bad = time.Time{}
	}
}

func refusal(msg string, cause error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: "limit.pool", Msg: msg, Err: cause}
}
