package valkey

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/test/valkeytest"
)

// long reports whether the tests run in their long form.
func long() bool { return os.Getenv("RAMPART_LIMITS") == "long" }

// node is one gateway's store, with the limiter in question.
type node struct {
	store *Store
	l     *Limiter
	stop  context.CancelFunc
	ended chan struct{}
}

// cluster is a number of nodes that share a server.
type cluster struct {
	t      *testing.T
	server *valkeytest.Server
	nodes  []*node
	limit  int
	window time.Duration

	mu  sync.Mutex
	log []admission
}

// admission is one that happened between two readings of the clock.
type admission struct{ before, after time.Time }

func config(t testing.TB, s *valkeytest.Server) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA)
	return &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "localhost", RootCAs: roots, Certificates: []tls.Certificate{s.Certificate}}
}

func open(t testing.TB, s *valkeytest.Server, gateways int) *Store {
	t.Helper()
	store, err := New(Options{URL: s.URL, TLS: config(t, s), Gateways: gateways})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// start runs n nodes with a limiter each and waits until they count together.
func start(t *testing.T, s *valkeytest.Server, name string, n, limit int, window time.Duration) *cluster {
	t.Helper()
	c := &cluster{t: t, server: s, limit: limit, window: window}
	for range n {
		v := &node{store: open(t, s, n), ended: make(chan struct{})}
		v.l = v.store.Ring(name, limit, window, 0)
		var ctx context.Context
		ctx, v.stop = context.WithCancel(context.Background())
		go func() { defer close(v.ended); v.store.Run(ctx) }()
		t.Cleanup(func() { v.stop(); <-v.ended })
		c.nodes = append(c.nodes, v)
	}
	c.until("the nodes count together", func(v *node) bool { return !v.store.Alone() })
	return c
}

// until waits for all nodes to be so.
func (c *cluster) until(what string, so func(*node) bool) {
	c.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if !slices.ContainsFunc(c.nodes, func(v *node) bool { return !so(v) }) {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// try asks a node once.
func (c *cluster) try(i int) bool {
	before := time.Now()
	ok := c.nodes[i].l.Allow("user:ann", 1).OK
	if ok {
		c.mu.Lock()
		c.log = append(c.log, admission{before, time.Now()})
		c.mu.Unlock()
	}
	return ok
}

// worst returns the most that any window within from and to held. What counts
// was admitted in it for sure.
func (c *cluster) worst(from, to time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortFunc(c.log, func(a, b admission) int { return a.before.Compare(b.before) })
	worst := 0
	for i, first := range c.log {
		if first.before.Before(from) {
			continue
		}
		end := first.before.Add(c.window)
		n := 0
		for _, a := range c.log[i:] {
			if !a.before.Before(end) {
				break
			}
			if a.after.Before(end) && a.after.Before(to) {
				n++
			}
		}
		worst = max(worst, n)
	}
	return worst
}

func (c *cluster) unsaid() int {
	most := 0
	for _, v := range c.nodes {
		most = max(most, int(v.store.most.Load()))
	}
	return most
}

// judge holds what was admitted against the bound of the package.
func (c *cluster) judge(name string) {
	c.t.Helper()
	n, u := len(c.nodes), c.unsaid()
	got := c.worst(time.Time{}, time.Now())
	c.t.Logf("%s: %d admitted in the worst window, limit %d, at most %d unsaid per node", name, got, c.limit, u)
	if most := max(c.nodes[0].l.u, c.limit/n); u > most {
		c.t.Errorf("%s: a node had %d unsaid, want at most %d", name, u, most)
	}
	if bound := c.limit + (n-1)*u; got > bound {
		c.t.Errorf("%s: %d admitted in a window, want at most %d + %d*%d", name, got, c.limit, n-1, u)
	}
	if got < c.limit/2 {
		c.t.Errorf("%s: %d admitted in the best window: the schedule does not reach the limit of %d", name, got, c.limit)
	}
}

// TestClusterNeverOver plays adversarial schedules at four nodes that share a
// real server; one node dies in between, with what it had not said.
func TestClusterNeverOver(t *testing.T) {
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	const n, limit = 4, 200
	window, rounds := time.Second, 2
	if long() {
		window, rounds = 2*time.Second, 15
	}
	alive := func(now, end time.Time) []int { // the last node dies halfway
		if end.Sub(now) < time.Duration(rounds)*window/2 {
			return []int{0, 1, 2}
		}
		return []int{0, 1, 2, 3}
	}
	schedules := map[string]func(c *cluster, up []int, i int){
		"all hammer": func(c *cluster, up []int, i int) {
			c.try(up[i%len(up)])
			if i%8 == 0 {
				time.Sleep(time.Millisecond)
			}
		},
		"bursts at all at once, then silence": func(c *cluster, up []int, i int) {
			var wg sync.WaitGroup
			for _, v := range up {
				wg.Go(func() {
					for range 2 * limit {
						c.try(v)
					}
				})
			}
			wg.Wait()
			time.Sleep(window * 9 / 20)
		},
		"one after another, on old views": func(c *cluster, up []int, i int) {
			for range limit {
				c.try(up[i%len(up)])
			}
			time.Sleep(window / 7)
		},
		"a little more than the rate, spread": func(c *cluster, up []int, i int) {
			c.try(up[i%len(up)])
			time.Sleep(window / (limit * 2))
		},
	}
	for name, step := range schedules {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, server, name, n, limit, window)
			end := time.Now().Add(time.Duration(rounds) * window)
			for i := 0; time.Now().Before(end); i++ {
				up := alive(time.Now(), end)
				if len(up) < n {
					c.nodes[n-1].store.db.Close() // nothing more is said
				}
				step(c, up, i)
			}
			c.judge(name)
		})
	}
}

