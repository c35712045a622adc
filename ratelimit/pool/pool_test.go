package pool

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rampart-security/rampart"
)

// acquire demands a place.
func acquire(t *testing.T, p *Pool) func() {
	t.Helper()
	release, err := p.Acquire(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return release
}

// refused demands a refusal by the control.
func refused(t *testing.T, release func(), err error) {
	t.Helper()
	e, ok := errors.AsType[*rampart.Error](err)
	if !ok || e.Kind != rampart.Unavailable || e.Control != "limit.pool" || release != nil {
		t.Fatalf("got %v, want a refusal by limit.pool", err)
	}
}

func TestFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Size: 1})
		release := acquire(t, p)
		var order []int
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				r := acquire(t, p)
				order = append(order, i)
				r()
			})
			synctest.Wait() // i is in the queue
		}
		release()
		wg.Wait()
		for i, got := range order {
			if got != i {
				t.Fatalf("served in order %v", order)
			}
		}
	})
}

// TestWeights: what weighs more waits for as many slots, in its turn, and is not
// overtaken; what gives up lets those behind it in.
func TestWeights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Size: 4})
		take := func(slots int) func() {
			release, err := p.Acquire(t.Context(), slots)
			if err != nil {
				t.Error(err)
			}
			return release
		}
		one, two := take(1), take(2)
		var order []string
		var wg sync.WaitGroup
		for _, w := range []struct {
			name  string
			slots int
		}{{"report", 4}, {"lookup", 1}, {"huge", 99}} {
			wg.Go(func() {
				release := take(w.slots)
				order = append(order, w.name)
				release()
			})
			synctest.Wait()
		}
		one()
		synctest.Wait()
		if len(order) != 0 {
			t.Fatalf("served %v while two of four slots were taken", order)
		}
		two()
		wg.Wait()
		if got := strings.Join(order, " "); got != "report lookup huge" {
			t.Errorf("served in order %s", got)
		}
		hold := take(3)
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := p.Acquire(ctx, 2); err == nil {
				t.Error("two slots where one is free")
			}
		})
		synctest.Wait()
		wg.Go(func() { take(1)() })
		synctest.Wait()
		cancel()
		wg.Wait() // the one behind was let in, though nobody left
		hold()
		take(4)() // and all slots are back
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Size: 1, Queue: 2})
		release := acquire(t, p)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { acquire(t, p)() })
		}
		synctest.Wait()
		r, err := p.Acquire(t.Context(), 1)
		refused(t, r, err)
		release()
		wg.Wait()
	})
}

func TestNobodyWaitsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Size: 1})
		release := acquire(t, p)
		start := time.Now()
		r, err := p.Acquire(t.Context(), 1)
		refused(t, r, err)
		if got := time.Since(start); got != maxWait {
			t.Errorf("waited %v, want %v", got, maxWait)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		r, err = p.Acquire(ctx, 1)
		refused(t, r, err)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error inside", err)
		}
		release()
		acquire(t, p)() // those who gave up hold nothing
	})
}

func TestReleaseTwiceGivesOnePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Size: 1})
		release := acquire(t, p)
		release()
		release()
		defer acquire(t, p)()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		r, err := p.Acquire(ctx, 1)
		refused(t, r, err)
	})
}

// TestBurstIsAbsorbed: a queue that drains in time is what a queue is for.
func TestBurstIsAbsorbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Size: 2, Queue: 20})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				release := acquire(t, p)
				time.Sleep(9 * time.Millisecond)
				release()
			})
		}
		wg.Wait()
		if p.Shed() != 0 {
			t.Errorf("%d refused of a burst that fits", p.Shed())
		}
	})
}

// TestOverloadIsShed offers twice what the pool can serve: the served must not
// wait much longer than the target, the rest must be refused, and most at once.
func TestOverloadIsShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Size: 2, Queue: 1000})
		var served, worst atomic.Int64
		var wg sync.WaitGroup
		for range 1000 { // 5 s of one request each 5 ms; two holders of 20 ms serve one each 10 ms
			wg.Go(func() {
				start := time.Now()
				release, err := p.Acquire(t.Context(), 1)
				waited := int64(time.Since(start))
				for w := worst.Load(); waited > w && !worst.CompareAndSwap(w, waited); w = worst.Load() {
				}
				if err != nil {
					return
				}
				served.Add(1)
				time.Sleep(20 * time.Millisecond)
				release()
			})
			time.Sleep(5 * time.Millisecond)
		}
		wg.Wait()
		if served.Load() < 450 {
			t.Errorf("%d served, want about 500: shedding must not idle the pool", served.Load())
		}
		if got := time.Duration(worst.Load()); got > target+2*interval {
			t.Errorf("somebody waited %v for an answer", got)
		}
		if p.Shed() < 400 {
			t.Errorf("%d refused, want about 500", p.Shed())
		}
		acquire(t, p)() // and it recovers
	})
}

// TestStuckPoolRefusesAtOnce: when no holder returns, nobody new queues.
func TestStuckPoolRefusesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Size: 1})
		release := acquire(t, p)
		var wg sync.WaitGroup
		wg.Go(func() {
			r, err := p.Acquire(t.Context(), 1)
			refused(t, r, err)
		})
		time.Sleep(target + interval + time.Millisecond)
		start := time.Now()
		r, err := p.Acquire(t.Context(), 1)
		refused(t, r, err)
		if time.Since(start) != 0 {
			t.Error("queued behind a stuck pool")
		}
		wg.Wait()
		release()
	})
}

func TestSizeIsMandatory(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a pool of size 0 was made")
		}
	}()
	New(Options{})
}

func BenchmarkPool(b *testing.B) {
	p := New(Options{Size: 8})
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		release, err := p.Acquire(ctx, 1)
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}
