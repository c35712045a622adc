package audit

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// stranger is a connection from peer that never became a request.
func stranger(peer, code string) Event {
	return Event{Class: ClassNetwork, Action: "handshake", Outcome: Refused, Control: "tls.min13", Code: code, Peer: peer, Detail: map[string]string{"error": "no"}}
}

// standsFor is how many events the records stand for.
func standsFor(t *testing.T, list []Event) int {
	t.Helper()
	n := 0
	for _, e := range list {
		count := 1
		if text, ok := e.Detail["count"]; ok {
			var err error
			count, err = strconv.Atoi(text)
			must(t, err)
		}
		n += count
	}
	return n
}

// TestStrangersFillNoLog: however many connections come to nothing, from however
// many addresses, the log has few records of them, and they add up.
func TestStrangersFillNoLog(t *testing.T) {
	const sent = 20_000
	for name, tc := range map[string]struct {
		peer func(i int) string
		most int
	}{
		"one address":               {func(i int) string { return fmt.Sprintf("192.0.2.1:%d", i) }, floodFree + 1},
		"one host's /64 of IPv6":    {func(i int) string { return fmt.Sprintf("[2001:db8::%x]:1", i) }, floodFree + 1},
		"the addresses of a site":   {func(i int) string { return fmt.Sprintf("[2001:db8:0:%x::1]:1", i) }, strangeAll + floodCounts + 1},
		"a hundred addresses":       {func(i int) string { return fmt.Sprintf("192.0.2.%d:1", i%100) }, strangeAll + 100},
		"what is no address at all": {func(int) string { return "pipe" }, floodFree + 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				l := open(t, dir, Options{})
				for i := range sent {
					must(t, l.Record(t.Context(), stranger(tc.peer(i), "")))
				}
				time.Sleep(strangeWindow + time.Second)
				must(t, l.Record(t.Context(), stranger("192.0.2.1:1", ""))) // of the next window
				must(t, l.Close())
				got := events(t, dir)
				if len(got) > tc.most+1 {
					t.Errorf("%d records, want at most %d", len(got), tc.most+1)
				}
				if n := standsFor(t, got); n != sent+1 {
					t.Errorf("they stand for %d events, want %d", n, sent+1)
				}
				if last := got[len(got)-1]; last.Detail["count"] != "" {
					t.Errorf("the first of a new window is counted: %v", last)
				}
			})
		})
	}
}

// TestReasonsAreApart: each reason of one address has its first records at once.
func TestReasonsAreApart(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	for range floodFree + 1 {
		for _, code := range []string{"framing_1", "framing_7"} {
			must(t, l.Record(t.Context(), stranger("192.0.2.1:1", code)))
		}
	}
	must(t, l.Close())
	counted := map[string]string{}
	for _, e := range events(t, dir) {
		if n := e.Detail["count"]; n != "" {
			counted[e.Code] = n
		}
	}
	if len(counted) != 2 || counted["framing_1"] != "1" || counted["framing_7"] != "1" {
		t.Errorf("counted %v, want one of each", counted)
	}
}

// TestWhoIsKnownIsNamed: who comes while there is no room to watch more refusals
// is counted with all others, unless it is known who it is.
func TestWhoIsKnownIsNamed(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	deny := func(peer, subject string) {
		must(t, l.Record(t.Context(), Event{Class: ClassLimit, Action: "GET /", Outcome: Refused, Control: "limit.ip", Peer: peer, Subject: subject, Trace: "t"}))
	}
	l.mu.Lock()
	l.requests.recorded = floodAll // nobody but who is named costs the disk anything
	l.mu.Unlock()
	for i := range floodKeys {
		deny(fmt.Sprintf("10.0.%d.%d:1", i/256, i%256), "")
	}
	for range 2 {
		deny("192.0.2.1:1", "")
		deny("192.0.2.2:1", "")
		deny("192.0.2.1:1", "user:ann")
	}
	must(t, l.Close())
	got := events(t, dir)
	if n := standsFor(t, got); n != floodKeys+6 {
		t.Errorf("the records stand for %d events, want %d", n, floodKeys+6)
	}
	named := 0
	for _, e := range got {
		if e.Subject == "user:ann" {
			named++
		}
		if e.Detail["peers"] == "many" && (e.Detail["count"] != fmt.Sprint(floodKeys-floodCounts+4) || e.Peer != "" || e.Trace != "") {
			t.Errorf("of many: %+v", e)
		}
	}
	if named != 2 {
		t.Errorf("%d records name the subject, want 2", named)
	}
}

