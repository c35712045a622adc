package secrets

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rampart-security/rampart"
)

// zeros are as little random as can be.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// lender is a provider of leases of an hour, two at most.
type lender struct {
	mu        sync.Mutex
	made      int
	renewed   int
	err       error
	renewable error // what Renew says instead
	most      map[string]time.Time
}

func (l *lender) Get(context.Context, string) (Secret, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return Secret{}, l.err
	}
	l.made++
	lease := fmt.Sprint("lease-", l.made)
	l.most[lease] = time.Now().Add(2 * time.Hour)
	return Make([]byte(lease), Meta{Lease: lease, Until: time.Now().Add(time.Hour), User: lease}), nil
}

func (l *lender) Renew(_ context.Context, s Secret, by time.Duration) (Secret, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return Secret{}, l.err
	}
	if l.renewable != nil {
		return Secret{}, l.renewable
	}
	l.renewed++
	until := time.Now().Add(by)
	if most := l.most[s.Lease()]; until.After(most) {
		until = most
	}
	return Make([]byte(s.Lease()), Meta{Lease: s.Lease(), Until: until, User: s.User()}), nil
}

func (l *lender) Revoke(context.Context, Secret) error { return nil }

func (l *lender) set(err, renewable error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.renewable = err, renewable
}

// TestLeasesOverTime asks every ten minutes and reads as what happened: which
// lease was served, how many were made and how often one was renewed.
func TestLeasesOverTime(t *testing.T) {
	type moment struct {
		at        time.Duration
		err       error // of the provider from here on
		renewable error
		want      string // what is served, or the kind of the error
	}
	down := kind(rampart.Unavailable)
	for name, c := range map[string]struct {
		moments       []moment
		made, renewed int
	}{
		"renewed at half of its life, replaced when it nears the most that it may have": {[]moment{
			{0, nil, nil, "lease-1"}, {20 * time.Minute, nil, nil, "lease-1"}, {30 * time.Minute, nil, nil, "lease-1"}, {55 * time.Minute, nil, nil, "lease-1"},
			{85 * time.Minute, nil, nil, "lease-1"}, {100 * time.Minute, nil, nil, "lease-1"}, {101 * time.Minute, nil, nil, "lease-2"},
		}, 2, 4},
		"one that cannot be renewed is replaced while it is good": {[]moment{
			{0, nil, kind(rampart.NotFound), "lease-1"}, {30 * time.Minute, nil, kind(rampart.NotFound), "lease-1"}, {31 * time.Minute, nil, nil, "lease-2"},
		}, 2, 0},
		"an outage is bridged to its end and not beyond": {[]moment{
			{0, nil, nil, "lease-1"}, {30 * time.Minute, down, nil, "lease-1"}, {59 * time.Minute, down, nil, "lease-1"}, {time.Hour, down, nil, "unavailable"},
			{61 * time.Minute, nil, nil, "lease-2"},
		}, 2, 0},
		"one that is void is not renewed": {[]moment{{0, nil, nil, "lease-1"}, {3 * time.Hour, nil, nil, "lease-2"}}, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &lender{most: map[string]time.Time{}}
				c2 := NewCache(l, CacheOptions{Name: "place", Rand: zeros{}})
				defer c2.Close()
				start := time.Now()
				for _, m := range c.moments {
					time.Sleep(m.at - time.Since(start))
					l.set(m.err, m.renewable)
					s, err := c2.Get(t.Context(), "n")
					synctest.Wait()
					got := s.User()
					if err != nil {
						got = rampart.KindOf(err).String()
					}
					if got != m.want {
						t.Errorf("after %v: got %s (%v), want %s", m.at, got, err, m.want)
					}
				}
				if l.made != c.made || l.renewed != c.renewed {
					t.Errorf("made %d and renewed %d times, want %d and %d", l.made, l.renewed, c.made, c.renewed)
				}
			})
		})
	}
}

