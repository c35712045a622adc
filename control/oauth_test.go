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

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/control"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/store/sqlite"
)

const (
	shopBack     = "https://shop.example/cb"
	shopVerifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)

// shop registers a public client and has ann signed in.
func (h *house) shop() *browser {
	h.t.Helper()
	h.addUser("ann", "customer")
	h.mustAdmin(wire.AdminClients, wire.Client{ID: "shop", Principal: "customer", Redirects: []string{shopBack}}, nil)
	b := h.browser()
	b.login("ann", password)
	return b
}

func authorizePath(change ...string) string {
	sum := sha256.Sum256([]byte(shopVerifier))
	q := url.Values{
		"response_type": {"code"}, "client_id": {"shop"}, "redirect_uri": {shopBack}, "scope": {"openid"},
		"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
	}
	for i := 0; i+1 < len(change); i += 2 {
		q.Set(change[i], change[i+1])
	}
	return "/oauth2/authorize?" + q.Encode()
}

// location is where a response leads to.
func location(t testing.TB, res *http.Response) *url.URL {
	t.Helper()
	if res.StatusCode != http.StatusSeeOther { // RFC 9700 section 4.12: 307 would repeat what was posted
		t.Fatalf("answered %d, want 303", res.StatusCode)
	}
	u, err := url.Parse(res.Header.Get("Location"))
	must(t, err)
	return u
}

// tokens gets the client's tokens for ann.
func (b *browser) tokens() map[string]string {
	b.h.t.Helper()
	back := location(b.h.t, b.do(http.MethodGet, authorizePath(), nil))
	res := b.do(http.MethodPost, wire.PathToken, url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"shop"}, "redirect_uri": {shopBack}, "code": {back.Query().Get("code")}, "code_verifier": {shopVerifier},
	})
	if res.StatusCode != http.StatusOK || res.Header.Get("Cache-Control") != "no-store" {
		b.h.t.Fatalf("token endpoint: %d, Cache-Control %q: %s", res.StatusCode, res.Header.Get("Cache-Control"), body(b.h.t, res))
	}
	var out map[string]any
	must(b.h.t, json.NewDecoder(res.Body).Decode(&out))
	texts := map[string]string{}
	for name, value := range out {
		if text, ok := value.(string); ok {
			texts[name] = text
		}
	}
	return texts
}