// TestFirstAreNamed: of many who are refused, each with another address, the first
// have records or counts of their own, and the others one together; so has who is
// known, however late.
func TestFirstAreNamed(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	deny := func(i int, subject string) {
		must(t, l.Record(t.Context(), Event{Class: ClassLimit, Action: "GET /", Outcome: Refused, Control: "limit.ip", Peer: fmt.Sprintf("10.0.%d.%d:1", i/256, i%256), Subject: subject, Trace: "t"}))
	}
	l.mu.Lock()
	l.requests.recorded = floodAll - 5
	l.mu.Unlock()
	const peers = 1000
	for range 3 {
		for i := range peers {
			deny(i, "")
		}
	}
	deny(peers, "user:ann")
	must(t, l.Close())
	counts := map[string]string{}
	alone, known := 0, false
	for _, e := range events(t, dir) {
		known = known || e.Subject == "user:ann"
		switch {
		case e.Detail["count"] == "":
			alone++
		default:
			counts[e.Peer] = e.Detail["count"]
		}
	}
	// Each of the first five has one record, and comes again when 256 others have a
	// count; so the counts are of the 256 that come behind them.
	if alone != 5 || len(counts) != floodCounts+2 || !known {
		t.Errorf("%d records, %d counts, the one who is known: %v", alone, len(counts), known)
	}
	for i := 5; i < 5+floodCounts; i++ {
		if n := counts[fmt.Sprintf("10.0.%d.%d:1", i/256, i%256)]; n != "3" {
			t.Errorf("address %d has the count %q, want 3", i, n)
		}
	}
	if n, want := counts[""], fmt.Sprint(3*peers-5-3*floodCounts); n != want {
		t.Errorf("the others have the count %s, want %s", n, want)
	}
}

// TestAlertIsNamed: what is to wake somebody is on record as itself, whatever else of
// its author, or of many others, was refused in that second.
func TestAlertIsNamed(t *testing.T) {
	const peer = "198.51.100.7:1"
	for name, peers := range map[string][]string{
		"its author's refusals": slices.Repeat([]string{peer}, 3*floodFree),
		"those of many others": func() (out []string) {
			for i := range floodCounts {
				out = append(out, fmt.Sprintf("[2001:db8:0:%x::1]:1", i))
			}
			return out
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, Options{})
			l.mu.Lock()
			l.requests.recorded = floodAll
			l.mu.Unlock()
			refused := Event{Class: ClassLimit, Action: "session.login", Outcome: Refused, Control: "limit.login", Trace: "t"}
			for _, refused.Peer = range peers {
				must(t, l.Record(t.Context(), refused))
			}
			refused.Action, refused.Peer, refused.Detail = "guess.stuffing", peer, map[string]string{"alert": "true", "accounts": "20"}
			must(t, l.Record(t.Context(), refused))
			ban := Event{Class: ClassLimit, Action: "ban.begin", Outcome: Refused, Control: "limit.login", Peer: peer, Trace: "t", Sum: true}
			must(t, l.Record(t.Context(), ban))
			must(t, l.Close())
			if !slices.ContainsFunc(events(t, dir), func(e Event) bool { return e.Action == "ban.begin" && e.Peer == peer && e.Detail == nil }) {
				t.Error("who was banned is nowhere in the log")
			}
			named := slices.ContainsFunc(events(t, dir), func(e Event) bool {
				return e.Action == "guess.stuffing" && e.Peer == peer && e.Detail["alert"] == "true" && e.Detail["accounts"] == "20"
			})
			if !named {
				t.Error("the alert is nowhere in the log")
			}
		})
	}
}

// TestCountsHoldNoRequests: what is counted holds no more than it says, though a trace
// is a part of the text of a whole head.
func TestCountsHoldNoRequests(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	l.mu.Lock()
	l.requests.recorded, l.requests.window = floodAll, time.Hour
	l.mu.Unlock()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const peers, headBytes = 1000, 32 << 10
	before := heap()
	for i := range peers {
		head := strings.Repeat("0", headBytes)
		must(t, l.Record(t.Context(), Event{Class: ClassLimit, Action: "GET /", Outcome: Refused, Control: "limit.user", Subject: "user:ann", Peer: fmt.Sprintf("[2001:db8:0:%x::1]:1", i), Trace: head[:32]}))
	}
	if after := heap(); after > before+peers*headBytes/4 {
		t.Errorf("%d counts hold %d bytes", peers, after-before)
	}
	runtime.KeepAlive(l)
}
