package shed

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rampart-security/rampart"
)

// admitted counts how many of n requests enter.
func admitted(g *Gate, p Priority, n int) int {
	in := 0
	for range n {
		if g.Enter(p) == nil {
			in++
		}
	}
	return in
}

func TestTheImportantAreShedLast(t *testing.T) {
	g := New(10)
	if got := admitted(g, Normal, 100); got != 8 {
		t.Errorf("%d normal requests in flight, want 8", got)
	}
	if got := admitted(g, Important, 100); got != 2 {
		t.Errorf("%d important requests beside them, want 2", got)
	}
	if err := g.Enter(Important); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("got %v, want unavailable", err)
	}
	g.Leave()
	if g.Enter(Normal) == nil {
		t.Error("a normal request took the place kept for the important")
	}
	if err := g.Enter(Important); err != nil {
		t.Error(err)
	}
}

func TestZeroGateIsShut(t *testing.T) {
	var g Gate
	if g.Enter(Important) == nil {
		t.Error("the zero gate let somebody in")
	}
	if got := admitted(New(1), Normal, 5); got != 1 {
		t.Errorf("%d in a gate of one, want 1", got)
	}
}

func TestNeverMoreThanLimitAtOnce(t *testing.T) {
	g := New(4)
	var now, worst atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 1000 {
				if g.Enter(Important) != nil {
					continue
				}
				n := now.Add(1)
				for w := worst.Load(); n > w && !worst.CompareAndSwap(w, n); w = worst.Load() {
				}
				now.Add(-1)
				g.Leave()
			}
		})
	}
	wg.Wait()
	if worst.Load() > 4 {
		t.Errorf("%d at once, want at most 4", worst.Load())
	}
	if got := admitted(g, Important, 10); got != 4 {
		t.Errorf("%d places after the storm, want 4", got)
	}
}

func BenchmarkShed(b *testing.B) {
	g := New(1)
	b.ReportAllocs()
	for b.Loop() {
		if g.Enter(Important) == nil {
			g.Leave()
		}
	}
}

// TestNeighboursAlone: a network that floods the gate leaves the rest of it to
// others, and its places come back.
func TestNeighboursAlone(t *testing.T) {
	s := NewShares(10, 3)
	in := func(format string, n int) (got []netip.Addr) {
		for i := range n {
			if a := netip.MustParseAddr(fmt.Sprintf(format, i)); s.Enter(a, Important) == nil {
				got = append(got, a)
			}
		}
		return got
	}
	flood := in("192.0.2.%d", 100)
	for what, tc := range map[string]struct {
		format string
		want   int
	}{
		"the flood's /24":     {"192.0.2.%d", 0},
		"in another spelling": {"::ffff:192.0.2.%d", 0},
		"its neighbour":       {"192.0.3.%d", 3},
		"a /64":               {"2001:db8::%x", 3},
	} {
		if got := in(tc.format, 50); len(got) != tc.want {
			t.Errorf("%s: %d entered, want %d", what, len(got), tc.want)
		}
	}
	if got := in("198.51.100.%d", 50); len(flood) != 3 || len(got) != 1 {
		t.Errorf("%d of the flood and %d of the last entered, want 3 and 1", len(flood), len(got))
	}
	for _, a := range flood {
		s.Leave(a)
	}
	if got := in("203.0.113.%d", 50); len(got) != 3 {
		t.Errorf("%d entered the places that were left, want 3", len(got))
	}
	if err := new(Shares).Enter(netip.MustParseAddr("192.0.2.1"), Important); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("zero shares: %v", err)
	}
}
