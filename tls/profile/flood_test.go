package profile_test

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/tls/profile"
)

// flooded is a listener of the edge's kind on every loopback address.
type flooded struct {
	*profile.Listener
	port    string
	refused atomic.Int32
	last    atomic.Pointer[error]
}

func newFlooded(t testing.TB, conns, perIP int) *flooded {
	t.Helper()
	cert := issueEdge(t, authority(t, nil))
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	f := &flooded{}
	_, f.port, err = net.SplitHostPort(inner.Addr().String())
	ok(t, err)
	f.Listener = profile.NewListener(inner, profile.Edge(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }), profile.ListenerOptions{
		MaxConns: conns, MaxPerIP: perIP, Patience: time.Hour, OnRefuse: func(_ net.Addr, err error) { f.last.Store(&err); f.refused.Add(1) },
	})
	t.Cleanup(func() { f.Close() })
	return f
}

// from connects from another address of loopback, and sends what it has to say.
func (f *flooded) from(t testing.TB, addr string, say []byte) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	conn, err := d.Dial("tcp", "127.0.0.1:"+f.port)
	ok(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = conn.Write(say)
	ok(t, err)
	return conn
}

// firstOf is what a client says before it hears anything.
func firstOf(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go tls.Client(theirs, cfg).HandshakeContext(context.Background())
	b := make([]byte, 16<<10)
	n, err := ours.Read(b)
	ok(t, err)
	return b[:n]
}

// TestStalledTakeNoTurns: who connects and says nothing, or begins and does not go
// on, holds up nobody, however many addresses he has: the handshake of somebody
// else is done while all of his still wait for their end.
func TestStalledTakeNoTurns(t *testing.T) {
	hello := firstOf(t, raw())
	for name, tc := range map[string]struct {
		say   []byte
		times int // of each address
	}{
		"nothing":      {nil, 200},
		"half a hello": {hello[:len(hello)/2], 200},
		"a hello":      {hello, 2 * runtime.GOMAXPROCS(0)}, // together more than compute at once
	} {
		t.Run(name, func(t *testing.T) {
			f := newFlooded(t, 10_000, 256)
			for _, addr := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"} {
				for range tc.times {
					f.from(t, addr, tc.say)
				}
			}
			shaken := make(chan error, 1)
			go func() { shaken <- tls.Client(f.from(t, "127.0.0.1", nil), raw()).Handshake() }()
			c, err := f.Accept()
			ok(t, err)
			defer c.Close()
			ok(t, <-shaken)
			if n := f.refused.Load(); n != 0 {
				t.Errorf("%d of the others are refused: %v", n, *f.last.Load())
			}
		})
	}
}

// TestBurstOfOneAddress: an honest client may open as many connections at once as
// its address may have; none is refused.
func TestBurstOfOneAddress(t *testing.T) {
	f := newFlooded(t, 1000, 200)
	var wg sync.WaitGroup
	for range 200 {
		conn := f.from(t, "127.0.0.1", nil)
		wg.Go(func() {
			if err := tls.Client(conn, raw()).Handshake(); err != nil {
				t.Error(err)
			}
		})
	}
	for range 200 {
		c, err := f.Accept()
		ok(t, err)
		defer c.Close()
	}
	wg.Wait()
	if n := f.refused.Load(); n != 0 {
		t.Errorf("%d refused: %v", n, *f.last.Load())
	}
}

// TestRefusalsAreToldAside: whoever hears of connections over a bound, and waits for
// a disk, holds up nobody who comes after them.
func TestRefusalsAreToldAside(t *testing.T) {
	cert := issueEdge(t, authority(t, nil))
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	heard, disk := make(chan struct{}), make(chan struct{})
	l := profile.NewListener(inner, profile.Edge(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }), profile.ListenerOptions{
		MaxConns: 10, MaxPerIP: 1, OnRefuse: func(net.Addr, error) { heard <- struct{}{}; <-disk },
	})
	f := &flooded{Listener: l}
	_, f.port, err = net.SplitHostPort(inner.Addr().String())
	ok(t, err)
	for range 3 {
		f.from(t, "127.0.0.2", nil)
	}
	<-heard
	<-heard
	go tls.Client(f.from(t, "127.0.0.1", nil), raw()).Handshake()
	c, err := l.Accept()
	ok(t, err)
	c.Close()
	close(disk)
	go func() {
		for range heard { // those whose handshakes Close breaks off are not refused
		}
	}()
	ok(t, l.Close())
	close(heard)
}

// BenchmarkListener is one full handshake over TCP through the Listener.
func BenchmarkListener(b *testing.B) {
	f := newFlooded(b, 1000, 1000)
	b.ReportAllocs()
	for b.Loop() {
		conn, err := net.Dial("tcp", "127.0.0.1:"+f.port)
		ok(b, err)
		done := make(chan error, 1)
		go func() { done <- tls.Client(conn, raw()).Handshake() }()
		c, err := f.Accept()
		ok(b, err)
		ok(b, <-done)
		c.Close()
		conn.Close()
	}
}
