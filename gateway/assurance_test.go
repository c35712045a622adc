package gateway

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// TestStepUp: a login that is too weak or too old is sent to prove more, a
// machine by a challenge and a person by a link.
func TestStepUp(t *testing.T) {
	h := open(t, "authn: exchange\n    validate", `authn: exchange
    step_up: [{ routes: "POST /orders", acr: aal2, max_age: 5m }, { routes: "GET /orders/*", max_age: 5m }]
    validate`)
	ann, vic := h.login("ann"), h.token("vic", "app")
	const html = "text/html"
	read := func(header ...string) answer {
		return h.do("GET", "/orders/o1", "", append([]string{"Cookie", ann}, header...)...)
	}
	if res := read(); res.StatusCode != 200 {
		t.Fatalf("a fresh login: %d %s", res.StatusCode, res.body)
	}
	res := h.do("POST", "/orders", good, "Cookie", ann, "Rampart-Nonce", freshNonce(), "Referer", "https://"+h.gw.Addr()+"/shop?q=mug")
	var doc struct {
		StepUp string `json:"step_up"`
	}
	if err := json.Unmarshal([]byte(res.body), &doc); err != nil || doc.StepUp != "/login/step-up?acr=aal2&max_age=300&next=%2Fshop%3Fq%3Dmug" {
		t.Errorf("a password alone is sent to %q, %v", doc.StepUp, err)
	}
	if got := res.Header.Get("WWW-Authenticate"); res.StatusCode != 401 || h.newest().Control != "authn.step_up" ||
		!strings.HasPrefix(got, `Session error="insufficient_user_authentication"`) || !strings.Contains(got, `acr_values="aal2", max_age="300"`) {
		t.Errorf("a password alone: %d by %q, challenge %s", res.StatusCode, h.newest().Control, got)
	}
	if res := h.do("POST", "/orders", good, "Authorization", vic, "Rampart-Nonce", freshNonce()); res.StatusCode != 403 {
		t.Errorf("who may not do it anyway: %d", res.StatusCode)
	}

	h.pass(6 * time.Minute)
	h.Until("the stream has begun anew", func() bool { return h.link.Age() < time.Second })
	if res := read(); res.StatusCode != 401 || strings.Contains(res.Header.Get("WWW-Authenticate"), "acr_values") || h.newest().Control != "authn.step_up" {
		t.Errorf("six minutes later: %d by %q", res.StatusCode, h.newest().Control)
	}
	if res := read("Accept", html); res.StatusCode != 303 || res.Header.Get("Location") != "/login/step-up?max_age=300&next=%2Forders%2Fo1" {
		t.Errorf("six minutes later, in a browser: %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
}

// TestStepUpMet: what a person has proved counts, wherever they come back to.
func TestStepUpMet(t *testing.T) {
	now := time.Unix(100_000, 0)
	stage := stepUp{func() time.Time { return now }}
	c := &call{path: "/shop/orders/7", target: &target{mount: "/shop/", flow: spec.Flow{StepUp: []spec.StepUp{{Routes: []string{"* /orders/*"}, ACR: "aal2", MaxAge: spec.Duration(time.Minute)}}}}}
	c.r, _ = http.NewRequest("DELETE", "https://edge/shop/orders/7", nil)
	for _, row := range []struct {
		acr  string
		ago  time.Duration
		want bool
	}{{"aal2", 30 * time.Second, true}, {"aal2", 2 * time.Minute, false}, {"aal1", time.Second, false}, {"", time.Second, false}} {
		c.principal = rampart.Principal{Subject: "user:ann", ACR: row.acr, AuthTime: now.Add(-row.ago)}
		if err := stage.check(c); (err == nil) != row.want {
			t.Errorf("%q, %v ago: %v", row.acr, row.ago, err)
		}
	}
	for referer, want := range map[string]string{
		"": "/", "https://edge/cart?a=1#x": "/cart?a=1", "https://evil.example/cart": "/", "https://edge.evil.example/": "/", "not a url %zz": "/", "https://edge": "/",
	} {
		c.r.Header.Set("Referer", referer)
		if got := comeBack(c.r); got != want {
			t.Errorf("sent by %q one comes back to %q, want %q", referer, got, want)
		}
	}
}

// TestStepUpWords: the challenge is in the scheme of what was shown, and only a
// session is sent to a page.
func TestStepUpWords(t *testing.T) {
	for name, tc := range map[string]struct {
		kind, scheme, page string
		bound              bool
	}{
		"a session":     {wire.TypeSession, "Session", "/login/step-up?acr=aal2&next=%2Forders%2F7", false},
		"a token":       {wire.TypeAccess, "Bearer", "", false},
		"a bound token": {wire.TypeAccess, "DPoP", "", true},
		"an API key":    {wire.TypeAPIKey, "Bearer", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			c := &call{cred: credential{kind: tc.kind}, bound: tc.bound, table: &table{entries: []entry{{need: bySession}}}}
			c.r, _ = http.NewRequest("GET", "https://edge/orders/7", nil)
			c.r.Header.Set("Accept", "text/html")
			err := stepUpOf(c, spec.Demand{ACR: "aal2"})
			w := httptest.NewRecorder()
			problem.Write(w, err, "t1")
			if got := w.Header().Get("WWW-Authenticate"); !strings.HasPrefix(got, tc.scheme+` error="insufficient_user_authentication"`) || !strings.HasSuffix(got, `acr_values="aal2"`) {
				t.Errorf("challenge %s", got)
			}
			if page, sent := loginRedirect(c, err); page != tc.page || sent != (tc.page != "") {
				t.Errorf("a browser is sent to %q, %v", page, sent)
			}
		})
	}
}

// TestScopes: a key and a flow limit what a person's token may do, here and
// behind.
func TestScopes(t *testing.T) {
	h := open(t, "carries: [order], authn: gateway }", `carries: [order], authn: gateway, scope: ["shop:*"] }`)
	ann := h.token("ann", "shop")
	key := func(q wire.APIKeyRequest) string {
		t.Helper()
		var made wire.APIKey
		q.Client = "shop"
		h.Admin(wire.AdminAPIKeys, q, &made)
		return made.Key
	}
	reader := key(wire.APIKeyRequest{Scopes: []string{"shop:read", "stock:read"}})
	with := []string{"X-Api-Key", reader, "Authorization", ann}
	if res := h.do("GET", "/orders/o1", "", with...); res.StatusCode != 200 {
		t.Fatalf("a key that may read reads: %d %s", res.StatusCode, res.body)
	}
	h.mu.Lock()
	text := strings.Split(h.last.Header.Get("Rampart-Identity"), ".")
	h.mu.Unlock()
	var id struct{ Principal rampart.Principal }
	b, err := base64.RawURLEncoding.DecodeString(text[1])
	if err == nil {
		err = json.Unmarshal(b, &id)
	}
	if diff := cmp.Diff([]string{"shop:read", "stock:read"}, id.Principal.Scope); err != nil || diff != "" {
		t.Errorf("the service is told the scope (-want +got):\n%s%v", diff, err)
	}
	res := h.do("POST", "/orders", good, append(with, "Rampart-Nonce", freshNonce())...)
	if got := res.Header.Get("WWW-Authenticate"); res.StatusCode != 403 || got != `Bearer error="insufficient_scope", scope="shop:write"` || h.newest().Code != "insufficient_scope" {
		t.Errorf("a key that may read writes: %d %q, recorded as %q", res.StatusCode, got, h.newest().Code)
	}
	if res := h.do("GET", "/stock/mugs", "", "Authorization", h.token("ann", "app")); res.StatusCode != 403 || h.newest().Code != "insufficient_scope" {
		t.Errorf("beyond the flow's scope: %d, recorded as %q", res.StatusCode, h.newest().Code)
	}

	elsewhere := key(wire.APIKeyRequest{IPs: []string{"192.0.2.0/24"}})
	if res := h.do("GET", "/orders/o1", "", "X-Api-Key", elsewhere, "Authorization", ann); res.StatusCode != 401 || h.newest().Control != "authn.api_key" {
		t.Errorf("a key from an address that it is not for: %d by %q", res.StatusCode, h.newest().Control)
	}
}
