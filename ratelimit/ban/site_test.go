package ban

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSites: who has many networks of IPv6 is counted by the site as well. rule
// bans a /64 over 5 refusals, a /56 over 20 and a /48 over 80.
func TestSites(t *testing.T) {
	hosts := func(form string, n, each int) func(*Ladder) {
		return func(l *Ladder) {
			for i := range n {
				refuse(l, fmt.Sprintf(form, i), each)
			}
		}
	}
	for name, tc := range map[string]struct {
		refused func(*Ladder)
		banned  []string
		free    []string
	}{
		"three networks of a site":                     {hosts("2001:db8:0:%x::1", 3, 6), []string{"2001:db8::2", "2001:db8:0:2::2"}, []string{"2001:db8:0:3::1"}},
		"four of them":                                 {hosts("2001:db8:0:%x::1", 4, 6), []string{"2001:db8:0:ff::1"}, []string{"2001:db8:0:100::1"}},
		"a little from each":                           {hosts("2001:db8:0:%x::1", 21, 1), []string{"2001:db8:0:ff::1"}, []string{"2001:db8:0:100::1"}},
		"a little from each of as many":                {hosts("2001:db8:0:%x::1", 20, 1), nil, []string{"2001:db8::1"}},
		"a little from each site of a larger":          {hosts("2001:db8:0:%x00::1", 81, 1), []string{"2001:db8:0:ffff::1"}, []string{"2001:db8:1::1"}},
		"one site without end":                         {hosts("2001:db8:0:%x::1", 256, 100), []string{"2001:db8:0:ff::1"}, []string{"2001:db8:0:100::1"}},
		"three sites of a larger, without end":         {hosts("2001:db8:0:%x::1", 768, 100), []string{"2001:db8:0:2ff::1"}, []string{"2001:db8:0:300::1"}},
		"addresses of IPv4 have neighbours, not sites": {hosts("192.0.2.%d", 200, 5), nil, []string{"192.0.2.1", "192.0.2.250"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := New(Options{Rule: rule})
			tc.refused(l)
			for _, a := range tc.banned {
				if l.Banned(netip.MustParseAddr(a)) == 0 {
					t.Errorf("%s is not banned", a)
				}
			}
			for _, a := range tc.free {
				if l.Banned(netip.MustParseAddr(a)) != 0 {
					t.Errorf("%s is banned", a)
				}
			}
		})
	}
}

// TestNeighboursAreHeard: what others of a site are let through keeps it open.
func TestNeighboursAreHeard(t *testing.T) {
	l := New(Options{Rule: rule})
	refuse(l, "2001:db8::1", 1)
	for range 100 {
		l.Good(netip.MustParseAddr("2001:db8:0:ff::1"))
	}
	for i := range 50 {
		refuse(l, fmt.Sprintf("2001:db8:0:%x::1", i), 1)
	}
	if l.Banned(netip.MustParseAddr("2001:db8:0:ff::1")) != 0 {
		t.Error("a site is banned most of whose requests were let through")
	}
}

// TestOneTellsBoth: a refusal with which two bans begin tells both, and who is
// turned away is counted once.
func TestOneTellsBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Rule: rule})
		for i := range 3 {
			refuse(l, fmt.Sprintf("2001:db8:0:%x::1", i), 5)
		}
		want := []Ban{{Addr: "2001:db8:0:3::/64", Step: 1, For: time.Minute, Why: [Kinds]uint32{Policy: 6}}, {Addr: "2001:db8::/56", Step: 1, For: time.Minute, Why: [Kinds]uint32{Policy: 21}}}
		if diff := cmp.Diff(want, refuse(l, "2001:db8:0:3::1", 6)); diff != "" {
			t.Error(diff)
		}
		l.Banned(netip.MustParseAddr("2001:db8:0:3::1"))
		time.Sleep(time.Minute)
		var away uint64
		for _, b := range l.Ended() {
			away += b.Refused
		}
		if away != 1 || l.InForce() != 0 {
			t.Errorf("%d were turned away, want 1; %d bans are in force", away, l.InForce())
		}
	})
}

// TestFaults: what a broken client of the house does bans nobody by itself, and
// does not make what the house may do less than half.
func TestFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		faults, good, refused int
		want                  bool
	}{
		"handshakes without end":                       {10_000, 0, 0, false},
		"and half of the refusals":                     {10_000, 0, 3, false},
		"and more than half":                           {10_000, 0, 4, true},
		"more than half, and a few":                    {15, 0, 4, false},
		"more than half of what was not let through":   {10_000, 4, 4, false},
		"faults do not count against what was let in":  {10_000, 6, 6, false},
		"as many refusals as without":                  {0, 0, 5, false},
		"as many refusals as without, and one besides": {0, 0, 6, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := New(Options{Rule: rule})
			a := netip.MustParseAddr("192.0.2.7")
			for range tc.faults {
				l.Fault(a)
			}
			for range tc.good {
				if l.Good(a); tc.faults == 0 {
					t.Fatal("nothing is known of the address yet")
				}
			}
			refuse(l, "192.0.2.7", tc.refused)
			if got := l.Banned(a) > 0; got != tc.want {
				t.Errorf("banned: %v, want %v", got, tc.want)
			}
		})
	}
}

