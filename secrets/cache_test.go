package secrets

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rampart-security/rampart"
)

// backend is a provider in memory that can be out of order.
type backend struct {
	mu    sync.Mutex
	err   error
	delay time.Duration
	calls int
}

func (b *backend) set(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *backend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

func (b *backend) Get(ctx context.Context, name string) (Secret, error) {
	b.mu.Lock()
	b.calls++
	n, err, delay := b.calls, b.err, b.delay
	b.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return Secret{}, ctx.Err()
	}
	if err != nil {
		return Secret{}, err
	}
	return New([]byte(name), n), nil
}

func kind(k rampart.Kind) error { return rampart.Errorf(k, control, "backend says %v", k) }

// step is one moment of a scenario.
type step struct {
	after time.Duration
	err   error // what the backend says from here on
	want  int   // version that Get returns, 0 for none
	kind  rampart.Kind
	calls int // fetches so far, background ones included
	stale int // values served stale so far
}

func TestCacheOverTime(t *testing.T) {
	down := kind(rampart.Unavailable)
	scenarios := map[string][]step{
		"a fresh value is served from memory": {
			{want: 1, calls: 1}, {after: 3 * time.Minute, want: 1, calls: 1},
		},
		"it is refreshed ahead, and the caller does not wait": {
			{want: 1, calls: 1}, {after: 4 * time.Minute, want: 1, calls: 2}, {after: time.Second, want: 2, calls: 2},
			{after: 4 * time.Minute, want: 2, calls: 3}, {want: 3, calls: 3},
		},
		"an old one is fetched again": {
			{want: 1, calls: 1}, {after: 5 * time.Minute, want: 2, calls: 2},
		},
		"an outage is bridged for an hour, each time told": {
			{want: 1, calls: 1}, {after: 10 * time.Minute, err: down, want: 1, calls: 2, stale: 1},
			{after: time.Second, err: down, want: 1, calls: 2, stale: 2},
			{after: negativeTTL, err: down, want: 1, calls: 3, stale: 3},
			{after: 49*time.Minute + 53*time.Second, err: down, want: 1, calls: 4, stale: 4},
			{after: time.Second, err: down, kind: rampart.Unavailable, calls: 5, stale: 4},
			{after: time.Second, want: 6, calls: 6, stale: 4},
		},
		"an outage at refresh time goes unnoticed until the value is old": {
			{want: 1, calls: 1}, {after: 4 * time.Minute, err: down, want: 1, calls: 2}, {after: time.Second, err: down, want: 1, calls: 2},
			{after: time.Minute, err: down, want: 1, calls: 3, stale: 1},
		},
		"an error of another kind is no outage": {
			{want: 1, calls: 1}, {after: 10 * time.Minute, err: errors.New("bug"), kind: rampart.Internal, calls: 2},
			{err: errors.New("bug"), kind: rampart.Internal, calls: 3}, {want: 4, calls: 4},
		},
		"a refusal is believed for five seconds": {
			{err: kind(rampart.NotFound), kind: rampart.NotFound, calls: 1}, {after: 4 * time.Second, kind: rampart.NotFound, calls: 1},
			{after: time.Second, want: 2, calls: 2},
		},
		"denied evicts at once":          evicts(rampart.Denied),
		"not found evicts at once":       evicts(rampart.NotFound),
		"unauthenticated evicts at once": evicts(rampart.Unauthenticated),
		"an outage without a value is an error, and asked again": {
			{err: down, kind: rampart.Unavailable, calls: 1}, {want: 2, calls: 2},
		},
	}
	for name, steps := range scenarios {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { play(t, steps) }) })
	}
}

// evicts is the scenario of a secret that is refused at its refresh: neither
// the value nor, in an outage after that, a stale one may come.
func evicts(k rampart.Kind) []step {
	return []step{
		{want: 1, calls: 1}, {after: 4 * time.Minute, err: kind(k), want: 1, calls: 2},
		{kind: k, calls: 2}, {after: negativeTTL, err: kind(rampart.Unavailable), kind: rampart.Unavailable, calls: 3},
	}
}

func play(t *testing.T, steps []step) {
	b := &backend{}
	stale := 0
	c := NewCache(b, CacheOptions{Name: "place", Rand: zeros{}, OnStale: func(_ context.Context, name string, age time.Duration, err error) {
		if name != "n" || age < defaultTTL || rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("OnStale(%s, %v, %v)", name, age, err)
		}
		stale++
	}})
	defer c.Close()
	for i, st := range steps {
		time.Sleep(st.after)
		b.set(st.err)
		s, err := c.Get(t.Context(), "n")
		synctest.Wait()
		if s.Version() != st.want || rampart.KindOf(err) != st.kind || (err == nil) != (st.want > 0) {
			t.Errorf("step %d: version %d, error %v; want version %d, kind %v", i, s.Version(), err, st.want, st.kind)
		}
		if b.count() != st.calls || stale != st.stale {
			t.Errorf("step %d: %d calls, %d stale; want %d and %d", i, b.count(), stale, st.calls, st.stale)
		}
	}
}

// TestCacheTimeOfOneName: what is to be remembered for a shorter time is.
func TestCacheTimeOfOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{}
		c := NewCache(b, CacheOptions{Rand: zeros{}, TTLOf: func(name string) time.Duration { return map[string]time.Duration{"short": 10 * time.Second}[name] }})
		defer c.Close()
		for range 6 { // one minute: the fifth part of the usual time
			for _, name := range []string{"short", "usual"} {
				if _, err := c.Get(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(10 * time.Second)
		}
		if got := b.count(); got != 6+1 {
			t.Errorf("%d fetches, want six of the short one and one of the usual", got)
		}
	})
}

func TestCacheFetchesOncePerName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{delay: time.Second}
		c := NewCache(b, CacheOptions{})
		defer c.Close()
		hurry, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		go func() {
			if _, err := c.Get(hurry, "n"); rampart.KindOf(err) != rampart.Unavailable {
				t.Errorf("who hangs up gets %v", err)
			}
		}()
		for range 50 {
			go func() {
				if s, err := c.Get(t.Context(), "n"); err != nil || s.Version() != 1 {
					t.Errorf("version %d, %v", s.Version(), err)
				}
			}()
		}
		time.Sleep(2 * time.Second)
		if b.count() != 1 {
			t.Errorf("%d calls", b.count())
		}
	})
}

func TestCacheDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewCache(&backend{delay: time.Hour}, CacheOptions{})
		start := time.Now()
		if _, err := c.Get(t.Context(), "n"); rampart.KindOf(err) != rampart.Unavailable || time.Since(start) != fetchTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		go c.Get(t.Context(), "n")
		synctest.Wait()
		c.Close()
		if _, err := c.Get(t.Context(), "n"); rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	b := &backend{}
	c := NewCache(b, CacheOptions{Entries: 10})
	defer c.Close()
	get := func(name string) {
		t.Helper()
		if _, err := c.Get(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		get("kept")
		get(fmt.Sprint(i))
	}
	if n := c.recent.Len(); n != 10 || len(c.entries) != 10 {
		t.Errorf("%d entries", n)
	}
	if b.count() != 101 {
		t.Errorf("%d calls: the one in use was forgotten", b.count())
	}
}

func TestNilProviderPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	NewCache(nil, CacheOptions{})
}

// BenchmarkCacheHit measures what a call with an injected secret pays.
func BenchmarkCacheHit(b *testing.B) {
	c := NewCache(&backend{}, CacheOptions{})
	defer c.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Get(b.Context(), "n"); err != nil {
			b.Fatal(err)
		}
	}
}