// TestAuthorizeOverHTTP: what RFC 9700 asks of the endpoint itself.
func TestAuthorizeOverHTTP(t *testing.T) {
	h := open(t, "")
	b := h.shop()
	res := b.do(http.MethodGet, authorizePath(), nil, "Origin", "https://shop.example")
	if to := location(t, res); to.Host != "shop.example" || to.Query().Get("code") == "" || to.Query().Get("iss") != issuer {
		t.Errorf("sent to %s", to)
	}
	if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") { // section 4.16
		t.Errorf("CSP is %q", csp)
	}
	for name := range res.Header {
		if strings.HasPrefix(name, "Access-Control-") { // section 2.1: no CORS here
			t.Errorf("it has the header %s", name)
		}
	}
	nobody := h.browser()
	if to := location(t, nobody.do(http.MethodGet, authorizePath("prompt", "none"), nil)); to.Host != "shop.example" || to.Query().Get("error") != "login_required" {
		t.Errorf("prompt=none: sent to %s", to)
	}
	if to := location(t, nobody.do(http.MethodGet, authorizePath("prompt", "login"), nil)); to.Path != "/login" || !strings.Contains(to.Query().Get("next"), "max_age=60") || strings.Contains(to.Query().Get("next"), "prompt") {
		t.Errorf("prompt=login, nobody there: sent to %s", to)
	}
	to := location(t, b.do(http.MethodGet, authorizePath("prompt", "login", "acr_values", "aal2"), nil))
	if to.Path != "/login/step-up" || to.Query().Get("acr") != "aal2" || to.Query().Get("max_age") != "60" || !strings.HasPrefix(to.Query().Get("next"), "/oauth2/authorize?") {
		t.Errorf("prompt=login: sent to %s", to)
	}
	if res := nobody.do(http.MethodGet, authorizePath("redirect_uri", "https://evil.example/cb"), nil); res.StatusCode != http.StatusBadRequest || res.Header.Get("Location") != "" {
		t.Errorf("an unknown address: %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	h.wantEvent("token.authorize", audit.Refused, "token.exchange", "")
}

func TestUserInfoOverHTTP(t *testing.T) {
	h := open(t, "")
	b := h.shop()
	g := b.tokens()
	var info map[string]any
	must(t, json.NewDecoder(b.do(http.MethodGet, "/oauth2/userinfo", nil, "Authorization", "Bearer "+g["access_token"]).Body).Decode(&info))
	if diff := cmp.Diff(map[string]any{"sub": "user:ann", "name": "ann", "acr": "aal1"}, info); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for _, tc := range []struct{ authorization, challenge string }{
		{"Bearer " + g["id_token"], `Bearer error="invalid_token"`},
		{"", `Bearer error="invalid_token"`},
		{"DPoP " + g["access_token"], `DPoP error="invalid_token", algs="ES256 EdDSA Ed25519"`},
	} {
		res := b.do(http.MethodGet, "/oauth2/userinfo", nil, "Authorization", tc.authorization)
		if res.StatusCode != http.StatusUnauthorized || res.Header.Get("WWW-Authenticate") != tc.challenge {
			t.Errorf("%.20s: %d %q, want %q", tc.authorization, res.StatusCode, res.Header.Get("WWW-Authenticate"), tc.challenge)
		}
	}
	res := b.do(http.MethodPost, wire.PathToken, url.Values{"grant_type": {"refresh_token"}, "client_id": {"shop"}, "refresh_token": {g["refresh_token"]}}, "DPoP", "x.y.z")
	if res.StatusCode != http.StatusBadRequest || res.Header.Get("DPoP-Nonce") == "" {
		t.Errorf("a bad proof: %d, nonce %q", res.StatusCode, res.Header.Get("DPoP-Nonce"))
	}
}

// TestServiceIntrospectsAndActsAsItself: over mutual TLS a service sees its own
// internal tokens, word for word, and gets a token of its own.
func TestServiceIntrospectsAndActsAsItself(t *testing.T) {
	h := open(t, "")
	b := h.shop()
	h.mustAdmin(wire.AdminClients, wire.Client{
		ID: "orders", Principal: "merchant", Auth: "tls_client_auth", Identity: h.sys.ServiceID("orders"), Grants: []string{"client_credentials"}, Scopes: []string{"orders:read"},
	}, nil)
	post := func(as, path string, form url.Values) (int, map[string]any) {
		t.Helper()
		res, err := h.as(as).PostForm(h.url(path), form)
		must(t, err)
		defer res.Body.Close()
		var out map[string]any
		must(t, json.NewDecoder(res.Body).Decode(&out))
		return res.StatusCode, out
	}
	status, x := post("gateway/edge", wire.PathToken, url.Values{
		"grant_type": {wire.GrantExchange}, "audience": {h.sys.ServiceID("orders")}, "subject_token_type": {wire.TypeSession}, "subject_token": {b.cookie},
	})
	text, _ := x["access_token"].(string)
	if status != http.StatusOK || text == "" {
		t.Fatalf("exchange: %d %v", status, x)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	must(t, err)
	var want map[string]any
	must(t, json.Unmarshal(raw, &want))
	want["active"], want["token_type"] = true, "Bearer"
	if status, got := post("service/orders", wire.PathIntrospect, url.Values{"token": {text}}); status != http.StatusOK || cmp.Diff(want, got) != "" {
		t.Errorf("introspection: %d, -claims +got\n%s", status, cmp.Diff(want, got))
	}
	for _, other := range []string{"service/payments", "gateway/edge"} {
		if status, got := post(other, wire.PathIntrospect, url.Values{"token": {text}}); status != http.StatusOK || len(got) != 1 || got["active"] != false {
			t.Errorf("%s sees %v", other, got)
		}
	}
	res := b.do(http.MethodPost, wire.PathIntrospect, url.Values{"token": {text}, "client_id": {"shop"}})
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a public client introspects: %d", res.StatusCode)
	}
	h.wantEvent("token.introspect", audit.Refused, "token.client_auth", "")

	own := url.Values{"grant_type": {"client_credentials"}, "client_id": {"orders"}}
	if status, got := post("service/orders", wire.PathToken, own); status != http.StatusOK || got["expires_in"] != 300.0 || got["scope"] != "orders:read" {
		t.Errorf("a token of its own: %d %v", status, got)
	}
	if status, got := post("service/payments", wire.PathToken, own); status != http.StatusUnauthorized || got["error"] != "invalid_client" {
		t.Errorf("another service as this client: %d %v", status, got)
	}
	if res := b.do(http.MethodPost, wire.PathToken, own); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("the same through the gateway: %d", res.StatusCode)
	}
}

