package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/relay"
)

// service listens and has answer deal with each connection, once its first
// request was read.
func service(t *testing.T, answer func(net.Conn)) (url string, asked *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	asked = new(atomic.Int64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				io.Copy(io.Discard, r.Body)
				asked.Add(1)
				answer(c)
			}()
		}
	}()
	return "http://" + l.Addr().String(), asked
}

func reset(c net.Conn)                { c.(*net.TCPConn).SetLinger(0) }
func hang(c net.Conn)                 { io.Copy(io.Discard, c) }
func says(text string) func(net.Conn) { return func(c net.Conn) { io.WriteString(c, text) } }

const (
	fine   = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
	half   = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\nConnection: close\r\n\r\nhalf"
	away   = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	faulty = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	no     = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)

func transportOf(t *testing.T) *http.Transport {
	tr := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// send sends one request and returns its status, 0 without an answer.
func send(t *testing.T, s *Service, tr http.RoundTripper, method, url string, repeat bool) (int, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Over(tr, "", repeat).RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// TestTrouble: what a caller gets when a real service does not do as it should,
// and how often the service was asked.
func TestTrouble(t *testing.T) {
	flaky := func(first func(net.Conn)) func(net.Conn) {
		var n atomic.Int64
		return func(c net.Conn) {
			if n.Add(1) == 1 {
				first(c)
				return
			}
			says(fine)(c)
		}
	}
	for name, tc := range map[string]struct {
		answer func(net.Conn)
		repeat bool
		status int // of what the caller gets, that of an error included
		asked  int64
	}{
		"an answer":                              {says(fine), true, 200, 1},
		"a refusal is an answer":                 {says(no), true, 403, 1},
		"so is a failure":                        {says(away), true, 503, 1},
		"one that hangs":                         {hang, false, 504, 1},
		"one that hangs is not waited for twice": {flaky(hang), true, 504, 1},
		"a reset":                                {reset, false, 500, 1},
		"a reset, and it may be repeated":        {flaky(reset), true, 200, 2},
		"two resets: once is enough":             {reset, true, 500, 2},
		"half an answer is not asked for again":  {says(half), true, -1, 1},
		"closed without a word, then well":       {flaky(func(net.Conn) {}), true, 200, 2},
		"closed without a word":                  {func(net.Conn) {}, false, 500, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, asked := service(t, tc.answer)
			s := New(Options{Name: "shop", Timeout: 300 * time.Millisecond, Failures: 50, Least: 20, Open: time.Second})
			status, _, err := send(t, s, transportOf(t), http.MethodPut, url, tc.repeat)
			switch {
			case status == 200 && err != nil:
				status = -1
			case err != nil:
				status = problem.Status(err)
			}
			if status != tc.status || asked.Load() != tc.asked {
				t.Errorf("status %d (%v), asked %d times; want %d and %d", status, err, asked.Load(), tc.status, tc.asked)
			}
		})
	}
}

func TestRefusedConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	s := New(Options{Name: "shop", Timeout: time.Second, Failures: 50, Least: 3, Open: time.Minute})
	for range 3 {
		if _, _, err := send(t, s, transportOf(t), http.MethodGet, url, false); err == nil || rampart.KindOf(err) == rampart.Unavailable {
			t.Fatalf("a connection that is refused: %v", err)
		}
	}
	_, _, err = send(t, s, transportOf(t), http.MethodGet, url, false)
	var d *problem.Details
	if !errors.As(err, &d) || d.RetryAfter <= 0 || rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("after three: %v; want the breaker open", err)
	}
}

// script is a service without a wire, for what depends on time alone.
type script func(*http.Request) (*http.Response, error)

func (f script) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func status(code int) script {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: code, Body: http.NoBody}, nil
	}
}

var errReset = errors.New("reset")

func broken(*http.Request) (*http.Response, error) { return nil, errReset }

// clock is time that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func TestBreaker(t *testing.T) {
	at := &clock{time.Unix(1_700_000_000, 0)}
	var changes []Change
	s := New(Options{Name: "shop", Failures: 50, Least: 10, Open: 5 * time.Second, Now: at.now, OnChange: func(c Change) { changes = append(changes, c) }})
	ask := func(n int, rt script) (refused int) {
		for range n {
			if _, _, err := send(t, s, rt, http.MethodGet, "http://shop/", false); rampart.KindOf(err) == rampart.Unavailable {
				refused++
			}
		}
		return refused
	}
	must := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: %d refused, want %d", what, got, want)
		}
	}
	must("nine failures are too few to tell", ask(9, broken), 0)
	at.t = at.t.Add(10 * time.Second)
	must("they have left the window", ask(9, broken), 0)
	at.t = at.t.Add(10 * time.Second)
	must("faults of the service's own", ask(40, status(500)), 0)
	must("refusals", ask(40, status(404)), 0)
	at.t = at.t.Add(10 * time.Second)
	must("half of twenty", ask(10, status(200))+ask(10, status(503)), 0)
	must("it is open", ask(5, status(200)), 5)
	opened := at.t
	at.t = at.t.Add(5 * time.Second)
	must("the one that is let through fails", ask(1, broken), 0)
	must("open again", ask(5, status(200)), 5)
	if since, open := s.Open(); !open || !since.Equal(opened) {
		t.Errorf("open since %v, %v, want since %v", since, open, opened)
	}
	at.t = at.t.Add(5 * time.Second)
	must("the next goes well", ask(1, status(200)), 0)
	must("closed, with nothing held against it", ask(9, broken), 0)
	if since, open := s.Open(); open || !since.IsZero() {
		t.Errorf("closed, and open since %v, %v", since, open)
	}
	if len(changes) != 2 || !changes[0].Open || changes[0].Requests != 20 || changes[0].Failed != 10 || changes[1].Open {
		t.Errorf("changes %+v", changes)
	}
}

