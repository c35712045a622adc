package gateway

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/ratelimit/ban"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/test/valkeytest"
)

// plan gives the shop's API keys another plan.
func planOf(text string) []string { return []string{"small: { api_key: 20/h }", "small: " + text} }

// enforce has the gateway enforce another file, as a reload does.
func (h *house) enforce(change ...string) {
	h.t.Helper()
	sys, err := spec.Load(controltest.File(h.t, change...))
	must(h.t, err)
	h.gw.loading.Lock()
	defer h.gw.loading.Unlock()
	must(h.t, h.gw.enforceLocked(sys))
}

// again returns another gateway on the same state folder, as after a restart.
func (h *house) again() *Gateway {
	h.t.Helper()
	store, err := idempotency.NewFile(filepath.Join(h.t.TempDir(), "keys"))
	must(h.t, err)
	h.t.Cleanup(func() { store.Close() })
	g, err := New(Options{Name: "edge", Link: h.link, Audit: h.gw.opt.Audit, Idem: store, State: h.State, Logger: h.Logger, Now: h.now})
	must(h.t, err)
	return g
}

// event returns the gateway's newest record of an action.
func (h *house) event(action string) (newest audit.Event) {
	for _, e := range h.Events("gateway_edge") {
		if e.Action == action {
			newest = e
		}
	}
	return newest
}

// passed asks n times and returns how often it was let through, and the control
// that refused last.
func (h *house) passed(n int, header ...string) (ok int, control string) {
	h.t.Helper()
	for range n {
		switch res := h.do("GET", "/orders/o1", "", header...); res.StatusCode {
		case 200:
			ok++
		case 429:
			control = h.newest().Control
			if res.Header.Get("Retry-After") == "" {
				h.t.Error("a refusal that does not say when to come back")
			}
		default:
			h.t.Fatalf("%s: %s", res.Status, res.body)
		}
	}
	return ok, control
}

// TestReloadForgetsNothing: counts outlive a reload unless the rate is another.
func TestReloadForgetsNothing(t *testing.T) {
	h := open(t)
	busy := []string{"Cookie", h.login("busy")}
	key := []string{"X-Api-Key", h.apiKey("shop"), "Authorization", h.token("ann", "shop")}
	if ok, control := h.passed(61, busy...); ok != 60 || control != "limit.user" {
		t.Fatalf("%d of 60 let through, then %q", ok, control)
	}
	if ok, control := h.passed(21, key...); ok != 20 || control != "limit.api_key" {
		t.Fatalf("%d of 20 let through, then %q", ok, control)
	}
	h.enforce("window: 5m", "window: 6m")
	if ok, _ := h.passed(1, busy...); ok != 0 {
		t.Error("a reload gave a user the limit again")
	}
	if ok, _ := h.passed(1, key...); ok != 0 {
		t.Error("a reload gave an API key the limit again")
	}
	h.enforce("user: 60/h", "user: 70/h")
	if ok, _ := h.passed(1, busy...); ok != 1 {
		t.Error("a new rate does not count anew")
	}
	if ok, _ := h.passed(1, key...); ok != 0 {
		t.Error("another's rate gave an API key the limit again")
	}
	if n := len(h.gw.limiters.held); n != 6 { // addresses, users, three flows, one plan
		t.Errorf("%d limiters are held, want 6: old ones must go", n)
	}
}

// TestQuota: what a plan allows per day is gone after a restart, too.
func TestQuota(t *testing.T) {
	h := open(t, planOf("{ api_key: 1000/m, quota: 5/d }")...)
	key := []string{"X-Api-Key", h.apiKey("shop"), "Authorization", h.token("ann", "shop")}
	res := h.do("GET", "/orders/o1", "", key...)
	if got := strings.Join(res.Header["Ratelimit"], ", "); !strings.Contains(got, `"quota";r=4;`) {
		t.Errorf("RateLimit: %s, want 4 left of the quota", got)
	}
	if ok, control := h.passed(6, key...); ok != 4 || control != "limit.api_key" {
		t.Fatalf("%d let through besides, then %q", ok, control)
	}
	h.stop()
	h.gw = h.again()
	h.stop = run(t, h.gw.Run)
	h.Until("the edge is up", func() bool { return h.gw.Addr() != "" })
	if ok, _ := h.passed(2, key...); ok != 0 {
		t.Error("a restart gave the quota again")
	}
	h.pass(24 * time.Hour) // to another day; the token of that day is another
	if v := h.gw.table.Load().plans["small"].quota.Allow("fresh", 1); !v.OK || v.Remaining != 4 {
		t.Errorf("%+v, want 4 left", v)
	}
}

