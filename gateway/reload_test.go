package gateway

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// apply puts the shop's file in force, changed by pairs of old and new text, and
// waits until the gateway enforces it.
func (h *house) apply(change ...string) {
	h.t.Helper()
	sys, err := spec.Load(controltest.File(h.t, change...))
	must(h.t, err)
	h.Admin(wire.AdminConfig, wire.Apply{Bundle: sys.Bundle()}, nil)
	h.Until("the gateway enforces the file", func() bool { return h.gw.table.Load().sys.Bundle().Digest == sys.Bundle().Digest })
}

// TestAppliedKeys: what a key of the file says is what the edge does from the moment
// on that the file is applied, and no longer than until another is. One row is one
// key that spec calls live.
func TestAppliedKeys(t *testing.T) {
	h := open(t)
	ann, app := h.login("ann"), h.token("ann", "app")
	get := func(header ...string) string {
		res := h.do(http.MethodGet, "/stock/", "", append([]string{"Cookie", ann}, header...)...)
		return fmt.Sprint(res.StatusCode)
	}
	const toStock, session = "authn: gateway }", "{ id: 2, from: customer, to: edge, carries: [order], authn: session, limit: { ip: 100000/m, user: 60/h } }"
	for _, row := range []struct {
		key, old, new string
		see           func() string
		before, after string
	}{
		{"services.*.methods", "headers: [X-Kept] }", "headers: [X-Kept], methods: [POST] }", func() string { return get() }, "200", "405"},
		{"services.*.mount", "headers: [X-Kept] }", "headers: [X-Kept], mount: /store/ }", func() string { return get() }, "200", "404"},
		{"services.*.headers", "headers: [X-Kept]", "headers: [X-Other]", func() string {
			get("X-Kept", "yes")
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.last.Header.Get("X-Kept")
		}, "yes", ""},
		{"flows.*.limit.user", session, strings.Replace(session, "60/h", "1/h", 1), func() string { get(); return get() }, "200", "429"},
		{"flows.*.cors", toStock, "authn: gateway, cors: { origins: [\"https://app.example\"] } }", func() string {
			return h.do(http.MethodGet, "/stock/", "", "Origin", "https://app.example", "Authorization", app).Header.Get("Access-Control-Allow-Origin")
		}, "", "https://app.example"},
		{"flows.*.allow", toStock, "authn: gateway, allow: \"role:boss\" }", func() string { return get() }, "200", "403"},
		{"flows.*.scope", toStock, "authn: gateway, scope: [\"stock:create\"] }", func() string { return get() }, "200", "403"},
		{"authz.roles", `"stock:read"]`, `"stock:create"]`, func() string { return get() }, "200", "403"},
		{"services.*.edge.proxy_protocol", "listen: \"127.0.0.1:0\" }", "listen: \"127.0.0.1:0\", edge: { trusted_hops: [\"10.0.0.0/8\"] } }", func() string {
			return fmt.Sprint(len(h.gw.table.Load().sys.Services["edge"].Edge.TrustedHops))
		}, "0", "1"},
		{"flows.*.waf.mode", toStock, "authn: gateway, waf: { mode: \"off\" } }", func() string {
			return fmt.Sprint(h.do(http.MethodGet, "/stock/?q=1%27%20UNION%20SELECT%20password%20FROM%20users--", "", "Authorization", app).StatusCode)
		}, "403", "200"},
	} {
		t.Run(row.key, func(t *testing.T) {
			if got := row.see(); got != row.before {
				t.Errorf("before: %q, want %q", got, row.before)
			}
			h.apply(row.old, row.new)
			h.Until("what was applied is done", func() bool { return row.see() == row.after })
			h.apply()
			h.Until("what was before is done again", func() bool { return row.see() == row.before })
		})
	}
}

