package profile

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// TestSeats: how many connections there may be of one address, and of a site that
// has many networks of IPv6.
func TestSeats(t *testing.T) {
	const all, perIP = 80, 2
	for name, tc := range map[string]struct {
		addr func(i int) string // of the client that comes next
		want int                // that get in, of 100
	}{
		"one address":                        {always("192.0.2.1"), perIP},
		"addresses of IPv4":                  {each("192.0.2.%d"), all},
		"an address of IPv4 and its mapping": {always("::ffff:192.0.2.1"), perIP},
		"one /64":                            {each("2001:db8::%x"), perIP},
		"a /56 full of /64":                  {each("2001:db8:0:%x::1"), 4 * perIP},
		"a /48 full of /64":                  {each("2001:db8:0:%x00::1"), 16 * perIP},
		"many of /48":                        {each("2001:db8:%x::1"), all},
	} {
		t.Run(name, func(t *testing.T) {
			l := newListener(nil, new(tls.Config), ListenerOptions{MaxConns: all, MaxPerIP: perIP})
			var in []*counted
			for i := range 100 {
				conn, other := net.Pipe()
				other.Close()
				c := &counted{Conn: conn, l: l}
				if l.admit(c, netip.MustParseAddr(tc.addr(i))) == nil {
					in = append(in, c)
				}
			}
			if len(in) != tc.want {
				t.Errorf("%d get in, want %d", len(in), tc.want)
			}
			for _, c := range in {
				c.Close()
			}
			if l.open != 0 || len(l.perIP) != 0 {
				t.Errorf("when all have gone %d are open, and %d networks are counted", l.open, len(l.perIP))
			}
		})
	}
}

func always(addr string) func(int) string { return func(int) string { return addr } }

func each(form string) func(int) string { return func(i int) string { return fmt.Sprintf(form, i) } }

// TestNewcomersFindSeats: twenty sites of IPv6, one after another, that open all they
// may do not take the places of who comes next; and one alone has what it had. Where
// nothing is said of one address, one may have all.
func TestNewcomersFindSeats(t *testing.T) {
	l := newListener(nil, new(tls.Config), ListenerOptions{MaxConns: 1000, MaxPerIP: 25})
	fill := func(l *Listener, form string) (n int) {
		for i := range 2000 {
			if l.admit(&counted{l: l}, netip.MustParseAddr(fmt.Sprintf(form, i))) == nil {
				n++
			}
		}
		return n
	}
	if n := fill(l, "2001:db8:0:%x::1"); n < 240 || n > 260 {
		t.Errorf("one site opens %d of 1000, want a quarter", n)
	}
	for i := range 20 {
		if n := fill(l, fmt.Sprintf("2001:db8:%x:%%x::1", i+1)); n < 4 {
			t.Fatalf("site %d opens %d, when %d are open", i, n, l.open)
		}
	}
	if l.open < 850 {
		t.Errorf("%d are open: they did not take what they could", l.open)
	}
	if n := fill(newListener(nil, new(tls.Config), ListenerOptions{MaxConns: 1000}), "2001:db8::%x"); n != 1000 {
		t.Errorf("one address that nothing bounds opens %d of 1000", n)
	}
}