// TestStoreDies kills the server under load, and brings it back: with its memory,
// without it, and one that is there and does not answer.
func TestStoreDies(t *testing.T) {
	const n, limit = 4, 200
	window := time.Second
	for name, tc := range map[string]struct{ away, back func(c *cluster) }{
		"killed, and back with its memory": {func(c *cluster) { c.server.Kill() }, func(c *cluster) { c.server.Run() }},
		"killed, and back without": {func(c *cluster) { c.server.Kill() }, func(c *cluster) {
			c.server.Run()
			db := open(c.t, c.server, 1).db
			defer db.Close()
			if err := db.FlushAll(context.Background()).Err(); err != nil {
				c.t.Fatal(err)
			}
		}},
		"it does not answer": {func(c *cluster) { c.server.Freeze() }, func(c *cluster) { c.server.Thaw() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, valkeytest.Start(t, valkeytest.CertificatesAlone()...), "l", n, limit, window)
			var wg sync.WaitGroup
			stop := make(chan struct{})
			load := make([][]time.Duration, n)
			var tried atomic.Int64 // by the first
			for i := range n {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						start := time.Now()
						c.try(i)
						load[i] = append(load[i], time.Since(start))
						if i == 0 {
							tried.Add(1)
						}
						time.Sleep(time.Millisecond)
					}
				})
			}
			time.Sleep(window)
			healthy := int(tried.Load())
			tc.away(c)
			c.until("all nodes count alone", func(v *node) bool { return v.store.Alone() })
			alone := time.Now()
			time.Sleep(2 * window)
			tc.back(c)
			back := time.Now()
			first := make(chan time.Time, n)
			for _, v := range c.nodes {
				go func() {
					for v.store.Alone() {
						time.Sleep(100 * time.Microsecond)
					}
					first <- time.Now()
				}()
			}
			c.until("the nodes count together again", func(v *node) bool { return !v.store.Alone() })
			together := (<-first).Add(-5 * time.Millisecond) // the first of them
			time.Sleep(2 * window)
			close(stop)
			wg.Wait()
			u := c.unsaid()
			worst := map[string]int{"away": c.worst(alone, back), "coming back": c.worst(alone, together), "in all": c.worst(time.Time{}, time.Now())}
			t.Logf("%s: worst windows %v, limit %d; p99 of a decision %v healthy, %v after; back together after %v",
				name, worst, limit, p99(load[0][:healthy]), p99(load[0][healthy:]), together.Sub(back).Round(time.Millisecond))
			for when, most := range map[string]int{"away": limit, "coming back": limit, "in all": limit + (n-1)*u} {
				if worst[when] > most {
					t.Errorf("%s: %d admitted in a window, want at most %d", when, worst[when], most)
				}
			}
			if worst["away"] < limit/2 {
				t.Errorf("%d admitted while the store was away: degraded is not shut", worst["away"])
			}
		})
	}
}

