package control_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

// browser is a person at the gateway.
type browser struct {
	h      *house
	ip     string
	cookie string            // of the session
	others map[string]string // cookies by name
}

// do sends a request as the gateway forwards it and keeps the cookies.
func (b *browser) do(method, path string, form url.Values, header ...string) *http.Response {
	b.h.t.Helper()
	req, err := http.NewRequestWithContext(b.h.t.Context(), method, b.h.url(path), strings.NewReader(form.Encode()))
	must(b.h.t, err)
	if form == nil {
		req.Body, req.ContentLength = nil, 0
	} else {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set(wire.HeaderClientIP, b.ip+":4711")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if b.cookie != "" {
		req.AddCookie(&http.Cookie{Name: "__Host-rampart_sid", Value: b.cookie})
	}
	for name, value := range b.others {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	gateway := *b.h.as("gateway/edge")
	gateway.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := gateway.Do(req)
	must(b.h.t, err)
	b.h.t.Cleanup(func() { res.Body.Close() })
	for _, c := range res.Cookies() {
		b.keep(c)
	}
	return res
}

func (b *browser) keep(c *http.Cookie) {
	if c.Name == "__Host-rampart_sid" {
		b.cookie = c.Value
		return
	}
	if b.others == nil {
		b.others = map[string]string{}
	}
	b.others[c.Name] = c.Value
	if c.MaxAge < 0 {
		delete(b.others, c.Name)
	}
}

func (b *browser) login(name, password string) int {
	return b.do(http.MethodPost, "/login", url.Values{"username": {name}, "password": {password}}).StatusCode
}

func body(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return string(b)
}

const (
	password = "correct horse battery"
	wrong    = "incorrect horse battery"
)

func (h *house) addUser(name string, roles ...string) {
	h.t.Helper()
	h.mustAdmin(wire.AdminUsers, wire.User{Name: name, Password: password, Facts: spec.DemoUser{Roles: roles, Organizations: []string{"acme", "globex"}, Team: "red"}}, nil)
}

func (h *house) browser() *browser { return &browser{h: h, ip: "192.0.2.1"} }

func (h *house) resolve(kind, value string) (wire.Resolved, error) {
	h.t.Helper()
	var r wire.Resolved
	err := h.call("gateway/edge", http.MethodPost, wire.PathResolve, wire.ResolveRequest{Type: kind, Value: value, IP: "192.0.2.1"}, &r)
	return r, err
}

func TestLoginAndLogout(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	b := h.browser()

	page := b.do(http.MethodGet, "/login?next=/orders", nil)
	text := body(t, page)
	csp := page.Header.Get("Content-Security-Policy")
	if page.StatusCode != http.StatusOK || !strings.Contains(text, `value="/orders"`) || strings.Contains(text, "<script>") || !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("login page: %d %q\n%s", page.StatusCode, csp, text)
	}
	if css := b.do(http.MethodGet, "/login.css", nil); css.StatusCode != http.StatusOK || !strings.HasPrefix(css.Header.Get("Content-Type"), "text/css") {
		t.Errorf("login.css: %d %s", css.StatusCode, css.Header.Get("Content-Type"))
	}
	if got := b.login("ann", wrong); got != http.StatusUnauthorized || b.cookie != "" {
		t.Errorf("wrong password: %d, cookie %q", got, b.cookie)
	}
	h.wantEvent("session.login", audit.Refused, "authn.password", "user:ann")

	res := b.do(http.MethodPost, "/login", url.Values{"username": {"ann"}, "password": {password}, "next": {"/orders?x=1"}})
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/orders?x=1" {
		t.Fatalf("login: %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	set := res.Header.Get("Set-Cookie")
	if want := "; Path=/; HttpOnly; Secure; SameSite=Lax"; !strings.HasPrefix(set, "__Host-rampart_sid=") || !strings.HasSuffix(set, want) {
		t.Errorf("cookie is %q", set)
	}
	h.wantEvent("session.login", audit.Allowed, "authn.password", "user:ann")

	who, err := h.resolve(wire.TypeSession, b.cookie)
	must(t, err)
	if p := who.Principal; p.Subject != "user:ann" || p.Tenant != "acme" || !slices.Equal(p.Organizations, []string{"acme", "globex"}) || !p.HasRole("customer") || p.Session == "" || p.Session == b.cookie {
		t.Errorf("session stands for %+v", p)
	}
	var mine struct {
		Subject string
		Roles   []string
		Expires time.Time
	}
	must(t, json.NewDecoder(b.do(http.MethodGet, "/session", nil).Body).Decode(&mine))
	if mine.Subject != "user:ann" || len(mine.Roles) != 1 || mine.Expires.Before(time.Now()) {
		t.Errorf("/session is %+v", mine)
	}

	old := b.cookie
	if res := b.do(http.MethodPost, "/logout", nil); res.StatusCode != http.StatusSeeOther || b.cookie != "" {
		t.Errorf("logout: %d, cookie %q", res.StatusCode, b.cookie)
	}
	h.wantEvent("session.logout", audit.Allowed, "authn.session", "user:ann")
	if _, err := h.resolve(wire.TypeSession, old); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("after logout the cookie resolves: %v", err)
	}
}

func TestLoginMakesANewSession(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	b := h.browser()
	b.login("ann", password)
	first := b.cookie
	b.login("ann", password)
	if b.cookie == first {
		t.Error("a login kept the session id")
	}
	if _, err := h.resolve(wire.TypeSession, first); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("the session before lives on: %v", err)
	}
}

