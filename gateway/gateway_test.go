package gateway

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// good is a valid order.
const good = `{"org":"acme","item":"mug","count":2}`

// TestEdge is the policy of the edge: who may do what, and which control says
// no. An empty control means that nothing was refused.
func TestEdge(t *testing.T) {
	h := open(t)
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0))) // nonces count from the second after the start
	ann, annApp, annShop, annOther, vic := h.login("ann"), h.token("ann", "app"), h.token("ann", "shop"), h.token("ann", "other"), h.token("vic", "app")
	key := h.apiKey("shop")
	bearer := func(token string) []string { return []string{"Authorization", token} }
	with := func(list []string, more ...string) []string { return append(list[:len(list):len(list)], more...) }
	post := with(bearer(annApp), "Rampart-Nonce", "fresh")
	for _, tc := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		control                  string
	}{
		{"a session reads", "GET", "/orders/o1", "", []string{"Cookie", ann}, 200, ""},
		{"a token reads", "GET", "/orders/o1", "", bearer(annApp), 200, ""},
		{"HEAD is GET without a body", "HEAD", "/orders/o1", "", bearer(annApp), 200, ""},
		{"a token orders", "POST", "/orders", good, post, 200, ""},
		{"an API key with its client's token", "GET", "/orders/o1", "", with(bearer(annShop), "X-Api-Key", key), 200, ""},
		{"a service without a document", "GET", "/stock/mugs", "", bearer(annApp), 200, ""},

		{"unknown path", "GET", "/nothing", "", bearer(annApp), 404, "edge.route"},
		{"unknown path, anonymous: existence is no secret to probe for", "GET", "/nothing", "", nil, 404, "edge.route"},
		{"method that is not declared", "DELETE", "/orders/o1", "", bearer(annApp), 405, "edge.route"},
		{"method without a document", "POST", "/stock/mugs", `{}`, bearer(annApp), 405, "edge.route"},
		{"unknown method", "TRACE", "/orders/o1", "", bearer(annApp), 405, "edge.route"},
		{"OPTIONS is not declared", "OPTIONS", "/orders/o1", "", bearer(annApp), 405, "edge.route"},
		{"encoded slash", "GET", "/orders/..%2fadmin", "", bearer(annApp), 400, "edge.route"},
		{"doubly encoded", "GET", "/orders/%2561", "", bearer(annApp), 400, "edge.route"},
		{"a public path with a dot segment", "GET", "/oauth2/../orders/o1", "", nil, 400, "edge.route"},
		{"GET with a body", "GET", "/orders/o1", good, bearer(annApp), 400, "edge.route"},

		{"too large", "POST", "/orders", `{"org":"acme","item":"mug","count":2,"note":"` + strings.Repeat("x", 2000) + `"}`, post, 413, "validate.max_body"},
		{"not JSON by type", "POST", "/orders", good, with(post, "Content-Type", "text/plain"), 415, "validate.openapi"},
		{"broken JSON", "POST", "/orders", `{"org":`, post, 400, "validate.json"},
		{"two readings", "POST", "/orders", `{"org":"acme","org":"evil","item":"mug","count":2}`, post, 400, "validate.json"},
		{"a field too many", "POST", "/orders", `{"org":"acme","item":"mug","count":2,"price":1}`, post, 400, "validate.openapi"},
		{"out of bounds", "POST", "/orders", `{"org":"acme","item":"mug","count":100}`, post, 400, "validate.openapi"},
		{"a parameter out of shape", "GET", "/orders/O-1", "", bearer(annApp), 400, "validate.openapi"},
		{"an unknown query", "GET", "/orders/o1?debug=1", "", bearer(annApp), 400, "validate.openapi"},

		{"anonymous", "GET", "/orders/o1", "", nil, 401, "authn.session"},
		{"an unknown session", "GET", "/orders/o1", "", []string{"Cookie", sessionCookie + "=x"}, 401, "authn.session"},
		{"a forged token", "GET", "/orders/o1", "", bearer(annApp[:len(annApp)-4] + "AAAA"), 401, "authn.jwt"},
		{"another scheme", "GET", "/orders/o1", "", []string{"Authorization", "Basic YTpi"}, 401, "authn.jwt"},
		{"an API key alone", "GET", "/orders/o1", "", []string{"X-Api-Key", key}, 401, "authn.jwt"},
		{"an unknown API key", "GET", "/orders/o1", "", with(bearer(annShop), "X-Api-Key", "rk_x_y"), 401, "authn.api_key"},
		{"an empty API key", "GET", "/orders/o1", "", with(bearer(annApp), "X-Api-Key", ""), 401, "authn.api_key"},
		{"a token whose client has a key, without it", "GET", "/orders/o1", "", bearer(annShop), 401, "authn.api_key"},
		{"an app's token beside a shop's key", "GET", "/orders/o1", "", with(bearer(annApp), "X-Api-Key", key), 401, "authn.api_key_bound_to_jwt"},
		{"another client's token beside the key", "GET", "/orders/o1", "", with(bearer(annOther), "X-Api-Key", key), 401, "authn.api_key_bound_to_jwt"},
		{"session and token", "GET", "/orders/o1", "", with(bearer(annApp), "Cookie", ann), 401, "authn.session"},
		{"an internal header is nobody's credential", "GET", "/orders/o1", "", []string{"Rampart-Principal", "eyJzdWIiOiJ1c2VyOmFubiJ9"}, 401, "authn.session"},

		{"a viewer may not order", "POST", "/orders", good, with(bearer(vic), "Rampart-Nonce", "fresh"), 403, "authz.gateway"},
		{"a viewer may not see stock", "GET", "/stock/mugs", "", bearer(vic), 403, "authz.gateway"},
		{"another site rides on a session", "POST", "/orders", good, []string{"Cookie", ann, "Sec-Fetch-Site", "cross-site", "Rampart-Nonce", "fresh"}, 403, "authn.csrf"},
		{"another site cannot ride on a token", "POST", "/orders", good, with(post, "Sec-Fetch-Site", "cross-site"), 200, ""},
		{"another site logs a browser in", "POST", "/login", `username=ann`, []string{"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "cross-site"}, 403, "authn.csrf"},
		{"a login too large", "POST", "/login", strings.Repeat("x", 20<<10), nil, 413, "validate.max_body"},
		{"internal paths do not exist outside", "GET", "/_rampart/messages/orders.sold", "", nil, 404, "edge.route"},
		{"calls of planes do not exist outside", "POST", "/v1/resolve", `{}`, nil, 404, "edge.route"},

		{"no nonce", "POST", "/orders", good, bearer(annApp), 400, "nonce.window"},
		{"an old nonce", "POST", "/orders", good, with(bearer(annApp), "Rampart-Nonce", "1000000000.AAAAAAAAAAAAAAAAAAAAAA"), 409, "nonce.window"},
		{"another organization is refused behind", "POST", "/orders", `{"org":"globex","item":"mug","count":2}`, post, 403, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			header := append([]string(nil), tc.header...)
			for i, v := range header {
				if v == "fresh" {
					header[i] = freshNonce()
				}
			}
			before := h.refusals()
			res := h.do(tc.method, tc.path, tc.body, header...)
			if want := map[string]string{"anonymous": "Bearer", "an unknown session": "Bearer", "a forged token": tokenChallenge}[tc.name]; want != "" && res.Header.Get("WWW-Authenticate") != want {
				t.Errorf("challenge %q, want %q", res.Header.Get("WWW-Authenticate"), want)
			}
			if res.StatusCode != tc.status {
				t.Fatalf("status %d, want %d: %s", res.StatusCode, tc.status, res.body)
			}
			if tc.control != "" {
				e := h.newest()
				if e.Outcome != audit.Refused || e.Control != tc.control || e.Trace == "" || h.refusals() != before+1 {
					t.Errorf("on record: %s by %q, %d more; want refused by %q, once", e.Outcome, e.Control, h.refusals()-before, tc.control)
				}
				if strings.Contains(res.body, tc.control) {
					t.Errorf("the answer names the control: %s", res.body)
				}
			}
			for _, name := range []string{"Strict-Transport-Security", "X-Content-Type-Options", "Content-Security-Policy", "Cache-Control"} {
				if res.Header.Get(name) == "" {
					t.Errorf("the answer has no %s", name)
				}
			}
		})
	}
}