// TestClosedSaysWhy: past the bound the error names backend, age and bound.
func TestClosedSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{}
		c := NewCache(b, CacheOptions{Name: "shop-vault", MaxStale: 10 * time.Minute, Rand: zeros{}})
		defer c.Close()
		if _, err := c.Get(t.Context(), "n"); err != nil {
			t.Fatal(err)
		}
		b.set(kind(rampart.Unavailable))
		time.Sleep(11 * time.Minute)
		for range 2 {
			_, err := c.Get(t.Context(), "n")
			for _, want := range []string{"shop-vault", `"n"`, "11m0s", "10m0s"} {
				if rampart.KindOf(err) != rampart.Unavailable || !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("%v does not say %s", err, want)
				}
			}
		}
	})
}

// TestBusy: a backend that asks to be left alone is, with a value and without.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{}
		c := NewCache(b, CacheOptions{Rand: zeros{}})
		defer c.Close()
		get := func(name string, want rampart.Kind, calls int) {
			t.Helper()
			if _, err := c.Get(t.Context(), name); (err == nil) != (want == 0) || rampart.KindOf(err) != want || b.count() != calls {
				t.Errorf("got %v after %d calls, want kind %v after %d", err, b.count(), want, calls)
			}
		}
		get("n", 0, 1)
		b.set(&rampart.Error{Kind: rampart.Limited, Control: control, Msg: "busy", Err: Busy(time.Minute)})
		time.Sleep(10 * time.Minute)
		get("n", 0, 2) // stale
		get("other", rampart.Limited, 3)
		time.Sleep(59 * time.Second)
		get("n", 0, 3)
		get("other", rampart.Limited, 3)
		b.set(nil)
		time.Sleep(time.Second)
		get("n", 0, 4)
		get("other", 0, 5)
	})
}

// TestForget: what is forgotten while a fetch is under way is fetched again.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{delay: time.Second}
		c := NewCache(b, CacheOptions{})
		defer c.Close()
		go c.Get(t.Context(), "n")
		synctest.Wait()
		c.Forget("n", "never seen")
		if s, err := c.Get(t.Context(), "n"); err != nil || s.Version() != 2 {
			t.Errorf("version %d, %v: the fetch from before counted", s.Version(), err)
		}
	})
}

// TestMissesShareOneFetch is the bar: a thousand who ask at once cost one fetch.
func TestMissesShareOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{delay: time.Second}
		c := NewCache(b, CacheOptions{})
		defer c.Close()
		for range 1000 {
			go func() {
				if s, err := c.Get(t.Context(), "n"); err != nil || s.Version() != 1 {
					t.Errorf("version %d, %v", s.Version(), err)
				}
			}()
		}
		time.Sleep(1500 * time.Millisecond)
		if b.count() != 1 {
			t.Errorf("%d fetches", b.count())
		}
	})
}

// BenchmarkCacheUse is a hit and its use: the copy is the one allocation.
func BenchmarkCacheUse(b *testing.B) {
	c := NewCache(&backend{}, CacheOptions{})
	defer c.Close()
	b.ReportAllocs()
	n := 0
	read := func(v []byte) error { n += len(v); return nil }
	for b.Loop() {
		s, err := c.Get(b.Context(), "payment-provider-key-of-32-bytes")
		if err != nil {
			b.Fatal(err)
		}
		_ = s.Use(read)
	}
}

// FuzzParseRef: what is read is written the same, and errors repeat nothing.
func FuzzParseRef(f *testing.F) {
	for _, seed := range []string{"secret://vault/a/b#c", "secret://embedded/x", "secret:///a", "secret://v/", "secret://v//", "secret://v/a#", "secret://v/a#b#c", "sk-canary-4711", ""} {
		f.Add(seed)
	}
	_, refusal := ParseRef("")
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := ParseRef(text)
		if err != nil {
			if err.Error() != refusal.Error() {
				t.Errorf("the error is of %q alone: %v", text, err)
			}
			return
		}
		again, err := ParseRef(ref.String())
		if err != nil || again != ref || ref.Backend == "" || ref.Path == "" {
			t.Errorf("%q is %+v, then %+v (%v)", text, ref, again, err)
		}
	})
}