// TestListAndLift: bans that an operator sees, and ends.
func TestListAndLift(t *testing.T) {
	for name, tc := range map[string]struct {
		lift         string
		lifted, left []string
	}{
		"an address":              {"192.0.2.7/32", []string{"192.0.2.7"}, []string{"192.0.2.8", "2001:db8:0:3::/64", "2001:db8::/56"}},
		"nobody":                  {"192.0.2.9/32", nil, []string{"192.0.2.7", "192.0.2.8", "2001:db8:0:3::/64", "2001:db8::/56"}},
		"a host of a banned site": {"2001:db8:0:7::1/128", []string{"2001:db8::/56"}, []string{"192.0.2.7", "192.0.2.8", "2001:db8:0:3::/64"}},
		"a site":                  {"2001:db8::/56", []string{"2001:db8:0:3::/64", "2001:db8::/56"}, []string{"192.0.2.7", "192.0.2.8"}},
		"everybody of IPv4":       {"0.0.0.0/0", []string{"192.0.2.7", "192.0.2.8"}, []string{"2001:db8:0:3::/64", "2001:db8::/56"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(Options{Rule: rule})
				refuse(l, "192.0.2.7", 6)
				refuse(l, "192.0.2.8", 6)
				for i := range 3 {
					refuse(l, fmt.Sprintf("2001:db8:0:%x::1", i), 5)
				}
				refuse(l, "2001:db8:0:3::1", 6)
				time.Sleep(time.Second)
				n := l.Lift(netip.MustParsePrefix(tc.lift))
				ended := l.Ended()
				if diff := cmp.Diff(tc.lifted, addrs(ended), sorted); diff != "" || n != len(ended) {
					t.Errorf("%d lifted: %s", n, diff)
				}
				for _, b := range ended {
					if !b.Lifted {
						t.Errorf("%+v does not say that it was lifted", b)
					}
				}
				left := l.List()
				if diff := cmp.Diff(tc.left, addrs(left), sorted); diff != "" || l.InForce() != len(left) {
					t.Errorf("left: %s; %d in force", diff, l.InForce())
				}
				for _, b := range left {
					if b.Left != 59*time.Second || b.For != time.Minute {
						t.Errorf("%+v, want one that has 59 s left", b)
					}
				}
				time.Sleep(time.Minute)
				if got := len(l.Ended()); got != len(tc.left) {
					t.Errorf("%d ends are told, want those of the %d that were not lifted", got, len(tc.left))
				}
			})
		})
	}
}

// TestLiftForgets: after it an address begins where everybody does.
func TestLiftForgets(t *testing.T) {
	l := New(Options{Rule: rule})
	refuse(l, "192.0.2.7", 6)
	l.Lift(netip.MustParsePrefix("192.0.2.7/32"))
	if l.Banned(netip.MustParseAddr("192.0.2.7")) != 0 || refuse(l, "192.0.2.7", 5) != nil {
		t.Error("banned within the rate")
	}
	if got := refuse(l, "192.0.2.7", 1); len(got) != 1 || got[0].Step != 1 {
		t.Errorf("%v, want a first ban", got)
	}
}

var sorted = cmp.Transformer("sorted", func(s []string) map[string]int {
	out := map[string]int{}
	for _, v := range s {
		out[v]++
	}
	return out
})

func addrs(list []Ban) []string {
	var out []string
	for _, b := range list {
		out = append(out, b.Addr)
	}
	return out
}

func BenchmarkGood(b *testing.B) {
	for name, addr := range map[string]string{"ipv4": "192.0.2.7", "ipv6": "2001:db8::1"} {
		b.Run(name, func(b *testing.B) {
			l := New(Options{Rule: rule})
			a := netip.MustParseAddr(addr)
			refuse(l, addr, 1)
			b.ReportAllocs()
			for b.Loop() {
				l.Good(a)
			}
		})
	}
}

// TestNeighbours: one customer never has the others banned who share his /48, however
// long he goes on and whatever the rule says.
func TestNeighbours(t *testing.T) {
	for name, rule := range map[string]Rule{
		"the usual":                           {120, time.Minute, time.Minute, time.Hour},
		"bans shorter than what is looked at": {20, 10 * time.Minute, time.Minute, time.Hour},
		"bans that are always short":          {20, time.Hour, time.Minute, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1_800_000_000, 0)
			l := New(Options{Rule: rule, Now: func() time.Time { return now }})
			for range 90 { // steps of ten seconds
				for i := range 64 {
					a := netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 7: byte(i), 15: 1})
					for range rule.Refusals + 1 {
						if l.Banned(a) == 0 {
							l.Refused(a, Other)
						}
					}
				}
				if l.Banned(netip.MustParseAddr("2001:db8:0:ff00::1")) > 0 {
					t.Fatalf("a neighbour is banned after %v", now.Sub(time.Unix(1_800_000_000, 0)))
				}
				now = now.Add(10 * time.Second)
				l.Ended()
			}
		})
	}
}
