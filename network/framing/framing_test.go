package framing_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/network/canonical"
	"github.com/rampart-security/rampart/network/framing"
	"github.com/rampart-security/rampart/network/framing/framingtest"
)

// house is a server behind the guard that judges a request as a gateway does.
type house struct {
	t    testing.TB
	addr string
	srv  *http.Server

	mu     sync.Mutex // guards below
	rules  []int
	seen   []string // bodies
	before func(http.ResponseWriter, *http.Request)
}

func open(t testing.TB, wrap func(net.Listener) net.Listener) *house {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, addr: l.Addr().String()}
	h.srv = &http.Server{Handler: h, DisableGeneralOptionsHandler: true, MaxHeaderBytes: 32 << 10}
	if wrap != nil {
		l = wrap(l)
	}
	go h.srv.Serve(framing.NewListener(l, framing.Options{OnRefuse: h.refused}))
	t.Cleanup(func() { h.srv.Close() })
	return h
}

func (h *house) refused(peer net.Addr, r framing.Rule) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if peer == nil {
		h.t.Error("a refusal of nobody")
	}
	h.rules = append(h.rules, int(r))
}

func (h *house) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rules, h.seen = nil, nil
}

// got returns the rules that were broken, and the bodies of requests that were
// let in, since the last forget.
func (h *house) got() ([]int, []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.rules), slices.Clone(h.seen)
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	before := h.before
	h.mu.Unlock()
	if before != nil {
		before(w, r)
		return
	}
	if err := judge(r); err != nil {
		if r.ContentLength != 0 && r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close")
		}
		problem.Write(w, err, "")
		return
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		problem.Write(w, rampart.Errorf(rampart.Invalid, "", "the body breaks off"), "")
		return
	}
	h.mu.Lock()
	h.seen = append(h.seen, string(b))
	h.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// judge is what the stages of a gateway say of a request's form.
func judge(r *http.Request) error {
	if err := canonical.Headers(r); err != nil {
		return err
	}
	if err := canonical.NewHosts(nil).Check(r); err != nil {
		return err
	}
	if _, err := canonical.Path(r.URL.EscapedPath(), r.URL.RawQuery); err != nil {
		return err
	}
	return canonical.Body(r, false)
}

func (h *house) dial() net.Conn {
	h.t.Helper()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

// pieces is a listener whose connections deliver n bytes a read.
type pieces struct {
	net.Listener
	n int
}

func (p pieces) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	return piecewise{c, p.n}, err
}

type piecewise struct {
	net.Conn
	n int
}

func (p piecewise) Read(b []byte) (int, error) { return p.Conn.Read(b[:min(len(b), p.n)]) }