// TestKeysReachThePlanes: keys rotate and reach the planes; a revoked one takes its
// tokens with it, everywhere.
func TestKeysReachThePlanes(t *testing.T) {
	h := open(t, "")
	b := h.shop()
	g := b.tokens()
	updates := h.watch("service/orders")
	before := next(t, updates, "keys").Keys
	must(t, h.plane.RotateKeys(t.Context()))
	after := next(t, updates, "keys").Keys
	if string(before.Internal) == string(after.Internal) || string(before.Edge) == string(after.Edge) {
		t.Error("planes got the same keys again")
	}
	h.wantEvent("key.rotate", audit.Allowed, "authn.jwt", "")
	if _, err := h.resolve(wire.TypeAccess, g["access_token"]); err != nil {
		t.Errorf("a token from before the rotation: %v", err)
	}
	if n := len(h.plane.SigningKeys()); n != 8 {
		t.Errorf("%d keys, want a pending one beside each of four", n)
	}
	var active string
	for _, k := range h.plane.SigningKeys() {
		if k.Ring == "edge" && k.State == jwt.KeyActive {
			active = k.ID
		}
	}
	h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: "kid", ID: active}, nil)
	if keys := next(t, updates, "keys").Keys; strings.Contains(string(keys.Edge), active) {
		t.Error("planes still get the revoked key")
	}
	if v := next(t, updates, "revoked").Revoked; len(v) != 1 || v[0].Kind != "kid" || v[0].ID != active {
		t.Errorf("planes hear of %+v", v)
	}
	if _, err := h.resolve(wire.TypeAccess, g["access_token"]); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("a token of the revoked key: %v", err)
	}
	fresh := b.tokens()
	if _, err := h.resolve(wire.TypeAccess, fresh["access_token"]); err != nil {
		t.Errorf("a token of its successor: %v", err)
	}
	h.stop()
	h.start()
	if _, err := h.resolve(wire.TypeAccess, fresh["access_token"]); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if err := h.plane.RevokeKey(t.Context(), "nobody"); err == nil {
		t.Error("an unknown key was revoked")
	}
}