func TestLoginRefuses(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	good := url.Values{"username": {"ann"}, "password": {password}}
	for name, tc := range map[string]struct {
		form   url.Values
		header []string
		status int
	}{
		"unknown user":      {url.Values{"username": {"eve"}, "password": {password}}, nil, 401},
		"no password":       {url.Values{"username": {"ann"}}, nil, 401},
		"another site":      {good, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"a sibling host":    {good, []string{"Sec-Fetch-Site", "same-site"}, 403},
		"not a form":        {good, []string{"Content-Type", "text/plain"}, 415},
		"no client address": {good, []string{wire.HeaderClientIP, "nonsense"}, 400},
		"too long a body":   {url.Values{"username": {strings.Repeat("a", 140_000)}}, nil, 400},
	} {
		b := h.browser()
		if res := b.do(http.MethodPost, "/login", tc.form, tc.header...); res.StatusCode != tc.status || b.cookie != "" {
			t.Errorf("%s: %d, cookie %q; want %d", name, res.StatusCode, b.cookie, tc.status)
		}
	}
	for next, want := range map[string]string{
		"https://evil.example/": "/", "//evil.example": "/", `/\evil.example`: "/", "javascript:alert(1)": "/", "orders": "/", "/\nx": "/", "/ok?a=b": "/ok?a=b", "": "/",
	} {
		res := h.browser().do(http.MethodPost, "/login", url.Values{"username": {"ann"}, "password": {password}, "next": {next}})
		if got := res.Header.Get("Location"); got != want {
			t.Errorf("next %q leads to %q, want %q", next, got, want)
		}
	}
}

func TestSuccessIsNotCounted(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	for i := range 15 {
		if got := h.browser().login("ann", password); got != http.StatusSeeOther {
			t.Fatalf("login %d: %d, want 303", i+1, got)
		}
	}
}

func TestLimitOff(t *testing.T) {
	h := open(t, "unsafe: { disable: [limit.login] }\n")
	h.addUser("ann", "customer")
	for range 12 {
		if got := h.browser().login("ann", wrong); got != http.StatusUnauthorized {
			t.Fatalf("got %d, want 401: the limit is off", got)
		}
	}
}

func TestCSRFOff(t *testing.T) {
	h := open(t, "unsafe: { disable: [authn.csrf] }\n")
	h.addUser("ann", "customer")
	form := url.Values{"username": {"ann"}, "password": {password}}
	if res := h.browser().do(http.MethodPost, "/login", form, "Sec-Fetch-Site", "cross-site"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("got %d, want 303: the control is off", res.StatusCode)
	}
}

// TestGuessesAreOnRecord: wherever a stranger can try a session, a client or a
// token, the try is an event.
func TestGuessesAreOnRecord(t *testing.T) {
	h := open(t, "")
	h.mustAdmin(wire.AdminClients, wire.Client{ID: "shop", Principal: "merchant", Redirects: []string{"https://shop.example/cb"}}, nil)
	authorize := func(client, redirect string) string {
		return "/oauth2/authorize?" + url.Values{"client_id": {client}, "redirect_uri": {redirect}}.Encode()
	}
	guess := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	for _, tc := range []struct {
		method, path, cookie string
		form                 url.Values
		status               int
		action, resource     string
	}{
		{"GET", "/session", guess, nil, 401, "session.resolve", "GET /session"},
		{"GET", "/login", "x", nil, 200, "session.resolve", "GET /login"},
		{"GET", authorize("nobody", "https://shop.example/cb"), "", nil, 401, "token.authorize", "client:nobody"},
		{"GET", authorize("shop", "https://evil.example/cb"), "", nil, 400, "token.authorize", "client:shop"},
		{"GET", "/oauth2/authorize?%zz", "", nil, 400, "token.authorize", ""},
		{"POST", "/oauth2/revoke", "", url.Values{"client_id": {"nobody"}, "token": {"x"}}, 401, "token.revoke", "client:nobody"},
		{"POST", "/oauth2/revoke", "", url.Values{"client_id": {"shop"}, "token": {"x"}}, 200, "token.revoke", "client:shop"},
	} {
		b := h.browser()
		b.cookie = tc.cookie
		if got := b.do(tc.method, tc.path, tc.form).StatusCode; got != tc.status {
			t.Errorf("%s %s: %d, want %d", tc.method, tc.path, got, tc.status)
		}
		list := h.events(tc.action)
		if len(list) == 0 {
			t.Errorf("%s %s left no event", tc.method, tc.path)
			continue
		}
		if e := list[len(list)-1]; e.Class != audit.ClassAuthentication || e.Outcome != audit.Refused || e.Resource != tc.resource || e.Peer != "192.0.2.1:4711" {
			t.Errorf("%s %s was recorded as %+v", tc.method, tc.path, e)
		}
	}
	before := len(h.events("session.resolve"))
	h.browser().do("GET", "/session", nil)
	if got := len(h.events("session.resolve")); got != before {
		t.Error("a browser without a cookie was taken for a guess")
	}
}

// TestNoRecordNoSession: what cannot be recorded does not happen.
func TestNoRecordNoSession(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	b := h.browser()
	h.as("service/payments")
	h.as("gateway/edge")
	h.setDeaf(true)
	if got := b.login("ann", password); got != http.StatusServiceUnavailable || b.cookie != "" {
		t.Errorf("login: %d, cookie %q; want 503", got, b.cookie)
	}
	if err := h.call("service/payments", http.MethodGet, wire.PathSecret+"key", nil, nil); statusOf(err) != http.StatusServiceUnavailable {
		t.Errorf("secret: %v, want 503", err)
	}
	h.setDeaf(false)
	ended, err := h.db.EndSessions(t.Context(), "user:ann")
	must(t, err)
	if len(ended) != 0 {
		t.Errorf("%d sessions stayed behind", len(ended))
	}
}

// TestPublicIsTheGateways: a service cannot log people in or stand in for them.
func TestPublicIsTheGateways(t *testing.T) {
	h := open(t, "")
	for _, path := range []string{"/login", "/session", "/oauth2/jwks", "/nothing"} {
		if err := h.call("service/orders", http.MethodGet, path, nil, nil); statusOf(err) != http.StatusForbidden {
			t.Errorf("GET %s as a service: %v, want 403", path, err)
		}
	}
	if err := h.call("service/orders", http.MethodPost, wire.PathResolve, wire.ResolveRequest{Type: wire.TypeSession, Value: "x"}, nil); statusOf(err) != http.StatusForbidden {
		t.Errorf("resolve as a service: %v, want 403", err)
	}
	if got := h.browser().do(http.MethodGet, "/nothing", nil).StatusCode; got != http.StatusNotFound {
		t.Errorf("GET /nothing: %d, want 404", got)
	}
}

// TestClientLogin walks a client's whole life: authorize, log in, code, token,
// refresh, revoke, as the gateway passes it on.
func TestClientLogin(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	h.mustAdmin(wire.AdminClients, wire.Client{ID: "shop", Principal: "merchant", Redirects: []string{"http://127.0.0.1/cb"}}, nil)
	b := h.browser()
	var meta map[string]any
	must(t, json.NewDecoder(b.do(http.MethodGet, "/.well-known/oauth-authorization-server", nil).Body).Decode(&meta))
	if meta["issuer"] != issuer || meta["token_endpoint"] != issuer+"oauth2/token" {
		t.Errorf("metadata is %v", meta)
	}
	const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	sum := sha256.Sum256([]byte(verifier))
	authorize := "/oauth2/authorize?" + url.Values{
		"response_type": {"code"}, "client_id": {"shop"}, "redirect_uri": {"http://127.0.0.1:5555/cb"}, "state": {"s"},
		"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
	}.Encode()
	login, err := url.Parse(b.do(http.MethodGet, authorize, nil).Header.Get("Location"))
	must(t, err)
	if login.Path != "/login" {
		t.Fatalf("sent to %s, want /login", login)
	}
	cont := b.do(http.MethodPost, "/login", url.Values{"username": {"ann"}, "password": {password}, "next": {login.Query().Get("next")}})
	if text := body(t, cont); cont.StatusCode != http.StatusOK || !strings.Contains(text, `http-equiv="refresh"`) || !strings.Contains(text, "/oauth2/authorize?") {
		t.Errorf("after login: %d\n%s", cont.StatusCode, text)
	}
	back, err := url.Parse(b.do(http.MethodGet, authorize, nil).Header.Get("Location"))
	must(t, err)
	if back.Host != "127.0.0.1:5555" || back.Query().Get("iss") != issuer || back.Query().Get("state") != "s" {
		t.Fatalf("sent to %s", back)
	}
	grant := func(form url.Values) (int, map[string]any) {
		res := b.do(http.MethodPost, wire.PathToken, form)
		var out map[string]any
		must(t, json.NewDecoder(res.Body).Decode(&out))
		return res.StatusCode, out
	}
	status, got := grant(url.Values{"grant_type": {"authorization_code"}, "client_id": {"shop"}, "redirect_uri": {"http://127.0.0.1:5555/cb"}, "code": {back.Query().Get("code")}, "code_verifier": {verifier}})
	if status != http.StatusOK || got["token_type"] != "Bearer" {
		t.Fatalf("token endpoint: %d %v", status, got)
	}
	set, err := jwt.ParseForeignKeySet([]byte(body(t, b.do(http.MethodGet, "/oauth2/jwks", nil))), jwt.ES256)
	must(t, err)
	v := jwt.NewEdge(jwt.EdgeOptions{Keys: func() *jwt.KeySet { return set }, Issuer: issuer, Audience: issuer})
	claims, err := v.Verify(got["access_token"].(string))
	must(t, err)
	if p := claims.Principal(); p.Subject != "user:ann" || p.Client != "shop" || !p.HasRole("customer") || p.Tenant != "acme" {
		t.Errorf("token says %+v", p)
	}
	if r, err := h.resolve(wire.TypeAccess, got["access_token"].(string)); err != nil || r.Principal.Subject != "user:ann" {
		t.Errorf("token resolves to %+v, %v", r, err)
	}
	status, next := grant(url.Values{"grant_type": {"refresh_token"}, "client_id": {"shop"}, "refresh_token": {got["refresh_token"].(string)}})
	if status != http.StatusOK {
		t.Fatalf("refresh: %d %v", status, next)
	}
	if res := b.do(http.MethodPost, "/oauth2/revoke", url.Values{"client_id": {"shop"}, "token": {next["refresh_token"].(string)}}); res.StatusCode != http.StatusOK {
		t.Errorf("revoke: %d", res.StatusCode)
	}
	status, out := grant(url.Values{"grant_type": {"refresh_token"}, "client_id": {"shop"}, "refresh_token": {next["refresh_token"].(string)}})
	if status != http.StatusBadRequest || out["error"] != "invalid_grant" {
		t.Errorf("after revocation: %d %v, want invalid_grant", status, out)
	}
	h.wantEvent("token.grant", audit.Refused, "token.exchange", "")
}
