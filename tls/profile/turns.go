package profile

import (
	"container/list"
	"context"
	"net/netip"
	"runtime"
	"sync"
)

// turnsPerCore is how many handshakes compute at once, for each processor: enough
// that none of them idles, and few enough that what waits is ordered here and not
// by the scheduler, which knows no addresses.
const turnsPerCore = 4

// turns has handshakes compute in turn, so that their cost at any time is bounded.
// While more want to than may, the networks that they come from take turns: one
// that sends many waits for its own, and for one turn of each other at most. A
// handshake that waits for the other end holds no turn: who connects and says
// nothing takes nothing from anybody.
type turns struct {
	mu     sync.Mutex // guards below
	free   int        // nobody waits while there is one
	queues map[netip.Addr]*list.Element
	order  list.List // of *queue, none of them empty; the first is next
}

// queue is who waits of one network, in the order of coming.
type queue struct {
	at      netip.Addr
	waiting []*waiter
}

type waiter struct {
	turn    chan struct{} // closed when it is its turn
	granted bool          // guarded by turns.mu
	gone    bool          // the same: it waits no more
}

func newTurns(n int) *turns {
	return &turns{free: n, queues: make(map[netip.Addr]*list.Element)}
}

func usualTurns() *turns { return newTurns(turnsPerCore * runtime.GOMAXPROCS(0)) }

// enter waits for a turn, or for the end of ctx, whose error it returns then. Who
// had a turn must leave.
func (t *turns) enter(ctx context.Context, at netip.Addr) error {
	w := t.line(at)
	if w == nil {
		return nil
	}
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	w.gone = true
	if w.granted {
		t.passLocked()
	}
	return ctx.Err()
}

// line takes a turn that is free, and returns nil, or stands in line for one.
func (t *turns) line(at netip.Addr) *waiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free > 0 {
		t.free--
		return nil
	}
	e := t.queues[at]
	if e == nil {
		e = t.order.PushBack(&queue{at: at})
		t.queues[at] = e
	}
	w := &waiter{turn: make(chan struct{})}
	q := e.Value.(*queue)
	q.waiting = append(q.waiting, w)
	return w
}

// leave ends a turn.
func (t *turns) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passLocked()
}

// passLocked gives a turn to the first of the next network, and has that network
// wait for all others before it comes again.
func (t *turns) passLocked() {
	for e := t.order.Front(); e != nil; e = t.order.Front() {
		q := e.Value.(*queue)
		w := q.waiting[0]
		q.waiting = q.waiting[1:]
		if t.order.MoveToBack(e); len(q.waiting) == 0 {
			t.order.Remove(e)
			delete(t.queues, q.at)
		}
		if !w.gone {
			w.granted = true
			close(w.turn)
			return
		}
	}
	t.free++
}