// TestLimitNamed: a refusal says which limit it was, by its control and by the name
// that RateLimit-Policy has.
func TestLimitNamed(t *testing.T) {
	none := func(n int) ratelimit.Limiter { // lets nothing through
		l := newRing(spec.Rate{N: n, Per: time.Minute}, nil)
		for l.Allow("ann", 1).OK {
		}
		return l
	}
	free := newRing(spec.Rate{N: 100, Per: time.Minute}, nil)
	table := &table{user: free, plans: map[string]plan{
		"rate": {rate: none(5), atOnce: 1}, "quota": {rate: free, quota: none(5), atOnce: 1}, "at once": {rate: free},
	}}
	for name, tc := range map[string]struct {
		stage interface{ check(*call) error }
		plan  string
		want  string // in the body
		rule  string // the last of RateLimit-Policy
	}{
		"the address":                {ipLimit{newRing(spec.Rate{}, nil)}, "", `"status":429,"detail":"too many requests from this address; try again in `, `"ip";q=0;w=`},
		"the key's rate":             {planLimit{newInflight()}, "rate", `"limit":{"control":"limit.api_key","name":"plan"}`, `"plan";q=5;w=60`},
		"the key's quota":            {planLimit{newInflight()}, "quota", `"limit":{"control":"limit.api_key","name":"quota"}`, `"quota";q=5;w=60`},
		"the key's requests at once": {planLimit{newInflight()}, "at once", `"limit":{"control":"limit.api_key","name":"concurrency"}`, `"concurrency";q=0;qu="concurrent-requests"`},
		"the user":                   {userLimit{newInflight()}, "", `"limit":{"control":"limit.user","name":"user"}`, `"user";q=5;w=60`},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			c := &call{w: w, table: table, keyID: "ann", plan: tc.plan, entry: &entry{users: none(5)}}
			c.principal.Subject = "ann"
			err := tc.stage.check(c)
			problem.Write(w, err, "")
			if body := w.Body.String(); w.Code != 429 || !strings.Contains(body, tc.want) || w.Header().Get("Retry-After") == "" {
				t.Errorf("%d %s, want %s", w.Code, body, tc.want)
			}
			if all := w.Header()["Ratelimit-Policy"]; !strings.HasPrefix(all[len(all)-1], tc.rule) {
				t.Errorf("RateLimit-Policy: %s, want %s", all, tc.rule)
			}
		})
	}
}

// TestAtOnce: a plan bounds how many requests of a key are in flight.
func TestAtOnce(t *testing.T) {
	h := open(t, planOf("{ api_key: 1000/m, concurrency: 2 }")...)
	key := []string{"X-Api-Key", h.apiKey("shop"), "Authorization", h.token("ann", "shop")}
	in, out, done := make(chan bool, 2), make(chan bool), make(chan int, 2)
	h.serve(func(http.ResponseWriter, *http.Request) { in <- true; <-out })
	for range 2 {
		go func() { done <- h.do("GET", "/orders/o1", "", key...).StatusCode }()
		<-in
	}
	if ok, control := h.passed(1, key...); ok != 0 || control != "limit.api_key" {
		t.Errorf("a third at once: %d let through, %q", ok, control)
	}
	close(out)
	for range 2 {
		if status := <-done; status != 200 {
			t.Errorf("one of the two: %d", status)
		}
	}
	if ok, _ := h.passed(1, key...); ok != 1 {
		t.Error("the places are not free again")
	}
}

// TestNobodyHoldsAllPlaces: one user's streams, or slow readers, leave room for others.
func TestNobodyHoldsAllPlaces(t *testing.T) {
	s := userLimit{newInflight()}
	ann := func() *call { return &call{principal: rampart.Principal{Subject: "ann"}} }
	var held []*call
	for range userShare {
		c := ann()
		must(t, s.enter(c))
		held = append(held, c)
	}
	if err := s.enter(ann()); problem.Status(err) != http.StatusServiceUnavailable {
		t.Errorf("one more: %v", err)
	}
	if err := s.enter(&call{principal: rampart.Principal{Subject: "bob"}}); err != nil {
		t.Error("another user:", err)
	}
	held[0].leavePlaces()
	if err := s.enter(ann()); err != nil {
		t.Error("a place that was given back:", err)
	}
}

