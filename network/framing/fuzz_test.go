package framing

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
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

// guarded is net/http behind the guard, on connections in memory.
type guarded struct {
	conns handed
	mu    sync.Mutex // guards rules
	rules []Rule
}

func serveGuarded(t testing.TB, h http.Handler) *guarded {
	g := &guarded{conns: make(handed)}
	srv := &http.Server{Handler: h, DisableGeneralOptionsHandler: true, MaxHeaderBytes: defaultHead}
	go srv.Serve(NewListener(g.conns, Options{OnRefuse: func(_ net.Addr, r Rule) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.rules = append(g.rules, r)
	}}))
	t.Cleanup(func() { close(g.conns); srv.Close() })
	return g
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

// FuzzFraming: net/http behind the guard sees exactly the requests and bodies
// that the guard believes in, however the bytes come, and never answers itself.
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
	g := serveGuarded(f, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	}))
	f.Fuzz(func(t *testing.T, text, pieces []byte) {
		seen, odd, ends = nil, nil, false
		out, rules := g.play(text, pieces)
		mu.Lock()
		defer mu.Unlock()
		bodies, begun, bad := believed(text)
		if odd != nil && !begun { // a fault that only net/http has found
			t.Fatalf("a body ended with %v", odd)
		}
		if ends { // what comes behind is not read
			if len(seen) > len(bodies) || !slices.Equal(seen, bodies[:len(seen)]) {
				t.Fatalf("seen %q, believed %q", seen, bodies)
			}
			return
		}
		if !slices.Equal(seen, bodies) {
			t.Fatalf("seen %q, believed %q", seen, bodies)
		}
		if bad != 0 && !slices.Equal(rules, []Rule{bad}) || bad == 0 && len(rules) != 0 {
			t.Fatalf("rules %v, want %v", rules, bad)
		}
		answers := bytes.Count(out, []byte(" 204 No Content\r\n"))
		if want := len(bodies); answers != want && !(begun && bad == 0 && answers == want+1) {
			t.Fatalf("%d answers, want %d: %q", answers, want, out)
		}
		if refusals := bytes.Count(out, []byte("application/problem+json")); refusals != min(1, int(bad)) {
			t.Fatalf("%d refusals: %q", refusals, out)
		}
		if bytes.Contains(out, []byte("text/plain")) {
			t.Fatalf("net/http answers itself: %q", out)
		}
	})
}
