package profile_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/tls/profile"
)

// TestHop: who is behind a proxy counts by its own address, 64 bits of IPv6 as one,
// and the proxy itself is not bounded.
func TestHop(t *testing.T) {
	a := authority(t, nil)
	cert := issueEdge(t, a)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	refusals := make(chan error, 10)
	l := profile.NewListener(inner, profile.Edge(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }), profile.ListenerOptions{
		OnRefuse: func(_ net.Addr, err error) { refusals <- err },
		Hop:      func(peer netip.Addr) bool { return peer.IsLoopback() },
		Origin: func(c net.Conn) (netip.AddrPort, error) {
			var one [1]byte
			if _, err := io.ReadFull(c, one[:]); err != nil {
				return netip.AddrPort{}, err
			}
			if one[0] == 0 {
				return netip.AddrPort{}, nil
			}
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 15: one[0]}), 9), nil
		},
	})
	defer l.Close()
	l.SetMax(100, 2)
	come := func(who byte) net.Addr {
		t.Helper()
		conn, err := net.Dial("tcp", inner.Addr().String())
		ok(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = conn.Write([]byte{who})
		ok(t, err)
		go tls.Client(conn, raw()).Handshake()
		got := make(chan net.Addr, 1)
		go func() {
			if c, err := l.Accept(); err == nil {
				got <- c.RemoteAddr()
			}
		}()
		select {
		case addr := <-got:
			return addr
		case err := <-refusals:
			refusedBy(t, err, "limit.ip")
			return nil
		case <-time.After(20 * time.Second):
			t.Fatal("neither let in nor refused")
			return nil
		}
	}
	for range 3 {
		if addr := come(0); addr == nil || !strings.HasPrefix(addr.String(), "127.0.0.1:") {
			t.Fatalf("the hop itself: %v", addr)
		}
	}
	for who := range byte(2) {
		if addr := come(who + 1); addr == nil || addr.String() != fmt.Sprintf("[2001::%d]:9", who+1) {
			t.Fatalf("behind the hop: %v", addr)
		}
	}
	if addr := come(3); addr != nil {
		t.Errorf("a third of one /64 is let in: %v", addr)
	}
}
