package ban

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var rule = Rule{Refusals: 5, Within: time.Minute, First: time.Minute, Longest: 5 * time.Minute}

// refuse has a refused n times, and returns the bans that began.
func refuse(l *Ladder, a string, n int) []Ban {
	var out []Ban
	for range n {
		out = append(out, l.Refused(netip.MustParseAddr(a), Policy)...)
	}
	return out
}

func TestLadder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Rule: rule})
		addr := netip.MustParseAddr("192.0.2.7")
		for step, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
			if got := refuse(l, "192.0.2.7", 5); got != nil || l.Banned(addr) != 0 {
				t.Fatalf("step %d: banned within the rate: %v", step, got)
			}
			if diff := cmp.Diff([]Ban{{Addr: "192.0.2.7", Step: step + 1, For: want, Why: [Kinds]uint32{Policy: 6}}}, refuse(l, "192.0.2.7", 1)); diff != "" {
				t.Fatal(diff)
			}
			if refuse(l, "192.0.2.7", 50) != nil {
				t.Fatal("a ban within a ban")
			}
			time.Sleep(want - 1)
			if got := l.Banned(addr); got != 1 {
				t.Fatalf("step %d: banned for another %v, want 1ns", step, got)
			}
			time.Sleep(1)
			if l.Banned(addr) != 0 {
				t.Fatalf("step %d: banned for longer than %v", step, want)
			}
			if diff := cmp.Diff([]Ban{{Addr: "192.0.2.7", Step: step + 1, For: want, Refused: 1}}, l.Ended()); diff != "" {
				t.Fatal(diff)
			}
		}
		time.Sleep(rule.Longest)
		if got := refuse(l, "192.0.2.7", 6); len(got) != 1 || got[0].Step != 1 || got[0].For != time.Minute {
			t.Errorf("after a quiet time: %v, want a first ban", got)
		}
	})
}

// TestWhy: a ban says what was refused before it, since the address was last quiet.
func TestWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Rule: rule})
		addr := netip.MustParseAddr("192.0.2.7")
		l.Refused(addr, Attack)
		time.Sleep(2 * rule.Within)
		l.Fault(addr)
		l.Fault(addr)
		var got []Ban
		for _, k := range []Kind{Credential, Credential, Limit, Kinds, Attack, Credential} {
			got = append(got, l.Refused(addr, k)...)
		}
		want := []Ban{{Addr: "192.0.2.7", Step: 1, For: time.Minute, Why: [Kinds]uint32{Credential: 3, Limit: 1, Other: 1, Attack: 1}, Faults: 2}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhoIsBanned(t *testing.T) {
	for name, tc := range map[string]struct {
		good, refused int
		from, judge   string // refused is the first, judged the second
		want          bool
	}{
		"at the rate":                                 {0, 5, "192.0.2.7", "192.0.2.7", false},
		"over it":                                     {0, 6, "192.0.2.7", "192.0.2.7", true},
		"a neighbour of IPv4":                         {0, 6, "192.0.2.7", "192.0.2.8", false},
		"the same host by another name":               {0, 6, "192.0.2.7", "::ffff:192.0.2.7", true},
		"another address of the same /64":             {0, 6, "2001:db8::1", "2001:db8::ffff:2", true},
		"another /64":                                 {0, 6, "2001:db8::1", "2001:db8:0:1::1", false},
		"a house of many, a few of them refused":      {40, 20, "192.0.2.7", "192.0.2.7", false},
		"more refused than let through":               {19, 40, "192.0.2.7", "192.0.2.7", true},
		"a trusted hop":                               {0, 100, "10.1.2.3", "10.1.2.3", false},
		"a trusted hop, as an address of IPv6 has it": {0, 100, "::ffff:10.1.2.3", "10.1.2.3", false},
	} {
		t.Run(name, func(t *testing.T) {
			l := New(Options{Rule: rule, Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
			refuse(l, tc.from, 1)
			for range tc.good {
				l.Good(netip.MustParseAddr(tc.from))
			}
			refuse(l, tc.from, tc.refused-1)
			if got := l.Banned(netip.MustParseAddr(tc.judge)) > 0; got != tc.want {
				t.Errorf("banned: %v, want %v", got, tc.want)
			}
		})
	}
}

func TestNoRuleBansNobody(t *testing.T) {
	if refuse(New(Options{}), "192.0.2.7", 1000) != nil {
		t.Error("banned by a zero rule")
	}
}

// TestRuleChanges: a reload changes neither counts nor bans unless the rule is
// another, and then no ban.
func TestRuleChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Rule: rule})
		time.Sleep(time.Hour)
		refuse(l, "192.0.2.7", 5)
		l.Set(rule, nil)
		if len(refuse(l, "192.0.2.7", 1)) != 1 {
			t.Error("setting the same rule forgot the counts")
		}
		l.Set(Rule{Refusals: 5, Within: time.Hour, First: time.Minute, Longest: time.Hour}, nil)
		if l.Banned(netip.MustParseAddr("192.0.2.7")) == 0 {
			t.Error("a new rule ended a ban")
		}
		if refuse(l, "192.0.2.8", 5) != nil || len(refuse(l, "192.0.2.8", 1)) != 1 {
			t.Error("the new rule does not count")
		}
		l.Set(rule, []netip.Prefix{netip.MustParsePrefix("192.0.2.8/32")})
		if l.Banned(netip.MustParseAddr("192.0.2.8")) != 0 {
			t.Error("who is exempt now is still banned")
		}
	})
}

// TestMemory: a flood of addresses neither grows the ladder nor ends a ban.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Rule: rule, Keys: 256})
		refuse(l, "198.51.100.1", 6)
		a := netip.MustParseAddr("10.0.0.0")
		for range 100_000 {
			a = a.Next()
			l.Refused(a, Other)
		}
		if l.Banned(netip.MustParseAddr("198.51.100.1")) == 0 {
			t.Error("a flood ended a ban")
		}
		if n := l.keys.Len(); n > 256 {
			t.Errorf("%d addresses remembered, want at most 256", n)
		}
	})
}

func BenchmarkBanned(b *testing.B) {
	a := netip.MustParseAddr("192.0.2.7")
	for name, n := range map[string]int{"nobody_is": 0, "another_is": 6} {
		b.Run(name, func(b *testing.B) {
			l := New(Options{Rule: rule})
			refuse(l, "198.51.100.1", n)
			b.ReportAllocs()
			for b.Loop() {
				if l.Banned(a) != 0 {
					b.Fatal("banned")
				}
			}
		})
	}
}
