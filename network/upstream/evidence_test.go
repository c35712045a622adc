package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/relay"
)

// late is a service that does not answer in time.
func late(*http.Request) (*http.Response, error) { return nil, context.DeadlineExceeded }

// absent is a service that nobody can connect to.
func absent(*http.Request) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
}

// dead is what a plane says of a service that is away.
func dead(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 503, Body: http.NoBody, Header: http.Header{relay.HeaderOutcome: {relay.Unreached.String()}}}, nil
}

// asked sends n requests of who, and returns how many the breaker refused.
func asked(t *testing.T, s *Service, rt script, who string, n int) (refused int) {
	t.Helper()
	for range n {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://shop/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := s.Over(rt, who, false).RoundTrip(r)
		if err == nil {
			res.Body.Close()
		}
		if rampart.KindOf(err) == rampart.Unavailable {
			refused++
		}
	}
	return refused
}

// TestOneCaller: what one caller can provoke turns a service off for nobody, however
// little others ask; that it is away does, whoever finds out.
func TestOneCaller(t *testing.T) {
	for name, tc := range map[string]struct {
		fails   script
		callers int // who ask ten times each
		good    int // requests of others that go well
		open    bool
	}{
		"one that waits in vain":          {late, 1, 0, false},
		"one among others":                {late, 1, 10, false},
		"one that breaks its connections": {broken, 1, 10, false},
		"one that is told 503":            {status(503), 1, 10, false},
		"three":                           {late, 3, 10, false},
		"four":                            {late, 4, 0, true},
		"four, and as many requests that go well":   {late, 4, 40, true},
		"four, and more requests that go well":      {late, 4, 41, false},
		"many":                                      {late, 100, 0, true},
		"one that finds nobody there":               {absent, 1, 0, true},
		"one that is told that nobody is there":     {dead, 1, 0, true},
		"one that finds nobody there, among others": {absent, 1, 10, true},
	} {
		t.Run(name, func(t *testing.T) {
			at := &clock{time.Unix(1_700_000_000, 0)}
			s := New(Options{Name: "shop", Failures: 50, Least: 10, Open: time.Second, Now: at.now})
			asked(t, s, status(200), "eve", tc.good)
			for range 10 {
				for i := range tc.callers {
					asked(t, s, tc.fails, fmt.Sprint("user", i), 1)
				}
			}
			if open := asked(t, s, status(200), "ann", 1) == 1; open != tc.open {
				t.Errorf("open: %v", open)
			}
		})
	}
}

// TestOneProbes: whose request strained a service that is tried again leaves the next
// try to others, but not for ever.
func TestOneProbes(t *testing.T) {
	at := &clock{time.Unix(1_700_000_000, 0)}
	s := New(Options{Name: "shop", Failures: 50, Least: 1, Open: time.Second, Now: at.now})
	asked(t, s, absent, "ann", 1)
	at.t = at.t.Add(time.Second)
	asked(t, s, late, "mallory", 1)
	at.t = at.t.Add(time.Second)
	if asked(t, s, late, "mallory", 1) != 1 {
		t.Error("the same caller tries again at once")
	}
	if asked(t, s, status(200), "ann", 1) != 0 {
		t.Error("nobody else may try")
	}
	if asked(t, s, absent, "mallory", 1); asked(t, s, late, "ann", 1) != 1 {
		t.Fatal("not open again")
	}
	at.t = at.t.Add(time.Second)
	asked(t, s, late, "mallory", 1)
	at.t = at.t.Add(2 * time.Second)
	if asked(t, s, status(200), "mallory", 1) != 0 {
		t.Error("alone, it may never try again")
	}
}

// TestTwoProbe: callers who agree do not keep a service closed to others by taking
// every try between them.
func TestTwoProbe(t *testing.T) {
	at := &clock{time.Unix(1_700_000_000, 0)}
	s := New(Options{Name: "shop", Failures: 50, Least: 1, Open: time.Second, Now: at.now})
	asked(t, s, absent, "ann", 1)
	for range 3 {
		at.t = at.t.Add(time.Second)
		asked(t, s, late, "mallory", 1)
		asked(t, s, late, "eve", 1)
		if asked(t, s, status(200), "ann", 1) == 0 {
			return
		}
	}
	t.Error("nobody else gets a try")
}

// TestProbePanics: a try that ends in a panic leaves its place to the next.
func TestProbePanics(t *testing.T) {
	at := &clock{time.Unix(1_700_000_000, 0)}
	s := New(Options{Name: "shop", Failures: 50, Least: 1, Open: time.Second, Now: at.now})
	asked(t, s, absent, "ann", 1)
	at.t = at.t.Add(time.Second)
	func() {
		defer func() { _ = recover() }()
		asked(t, s, func(*http.Request) (*http.Response, error) { panic("a fault") }, "ann", 1)
	}()
	if asked(t, s, status(200), "ann", 1) != 0 {
		t.Error("nobody is let through to try any more")
	}
}

// BenchmarkStrain: one caller whose requests all fail costs others no time.
func BenchmarkStrain(b *testing.B) {
	at := &clock{time.Unix(1_700_000_000, 0)}
	s := New(Options{Name: "shop", Failures: 50, Least: 20, Open: time.Second, Now: at.now})
	for range 1000 {
		s.leave(false, strain, "mallory")
	}
	b.ReportAllocs()
	for b.Loop() {
		if probe, err := s.enter("mallory"); err == nil {
			s.leave(probe, strain, "mallory")
		}
	}
}
