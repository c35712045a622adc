package leash_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/leash"
)

var (
	errWhy = errors.New("why")
	_      = context.Context(new(leash.Leash))
)

type cuts struct{ atomic.Int32 }

func (c *cuts) Cut() { c.Add(1) }

// TestEnds: whatever ends a Leash, it tells as package context would, and cuts what
// is held by it, once.
func TestEnds(t *testing.T) {
	type key struct{}
	for name, row := range map[string]struct {
		above      func(context.Context) (context.Context, func(*leash.Leash)) // what is above, and what ends it
		err, cause error
	}{
		"somebody ends it": {func(ctx context.Context) (context.Context, func(*leash.Leash)) {
			return ctx, func(l *leash.Leash) { l.End(errWhy) }
		}, context.Canceled, errWhy},
		"without a cause": {func(ctx context.Context) (context.Context, func(*leash.Leash)) {
			return ctx, func(l *leash.Leash) { l.End(nil) }
		}, context.Canceled, context.Canceled},
		"the context above ends": {func(ctx context.Context) (context.Context, func(*leash.Leash)) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func(*leash.Leash) { cancel(errWhy) }
		}, context.Canceled, errWhy},
		"its time is over": {func(ctx context.Context) (context.Context, func(*leash.Leash)) {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			t.Cleanup(cancel)
			return ctx, func(*leash.Leash) {}
		}, context.DeadlineExceeded, context.DeadlineExceeded},
		"the leash above ends": {func(ctx context.Context) (context.Context, func(*leash.Leash)) {
			upper := new(leash.Leash)
			upper.Begin(ctx)
			return context.WithValue(upper, key{}, 1), func(*leash.Leash) { upper.End(errWhy) }
		}, context.Canceled, errWhy},
		"what lies between ends": {func(ctx context.Context) (context.Context, func(*leash.Leash)) {
			upper := new(leash.Leash)
			upper.Begin(ctx)
			ctx, cancel := context.WithCancelCause(context.WithoutCancel(upper))
			return ctx, func(*leash.Leash) { upper.End(nil); cancel(errWhy) }
		}, context.Canceled, errWhy},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, end := row.above(t.Context())
			l := new(leash.Leash)
			l.Begin(ctx)
			defer l.End(nil)
			var first, second, freed cuts
			l.Hold(&first)
			l.Hold(&freed)
			l.Hold(&second)
			below, cancel := context.WithCancel(l)
			defer cancel()
			if l.Err() != nil || !l.Let(&freed) {
				t.Fatal("ended before it began")
			}
			end(l)
			<-l.Done()
			<-below.Done()
			if !errors.Is(l.Err(), row.err) || !errors.Is(l.Cause(), row.cause) || !errors.Is(below.Err(), row.err) {
				t.Errorf("ended with %v for %v, and %v below; want %v for %v", l.Err(), l.Cause(), below.Err(), row.err, row.cause)
			}
			l.Hold(&freed) // too late
			l.End(errors.New("another"))
			for first.Load() == 0 || second.Load() == 0 {
				time.Sleep(time.Millisecond) // the cuts come after the word
			}
			if l.Let(&first) || l.Let(&second) || first.Load() != 1 || second.Load() != 1 || freed.Load() != 1 || !errors.Is(l.Cause(), row.cause) {
				t.Errorf("cut %d, %d and %d times, want once; cause %v", first.Load(), second.Load(), freed.Load(), l.Cause())
			}
		})
	}
}

// TestForgotten: what has ended below is cut no more.
func TestForgotten(t *testing.T) {
	upper := new(leash.Leash)
	upper.Begin(t.Context())
	l := new(leash.Leash)
	l.Begin(upper)
	l.End(nil)
	if upper.Let(l) {
		t.Error("it is still held above")
	}
	upper.End(errWhy)
	if errors.Is(l.Cause(), errWhy) {
		t.Error("it ended twice")
	}
}

// TestAtOnce: a Leash has ended as soon as what is above it has.
func TestAtOnce(t *testing.T) {
	for range 100 {
		ctx, cancel := context.WithCancelCause(t.Context())
		l := new(leash.Leash)
		l.Begin(ctx)
		var c cuts
		l.Hold(&c)
		cancel(errWhy)
		if l.Err() == nil || !errors.Is(l.Cause(), errWhy) {
			t.Fatal("it goes on")
		}
		l.End(nil)
	}
}

// TestNoEnd: nothing is asked of a context that never ends.
func TestNoEnd(t *testing.T) {
	l := new(leash.Leash)
	l.Begin(context.WithoutCancel(t.Context()))
	l.End(nil)
	if !errors.Is(l.Err(), context.Canceled) {
		t.Error(l.Err())
	}
}

func BenchmarkLeash(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var c cuts
	b.ReportAllocs()
	for b.Loop() {
		l := new(leash.Leash)
		l.Begin(ctx)
		l.Hold(&c)
		l.Let(&c)
		l.End(nil)
	}
}