// TestMalformed: each clause that is broken is refused, by its rule, and the
// connection ends where the rest of it could be read in two ways.
func TestMalformed(t *testing.T) {
	cases := framingtest.Malformed()
	if len(cases) < 160 {
		t.Errorf("%d cases, fewer than 160", len(cases))
	}
	ids := map[string]bool{}
	h := open(t, nil)
	for _, tc := range cases {
		if ids[tc.ID] {
			t.Errorf("%s is there twice", tc.ID)
		}
		ids[tc.ID] = true
		t.Run(tc.ID+" "+tc.Name, func(t *testing.T) {
			h.forget()
			got, err := tc.Play(h.dial())
			if err != nil {
				t.Fatal(err)
			}
			if want := (framingtest.Outcome{Status: tc.Status, Type: problem.ContentType, Closed: tc.Closed}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			var want []int
			if tc.Rule != 0 {
				want = []int{tc.Rule}
			}
			rules, seen := h.got()
			if diff := cmp.Diff(want, rules); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
			if n := len(seen); n > 0 && (tc.Closed || n > 1) {
				t.Errorf("%d requests were let in: %q", n, seen)
			}
		})
	}
}

// TestStock says what net/http makes of the same bytes alone, so that a new
// version of Go shows every change, and that the table would fail without the
// guard.
func TestStock(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	srv.Config.DisableGeneralOptionsHandler = true
	srv.Config.MaxHeaderBytes = 32 << 10
	srv.Start()
	defer srv.Close()
	lenient := map[int]bool{}
	for _, tc := range framingtest.Malformed() {
		addr, err := net.ResolveTCPAddr("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.DialTCP("tcp", nil, addr)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tc.First(conn)
		if err != nil || got != tc.Stock {
			t.Errorf("%s %s: %d (%v), want %d", tc.ID, tc.Name, got, err, tc.Stock)
		}
		if got == http.StatusNoContent {
			lenient[tc.Rule] = true
		}
	}
	for _, rule := range []framing.Rule{
		framing.LengthAndCoding, framing.CodingOn10, framing.BothOn10, framing.LengthTwice, framing.LengthZeros, framing.Fold, framing.BareLF,
		framing.BareLFTrailer, framing.ChunkExtension, framing.ChunkPadding, framing.Trailers, framing.Version, framing.Absolute, framing.AuthorityForm,
		framing.Preface, framing.Host, framing.Underscore, framing.Target, framing.Query, 0,
	} {
		if !lenient[int(rule)] {
			t.Errorf("net/http lets no case of rule %d through: is it needed?", rule)
		}
	}
}

// TestPassing: what breaks nothing passes untouched, however it is cut up.
func TestPassing(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 64, 1 << 20} {
		h := open(t, func(l net.Listener) net.Listener { return pieces{l, n} })
		for _, tc := range framingtest.Passing() {
			h.forget()
			talk(t, h, tc, len(tc.Bytes))
			if t.Failed() {
				t.Fatalf("%s, %d bytes a read", tc.Name, n)
			}
		}
	}
}

// TestSplits cuts each short conversation once at every place.
func TestSplits(t *testing.T) {
	h := open(t, nil)
	for _, tc := range framingtest.Passing() {
		if len(tc.Bytes) > 300 {
			continue
		}
		for at := 1; at < len(tc.Bytes); at += 1 + len(tc.Bytes)/100 {
			h.forget()
			talk(t, h, tc, at)
			if t.Failed() {
				t.Fatalf("%s, cut at %d", tc.Name, at)
			}
		}
	}
}

// talk sends a conversation in two pieces and checks what the server has seen.
func talk(t *testing.T, h *house, tc framingtest.Good, at int) {
	t.Helper()
	c := h.dial()
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		io.WriteString(c, tc.Bytes[:at])
		io.WriteString(c, tc.Bytes[at:])
	}()
	r := bufio.NewReader(c)
	for range tc.Bodies {
		res, err := http.ReadResponse(r, nil)
		if err == nil && res.StatusCode == http.StatusContinue {
			res, err = http.ReadResponse(r, nil)
		}
		if err != nil {
			t.Error(err)
			return
		}
		if res.StatusCode != http.StatusNoContent {
			b, _ := io.ReadAll(res.Body)
			t.Errorf("status %d: %s", res.StatusCode, b)
			return
		}
	}
	if _, seen := h.got(); !slices.Equal(seen, tc.Bodies) {
		t.Errorf("seen %q, want %q", seen, tc.Bodies)
	}
}

// TestPipelined: a request that was fine is answered before the one behind it is
// refused, and a handler that runs is not told that its client is gone.
func TestPipelined(t *testing.T) {
	h := open(t, nil)
	for name, behind := range map[string]string{
		"bad at the first byte": "\n" + framingtest.Get(),
		"CRLF":                  "\r\n" + framingtest.Get(),
		"bad later":             framingtest.Get("X A: b"),
		"a bare LF":             "GET / HTTP/1.1\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			started, finish := make(chan struct{}), make(chan struct{})
			h.before = func(w http.ResponseWriter, r *http.Request) {
				close(started)
				select {
				case <-finish:
				case <-r.Context().Done():
					t.Error("the handler was told that its client is gone")
				}
				w.WriteHeader(http.StatusNoContent)
			}
			c := h.dial()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(c, framingtest.Get()+behind)
			<-started
			time.AfterFunc(20*time.Millisecond, func() { close(finish) })
			r := bufio.NewReader(c)
			for _, want := range []int{http.StatusNoContent, http.StatusBadRequest} {
				res, err := http.ReadResponse(r, nil)
				if err != nil || res.StatusCode != want {
					t.Fatalf("%v, %v; want status %d", res, err, want)
				}
				io.Copy(io.Discard, res.Body)
			}
			if n, err := io.Copy(io.Discard, r); n != 0 || err != nil {
				t.Errorf("%d bytes more, %v", n, err)
			}
		})
	}
}

