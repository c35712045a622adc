package ring

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/ratelimit"
)

// clock is a hand-driven time source.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Unix(1_700_000_000, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func TestVerdict(t *testing.T) {
	c := newClock()
	r := New(3, 10*time.Second, Options{Now: c.now})
	steps := []struct {
		wait time.Duration
		cost int
		want ratelimit.Verdict
	}{
		{0, 1, ratelimit.Verdict{OK: true, Remaining: 2, Reset: 11 * time.Second}},
		{500 * time.Millisecond, 2, ratelimit.Verdict{OK: true, Remaining: 0, Reset: 10500 * time.Millisecond}},
		{time.Second, 1, ratelimit.Verdict{Reset: 9500 * time.Millisecond, RetryAfter: 9500 * time.Millisecond}},
		{9499 * time.Millisecond, 1, ratelimit.Verdict{Reset: time.Millisecond, RetryAfter: time.Millisecond}},
		{time.Millisecond, 4, ratelimit.Verdict{Remaining: 3, RetryAfter: 10 * time.Second}}, // never fits
		{0, -5, ratelimit.Verdict{OK: true, Remaining: 2, Reset: 11 * time.Second}},          // gives nothing back
	}
	for i, s := range steps {
		c.add(s.wait)
		s.want.Limit, s.want.Window = 3, 10*time.Second
		if diff := cmp.Diff(s.want, r.Allow("k", s.cost)); diff != "" {
			t.Errorf("step %d: %s", i, diff)
		}
	}
}

func TestZeroLimitRefuses(t *testing.T) {
	for _, r := range []*Ring{New(0, time.Minute, Options{}), New(5, 0, Options{}), New(-1, -1, Options{})} {
		if r.Allow("k", 1).OK {
			t.Error("a zero limit admitted")
		}
	}
}

func TestClockStepBackFreesNothing(t *testing.T) {
	c := newClock()
	r := New(1, time.Minute, Options{Now: c.now})
	c.add(time.Hour)
	r.Allow("k", 1)
	c.add(-30 * time.Minute)
	if r.Allow("k", 1).OK {
		t.Error("a clock that stepped back freed capacity")
	}
}

// schedule is how long a client waits before its i-th request, and what it costs.
type schedule func(i int) (wait time.Duration, cost int)

// hold plays n requests of a schedule at a ring and holds every admission against
// a log, by brute force: the window that ends with it may hold the limit and no
// more. It returns the first request that broke the bound, or -1.
func hold(limit int, window time.Duration, n int, next schedule) int {
	c := newClock()
	r := New(limit, window, Options{Now: c.now, Keys: 64})
	var log []time.Duration
	var now time.Duration
	for i := range n {
		wait, cost := next(i)
		c.add(wait)
		now += wait
		if !r.Allow("k", cost).OK {
			continue
		}
		for len(log) > 0 && log[0] <= now-window {
			log = log[1:]
		}
		for range max(1, cost) {
			log = append(log, now)
		}
		if len(log) > limit {
			return i
		}
	}
	return -1
}

// TestNeverMoreThanLimit plays adversarial schedules.
func TestNeverMoreThanLimit(t *testing.T) {
	const limit, window = 100, 60 * time.Second
	rng := rand.New(rand.NewPCG(1, 2))
	schedules := map[string]func(int) time.Duration{
		"hammer": func(int) time.Duration { return 10 * time.Millisecond },
		"idle, burst at a window's end, hammer": func(i int) time.Duration {
			switch {
			case i == 0:
				return window - time.Millisecond
			case i < limit:
				return 0
			}
			return 10 * time.Millisecond
		},
		"burst at each bucket's end": func(i int) time.Duration {
			if i%30 == 0 {
				return window/parts - time.Nanosecond
			}
			return 0
		},
		"one just inside, the rest just after": func(i int) time.Duration {
			if i%(limit+1) == 1 {
				return window - time.Nanosecond
			}
			return time.Nanosecond
		},
		"random": func(int) time.Duration { return time.Duration(rng.ExpFloat64() * float64(200*time.Millisecond)) },
	}
	for name, wait := range schedules {
		t.Run(name, func(t *testing.T) {
			if i := hold(limit, window, 20_000, func(i int) (time.Duration, int) { return wait(i), 1 + i%3/2 }); i >= 0 {
				t.Errorf("request %d: more than %d admitted within %v", i, limit, window)
			}
		})
	}
}

// TestNeverMoreThanLimitAtAll makes schedules up: thousands, or a million with
// RAMPART_LIMITS=long. Each has a limit, a window and a habit of its own, and
// waits that like the edges of buckets and windows.
func TestNeverMoreThanLimitAtAll(t *testing.T) {
	n := 5_000
	if os.Getenv("RAMPART_LIMITS") == "long" {
		n = 1_000_000
	}
	for seed := range n {
		rng := rand.New(rand.NewPCG(7, uint64(seed)))
		limit, window := 1+rng.IntN(40), time.Duration(1+rng.IntN(100_000))*time.Microsecond
		if i := hold(limit, window, 120+rng.IntN(200), invent(rng, limit, window)); i >= 0 {
			t.Fatalf("schedule %d, request %d: more than %d admitted within %v", seed, i, limit, window)
		}
	}
	t.Logf("%d schedules", n)
}