// TestForward: what goes in is ours, and so is what comes out.
func TestForward(t *testing.T) {
	h := open(t)
	ann := h.token("ann", "app")
	h.serve(func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"Set-Cookie", "Rampart-Identity", "Idempotency-Replayed", "Server", "Access-Control-Allow-Origin", "RateLimit"} {
			w.Header().Set(name, "forged")
		}
		w.Header().Set("X-Interim", "1")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("X-Interim")
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusTeapot)
		w.Write([]byte(`{"title":"mine"}`))
	})
	res := h.do("GET", "/stock/mugs?a=1&b=2", "", "Authorization", ann, "Rampart-Principal", "forged", "Rampart-Identity", "forged", "X-Forwarded-For", "6.6.6.6",
		"Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "X-Kept", "1")
	if res.StatusCode != http.StatusTeapot || res.body != `{"title":"mine"}` || res.Header.Get("Content-Security-Policy") != "default-src 'self'" {
		t.Errorf("the service's answer came as %d %v %s", res.StatusCode, res.Header, res.body)
	}
	for name, v := range res.Header {
		if v[0] == "forged" || name == "X-Interim" {
			t.Errorf("%s left as %q", name, v)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	got := h.last
	if got.URL.String() != "/mugs?a=1&b=2" || got.Header.Get("X-Kept") != "1" || got.Header.Get("X-Forwarded-For") != "" || got.Header.Get("Rampart-Principal") != "" {
		t.Errorf("the service got %s %v", got.URL, got.Header)
	}
	if id := got.Header.Get("Rampart-Identity"); !strings.HasPrefix(id, "v1.") {
		t.Errorf("the service got the identity %q", id)
	}
	if !strings.Contains(got.Header.Get("Traceparent"), "4bf92f3577b34da6a3ce929d0e0e4736") || strings.Contains(got.Header.Get("Authorization"), ann) {
		t.Errorf("trace %q, authorization is the caller's: %v", got.Header.Get("Traceparent"), strings.Contains(got.Header.Get("Authorization"), ann))
	}
}

// TestChallengeOfSessions: where no flow takes a token, none is asked for.
func TestChallengeOfSessions(t *testing.T) {
	only := &table{entries: []entry{{need: bySession}}}
	refused := rampart.Errorf(rampart.Unauthenticated, "authn.session", "authentication is required")
	for want, tb := range map[string]*table{"Session": only, "Bearer": {entries: []entry{{need: bySession}, {need: byAPIKey | byJWT}}}} {
		w := httptest.NewRecorder()
		problem.Write(w, withChallenge(tb, refused), "")
		if got := w.Header().Get("WWW-Authenticate"); w.Code != 401 || got != want {
			t.Errorf("%d, challenge %q, want %q", w.Code, got, want)
		}
	}
	if err := withChallenge(only, nil); err != nil {
		t.Error(err)
	}
}

func TestLoginRedirect(t *testing.T) {
	h := open(t)
	const html = "text/html,application/xhtml+xml"
	for _, tc := range []struct {
		name     string
		header   []string
		redirect bool
		events   int
	}{
		{"a first visit", []string{"Accept", html}, true, 0},
		{"a visit with a dead session", []string{"Accept", html, "Cookie", sessionCookie + "=dead"}, true, 1},
		{"a script", []string{"Accept", "application/json"}, false, 1},
		{"a guessed API key in a browser's clothes", []string{"Accept", html, "X-Api-Key", "rk_a_b"}, false, 1},
		{"a guessed token in a browser's clothes", []string{"Accept", html, "Authorization", "Bearer x"}, false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := h.refusals()
			res := h.do("GET", "/orders/o1?x=1", "", tc.header...)
			to := res.Header.Get("Location")
			if redirected := res.StatusCode == http.StatusSeeOther; redirected != tc.redirect {
				t.Errorf("status %d, want a redirect: %v", res.StatusCode, tc.redirect)
			}
			if tc.redirect && (to == "" && res.StatusCode != 400 || !strings.HasPrefix(to, "/login?next=%2Forders%2Fo1") || res.Header.Get("Strict-Transport-Security") == "") {
				t.Errorf("sent to %q with %v", to, res.Header)
			}
			if n := h.refusals() - before; n != tc.events {
				t.Errorf("%d events, want %d", n, tc.events)
			}
		})
	}
}

// TestTrouble: what the edge refuses is a page for a person in a browser, and a
// problem document for everybody else.
func TestTrouble(t *testing.T) {
	h := open(t)
	vic, bearer := h.login("vic"), h.token("vic", "app")
	const html, json = "text/html; charset=utf-8", "application/problem+json"
	for name, tc := range map[string]struct {
		path   string
		header []string
		status int
		kind   string
	}{
		"a person":              {"/nothing", []string{"Accept", "text/html,*/*;q=0.8"}, 404, html},
		"a person at the login": {"/oauth2/..", []string{"Accept", "text/html"}, 400, html},
		"who may not":           {"/stock/mugs", []string{"Accept", "text/html", "Cookie", vic}, 403, html},
		"a program":             {"/nothing", []string{"Accept", "application/json"}, 404, json},
		"a program in no doubt": {"/nothing", nil, 404, json},
		"a token":               {"/stock/mugs", []string{"Accept", "text/html", "Authorization", bearer}, 403, json},
	} {
		res := h.do("GET", tc.path, "", tc.header...)
		if res.StatusCode != tc.status || res.Header.Get("Content-Type") != tc.kind || !strings.Contains(res.body, h.newest().Trace) {
			t.Errorf("%s: %d %q %s", name, res.StatusCode, res.Header.Get("Content-Type"), res.body)
		}
		if !strings.HasPrefix(res.Header.Get("Content-Security-Policy"), "default-src 'none'") || res.Header.Get("Strict-Transport-Security") == "" {
			t.Errorf("%s: headers %v", name, res.Header)
		}
	}
}

func TestLimits(t *testing.T) {
	h := open(t, "limit: { ip: 100000/m, user: 60/h }", "limit: { ip: 100000/m, user: 5/h }")
	key, ann, annApp, busy := h.apiKey("shop"), h.token("ann", "shop"), h.token("ann", "app"), h.login("busy")
	spend := func(n int, header ...string) {
		t.Helper()
		for i := range n {
			if res := h.do("GET", "/orders/o1", "", header...); res.StatusCode != 200 || res.Header.Get("RateLimit") == "" {
				t.Fatalf("request %d: %d %v", i+1, res.StatusCode, res.Header)
			}
		}
	}
	refused := func(control string, header ...string) {
		t.Helper()
		if res := h.do("GET", "/orders/o1", "", header...); res.StatusCode != 429 || res.Header.Get("Retry-After") == "" || h.newest().Control != control {
			t.Errorf("%d, recorded as %q; want 429 by %s", res.StatusCode, h.newest().Control, control)
		}
	}
	spend(5, "Cookie", busy)
	refused("limit.user", "Cookie", busy)
	spend(20, "X-Api-Key", key, "Authorization", ann)
	refused("limit.api_key", "X-Api-Key", key, "Authorization", ann)
	spend(1, "Authorization", annApp) // the plan is the key's, not the person's

	h.Restart() // the same file again is no reason to forget who spent what
	seen := h.link.Age()
	h.Until("the control plane is back", func() bool { a := h.link.Age(); back := a < seen && a < 500*time.Millisecond; seen = a; return back })
	refused("limit.user", "Cookie", busy)
}

// One person has one limit, however many ways in there are: the widest of them
// bounds all together.
func TestOneUserManyWaysIn(t *testing.T) {
	h := open(t, "user: 1000/m", "user: 4/h", "user: 60/h", "user: 6/h", "user: 100000/m", "user: 6/h")
	ann, session := h.token("ann", "app"), h.login("ann")
	for i := range 6 {
		header := []string{"Cookie", session}
		if i%2 == 0 {
			header = []string{"Authorization", ann}
		}
		if res := h.do("GET", "/orders/o1", "", header...); res.StatusCode != 200 {
			t.Fatalf("request %d: %d", i+1, res.StatusCode)
		}
	}
	if res := h.do("GET", "/orders/o1", "", "Cookie", session); res.StatusCode != 429 || h.newest().Control != "limit.user" {
		t.Errorf("seventh request of one hour: %d by %q; want 429 by limit.user", res.StatusCode, h.newest().Control)
	}
}

func TestLimitIP(t *testing.T) {
	h := open(t, "ip: 100000/m", "ip: 200/h", "ip: 100000/m", "ip: 3/h", "ip: 100000/m", "ip: 180/m")
	if got := perSecond(h.gw.table.Load().entries[2].flow.Limit.IP); got != 3 {
		t.Fatalf("flow 3 allows %v a second", got)
	}
	for i := range 180 {
		if res := h.do("GET", "/nothing", ""); res.StatusCode != 404 {
			t.Fatalf("request %d: %d; the widest rate counts, not the largest number", i+1, res.StatusCode)
		}
	}
	if res := h.do("GET", "/login", ""); res.StatusCode != 429 || h.newest().Control != "limit.ip" {
		t.Errorf("%d by %q", res.StatusCode, h.newest().Control)
	}
}

func TestIdempotencyAndNonce(t *testing.T) {
	h := open(t)
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0)))
	ann := h.token("ann", "app")
	h.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.Write([]byte("booked")) })
	calls := func() int { h.mu.Lock(); defer h.mu.Unlock(); return h.calls }
	order := func(key, nonce, body string) answer {
		return h.do("POST", "/orders", body, "Authorization", ann, "Idempotency-Key", key, "Rampart-Nonce", nonce)
	}
	used := freshNonce()
	if res := order("k1", used, good); res.StatusCode != 201 || res.body != "booked" || calls() != 1 {
		t.Fatalf("first: %d %s, %d calls", res.StatusCode, res.body, calls())
	}
	if got := h.last.Header.Get("Rampart-Idempotency-Key"); got != "k1" {
		t.Errorf("the service was told key %q", got)
	}
	if res := order("k1", used, good); res.StatusCode != 409 || h.newest().Control != "nonce.window" || calls() != 1 {
		t.Errorf("the same request again: %d by %q, %d calls", res.StatusCode, h.newest().Control, calls())
	}
	res := order("k1", freshNonce(), `{"count":2,  "item":"mug","org":"acme"}`)
	if res.StatusCode != 201 || res.body != "booked" || res.Header.Get("Idempotency-Replayed") != "true" || calls() != 1 || res.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("a retry: %d %s %v, %d calls", res.StatusCode, res.body, res.Header, calls())
	}
	h.Until("the replay is on record", func() bool { e := h.newest(); return e.Code == "replayed" && e.Control == "idempotency.key" }) // allowed: nobody waits for its record
	if res := order("k1", freshNonce(), `{"org":"acme","item":"mug","count":3}`); res.StatusCode != 422 || h.newest().Control != "idempotency.key" || calls() != 1 {
		t.Errorf("the key for something else: %d by %q", res.StatusCode, h.newest().Control)
	}
	vic := h.token("busy", "app")
	if res := h.do("POST", "/orders", good, "Authorization", vic, "Idempotency-Key", "k1", "Rampart-Nonce", freshNonce()); res.Header.Get("Idempotency-Replayed") != "" || calls() != 2 {
		t.Errorf("another's key: %d %v, %d calls", res.StatusCode, res.Header, calls())
	}
}