// TestAppliedKeepsNonces: a nonce that was used stays used when the file changes, and
// one that was made before and not used is good.
func TestAppliedKeepsNonces(t *testing.T) {
	h := open(t)
	app, used, fresh := h.token("ann", "app"), freshNonce(), freshNonce()
	send := func(nonce string) int {
		return h.do(http.MethodPost, "/orders", good, "Authorization", app, "Rampart-Nonce", nonce).StatusCode
	}
	first := send(used)
	h.apply("window: 5m", "window: 6m")
	if got := send(used); got != http.StatusConflict {
		t.Errorf("a nonce that was used before the file changed: %d, want 409 (the first time %d)", got, first)
	}
	if got := send(fresh); got != first {
		t.Errorf("a nonce that was not used: %d, want %d", got, first)
	}
}

// TestWebSocketOverApply: one stays open while files are applied that keep its flow, and
// one whose flow takes none any more ends.
func TestWebSocketOverApply(t *testing.T) {
	keeps := shopFlow("    stream: [websocket]\n")
	both := append(slices.Clone(keeps), "carries: [order], authn: gateway }", "carries: [order], authn: gateway, stream: [websocket] }")
	h := open(t, both...)
	h.serve(echo)
	ann := h.token("ann", "app")
	dial := func(path string) (*tls.Conn, *bufio.Reader) {
		conn, in, res := h.dial(path, "Authorization", ann)
		if res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: %s", path, res.Status)
		}
		must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		return conn, in
	}
	says := func(when string, conn *tls.Conn, in *bufio.Reader) {
		t.Helper()
		got := make([]byte, 5)
		_, err := io.WriteString(conn, "hello")
		if _, bad := io.ReadFull(in, got); err != nil || bad != nil || string(got) != "hello" {
			t.Errorf("%s: %q, %v, %v", when, got, err, bad)
		}
	}
	orders, fromOrders := dial("/orders/o1")
	stock, fromStock := dial("/stock/mugs")
	const limit = "limit: { ip: 100000/m, user: 100000/m }"
	h.apply(append(slices.Clone(both), limit, strings.Replace(limit, "user: 100000", "user: 90000", 1))...)
	time.Sleep(streamCheck + streamCheck/4) // both were judged anew by then
	says("another limit", orders, fromOrders)
	says("another limit, the other", stock, fromStock)
	h.apply(keeps...)
	select {
	case err := <-ending(fromStock):
		if err == nil {
			t.Error("a byte came")
		}
	case <-time.After(20 * time.Second):
		t.Error("one whose flow takes no WebSockets any more stays open")
	}
	time.Sleep(streamCheck + streamCheck/4)
	says("without the other's", orders, fromOrders)
}

// TestManyApplied: a hundred files one after the other leave the memory and the
// goroutines of a gateway as they were.
func TestManyApplied(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred files take a while")
	}
	h := open(t)
	ann := h.login("ann")
	measure := func() (heap uint64, goroutines int) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc, runtime.NumGoroutine()
	}
	var files [2]*spec.System
	for i := range files {
		var err error
		files[i], err = spec.Load(controltest.File(t, "user: 60/h", fmt.Sprintf("user: %d/h", 1000+i)))
		must(t, err)
	}
	one := func(i int) {
		must(t, h.gw.enforceSystem(files[i%2]))
		if i%10 == 0 {
			if res := h.do(http.MethodGet, "/stock/", "", "Cookie", ann); res.StatusCode != http.StatusOK {
				t.Fatalf("file %d: %s", i, res.Status)
			}
		}
	}
	for i := range 10 {
		one(i)
	}
	heap, goroutines := measure()
	for i := range 100 {
		one(10 + i)
	}
	after, many := measure()
	t.Logf("heap %d KiB, then %d KiB; goroutines %d, then %d", heap>>10, after>>10, goroutines, many)
	if after > heap+heap/2+(4<<20) {
		t.Errorf("the heap grew from %d KiB to %d KiB", heap>>10, after>>10)
	}
	if many > goroutines+20 {
		t.Errorf("there were %d goroutines, and are %d", goroutines, many)
	}
}

// enforceSystem puts a file in force as reload does.
func (g *Gateway) enforceSystem(sys *spec.System) error {
	g.loading.Lock()
	defer g.loading.Unlock()
	return g.enforceLocked(sys)
}