// TestBodyTurnsBad: a handler that runs when its body turns out malformed finds
// a typed error, and the client one answer, whoever began it.
func TestBodyTurnsBad(t *testing.T) {
	head, bad := framingtest.Post("5\r\nhello\r\n", "Transfer-Encoding: chunked"), "zz\r\n"
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		status  int
		more    string // after the head of the answer
	}{
		"read": {func(w http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			bad, ok := errors.AsType[*framing.Error](err)
			if e, typed := errors.AsType[*rampart.Error](err); !ok || bad.Rule != framing.ChunkLine || !typed || e.Control != "http.framing" {
				t.Errorf("the body ended with %v", err)
			}
			io.WriteString(w, "my own answer")
		}, 400, "malformed"},
		"never read": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }, 400, "malformed"},
		"answered before": {func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			rc.EnableFullDuplex()
			io.WriteString(w, "my own answer")
			rc.Flush()
			io.Copy(io.Discard, r.Body)
		}, 200, "my own answer"},
		"after 100 Continue": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusContinue)
			io.Copy(io.Discard, r.Body)
		}, 400, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, nil)
			h.before = tc.handler
			c := h.dial()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(c, head)
			time.Sleep(10 * time.Millisecond) // the handler runs
			io.WriteString(c, bad)
			r := bufio.NewReader(c)
			res, err := http.ReadResponse(r, nil)
			if err == nil && res.StatusCode == http.StatusContinue {
				res, err = http.ReadResponse(r, nil)
			}
			if err != nil || res.StatusCode != tc.status {
				t.Fatalf("%v, %v; want status %d", res, err, tc.status)
			}
			if b, _ := io.ReadAll(res.Body); !strings.Contains(string(b), tc.more) {
				t.Errorf("answer %q, want %q in it", b, tc.more)
			}
			if n, err := io.Copy(io.Discard, r); n != 0 || err != nil {
				t.Errorf("%d bytes more, %v", n, err)
			}
			if rules, _ := h.got(); !slices.Equal(rules, []int{int(framing.ChunkLine)}) {
				t.Errorf("rules %v", rules)
			}
		})
	}
}

// TestTunnel: once the protocol has changed, nothing is judged any more.
func TestTunnel(t *testing.T) {
	h := open(t, nil)
	h.before = func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		conn.(*framing.Conn).Tunnel()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		line, _ := rw.ReadString('\n')
		io.WriteString(conn, line)
	}
	c := h.dial()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, framingtest.Get("Connection: Upgrade", "Upgrade: x"))
	r := bufio.NewReader(c)
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	io.WriteString(c, "\x00\x01\nrest")
	if line, err := r.ReadString('\n'); err != nil || line != "\x00\x01\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// TestTLS: HTTP/2 passes as it is, and a request over HTTP/1.1 knows its TLS.
func TestTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || !r.TLS.HandshakeComplete {
			t.Errorf("%s: TLS is %v", r.Proto, r.TLS)
		}
		io.WriteString(w, r.Proto)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	guarded := &http.Server{Handler: srv.Config.Handler}
	go guarded.Serve(framing.NewListener(shaken{inner, srv.TLS}, framing.Options{}))
	defer guarded.Close()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: proto == "HTTP/2.0"}
		defer tr.CloseIdleConnections()
		res, err := (&http.Client{Transport: tr}).Get("https://" + inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if string(b) != proto {
			t.Errorf("%s was served as %q", proto, b)
		}
	}
	plain := open(t, nil)
	plain.before = func(_ http.ResponseWriter, r *http.Request) {
		if r.TLS != nil {
			t.Error("a plain request says that it came over TLS")
		}
	}
	if _, err := http.Get("http://" + plain.addr); err != nil {
		t.Error(err)
	}
}

// shaken does the handshake before it hands a connection out.
type shaken struct {
	net.Listener
	config *tls.Config
}

func (s shaken) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t := tls.Server(c, s.config)
	return t, t.Handshake()
}

// TestMalformed2: HTTP/2 requests are judged alike, by net/http or the stages.
func TestMalformed2(t *testing.T) {
	h := &house{t: t}
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	dial := func() *tls.Conn {
		c, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := framingtest.Case2{Fields: framingtest.Get2(framingtest.Field{Name: "host", Value: "localhost"}, framingtest.Field{Name: "te", Value: "trailers"})}
	if status, err := good.Play(dial()); err != nil || status != http.StatusNoContent {
		t.Errorf("a good one: %d, %v", status, err)
	}
	for _, tc := range framingtest.Malformed2() {
		t.Run(tc.ID+" "+tc.Name, func(t *testing.T) {
			if status, err := tc.Play(dial()); err != nil || status != tc.Status {
				t.Errorf("%d (%v), want %d", status, err, tc.Status)
			}
		})
	}
}
