package hop_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/hop"
)

// dialed is a Transport that counts the connections it opens. What does not fit
// fails.
func dialed(t testing.TB) (*hop.Transport, *atomic.Int32) {
	t.Helper()
	var n atomic.Int32
	tr := hop.New(hop.Options{
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			n.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
		Else: elsewhere{}, Wait: time.Minute,
	})
	t.Cleanup(tr.CloseIdleConnections)
	return tr, &n
}

var errElse = errors.New("does not fit")

type elsewhere struct{}

func (elsewhere) RoundTrip(*http.Request) (*http.Response, error) { return nil, errElse }

func request(t testing.TB, method, url, body string) *http.Request {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// ask returns status and body, or the error.
func ask(rt http.RoundTripper, r *http.Request) (string, error) {
	res, err := rt.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return fmt.Sprintf("%d %s", res.StatusCode, b), err
}

// TestOneConnection asks a real server in all the ways in which an answer may end,
// over the same connection.
func TestOneConnection(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
			return
		case "/hints":
			w.WriteHeader(http.StatusEarlyHints)
		case "/pieces":
			w.(http.Flusher).Flush()
		}
		fmt.Fprintf(w, "%s %s %s q=%s", r.Method, r.Host, body, r.URL.RawQuery)
	}))
	defer srv.Close()
	tr, conns := dialed(t)
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, row := range []struct{ method, path, body, want string }{
		{"GET", "/", "", "200 GET " + host + "  q="},
		{"POST", "/a?x=1&y=%20", "hello", "200 POST " + host + " hello q=x=1&y=%20"},
		{"POST", "/", "", "200 POST " + host + "  q="},
		{"HEAD", "/", "", "200 "},
		{"GET", "/none", "", "204 "},
		{"PUT", "/hints", "x", "200 PUT " + host + " x q="},
		{"DELETE", "/pieces", "", "200 DELETE " + host + "  q="},
	} {
		got, err := ask(tr, request(t, row.method, srv.URL+row.path, row.body))
		if err != nil || got != row.want {
			t.Errorf("%s %s: %q, %v; want %q", row.method, row.path, got, err, row.want)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// TestManyCallers: no answer goes to another's question.
func TestManyCallers(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer srv.Close()
	tr, _ := dialed(t)
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			for j := range 50 {
				want := fmt.Sprintf("%d/%d", i, j)
				got, err := ask(tr, request(t, "POST", srv.URL, want))
				if err != nil || got != "200 "+want {
					t.Errorf("got %q, %v; want %q", got, err, want)
				}
			}
		})
	}
	all.Wait()
}

