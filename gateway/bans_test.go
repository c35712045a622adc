package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/frames"
	"github.com/rampart-security/rampart/network/framing"
	"github.com/rampart-security/rampart/ratelimit/ban"
)

// TestNoPageHasItsVisitorBanned: what a page of another site can have a browser do
// counts against nobody; what takes a credential, or an attack, does.
func TestNoPageHasItsVisitorBanned(t *testing.T) {
	for name, tc := range map[string]struct {
		kind    rampart.Kind
		control string
		header  []string
		want    weight
	}{
		"a question whether a page may ask":          {rampart.Denied, controlCORS, []string{"Sec-Fetch-Site", "cross-site"}, harmless},
		"a form of another site":                     {rampart.Denied, "authn.csrf", []string{"Sec-Fetch-Site", "cross-site"}, harmless},
		"pictures of another site, by the hundred":   {rampart.Limited, "limit.ip", []string{"Sec-Fetch-Site", "cross-site"}, fault},
		"the same with a forged token":               {rampart.Limited, "limit.ip", []string{"Sec-Fetch-Site", "cross-site", "Authorization", "Bearer x"}, offence},
		"pictures in a mail, by the hundred":         {rampart.Limited, "limit.ip", nil, fault},
		"pictures in a page of ours":                 {rampart.Limited, "limit.user", []string{"Cookie", sessionCookie + "=x", "Sec-Fetch-Site", "same-origin"}, fault},
		"a flood that no picture makes":              {rampart.Limited, "limit.ip", []string{":method", "POST"}, offence},
		"one with a token that goes on":              {rampart.Limited, "limit.user", []string{"Authorization", "Bearer x"}, offence},
		"keys beyond a share":                        {rampart.Limited, "idempotency.key", []string{":method", "POST", "Authorization", "Bearer x"}, harmless},
		"nothing shown":                              {rampart.Unauthenticated, "authn.session", nil, harmless},
		"a forged session":                           {rampart.Unauthenticated, "authn.session", []string{"Cookie", sessionCookie + "=x"}, offence},
		"a visit by a link, and the session is over": {rampart.Unauthenticated, "authn.session", []string{"Cookie", sessionCookie + "=x", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, fault},
		"a link to what the visitor may not see":     {rampart.Denied, "authz.gateway", []string{"Cookie", sessionCookie + "=x", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, fault},
		"the same of a host beside this one":         {rampart.Denied, "authz.gateway", []string{"Cookie", sessionCookie + "=x", "Sec-Fetch-Site", "same-site"}, fault},
		"the same of a page of ours":                 {rampart.Denied, "authz.gateway", []string{"Cookie", sessionCookie + "=x", "Sec-Fetch-Site", "same-origin"}, offence},
		"a link to an attack":                        {rampart.Denied, controlWAF, []string{"Sec-Fetch-Site", "cross-site"}, fault},
		"a guess at a key, marked as a page's":       {rampart.Unauthenticated, "authn.api_key", []string{"X-Api-Key", "x", "Sec-Fetch-Site", "cross-site"}, offence},
		"an attack":                                  {rampart.Denied, controlWAF, nil, offence},
		"one who is banned":                          {rampart.Limited, controlBan, nil, harmless},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			for i := 0; i+1 < len(tc.header); i += 2 {
				if tc.header[i] == ":method" {
					r.Method = tc.header[i+1]
					continue
				}
				r.Header.Set(tc.header[i], tc.header[i+1])
			}
			if got := weigh(&call{r: r}, rampart.Errorf(tc.kind, tc.control, "no")); got != tc.want {
				t.Errorf("weighs %v, want %v", got, tc.want)
			}
		})
	}
}

// TestWeightBelowRequests: what ends before there is a request counts, too; what a
// page or an old device may be at the bottom of bans nobody by itself.
func TestWeightBelowRequests(t *testing.T) {
	for name, tc := range map[string]struct{ got, want weight }{
		"an old device":                   {weighHandshake(rampart.Errorf(rampart.Unauthenticated, "tls.min13", "no")), fault},
		"one who goes away":               {weighHandshake(errors.New("EOF")), fault},
		"too many of one address":         {weighHandshake(rampart.Errorf(rampart.Limited, "limit.ip", "no")), fault},
		"too many of all":                 {weighHandshake(rampart.Errorf(rampart.Unavailable, "limit.ip", "no")), harmless},
		"one who is banned":               {weighHandshake(rampart.Errorf(rampart.Limited, controlBan, "no")), harmless},
		"a smuggled request":              {weighFraming(framing.LengthAndCoding), offence},
		"cookies too long":                {weighFraming(framing.HeadTooLong), fault},
		"a head that does not end":        {weighFraming(framing.HeadSlow), harmless},
		"a link with odd characters":      {weighFraming(framing.Query), fault},
		"frames that carry nothing":       {weighFrames(frames.Flood), offence},
		"a page that breaks off requests": {weighFrames(frames.Resets), fault},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: weighs %v, want %v", name, tc.got, tc.want)
		}
	}
}