// TestClientsLogout: any site can send a browser here, so only a client that
// shows an ID token of this very session ends it unasked.
func TestClientsLogout(t *testing.T) {
	h := open(t, "")
	b := h.shop()
	g := b.tokens()
	out := func(b *browser, q url.Values) *http.Response {
		return b.do(http.MethodGet, "/oauth2/logout?"+q.Encode(), nil)
	}

	page := out(b, url.Values{"client_id": {"shop"}, "post_logout_redirect_uri": {shopBack}, "state": {`"><b>`}})
	text := body(t, page)
	if page.StatusCode != http.StatusOK || !strings.Contains(text, `action="/oauth2/logout"`) || strings.Contains(text, `"><b>`) || b.cookie == "" {
		t.Fatalf("without hint: %d, cookie %q\n%s", page.StatusCode, b.cookie, text)
	}
	if res := out(b, url.Values{"client_id": {"shop"}, "post_logout_redirect_uri": {"https://evil.example/"}}); res.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown address: %d", res.StatusCode)
	}
	other := h.browser()
	other.login("ann", password)
	if res := out(other, url.Values{"id_token_hint": {g["id_token"]}}); res.StatusCode != http.StatusOK || other.cookie == "" {
		t.Errorf("a hint of another session: %d", res.StatusCode)
	}
	to := location(t, out(b, url.Values{"id_token_hint": {g["id_token"]}, "post_logout_redirect_uri": {shopBack}, "state": {"bye"}}))
	if to.String() != shopBack+"?state=bye" || b.cookie != "" {
		t.Errorf("sent to %s, cookie %q", to, b.cookie)
	}
	h.wantEvent("session.logout", audit.Allowed, "authn.session", "user:ann")
	if _, err := h.resolve(wire.TypeAccess, g["access_token"]); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("the client's token outlives the session: %v", err)
	}
	if _, err := h.resolve(wire.TypeSession, other.cookie); err != nil {
		t.Errorf("the other session ended too: %v", err)
	}
	form := url.Values{"client_id": {"shop"}, "post_logout_redirect_uri": {shopBack}, "confirmed": {"yes"}}
	if res := other.do(http.MethodPost, "/oauth2/logout", form, "Sec-Fetch-Site", "cross-site"); other.cookie == "" {
		t.Errorf("another site confirmed for the person: %d", res.StatusCode)
	}
	res := other.do(http.MethodPost, "/oauth2/logout", form, "Sec-Fetch-Site", "same-origin")
	if text := body(t, res); res.StatusCode != http.StatusOK || other.cookie != "" || !strings.Contains(text, shopBack) {
		t.Errorf("confirmed: %d, cookie %q\n%s", res.StatusCode, other.cookie, text)
	}
}

// single puts the one key of a ring in the ring's place, as it was kept before
// there were rings. The plane is stopped.
func (h *house) single(name string) {
	h.t.Helper()
	ctx, aad := h.t.Context(), []byte("rampart-sealed-v1\n"+name)
	db, err := sqlite.Open(ctx, h.state.Path("control.db"))
	must(h.t, err)
	defer db.Close()
	kek, err := embedded.OpenKEK(h.state.Path("kek"))
	must(h.t, err)
	sealed, err := db.Sealed(ctx, name)
	must(h.t, err)
	plain, err := control.Opened(ctx, kek, sealed, aad)
	must(h.t, err)
	var ring struct {
		Keys []struct{ PKCS8 []byte }
	}
	must(h.t, json.Unmarshal(plain, &ring))
	sealed, err = kek.Wrap(ctx, ring.Keys[0].PKCS8, aad)
	must(h.t, err)
	must(h.t, db.ReplaceSealed(ctx, name, sealed))
}

// TestKeysFromBeforeTheRings: a database that has single keys goes on with them.
func TestKeysFromBeforeTheRings(t *testing.T) {
	h := open(t, "")
	b := h.shop()
	g := b.tokens()
	h.stop()
	h.single("key:edge")
	h.start()
	if _, err := h.resolve(wire.TypeAccess, g["access_token"]); err != nil {
		t.Errorf("a token of the single key: %v", err)
	}
	must(t, h.plane.RotateKeys(t.Context()))
	h.stop()
	h.start()
	if _, err := h.resolve(wire.TypeAccess, g["access_token"]); err != nil {
		t.Errorf("after its ring was stored: %v", err)
	}
}

func TestMetadataOverHTTP(t *testing.T) {
	h := open(t, "")
	b := h.browser()
	read := func(path string) map[string]any {
		res := b.do(http.MethodGet, path, nil)
		var out map[string]any
		must(t, json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&out))
		return out
	}
	oauth, oidc := read("/.well-known/oauth-authorization-server"), read("/.well-known/openid-configuration")
	if diff := cmp.Diff(oauth, oidc); diff != "" {
		t.Errorf("two documents that differ\n%s", diff)
	}
	if read("/.well-known/oauth-protected-resource")["resource"] != issuer {
		t.Error("the resource is not the issuer's")
	}
	var set struct{ Keys []struct{ Alg string } }
	must(t, json.NewDecoder(b.do(http.MethodGet, "/oauth2/jwks", nil).Body).Decode(&set))
	var algs []string
	for _, k := range set.Keys {
		algs = append(algs, k.Alg)
	}
	if slices.Sort(algs); !slices.Equal(algs, []string{"ES256", "RS256"}) {
		t.Errorf("published keys are %v", algs)
	}
}