// TestLeftToOthers: what may need reading and writing at the same time.
func TestLeftToOthers(t *testing.T) {
	tr, _ := dialed(t)
	long := strings.Repeat("x", 64<<10+1)
	for name, r := range map[string]*http.Request{
		"a change of protocol":     request(t, "GET", "http://127.0.0.1:1/", ""),
		"a body of unknown length": request(t, "POST", "http://127.0.0.1:1/", "x"),
		"a long body":              request(t, "POST", "http://127.0.0.1:1/", long),
		"trailers":                 request(t, "POST", "http://127.0.0.1:1/", "x"),
		"an expectation":           request(t, "POST", "http://127.0.0.1:1/", "x"),
	} {
		switch name {
		case "a change of protocol":
			r.Header.Set("Upgrade", "websocket")
		case "a body of unknown length":
			r.ContentLength = -1
		case "trailers":
			r.Trailer = http.Header{"X": nil}
		case "an expectation":
			r.Header.Set("Expect", "100-continue")
		}
		if _, err := tr.RoundTrip(r); !errors.Is(err, errElse) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// script is a server that plays one list of answers for each connection: it reads
// a request, then writes the next. "CLOSE" closes it instead, and " CLOSE" at the end
// of an answer does so after it.
func script(t *testing.T, conns ...[]string) (url string, asked *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	asked = new(atomic.Int32)
	go func() {
		for _, answers := range conns {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go play(t.Context(), c, answers, asked)
		}
	}()
	return "http://" + l.Addr().String() + "/", asked
}

func play(ctx context.Context, c net.Conn, answers []string, asked *atomic.Int32) {
	defer c.Close()
	in := bufio.NewReader(c)
	for _, a := range answers {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		asked.Add(1)
		a, last := strings.CutSuffix(a, "CLOSE")
		_, _ = io.WriteString(c, a)
		if last {
			return
		}
	}
	<-ctx.Done()
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// TestTwoAnswers asks twice. Each row is what the server does on its first connection,
// and on the second, if one is opened.
func TestTwoAnswers(t *testing.T) {
	for name, row := range map[string]struct {
		method        string
		first, second []string
		answers       string // to both
		conns, asked  int32
	}{
		"the connection serves again":                  {"POST", []string{ok, ok}, nil, "200 ok, 200 ok", 1, 2},
		"it was closed meanwhile":                      {"POST", []string{ok + "CLOSE"}, []string{ok}, "200 ok, 200 ok", 2, 2},
		"the answer says that it is closed":            {"POST", []string{"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"}, []string{ok}, "200 ok, 200 ok", 2, 2},
		"the answer ends with the connection":          {"POST", []string{"HTTP/1.1 200 OK\r\n\r\nokCLOSE"}, []string{ok}, "200 ok, 200 ok", 2, 2},
		"an answer that nobody asked for comes behind": {"POST", []string{ok + ok}, []string{ok}, "200 ok, 200 ok", 2, 2},
		"bytes come behind an empty answer":            {"POST", []string{"HTTP/1.1 204 OK\r\n\r\n" + ok}, []string{ok}, "204 , 200 ok", 2, 2},
		"a GET unheard is asked again":                 {"GET", []string{ok, "CLOSE"}, []string{ok}, "200 ok, 200 ok", 2, 3},
		"a POST unheard is not":                        {"POST", []string{ok, "CLOSE"}, []string{ok}, "200 ok, error", 1, 2},
		"nor is a GET whose answer began":              {"GET", []string{ok, "HTTP/1.1 2CLOSE"}, []string{ok}, "200 ok, error", 1, 2},
		"nor one on a fresh connection":                {"GET", []string{"CLOSE"}, []string{ok}, "error, 200 ok", 2, 2},
		"half an answer is an error":                   {"GET", []string{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nokCLOSE"}, []string{ok}, "error, 200 ok", 2, 2},
		"a protocol that nobody asked for":             {"GET", []string{"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"}, []string{ok}, "error, 200 ok", 2, 2},
		"interim answers without end":                  {"GET", []string{strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 6) + ok}, []string{ok}, "error, 200 ok", 2, 2},
		"a few interim answers":                        {"GET", []string{strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 4) + ok, ok}, nil, "200 ok, 200 ok", 1, 2},
		"a head that is too long":                      {"GET", []string{"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 64<<10) + "\r\n\r\n"}, []string{ok}, "error, 200 ok", 2, 2},
		"lengths that differ":                          {"GET", []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk"}, []string{ok}, "error, 200 ok", 2, 2},
		"no HTTP":                                      {"GET", []string{"SSH-2.0-x\r\n\r\n"}, []string{ok}, "error, 200 ok", 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			url, asked := script(t, row.first, row.second)
			tr, conns := dialed(t)
			var answers []string
			for range 2 {
				body := "x"
				if row.method == "GET" {
					body = ""
				}
				got, err := ask(tr, request(t, row.method, url, body))
				if err != nil {
					got = "error"
				}
				answers = append(answers, got)
				time.Sleep(20 * time.Millisecond) // what the server sends behind has come
			}
			if got := strings.Join(answers, ", "); got != row.answers {
				t.Errorf("answers %q, want %q", got, row.answers)
			}
			if conns.Load() != row.conns || asked.Load() != row.asked {
				t.Errorf("%d connections and %d requests, want %d and %d", conns.Load(), asked.Load(), row.conns, row.asked)
			}
		})
	}
}

// TestCut: who gives up waits for nothing, at whatever point, and the connection is
// not used again.
func TestCut(t *testing.T) {
	for name, answer := range map[string]string{"before the answer": "", "in its head": "HTTP/1.1 200 OK\r\n", "in its body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"} {
		t.Run(name, func(t *testing.T) {
			url, _ := script(t, []string{answer, ok}, []string{ok})
			tr, conns := dialed(t)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := ask(tr, request(t, "GET", url, "").WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want that of the context", err)
			}
			if got, err := ask(tr, request(t, "GET", url, "")); err != nil || got != "200 ok" || conns.Load() != 2 {
				t.Errorf("afterwards %q, %v over %d connections, want ok over 2", got, err, conns.Load())
			}
		})
	}
}

// TestGone: nothing is sent for a caller who had gone before, and the connection
// serves the next.
func TestGone(t *testing.T) {
	url, asked := script(t, slices.Repeat([]string{ok}, 20))
	tr, conns := dialed(t)
	for i := range 10 {
		if got, err := ask(tr, request(t, "GET", url, "")); err != nil || got != "200 ok" {
			t.Fatalf("%q, %v", got, err)
		}
		ctx, leave := context.WithCancel(t.Context())
		leave()
		if got, err := ask(tr, request(t, "POST", url, "x").WithContext(ctx)); !errors.Is(err, context.Canceled) {
			t.Fatalf("%q, %v: want the error of the context", got, err)
		}
		if n := asked.Load(); n != int32(i)+1 || conns.Load() != 1 {
			t.Fatalf("asked %d times over %d connections, want %d over one", n, conns.Load(), i+1)
		}
	}
}

// TestUnread: what is left of an answer is not read to save a connection.
func TestUnread(t *testing.T) {
	url, _ := script(t, []string{"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nok", ok}, []string{ok})
	tr, conns := dialed(t)
	res, err := tr.RoundTrip(request(t, "GET", url, ""))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if n, err := res.Body.Read(make([]byte, 9)); err == nil {
		t.Errorf("read %d bytes of a closed answer", n)
	}
	if got, err := ask(tr, request(t, "GET", url, "")); err != nil || got != "200 ok" || conns.Load() != 2 {
		t.Errorf("afterwards %q, %v over %d connections, want ok over 2", got, err, conns.Load())
	}
}

// TestMoved: a server that is elsewhere now is asked there.
func TestMoved(t *testing.T) {
	tr, conns := dialed(t)
	for range 2 {
		url, asked := script(t, []string{ok, ok})
		for range 2 {
			if got, err := ask(tr, request(t, "GET", url, "")); err != nil || got != "200 ok" {
				t.Errorf("%q, %v", got, err)
			}
		}
		if asked.Load() != 2 {
			t.Errorf("asked %d times, want 2", asked.Load())
		}
	}
	if conns.Load() != 2 {
		t.Errorf("%d connections, want one for each address", conns.Load())
	}
}

// TestRefused: nothing leaves that could be read as something else.
func TestRefused(t *testing.T) {
	for name, edit := range map[string]func(*http.Request){
		"a method of two words":          func(r *http.Request) { r.Method = "GET /x" },
		"a target with a space":          func(r *http.Request) { r.URL.RawQuery = "a b" },
		"a target with a line end":       func(r *http.Request) { r.URL.RawQuery = "a\r\nX: y" },
		"a target that is a whole URL":   func(r *http.Request) { r.URL.Opaque = "//other/" },
		"a host with a line end":         func(r *http.Request) { r.Host = "a\r\nX: y" },
		"a name with a colon":            func(r *http.Request) { r.Header["A:B"] = []string{"x"} },
		"a name that is empty":           func(r *http.Request) { r.Header[""] = []string{"x"} },
		"a value with a line end":        func(r *http.Request) { r.Header["A"] = []string{"x\r\nB: y"} },
		"a value with a zero byte":       func(r *http.Request) { r.Header["A"] = []string{"\x00"} },
		"a body shorter than it is said": func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), 2 },
	} {
		t.Run(name, func(t *testing.T) {
			url, asked := script(t, []string{ok})
			tr, _ := dialed(t)
			r := request(t, "GET", url, "")
			edit(r)
			if got, err := ask(tr, r); err == nil || asked.Load() != 0 {
				t.Errorf("answered %q", got)
			}
		})
	}
}

// TestLongAnswer: an answer may go on for longer than one may be waited for, as long
// as it goes on, and who leaves meanwhile does not stay for that.
func TestLongAnswer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 20 {
			_, _ = io.WriteString(w, ".")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(30 * time.Millisecond)
		}
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	tr := hop.New(hop.Options{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}, Else: elsewhere{}, Wait: 100 * time.Millisecond})
	defer tr.CloseIdleConnections()
	if got, err := ask(tr, request(t, "GET", srv.URL, "")); err != nil || got != "200 "+strings.Repeat(".", 20) {
		t.Errorf("%q, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := ask(tr, request(t, "GET", srv.URL+"/hang", "").WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
}

// TestLeftWhileDialing: a connection whose caller has gone serves the next.
func TestLeftWhileDialing(t *testing.T) {
	url, asked := script(t, []string{ok, ok})
	dialing, goOn := make(chan struct{}, 2), make(chan struct{})
	tr := hop.New(hop.Options{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		dialing <- struct{}{}
		<-goOn
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}, Else: elsewhere{}, Wait: time.Minute})
	defer tr.CloseIdleConnections()
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-dialing; leave() }()
	if _, err := ask(tr, request(t, "POST", url, "x").WithContext(ctx)); !errors.Is(err, context.Canceled) || !errors.Is(err, hop.ErrNotSent) {
		t.Errorf("error %v, want that nothing was sent, and why", err)
	}
	close(goOn)
	time.Sleep(50 * time.Millisecond) // until it waits
	if got, err := ask(tr, request(t, "POST", url, "x")); err != nil || got != "200 ok" || asked.Load() != 1 || len(dialing) > 0 {
		t.Errorf("%q, %v; asked %d times, %d more connections", got, err, asked.Load(), len(dialing))
	}
}

// TestSpokeWhileWaiting: a connection that nobody has used yet is asked, too, when it
// has waited: its server may have spoken unasked.
func TestSpokeWhileWaiting(t *testing.T) {
	unasked, _ := script(t, []string{ok})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsurplus")
		}
	}()
	dialing, goOn := make(chan struct{}, 2), make(chan struct{})
	to := []string{l.Addr().String(), strings.Trim(strings.TrimPrefix(unasked, "http:"), "/")}
	tr := hop.New(hop.Options{Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		at := to[0]
		to = to[1:]
		dialing <- struct{}{}
		<-goOn
		return new(net.Dialer).DialContext(ctx, "tcp", at)
	}, Else: elsewhere{}, Wait: time.Minute})
	defer tr.CloseIdleConnections()
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-dialing; leave() }()
	if _, err := ask(tr, request(t, "POST", unasked, "x").WithContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(goOn)
	time.Sleep(50 * time.Millisecond) // until it waits, and the server has spoken
	if got, err := ask(tr, request(t, "POST", unasked, "x")); err != nil || got != "200 ok" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestSlowBody: a connection is chosen when there is something to send.
func TestSlowBody(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	srv.Config.IdleTimeout = 20 * time.Millisecond // the server closes it while the body is awaited
	srv.Start()
	defer srv.Close()
	url := srv.URL
	tr, conns := dialed(t)
	if got, err := ask(tr, request(t, "GET", url, "")); err != nil || got != "200 ok" {
		t.Fatalf("%q, %v", got, err)
	}
	slow, w := io.Pipe()
	go func() {
		time.Sleep(100 * time.Millisecond)
		_, _ = w.Write([]byte("x"))
	}()
	r := request(t, "POST", url, "x")
	r.Body = slow
	if got, err := ask(tr, r); err != nil || got != "200 ok" || conns.Load() != 2 {
		t.Errorf("%q, %v over %d connections", got, err, conns.Load())
	}
}