// TestGoneMeanwhile: who goes away while the connection is opened says nothing of the
// service, however often.
func TestGoneMeanwhile(t *testing.T) {
	s := New(Options{Name: "orders", Failures: 50, Least: 20, Open: time.Minute})
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://orders/", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Over(opening{cancel}, "mallory", false).RoundTrip(r)
		if relay.OutcomeOf(err) != relay.Unreached {
			t.Fatal(err)
		}
	}
	if _, open := s.Open(); open {
		t.Error("a caller who went away turned the service off")
	}
}

// opening is a transport whose caller goes away while it opens a connection.
type opening struct{ goAway func() }

func (o opening) RoundTrip(r *http.Request) (*http.Response, error) {
	o.goAway()
	<-r.Context().Done()
	return nil, relay.NotReached(r.Context().Err())
}

// TestOneProbe: while one request tries, others wait; and one whose caller goes
// away leaves its place to the next.
func TestOneProbe(t *testing.T) {
	at := &clock{time.Unix(1_700_000_000, 0)}
	s := New(Options{Name: "shop", Failures: 50, Least: 1, Open: time.Second, Now: at.now})
	if _, _, err := send(t, s, script(broken), http.MethodGet, "http://shop/", false); !errors.Is(err, errReset) {
		t.Fatal(err)
	}
	at.t = at.t.Add(time.Second)
	ctx, leave := context.WithCancel(t.Context())
	in, out := make(chan struct{}), make(chan error)
	go func() {
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://shop/", nil)
		_, err := s.Over(script(func(r *http.Request) (*http.Response, error) {
			close(in)
			<-r.Context().Done()
			return nil, r.Context().Err()
		}), "", true).RoundTrip(r)
		out <- err
	}()
	<-in
	if _, _, err := send(t, s, status(200), http.MethodGet, "http://shop/", false); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("beside the probe: %v", err)
	}
	leave()
	if err := <-out; !errors.Is(err, context.Canceled) {
		t.Errorf("the probe: %v", err)
	}
	if code, _, err := send(t, s, status(200), http.MethodGet, "http://shop/", false); code != 200 {
		t.Errorf("the next: %d %v", code, err)
	}
}

// TestRetryBudget: a service that resets everything is asked a tenth more often.
func TestRetryBudget(t *testing.T) {
	at := &clock{time.Unix(1_700_000_000, 0)}
	s := New(Options{Name: "shop", Now: at.now})
	asked := 0
	storm := script(func(*http.Request) (*http.Response, error) { asked++; return nil, errReset })
	for i := range 1000 {
		at.t = at.t.Add(7 * time.Millisecond)
		send(t, s, storm, http.MethodGet, "http://shop/", true)
		if most := i + 1 + (i+10)/10; asked > most {
			t.Fatalf("after %d requests it was asked %d times, want at most %d", i+1, asked, most)
		}
	}
	if asked < 1090 {
		t.Errorf("asked %d times: the budget is not used", asked)
	}
}

func TestRepeatable(t *testing.T) {
	for method, want := range map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "PUT": true, "DELETE": true, "POST": false, "PATCH": false, "CONNECT": false, "": false} {
		if Repeatable(method) != want {
			t.Errorf("%s: %v", method, !want)
		}
	}
}

func BenchmarkOver(b *testing.B) {
	s := New(Options{Name: "shop", Timeout: time.Minute, Failures: 50, Least: 20, Open: time.Second})
	rt := s.Over(status(200), "ann", true)
	r, _ := http.NewRequest(http.MethodGet, "http://shop/", nil)
	b.ReportAllocs()
	for b.Loop() {
		res, err := rt.RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		res.Body.Close()
	}
}

// TestCalls: a call waits as long as its client likes, which is no failure of the
// service; the one that is let through to try does not.
func TestCalls(t *testing.T) {
	now := time.Unix(1000, 0)
	s := New(Options{Name: "s", Timeout: 10 * time.Millisecond, Failures: 50, Least: 1, Open: time.Second, Now: func() time.Time { return now }})
	wait := slowly(100 * time.Millisecond)
	ask := func(rt http.RoundTripper) error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://s/p.S/M", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := rt.RoundTrip(r)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	if err := ask(s.Calls(wait, "")); err != nil {
		t.Fatalf("a call that takes its time: %v", err)
	}
	if err := ask(s.Over(wait, "", false)); problem.Status(err) != http.StatusGatewayTimeout { // the second of two: the breaker opens
		t.Fatalf("another request: %v", err)
	}
	now = now.Add(2 * time.Second)
	if err := ask(s.Calls(wait, "")); problem.Status(err) != http.StatusGatewayTimeout {
		t.Errorf("the call that tries: %v", err)
	}
}

// slowly answers after a while.
type slowly time.Duration

// RoundTrip implements http.RoundTripper.
func (d slowly) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(time.Duration(d)):
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}