// TestBansNow: heartbeats name those that end last, within the bound.
func TestBansNow(t *testing.T) {
	now := time.Now()
	l := ban.New(ban.Options{Rule: ban.Rule{Refusals: 1, Within: time.Minute, First: time.Minute, Longest: time.Hour}, Now: func() time.Time { return now }})
	for i := range wire.MaxBans + 1 {
		for range 2 {
			l.Refused(netip.MustParseAddr(fmt.Sprintf("192.0.%d.%d", i/256, i%256)), ban.Other)
		}
		now = now.Add(time.Millisecond)
	}
	got := bansNow(l, now)
	if got.InForce != wire.MaxBans+1 || len(got.List) != wire.MaxBans {
		t.Fatalf("%d named of %d", len(got.List), got.InForce)
	}
	want := wire.Ban{Addr: "192.0.0.200", Step: 1, Until: now.Add(time.Minute - time.Millisecond).UTC()}
	if diff := cmp.Diff(want, got.List[0]); diff != "" {
		t.Error(diff)
	}
}

// TestLifts: each is carried out once, and by whatever name the address has.
func TestLifts(t *testing.T) {
	for name, tc := range map[string]struct {
		lift string
		v4   bool // 192.0.2.7 is let in
		v6   bool // 2001:db8::1 is
	}{
		"an address":         {"192.0.2.7", true, false},
		"by its other name":  {"::ffff:192.0.2.7", true, false},
		"a host of IPv6":     {"2001:db8::ffff", false, true},
		"a network":          {"2001:db8::/64", false, true},
		"everybody":          {"*", true, true},
		"what is no address": {"everybody", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := lifts{bans: ban.New(ban.Options{Rule: ban.Rule{Refusals: 1, Within: time.Minute, First: time.Minute, Longest: time.Hour}})}
			v4, v6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::1")
			misbehave := func() {
				for range 2 {
					l.bans.Refused(v4, ban.Other)
					l.bans.Refused(v6, ban.Other)
				}
			}
			misbehave()
			list := []wire.Lift{{ID: "1", Addr: tc.lift}}
			l.carryOut(list)
			if in4, in6 := l.bans.Banned(v4) == 0, l.bans.Banned(v6) == 0; in4 != tc.v4 || in6 != tc.v6 {
				t.Errorf("let in: %v and %v, want %v and %v", in4, in6, tc.v4, tc.v6)
			}
			misbehave()
			l.carryOut(list)
			if l.bans.Banned(v4) == 0 || l.bans.Banned(v6) == 0 {
				t.Error("a lift that was repeated ended a ban that began after it")
			}
		})
	}
}

// TestOperatorsSeeAndLiftBans: through the control plane, and on record.
func TestOperatorsSeeAndLiftBans(t *testing.T) {
	h := open(t)
	who := netip.MustParseAddr("2001:db8::7")
	h.gw.bans.Set(ban.Rule{Refusals: 1, Within: time.Minute, First: time.Hour, Longest: time.Hour}, nil)
	for range 2 {
		h.gw.refusedFraming(net.TCPAddrFromAddrPort(netip.AddrPortFrom(who, 1)), framing.LengthAndCoding)
	}
	old := netip.MustParseAddr("192.0.2.7")
	for range 100 {
		h.gw.refusedHandshake(net.TCPAddrFromAddrPort(netip.AddrPortFrom(old, 1)), rampart.Errorf(rampart.Unauthenticated, "tls.min13", "no"))
	}
	if h.gw.bans.Banned(old) != 0 || h.event("ban.begin").Peer != "2001:db8::/64" {
		t.Errorf("an old device is banned: %v; on record %+v", h.gw.bans.Banned(old), h.event("ban.begin"))
	}
	listed := func() []wire.GatewayBans {
		var list []wire.GatewayBans
		h.Admin(wire.AdminBans, nil, &list)
		return list
	}
	h.Until("the ban is listed", func() bool {
		list := listed()
		return len(list) == 1 && list[0].InForce == 1 && list[0].List[0].Addr == "2001:db8::/64"
	})
	var done wire.Lifted
	h.Admin(wire.AdminBans, wire.Lift{Addr: who.String()}, &done)
	if h.gw.bans.Banned(who) != 0 || len(done.Waiting) != 0 {
		t.Errorf("still banned: %v; waiting: %v", h.gw.bans.Banned(who), done.Waiting)
	}
	h.Until("it is listed no more", func() bool { return listed()[0].InForce == 0 })
	h.gw.endBans(t.Context())
	h.Until("its end is on record", func() bool { return h.event("ban.end").Action != "" }) // the sweep may have been first
	if e := h.event("ban.end"); e.Outcome != audit.Allowed || e.Peer != "2001:db8::/64" || e.Detail["lifted"] != "true" {
		t.Errorf("on record: %+v", e)
	}
}

// TestWhyBanned: the log's words for what led to a ban, a kind at a time.
func TestWhyBanned(t *testing.T) {
	b := ban.Ban{Faults: 9}
	for _, e := range []error{
		rampart.Errorf(rampart.Unauthenticated, "authn.jwt", "x"), rampart.Errorf(rampart.Denied, "authz.gateway", "x"), rampart.Errorf(rampart.Denied, controlWAF, "x"),
		rampart.Errorf(rampart.Limited, "limit.ip", "x"), rampart.Errorf(rampart.Limited, "limit.user", "x"), rampart.Errorf(rampart.Invalid, "", "x"),
	} {
		b.Why[kindOf(e)]++
	}
	b.Why[ban.Protocol]++
	if got, want := whyBanned(b), "other: 1, 401: 1, 403: 1, 429: 2, waf: 1, protocol: 1, faults: 9"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
