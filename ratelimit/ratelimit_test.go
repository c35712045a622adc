package ratelimit

import (
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHeaders(t *testing.T) {
	h := http.Header{}
	Headers(h, Verdict{OK: true, Limit: 300, Remaining: 299, Window: time.Minute, Reset: 66 * time.Second}, "ip")
	Headers(h, Verdict{Limit: 60, Window: time.Minute, Reset: 60*time.Second + 1, RetryAfter: 1200 * time.Millisecond}, "user")
	want := http.Header{
		"Ratelimit-Policy": {`"ip";q=300;w=60`, `"user";q=60;w=60`},
		"Ratelimit":        {`"ip";r=299;t=66`, `"user";r=0;t=61`},
		"Retry-After":      {"2"},
	}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
}

// TestHeadersAllocate: two limits are told of in nearly every answer.
func TestHeadersAllocate(t *testing.T) {
	h := http.Header{"Ratelimit": nil, "Ratelimit-Policy": nil}
	v := Verdict{OK: true, Limit: 300, Remaining: 299, Window: time.Minute, Reset: 66 * time.Second}
	if n := testing.AllocsPerRun(100, func() {
		clear(h)
		Headers(h, v, "ip")
		Headers(h, v, "user")
	}); n > 3 {
		t.Errorf("%v allocations, want 3: the room, and one text each", n)
	}
}

func TestZeroVerdictRefuses(t *testing.T) {
	h := http.Header{}
	Headers(h, Verdict{}, "ip")
	if h.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q, want 1", h.Get("Retry-After"))
	}
}

func TestIPKey(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7":             "192.0.2.7",
		"::ffff:192.0.2.7":      "192.0.2.7",
		"2001:db8:1:2:3:4:5:6":  "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::":   "2001:db8:1:2::/64",
		"fe80::1%eth0":          "fe80::/64",
		"2001:db8:1:3:ffff::99": "2001:db8:1:3::/64",
	} {
		if got := IPKey(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
	if got := IPKey(netip.Addr{}); got != "invalid IP" {
		t.Errorf("no address: %q", got)
	}
}

// TestLines: room that a request brings holds what Headers tells, and more limits than
// there is room for.
func TestLines(t *testing.T) {
	var room Lines
	got, want := http.Header{}, http.Header{}
	for _, name := range []string{"ip", "plan", "quota", "user"} {
		v := Verdict{OK: true, Limit: 10, Remaining: 9, Window: time.Minute, Reset: time.Second}
		room.Headers(got, v, name)
		Headers(want, v, name)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got["Ratelimit"]) != 4 {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