// invent makes up a client.
func invent(rng *rand.Rand, limit int, window time.Duration) schedule {
	bucket := (window + parts - 1) / parts
	edges := []time.Duration{0, 0, 1, bucket - 1, bucket, bucket + 1, window - 1, window, window + 1, window - bucket, window + bucket, 2 * window}
	edgy, burst, greedy := rng.Float64(), 1+rng.IntN(2*limit), rng.IntN(4) == 0
	return func(i int) (time.Duration, int) {
		cost := 1
		if greedy {
			cost = rng.IntN(limit + 2)
		}
		switch {
		case i%burst != 0:
			return time.Duration(rng.Int64N(3)), cost
		case rng.Float64() < edgy:
			return edges[rng.IntN(len(edges))], cost
		}
		return time.Duration(rng.Int64N(int64(window)/2 + 1)), cost
	}
}

// TestSustainedRate: the price of the bound is at most one bucket in eleven.
func TestSustainedRate(t *testing.T) {
	c := newClock()
	r := New(110, 10*time.Second, Options{Now: c.now})
	admitted := 0
	for range 1_100_000 { // 1100 s
		c.add(time.Millisecond)
		if r.Allow("k", 1).OK {
			admitted++
		}
	}
	if admitted < 1100*10 {
		t.Errorf("%d admitted in 1100 s, want at least 10 per second", admitted)
	}
}

func TestRetryAfterIsTrue(t *testing.T) {
	c := newClock()
	r := New(20, time.Minute, Options{Now: c.now})
	rng := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for range 5000 {
		c.add(time.Duration(rng.Int64N(int64(4 * time.Second))))
		cost := 1 + rng.IntN(5)
		v := r.Allow("k", cost)
		if v.OK {
			continue
		}
		refused++
		c.add(v.RetryAfter - 1)
		if r.Allow("k", cost).OK {
			t.Fatal("admitted before Retry-After")
		}
		c.add(1)
		if !r.Allow("k", cost).OK {
			t.Fatal("refused after Retry-After")
		}
	}
	if refused == 0 {
		t.Fatal("nothing was refused")
	}
}

// fill lets n keys spend cost each.
func fill(r *Ring, n, cost int) {
	for i := range n {
		r.Allow("key"+strconv.Itoa(i), cost)
	}
}

func TestEvictionNeverForgivesTheRefused(t *testing.T) {
	c := newClock()
	r := New(2, time.Minute, Options{Now: c.now, Keys: 256})
	r.Allow("attacker", 2)
	fill(r, 100_000, 1)
	if r.Allow("attacker", 1).OK {
		t.Error("a flood of other keys made the ring forget a refused one")
	}
	if n := r.keys.Len(); n > 256 {
		t.Errorf("%d keys remembered, want at most 256", n)
	}
}

// TestAMillionKeys: the cap holds, whatever the number of keys.
func TestAMillionKeys(t *testing.T) {
	r := New(10, time.Minute, Options{Now: newClock().now})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	fill(r, 1_000_000, 1)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := r.keys.Len(); n > DefaultKeys {
		t.Errorf("%d keys remembered, want at most %d", n, DefaultKeys)
	}
	used := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("a million keys, %d remembered: %d MiB", r.keys.Len(), used>>20)
	if used > 32<<20 {
		t.Errorf("%d bytes for %d keys", used, DefaultKeys)
	}
	runtime.KeepAlive(r)
}

func TestFullOfRefusedKeysRefusesNewOnes(t *testing.T) {
	c := newClock()
	r := New(1, time.Minute, Options{Now: c.now, Keys: 64})
	fill(r, 10_000, 1)
	before := r.Overflow()
	if before == 0 {
		t.Fatal("the ring never filled up")
	}
	if v := r.Allow("newcomer", 1); v.OK || v.RetryAfter <= 0 {
		t.Errorf("got %+v, want a refusal that says when to come back", v)
	}
	if got := r.Overflow(); got != before+1 {
		t.Errorf("overflow %d, want %d", got, before+1)
	}
	c.add(67 * time.Second)
	if !r.Allow("newcomer", 1).OK {
		t.Error("a newcomer is refused although the old keys are free again")
	}
}

func TestConcurrentUse(t *testing.T) {
	r := New(100, time.Hour, Options{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	admitted := 0
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if r.Allow("k", 1).OK {
					mu.Lock()
					admitted++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if admitted != 100 {
		t.Errorf("%d admitted, want 100", admitted)
	}
}

func TestNoAllocationOnHit(t *testing.T) {
	r := New(10, time.Minute, Options{})
	r.Allow("k", 1)
	if n := testing.AllocsPerRun(100, func() { r.Allow("k", 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLimit1Key(b *testing.B) {
	r := New(1<<30, time.Minute, Options{})
	b.ReportAllocs()
	for b.Loop() {
		r.Allow("192.0.2.1", 1)
	}
}

func BenchmarkLimit1e6Keys(b *testing.B) {
	r := New(1<<30, time.Minute, Options{Keys: 1 << 21})
	keys := make([]string, 1_000_000)
	for i := range keys {
		keys[i] = "user:" + strconv.Itoa(i)
		r.Allow(keys[i], 1)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r.Allow(keys[i], 1)
		i = (i + 1) % len(keys)
	}
}
