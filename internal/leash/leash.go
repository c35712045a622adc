// Package leash has one context for the whole way of a request: it ends with the
// request that came in, when somebody ends it, or when a wait is over, and cuts what
// is held by it. The standard library needs a context for each reason, with a
// channel, a map and a closure of its own.
package leash

import (
	"context"
	"sync"
	"time"
)

// Cutter is what a Leash ends, such as a connection on which somebody waits. Cut
// must not block, and may come once after Let has said that it does.
type Cutter interface{ Cut() }

// Leash is a context.Context. The zero value is not ready: Begin comes first. Its
// methods may be called concurrently. It is not to be copied, nor used for a second
// request: who was handed the context may still hold it.
type Leash struct {
	parent context.Context
	upper  *Leash      // the parent, if it is one; nil: another context
	stop   func() bool // takes it off another context; nil: that never ends

	mu    sync.Mutex    // guards below
	done  chan struct{} // nil: nobody has asked for it
	err   error         // nil: it has not ended
	cause error
	held  Cutter   // the first: there is seldom another
	more  []Cutter // the others
}

// Begin has l end with parent, with its error and its cause.
func (l *Leash) Begin(parent context.Context) {
	l.parent = parent
	if p := above(parent); p != nil {
		l.upper = p
		p.Hold(l)
		return
	}
	if parent.Done() != nil {
		l.stop = context.AfterFunc(parent, l.Cut)
	}
}

// key finds the nearest Leash above.
type key struct{}

// above is the Leash that ends when ctx does, and not later; nil: there is none.
// One found behind another context with an end of its own is not it.
func above(ctx context.Context) *Leash {
	if l, ok := ctx.(*Leash); ok {
		return l
	}
	l, ok := ctx.Value(key{}).(*Leash)
	if !ok || ctx.Done() != l.Done() {
		return nil
	}
	return l
}

// Cut ends l as its parent ended. It is for that one to call.
func (l *Leash) Cut() {
	if l.upper != nil {
		l.end(l.upper.Err(), l.upper.Cause())
		return
	}
	l.end(l.parent.Err(), context.Cause(l.parent))
}

// End ends l with context.Canceled, of which cause is the cause; nil: that itself.
// Whoever called Begin calls it last, so that the parent forgets l.
func (l *Leash) End(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	l.end(context.Canceled, cause)
	if l.upper != nil {
		l.upper.Let(l)
	}
	if l.stop != nil {
		l.stop()
	}
}

func (l *Leash) end(err, cause error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err, l.cause = err, cause
	if l.done != nil {
		close(l.done)
	}
	held, more := l.held, l.more
	l.held, l.more = nil, nil
	l.mu.Unlock()
	if held != nil {
		held.Cut()
	}
	for _, h := range more {
		h.Cut()
	}
}

// Hold has h cut when l ends: at once if it has.
func (l *Leash) Hold(h Cutter) {
	l.mu.Lock()
	ended := l.err != nil
	switch {
	case ended:
	case l.held == nil:
		l.held = h
	default:
		l.more = append(l.more, h)
	}
	l.mu.Unlock()
	if ended {
		h.Cut()
	}
}

// Let has h no longer cut; false: it was cut, or is about to be.
func (l *Leash) Let(h Cutter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == h {
		l.held = nil
		return true
	}
	for i, m := range l.more {
		if m == h {
			l.more[i] = l.more[len(l.more)-1]
			l.more[len(l.more)-1] = nil
			l.more = l.more[:len(l.more)-1]
			return true
		}
	}
	return false
}

// Deadline implements context.Context: that of the parent.
func (l *Leash) Deadline() (time.Time, bool) { return l.parent.Deadline() }

// Done implements context.Context.
func (l *Leash) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.err != nil {
			close(l.done)
		}
	}
	return l.done
}

// Err implements context.Context.
func (l *Leash) Err() error {
	err, _ := l.ended()
	return err
}

// Cause says why l ended, as context.Cause does of the contexts that it knows; nil:
// it has not.
func (l *Leash) Cause() error {
	_, cause := l.ended()
	return cause
}

// ended tells of the parent's end also before the parent has told.
func (l *Leash) ended() (err, cause error) {
	l.mu.Lock()
	err, cause = l.err, l.cause
	l.mu.Unlock()
	if err != nil || l.parent.Err() == nil {
		return err, cause
	}
	l.Cut()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err, l.cause
}

// Value implements context.Context.
func (l *Leash) Value(k any) any {
	if k == (key{}) {
		return l
	}
	return l.parent.Value(k)
}

// AfterFunc calls f in a goroutine of its own when l ends. Package context looks for
// it: contexts below a Leash need no goroutine that waits for it.
func (l *Leash) AfterFunc(f func()) (stop func() bool) {
	a := &after{f}
	l.Hold(a)
	return func() bool { return l.Let(a) }
}

type after struct{ f func() }

// Cut implements Cutter.
func (a *after) Cut() { go a.f() }