// TestBan: who shows bad credentials on and on is turned away first of all, and
// the log tells of it in two lines.
func TestBan(t *testing.T) {
	h := open(t)
	h.gw.bans.Set(ban.Rule{Refusals: 5, Within: time.Minute, First: time.Minute, Longest: time.Hour}, nil) // loopback is not spared here
	good := []string{"Authorization", h.token("ann", "app")}
	bad := []string{"Authorization", "Bearer forged"}
	for range 20 {
		h.do("GET", "/orders/o1", "")                                                                                               // shows nothing
		h.do("POST", "/login", "username=ann", "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "cross-site") // another site's doing
	}
	for range 10 { // a house of many: most are welcome
		h.do("GET", "/orders/o1", "", good...)
		h.do("GET", "/orders/o1", "", good...)
		h.do("GET", "/orders/o1", "", bad...)
	}
	if ok, _ := h.passed(1, good...); ok != 1 {
		t.Fatal("banned for a few forged tokens among many requests")
	}
	for range 15 {
		h.do("GET", "/orders/o1", "", bad...)
	}
	res := h.do("GET", "/orders/o1", "", good...)
	if res.StatusCode != 429 || res.Header.Get("Retry-After") != "60" || !strings.Contains(res.body, "limit.ban") && !strings.Contains(res.body, "refused requests") {
		t.Errorf("%s after %s: %s; want a ban", res.Status, res.Header.Get("Retry-After"), res.body)
	}
	if e := h.event("ban.begin"); e.Control != controlBan || e.Peer != "127.0.0.1" || e.Detail["seconds"] != "60" || !strings.HasPrefix(e.Detail["why"], "401: ") {
		t.Errorf("the log says %+v", e)
	}
	if conn, err := net.Dial("tcp", h.gw.Addr()); err == nil {
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		conn.Write([]byte{22, 3, 1, 0, 1, 1})
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("a new connection got %d bytes of an answer", n)
		}
		conn.Close()
	}
	h.pass(time.Minute)
	if ok, _ := h.passed(1, good...); ok != 1 {
		t.Error("the ban has no end")
	}
	h.gw.endBans(t.Context())
	for _, e := range h.Events("gateway_edge") {
		if e.Control == controlBan && e.Action != "ban.begin" && e.Action != "ban.end" {
			t.Errorf("a line for one who was turned away: %+v", e)
		}
	}
	if e := h.event("ban.end"); len(e.Detail["turned_away"]) != 1 || e.Detail["turned_away"] < "2" { // at least one request and one connection
		t.Errorf("the end says %+v", e)
	}
}

// TestWhoIsNeverBanned: hops that the file trusts, and this machine.
func TestWhoIsNeverBanned(t *testing.T) {
	sys, err := spec.Load(controltest.File(t, `listen: "127.0.0.1:0" }`, `listen: "127.0.0.1:0", edge: { trusted_hops: [10.0.0.0/8], ban: { after: 10/m } } }`))
	must(t, err)
	rule, exempt := banRule(sys, "edge")
	l := ban.New(ban.Options{Rule: rule, Exempt: exempt})
	for addr, want := range map[string]bool{"10.2.3.4": false, "127.0.0.1": false, "::1": false, "192.0.2.1": true} {
		for range 11 {
			l.Refused(netip.MustParseAddr(addr), ban.Other)
		}
		if got := l.Banned(netip.MustParseAddr(addr)) > 0; got != want {
			t.Errorf("%s: banned %v, want %v", addr, got, want)
		}
	}
	sys.Unsafe.Disable = []string{controlBan}
	if rule, _ := banRule(sys, "edge"); rule != (ban.Rule{}) {
		t.Error("the control is off, and there is a rule")
	}
}

// TestSharedLimits: two gateways count together in a real store that takes their
// certificate, and go on alone when it dies.
func TestSharedLimits(t *testing.T) {
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	file := controltest.File(t, "rampart: v1\n", "rampart: v1\nlimits: { store: \""+server.URL+"\", ca: store-ca.pem, gateways: 2 }\n",
		"    idempotency: { header: Idempotency-Key }\n", "")
	must(t, os.WriteFile(filepath.Join(filepath.Dir(file), "store-ca.pem"), server.CA, 0o600))
	h := openFile(t, file)
	pem, err := os.ReadFile(h.State.Path("ca.pem"))
	must(t, err)
	server.Trust(pem)
	secret := h.apiKey("shop")
	id := strings.Split(secret, "_")[1]
	key := []string{"X-Api-Key", secret, "Authorization", h.token("ann", "shop")}
	together := func(g *Gateway) func() bool { return func() bool { return !g.limiters.store.Alone() } }
	h.Until("the gateway counts in the store", together(h.gw))
	if s := h.gw.health().Store; s == nil || *s != (wire.StoreHealth{}) {
		t.Errorf("heartbeats say of the store: %+v", s)
	}
	// A burst faster than the store answers may be refused early, and is never let over.
	if ok, control := h.passed(25, key...); ok > 20 || ok < 10 || control != "limit.api_key" {
		t.Fatalf("%d of 20 let through, then %q", ok, control)
	}
	other := h.again()
	t.Cleanup(other.limiters.close)
	h.Until("another gateway counts there, too", together(other))
	before := 0
	for range 20 {
		if other.table.Load().plans["small"].rate.Allow(id, 1).OK {
			before++
		}
		time.Sleep(10 * time.Millisecond)
	}
	if before > 10 { // its share, until it has heard of the key
		t.Errorf("another gateway let %d through", before)
	}
	server.Kill()
	if ok, _ := h.passed(3, "Authorization", h.token("ann", "app")); ok != 3 {
		t.Errorf("%d of 3 let through without the store", ok)
	}
	h.Until("the gateway knows that it is alone", func() bool { return h.gw.limiters.store.Alone() })
	if s := h.gw.health().Store; !s.Alone || s.Away.IsZero() {
		t.Errorf("heartbeats say of the store that died: %+v", s)
	}
	if ok, _ := h.passed(3, "Authorization", h.token("ann", "app")); ok != 3 {
		t.Errorf("%d of 3 let through alone", ok)
	}
	if ok, _ := h.passed(1, key...); ok != 0 {
		t.Error("the loss of the store gave an API key the limit again")
	}
}
