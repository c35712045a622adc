package framing

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart/network/http1"
)

// memory is a connection that brings text in pieces and keeps what is written.
type memory struct {
	text   []byte
	pieces []byte // sizes, used in turn; none: as much as fits
	at, nr int
	closed func()

	mu      sync.Mutex // guards below
	written bytes.Buffer
}

func (m *memory) Read(p []byte) (int, error) {
	if m.at == len(m.text) {
		return 0, io.EOF
	}
	if n := len(m.pieces); n > 0 {
		p = p[:min(len(p), 1+int(m.pieces[m.nr%n]))]
		m.nr++
	}
	n := copy(p, m.text[m.at:])
	m.at += n
	return n, nil
}

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.written.Write(p)
}

func (m *memory) Close() error                   { m.closed(); return nil }
func (*memory) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*memory) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*memory) SetDeadline(time.Time) error      { return nil }
func (*memory) SetReadDeadline(time.Time) error  { return nil }
func (*memory) SetWriteDeadline(time.Time) error { return nil }

// handed is a listener whose connections are given to it.
type handed chan net.Conn

func (h handed) Accept() (net.Conn, error) {
	c, ok := <-h
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (h handed) Close() error { return nil }
func (handed) Addr() net.Addr { return &net.TCPAddr{} }

// guarded is a server behind the guard, on connections in memory.
type guarded struct {
	conns handed
	mu    sync.Mutex // guards rules
	rules []Rule
}

// serveGuarded has serve take what comes out of the guard, and stop.
func serveGuarded(t testing.TB, h http.Handler, start func(http.Handler) (serve func(net.Listener), stop func())) *guarded {
	g := &guarded{conns: make(handed)}
	serve, stop := start(h)
	go serve(NewListener(g.conns, Options{OnRefuse: func(_ net.Addr, r Rule) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.rules = append(g.rules, r)
	}}))
	t.Cleanup(func() { close(g.conns); stop() })
	return g
}

// ours is the edge's own server.
func ours(h http.Handler) (serve func(net.Listener), stop func()) {
	srv := http1.New(http1.Options{Handler: h, Head: time.Minute, Idle: time.Minute, Answer: time.Minute, MaxHead: defaultHead, Logger: slog.New(slog.DiscardHandler)})
	return func(l net.Listener) { srv.Listen(l).Accept() }, srv.Close
}

// stock is the server of other listeners, and of the edge's when the guard is off.
func stock(h http.Handler) (serve func(net.Listener), stop func()) {
	srv := &http.Server{Handler: h, DisableGeneralOptionsHandler: true, MaxHeaderBytes: defaultHead}
	return func(l net.Listener) { srv.Serve(l) }, func() { srv.Close() }
}

// play has text read in pieces, waits for the end of the connection and returns
// what was answered and which rules were broken.
func (g *guarded) play(text, pieces []byte) ([]byte, []Rule) {
	g.mu.Lock()
	g.rules = nil
	g.mu.Unlock()
	done := make(chan struct{})
	m := &memory{text: text, pieces: pieces, closed: sync.OnceFunc(func() { close(done) })}
	g.conns <- m
	<-done
	g.mu.Lock()
	defer g.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.written.Bytes(), slices.Clone(g.rules)
}

// believed is what the machine makes of a whole text: the bodies of complete
// requests, whether the last was begun only, and the rule that ends it.
func believed(text []byte) (bodies []string, begun bool, r Rule) {
	m := machine{limit: defaultHead}
	var body []byte
	for len(text) > 0 {
		data := m.phase == sized || m.phase == chunkData
		n, done, bad := m.step(text)
		if data {
			body = append(body, text[:n]...)
		}
		text, begun = text[n:], m.inBody()
		if bad != 0 {
			return bodies, begun, bad
		}
		if done {
			bodies, body = append(bodies, string(body)), nil
		}
	}
	return bodies, begun, 0
}

// FuzzFraming: a server behind the guard sees exactly the requests and bodies that
// the guard believes in, however the bytes come, and never answers itself.
func FuzzFraming(f *testing.F) {
	for _, s := range seeds() {
		f.Add([]byte(s), []byte{})
		f.Add([]byte(s), []byte{0})
		f.Add([]byte(s+s), []byte{30, 2, 200})
	}
	var mu sync.Mutex
	var seen []string
	var odd error // how a body ended that should not
	ends := false // a request asked for the end of the connection
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		ends = ends || r.Close
		if err == nil {
			seen = append(seen, string(b))
		} else if _, ok := errors.AsType[*Error](err); !ok && !errors.Is(err, io.ErrUnexpectedEOF) {
			odd = err
		}
		w.WriteHeader(http.StatusNoContent)
	})
	judge := func(t *testing.T, name string, g *guarded, text, pieces []byte) {
		seen, odd, ends = nil, nil, false
		out, rules := g.play(text, pieces)
		mu.Lock()
		defer mu.Unlock()
		bodies, begun, bad := believed(text)
		if odd != nil && !begun { // a fault that only the server has found
			t.Fatalf("%s: a body ended with %v", name, odd)
		}
		if ends { // what comes behind is not read
			if len(seen) > len(bodies) || !slices.Equal(seen, bodies[:len(seen)]) {
				t.Fatalf("%s: seen %q, believed %q", name, seen, bodies)
			}
			return
		}
		if !slices.Equal(seen, bodies) {
			t.Fatalf("%s: seen %q, believed %q", name, seen, bodies)
		}
		if bad != 0 && !slices.Equal(rules, []Rule{bad}) || bad == 0 && len(rules) != 0 {
			t.Fatalf("%s: rules %v, want %v", name, rules, bad)
		}
		answers := bytes.Count(out, []byte(" 204 No Content\r\n"))
		if want := len(bodies); answers != want && !(begun && bad == 0 && answers == want+1) {
			t.Fatalf("%s: %d answers, want %d: %q", name, answers, want, out)
		}
		if refusals := bytes.Count(out, []byte("application/problem+json")); refusals != min(1, int(bad)) {
			t.Fatalf("%s: %d refusals: %q", name, refusals, out)
		}
		if bytes.Contains(out, []byte("text/plain")) || bytes.Count(out, []byte("HTTP/1.1 400 ")) > min(1, int(bad)) {
			t.Fatalf("%s answers itself: %q", name, out)
		}
	}
	servers := map[string]*guarded{"http1": serveGuarded(f, handler, ours), "net/http": serveGuarded(f, handler, stock)}
	f.Fuzz(func(t *testing.T, text, pieces []byte) {
		for name, g := range servers {
			judge(t, name, g, text, pieces)
		}
	})
}