func p99(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[len(d)*99/100]
}

// TestUnsaidSurvivesShutdown: what a gateway admitted last is with the store when
// it has ended.
func TestUnsaidSurvivesShutdown(t *testing.T) {
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	t.Parallel()
	c := start(t, server, "l", 2, 1000, time.Hour)
	for range 7 {
		c.try(0)
	}
	c.nodes[0].stop()
	<-c.nodes[0].ended
	c.try(1)
	c.until("the other has heard", func(*node) bool {
		s, e := c.nodes[1].l.keys.Peek("user:ann", 0)
		defer s.Unlock()
		return e != nil && e.view.Sum() == 8
	})
}

// TestQuota is a calendar's period, kept by the store across gateways.
func TestQuota(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	for life := range 2 {
		s := open(t, server, 2)
		s.settle = 0
		l := s.Calendar("plan", 10, 24*time.Hour, 0)
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		for end := time.Now().Add(20 * time.Second); s.Alone() && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		ok := 0
		for range 40 {
			if v := l.Allow("key", 1); v.OK {
				ok++
			} else if until := 24*time.Hour - time.Since(time.Now().UTC().Truncate(24*time.Hour)); v.RetryAfter > until+time.Second {
				t.Errorf("come back in %v, midnight is in %v", v.RetryAfter, until)
			}
			time.Sleep(10 * time.Millisecond)
		}
		stop()
		<-ended
		// One who has just come may take its share before it has heard.
		if want := []int{10, 5}[life]; ok > want || life == 0 && ok < 10 {
			t.Errorf("life %d: %d admitted of 10 a day, want at most %d", life, ok, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"plain text": {URL: "redis://h:1", TLS: &tls.Config{}, Gateways: 1},
		"a password": {URL: "rediss://u:p@h:1", TLS: &tls.Config{}, Gateways: 1},
		"no TLS":     {URL: "rediss://h:1", Gateways: 1},
		"nobody":     {URL: "rediss://h:1", TLS: &tls.Config{}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestAlone: without a server the share counts, and a limit that cannot be shared
// admits nobody.
func TestAlone(t *testing.T) {
	s, err := New(Options{URL: "rediss://localhost:1", TLS: &tls.Config{}, Gateways: 4})
	if err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int]int{100: 25, 7: 1, 3: 0, 0: 0} {
		l := s.Ring(fmt.Sprint(limit), limit, time.Hour, 0)
		ok := 0
		for range 200 {
			if l.Allow("k", 1).OK {
				ok++
			}
		}
		if ok != want {
			t.Errorf("limit %d of 4 gateways: %d admitted alone, want %d", limit, ok, want)
		}
	}
}

func BenchmarkAllow(b *testing.B) {
	for name, n := range map[string]int{"1_key": 1, "1e6_keys": 1_000_000} {
		b.Run(name, func(b *testing.B) {
			s, _ := New(Options{URL: "rediss://localhost:1", TLS: &tls.Config{}, Gateways: 2})
			l := s.Ring("l", 1<<30, time.Minute, 1<<21)
			keys := make([]string, n)
			for i := range keys {
				keys[i] = fmt.Sprint("user:", i)
				l.Allow(keys[i], 1)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				l.Allow(keys[i], 1)
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}