func TestRevocation(t *testing.T) {
	h := open(t)
	cookie, bearer := h.login("gone"), h.token("gone", "app")
	for _, header := range [][]string{{"Cookie", cookie}, {"Authorization", bearer}} {
		if res := h.do("GET", "/orders/o1", "", header...); res.StatusCode != 200 {
			t.Fatalf("before: %d", res.StatusCode)
		}
	}
	epoch := h.link.State().Epoch
	h.Revoke("sub", "user:gone")
	h.Until("the revocation arrives", func() bool { return h.link.State().Epoch > epoch })
	for control, header := range map[string][]string{"authn.session": {"Cookie", cookie}, "authn.jwt": {"Authorization", bearer}} {
		if res := h.do("GET", "/orders/o1", "", header...); res.StatusCode != 401 || h.newest().Control != control {
			t.Errorf("%s after: %d by %q", header[0], res.StatusCode, h.newest().Control)
		}
	}
}

// TestOlderProof: a cut-off is measured against when a session began here. A
// provider may have seen the person's proof long before.
func TestOlderProof(t *testing.T) {
	for _, pattern := range []string{"gateway", "per_service"} {
		t.Run(pattern, func(t *testing.T) {
			h := open(t, "carries: [order], authn: gateway }", "carries: [order], authn: "+pattern+" }")
			epoch := h.link.State().Epoch
			h.Revoke("sub", "user:ann")
			h.Until("the revocation arrives", func() bool { return h.link.State().Epoch > epoch })
			cookie := h.login("ann")
			h.prove("user:ann", time.Now().Add(-time.Hour))
			h.serve(func(w http.ResponseWriter, _ *http.Request) {
				for range 3 {
					io.WriteString(w, "piece ")
					http.NewResponseController(w).Flush()
					time.Sleep(10 * time.Millisecond)
				}
			})
			for _, path := range []string{"/orders/o1", "/stock/mugs"} {
				if res := h.do("GET", path, "", "Cookie", cookie); res.StatusCode != 200 || res.body != "piece piece piece " {
					t.Errorf("%s: %d %q", path, res.StatusCode, res.body)
				}
			}
		})
	}
}

// TestStreamCut: an answer that is still coming ends with the very credential
// that it was asked for with, and no other does.
func TestStreamCut(t *testing.T) {
	h := open(t)
	h.serve(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	key, withKey, token, kept := h.apiKey("shop"), h.token("ann", "shop"), h.token("ann", "app"), h.token("ann", "app")
	streams := []struct {
		name  string
		ended <-chan error
		end   func()
	}{
		{"a revoked token's", h.stream("Authorization", token), func() {
			h.do("POST", "/oauth2/revoke", url.Values{"client_id": {"app"}, "token": {strings.TrimPrefix(token, "Bearer ")}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
		}},
		{"a disabled API key's", h.stream("Authorization", withKey, "X-Api-Key", key), func() {
			var keys []wire.APIKeyInfo
			h.Admin(wire.AdminAPIKeys, nil, &keys)
			h.Admin(wire.AdminAPIKeys+"/"+keys[0].ID+wire.SubDisable, struct{}{}, nil)
		}},
		{"one whose token a revoked key signed", h.stream("Authorization", kept), func() {
			var ring []wire.SigningKey
			h.Admin(wire.AdminSigning, nil, &ring)
			for _, k := range ring {
				if k.Ring == "edge" && k.State == "active" {
					h.Admin(wire.AdminSigning+"/"+k.KID+wire.SubRevoke, struct{}{}, nil)
				}
			}
		}},
		{"the session's", h.stream("Cookie", h.login("ann")), func() { h.Revoke("sub", "user:ann") }},
	}
	for i, s := range streams {
		s.end()
		select {
		case <-s.ended:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s stream goes on", s.name)
		}
		for _, other := range streams[i+1:] {
			select {
			case err := <-other.ended:
				t.Fatalf("with %s stream ended %s: %v", s.name, other.name, err)
			default:
			}
		}
	}
}

// TestControlAway: what was resolved and exchanged serves on until the bound of
// each flow, since a revocation may be waiting; then the flow is closed, until
// the control plane is heard again.
func TestControlAway(t *testing.T) {
	h := open(t, "processor_key:", "card: { class: secret }\n  processor_key:", "to: shop\n    carries: [order]", "to: shop\n    carries: [order, card]")
	ann := h.token("ann", "app")
	ask := func(when string, sensitive, other int) {
		t.Helper()
		for path, want := range map[string]int{"/orders/o1": sensitive, "/stock/mugs": other} {
			res := h.do("GET", path, "", "Authorization", ann)
			if res.StatusCode != want {
				t.Errorf("%s, %s: %d %s, want %d", when, path, res.StatusCode, res.body, want)
			}
			if e := h.newest(); want == 503 && (e.Outcome != audit.Failed || e.Control != "revocation.bound" || res.Header.Get("Retry-After") == "") {
				t.Errorf("%s, %s: recorded as %s by %q, Retry-After %q", when, path, e.Outcome, e.Control, res.Header.Get("Retry-After"))
			}
		}
	}
	ask("before", 200, 200)
	h.Stop()
	ask("just after", 200, 200)
	h.pass(6 * time.Second)
	ask("six seconds later", 503, 200)
	h.pass(2 * time.Minute)
	ask("two minutes later", 503, 503)
	h.Restart()
	h.Until("the control plane is heard", func() bool { return h.link.Age() < time.Second })
	ask("afterwards", 200, 200)
}

// TestDrain: a request in flight ends well when the gateway is told to stop.
func TestDrain(t *testing.T) {
	h := open(t)
	ann := h.token("ann", "app")
	entered, leave := make(chan struct{}), make(chan struct{})
	h.serve(func(w http.ResponseWriter, _ *http.Request) { close(entered); <-leave; w.WriteHeader(202) })
	got := make(chan int)
	go func() { got <- h.do("GET", "/orders/o1", "", "Authorization", ann).StatusCode }()
	<-entered
	stopped := make(chan struct{})
	go func() { h.stop(); close(stopped) }()
	time.Sleep(50 * time.Millisecond)
	select {
	case <-stopped:
		t.Error("Run returned with a request in flight")
	default:
	}
	close(leave)
	if status := <-got; status != 202 {
		t.Errorf("the request ended with %d", status)
	}
	<-stopped
}

type panics struct{}

func (panics) check(*call) error { panic("stage") }

// TestPanic: a defect ends one request, on record, and nothing else.
func TestPanic(t *testing.T) {
	h := open(t)
	tab := *h.gw.table.Load()
	tab.stages = []stage{canonicalize{}, panics{}}
	h.gw.table.Store(&tab)
	if res, err := h.client.Get("https://" + h.gw.Addr() + "/orders/o1"); err == nil {
		t.Errorf("answered %d", res.StatusCode)
	}
	if e := h.newest(); e.Outcome != audit.Failed || !strings.Contains(e.Detail["error"], "panic") {
		t.Errorf("on record: %+v", e)
	}
	if res := h.do("GET", "/login", ""); res.StatusCode != 200 {
		t.Errorf("afterwards: %d", res.StatusCode)
	}
}

// TestBodyDeadline: the time for a body ends with the body; a service that
// thinks for longer is not mistaken for a client that has gone.
func TestBodyDeadline(t *testing.T) {
	const bound = 100 * time.Millisecond
	type outcome struct {
		err, gone error
	}
	got := make(chan outcome, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{w: w, r: r}
		c.paced(pace{first: bound, grace: bound, rate: 512, ahead: bound, whole: time.Minute})
		err := body{}.check(c)
		time.Sleep(2 * bound)
		got <- outcome{err, r.Context().Err()}
	}))
	defer srv.Close()
	res, err := http.Post(srv.URL, "application/json", strings.NewReader(good))
	must(t, err)
	res.Body.Close()
	next := func() outcome {
		select {
		case o := <-got:
			return o
		case <-time.After(5 * time.Second):
			return outcome{err: errors.New("no end within five seconds")}
		}
	}
	if o := next(); o.err != nil || o.gone != nil {
		t.Errorf("a body in time: %v, then %v", o.err, o.gone)
	}
	slow, end := io.Pipe()
	go func() { end.Write([]byte(`{"org"`)) }()
	go func() {
		if res, err := http.Post(srv.URL, "application/json", slow); err == nil {
			res.Body.Close()
		}
	}()
	if o := next(); rampart.KindOf(o.err) != rampart.Invalid {
		t.Errorf("a body that does not come: %v", o.err)
	}
	end.Close()
}

// TestServiceDisabled: nothing more goes to a service that was disabled, over
// connections that are open least of all, until it is enabled and has a new
// certificate.
func TestServiceDisabled(t *testing.T) {
	h := open(t)
	cookie := h.login("ann")
	for _, path := range []string{"/orders/o1", "/stock/mugs"} {
		if res := h.do("GET", path, "", "Cookie", cookie); res.StatusCode != 200 {
			t.Fatalf("%s before: %d", path, res.StatusCode)
		}
	}
	h.Admin(wire.AdminServices+"/shop/disable", struct{}{}, nil)
	h.Until("the edge refuses", func() bool {
		return h.do("GET", "/orders/o1", "", "Cookie", cookie).StatusCode == 503
	})
	before := h.served()
	res := h.do("GET", "/orders/o1", "", "Cookie", cookie)
	if n := h.served() - before; res.StatusCode != 503 || h.newest().Control != "mtls.peer_declared" || n != 0 {
		t.Errorf("after: %d by %q, %d calls", res.StatusCode, h.newest().Control, n)
	}
	if res := h.do("GET", "/stock/mugs", "", "Cookie", cookie); res.StatusCode != 200 {
		t.Errorf("a neighbour: %d", res.StatusCode)
	}
	h.Admin(wire.AdminServices+"/shop/enable", struct{}{}, nil)
	time.Sleep(time.Second) // certificates count whole seconds: one of this very second is of before
	h.sidecar("shop", h.up)
	h.Until("the service is back", func() bool {
		return h.do("GET", "/orders/o1", "", "Cookie", cookie).StatusCode == 200
	})
}
