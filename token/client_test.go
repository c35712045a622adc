package token_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

var b64 = base64.RawURLEncoding

// key is a client's own, made without any code of ours.
type key struct {
	t    testing.TB
	priv *ecdsa.PrivateKey
	kid  string
}

func newKey(t testing.TB, kid string) key {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key{t, priv, kid}
}

// jwk is the public key (RFC 7518 section 6.2.1), members in the order of a
// thumbprint.
func (k key) jwk() map[string]string {
	point, err := k.priv.PublicKey.Bytes()
	if err != nil {
		k.t.Fatal(err)
	}
	return map[string]string{"crv": "P-256", "kty": "EC", "x": b64.EncodeToString(point[1:33]), "y": b64.EncodeToString(point[33:])}
}

func (k key) jwks() []byte {
	jwk := k.jwk()
	jwk["kid"], jwk["alg"], jwk["use"] = k.kid, "ES256", "sig"
	return k.json(map[string]any{"keys": []any{jwk}})
}

// jkt is the RFC 7638 thumbprint: encoding/json sorts a map's members.
func (k key) jkt() string {
	sum := sha256.Sum256(k.json(k.jwk()))
	return b64.EncodeToString(sum[:])
}

func (k key) json(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		k.t.Fatal(err)
	}
	return b
}

func (k key) sign(header, claims map[string]any) string {
	k.t.Helper()
	text := b64.EncodeToString(k.json(header)) + "." + b64.EncodeToString(k.json(claims))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, k.priv, sum[:])
	if err != nil {
		k.t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + b64.EncodeToString(sig)
}

// proof is a DPoP proof for the token endpoint.
func (k key) proof(h *house, change ...func(map[string]any)) string {
	claims := map[string]any{"jti": rand.Text(), "htm": "POST", "htu": issuer + "oauth2/token", "iat": h.clock.Unix(), "nonce": h.Nonce()}
	for _, f := range change {
		f(claims)
	}
	return k.sign(map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": k.jwk()}, claims)
}

// assertion is what a client proves itself with.
func (k key) assertion(h *house, client string, change ...func(map[string]any)) string {
	claims := map[string]any{"iss": client, "sub": client, "aud": issuer, "jti": rand.Text(), "iat": h.clock.Unix(), "exp": h.clock.Unix() + 60}
	for _, f := range change {
		f(claims)
	}
	return k.sign(map[string]any{"typ": "JWT", "alg": "ES256", "kid": k.kid}, claims)
}

// set changes one claim.
func set(name string, value any) func(map[string]any) {
	return func(claims map[string]any) { claims[name] = value }
}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// with adds an assertion to a form.
func with(form url.Values, assertion string) url.Values {
	form.Set("client_assertion_type", assertionType)
	form.Set("client_assertion", assertion)
	return form
}

func (h *house) register(clients ...token.Client) {
	h.t.Helper()
	for _, c := range clients {
		c.Principal = "users"
		if err := h.db.PutClient(h.t.Context(), c); err != nil {
			h.t.Fatal(err)
		}
	}
}

func asItself() url.Values { return url.Values{"grant_type": {"client_credentials"}} }

// edge verifies a client's token as the gateway would, with what was proved.
func (h *house) edge(text string, proved ...jwt.Confirmation) (jwt.EdgeClaims, error) {
	h.t.Helper()
	set, err := jwt.ParseKeySet(h.Keys().Edge)
	if err != nil {
		h.t.Fatal(err)
	}
	v := jwt.NewEdge(jwt.EdgeOptions{Keys: func() *jwt.KeySet { return set }, Issuer: issuer, Audience: issuer, Now: h.now})
	if len(proved) > 0 {
		return v.VerifyBound(text, proved[0])
	}
	return v.Verify(text)
}

func TestPrivateKeyJWT(t *testing.T) {
	h := newHouse(t, "")
	own, other := newKey(t, "k1"), newKey(t, "k1")
	h.register(
		token.Client{ID: "batch", Auth: "private_key_jwt", Keys: own.jwks(), Grants: []string{"client_credentials"}, Scopes: []string{"orders:read", "orders:write"}},
		token.Client{ID: "else", Auth: "private_key_jwt", Keys: other.jwks(), Grants: []string{"client_credentials"}},
		token.Client{ID: "off", Auth: "private_key_jwt", Keys: own.jwks(), Grants: []string{"client_credentials"}, Disabled: true},
		token.Client{ID: "service", Auth: "tls_client_auth", Identity: h.sys.ServiceID("a"), Grants: []string{"client_credentials"}},
	)
	replayed := own.assertion(h, "batch")
	for _, tc := range []struct {
		name string
		form url.Values
		code string
	}{
		{"for the issuer", with(asItself(), replayed), ""},
		{"the same again", with(asItself(), replayed), "invalid_client"},
		{"for the token endpoint", with(asItself(), own.assertion(h, "batch", set("aud", issuer+"oauth2/token"))), ""},
		{"with its client_id", with(url.Values{"grant_type": {"client_credentials"}, "client_id": {"batch"}}, own.assertion(h, "batch")), ""},
		{"with another's client_id", with(url.Values{"grant_type": {"client_credentials"}, "client_id": {"else"}}, own.assertion(h, "batch")), "invalid_client"},
		{"with another's key", with(asItself(), other.assertion(h, "batch")), "invalid_client"},
		{"for another server", with(asItself(), own.assertion(h, "batch", set("aud", "https://elsewhere.example/"))), "invalid_client"},
		{"for two servers", with(asItself(), own.assertion(h, "batch", set("aud", []string{issuer, "https://elsewhere.example/"}))), "invalid_client"},
		{"expired", with(asItself(), own.assertion(h, "batch", set("exp", h.clock.Unix()-60))), "invalid_client"},
		{"good for an hour", with(asItself(), own.assertion(h, "batch", set("exp", h.clock.Unix()+3600))), "invalid_client"},
		{"without jti", with(asItself(), own.assertion(h, "batch", func(c map[string]any) { delete(c, "jti") })), "invalid_client"},
		{"issued by another than its subject", with(asItself(), own.assertion(h, "batch", set("iss", "else"))), "invalid_client"},
		{"of an unknown client", with(asItself(), own.assertion(h, "nobody")), "invalid_client"},
		{"of a disabled client", with(asItself(), own.assertion(h, "off")), "invalid_client"},
		{"of a public client", with(asItself(), own.assertion(h, "shop")), "invalid_client"},
		{"of a client with another way", with(asItself(), own.assertion(h, "service")), "invalid_client"},
		{"no assertion", url.Values{"grant_type": {"client_credentials"}, "client_id": {"batch"}}, "invalid_client"},
		{"a secret beside it", with(url.Values{"grant_type": {"client_credentials"}, "client_secret": {"x"}}, own.assertion(h, "batch")), "invalid_client"},
		{"another type", url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {"urn:x"}, "client_assertion": {own.assertion(h, "batch")}}, "invalid_client"},
		{"a grant it is not registered for", with(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}, own.assertion(h, "batch")), "unauthorized_client"},
		{"less scope", with(url.Values{"grant_type": {"client_credentials"}, "scope": {"orders:read"}}, own.assertion(h, "batch")), ""},
		{"more scope", with(url.Values{"grant_type": {"client_credentials"}, "scope": {"mail:send"}}, own.assertion(h, "batch")), "invalid_scope"},
		{"a person's scope", with(url.Values{"grant_type": {"client_credentials"}, "scope": {"openid"}}, own.assertion(h, "batch")), "invalid_scope"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, err := h.grant(tc.form)
			if tc.code != "" {
				if token.CodeOf(err) != tc.code || g != (token.Granted{}) {
					t.Fatalf("%v, want %s", err, tc.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			claims, err := h.edge(g.AccessToken)
			if err != nil || claims.Subject != "client:batch" || claims.Client != "batch" || claims.Expires-claims.IssuedAt != 300 || g.RefreshToken != "" {
				t.Errorf("granted %+v, %v", claims, err)
			}
			if want := tc.form.Get("scope"); want != "" && g.Scope != want || want == "" && g.Scope != "orders:read orders:write" {
				t.Errorf("scope is %q", g.Scope)
			}
		})
	}
}

// TestTLSClientAuth: a client that is a service proves itself by its SVID, and
// what it gets is good with that SVID alone.
func TestTLSClientAuth(t *testing.T) {
	h := newHouse(t, "")
	h.register(token.Client{ID: "service", Auth: "tls_client_auth", Identity: h.sys.ServiceID("a"), Grants: []string{"client_credentials"}, Scopes: []string{"orders:read"}})
	form := asItself()
	form.Set("client_id", "service")
	ask := func(caller *token.Caller) (token.Granted, error) {
		return h.Grant(t.Context(), token.Request{Form: form, Caller: caller, Peer: "127.0.0.1:1"})
	}
	a, b := h.caller("a"), h.caller("b")
	g, err := ask(&a)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := h.edge(g.AccessToken, jwt.Confirm(a.Fingerprint))
	if err != nil || claims.Subject != "client:service" || g.ExpiresIn != 300 {
		t.Errorf("%+v, %v", claims, err)
	}
	if _, err := h.edge(g.AccessToken, jwt.Confirm(b.Fingerprint)); jwt.Rule(err) != "cnf" {
		t.Errorf("with another certificate: %v", err)
	}
	if _, err := h.edge(g.AccessToken); jwt.Rule(err) != "cnf" {
		t.Errorf("as a bearer: %v", err)
	}
	// As actor_token of an exchange it says what the certificate says anyway.
	forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	for name, tc := range map[string]struct {
		caller token.Caller
		text   string
		code   string
	}{
		"the caller's own": {a, g.AccessToken, ""},
		"another's":        {b, g.AccessToken, "invalid_request"},
		"a person's":       {a, h.login("shop").AccessToken, "invalid_request"},
	} {
		form := h.asked(wire.TypeJWT, forA, "b")
		if tc.caller.Name == "b" {
			form = h.asked(wire.TypeJWT, forA, "c")
		}
		form.Set("actor_token", tc.text)
		form.Set("actor_token_type", wire.TypeAccess)
		if _, err := h.Exchange(t.Context(), tc.caller, form); (err == nil) != (tc.code == "") || err != nil && token.CodeOf(err) != tc.code {
			t.Errorf("actor_token %s: %v, want %q", name, err, tc.code)
		}
	}

	if _, err := ask(&b); token.CodeOf(err) != "invalid_client" {
		t.Errorf("with another service's certificate: %v", err)
	}
	if _, err := ask(nil); token.CodeOf(err) != "invalid_client" {
		t.Errorf("through the gateway: %v", err)
	}
	h.disable("a")
	if _, err := ask(&a); token.CodeOf(err) != "invalid_client" {
		t.Errorf("after the service was disabled: %v", err)
	}
}

func TestPublicClientIsNeverItself(t *testing.T) {
	h := newHouse(t, "")
	h.register(token.Client{ID: "app", Grants: []string{"client_credentials"}})
	form := asItself()
	form.Set("client_id", "app")
	if _, err := h.grant(form); token.CodeOf(err) != "unauthorized_client" {
		t.Errorf("%v, want unauthorized_client", err)
	}
}

// TestDPoP: tokens are bound to the key that was proved, at every step.
func TestDPoP(t *testing.T) {
	h := newHouse(t, "")
	h.register(token.Client{ID: "bound", Redirects: []string{"https://bound.example/cb"}, DPoP: true})
	mine, thiefs := newKey(t, ""), newKey(t, "")
	const redirect = "https://bound.example/cb"
	code := func(change ...func(url.Values)) url.Values {
		q := authorization("bound", redirect)
		for _, f := range change {
			f(q)
		}
		back, err := h.authorize(q)
		if err != nil {
			t.Fatal(err)
		}
		return url.Values{
			"grant_type": {"authorization_code"}, "client_id": {"bound"}, "redirect_uri": {redirect}, "code": {back.Get("code")}, "code_verifier": {verifier},
		}
	}
	form := code(func(q url.Values) { q.Set("dpop_jkt", mine.jkt()) })
	used := mine.proof(h)
	refused := func(name, want string, form url.Values, proofs ...string) {
		t.Helper()
		if _, err := h.grant(form, proofs...); token.CodeOf(err) != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	refused("no proof", "invalid_dpop_proof", form)
	refused("no nonce", "use_dpop_nonce", form, mine.proof(h, func(c map[string]any) { delete(c, "nonce") }))
	refused("another's nonce", "use_dpop_nonce", form, mine.proof(h, set("nonce", "AAAAAAAAAAAAAAAAAAAAAA")))
	refused("two proofs", "invalid_dpop_proof", form, mine.proof(h), mine.proof(h))
	refused("another method", "invalid_dpop_proof", form, mine.proof(h, set("htm", "GET")))
	refused("another address", "invalid_dpop_proof", form, mine.proof(h, set("htu", issuer+"oauth2/userinfo")))
	refused("an old proof", "invalid_dpop_proof", form, mine.proof(h, set("iat", h.clock.Unix()-61)))
	refused("another key than the code's", "invalid_grant", form, thiefs.proof(h))
	g, err := h.grant(form, used)
	if err != nil {
		t.Fatalf("a failed try burned the code: %v", err)
	}
	if g.TokenType != "DPoP" {
		t.Errorf("token_type is %s", g.TokenType)
	}
	if _, err := h.edge(g.AccessToken, jwt.Confirmation{JKT: mine.jkt()}); err != nil {
		t.Errorf("with its key: %v", err)
	}
	if _, err := h.edge(g.AccessToken); jwt.Rule(err) != "cnf" {
		t.Errorf("as a bearer: %v", err)
	}

	again := func(text string) url.Values {
		return url.Values{"grant_type": {"refresh_token"}, "client_id": {"bound"}, "refresh_token": {text}}
	}
	refused("refresh with a proof that was used", "invalid_dpop_proof", again(g.RefreshToken), used)
	refused("refresh without proof", "invalid_dpop_proof", again(g.RefreshToken))
	refused("refresh with another key", "invalid_grant", again(g.RefreshToken), thiefs.proof(h))
	next, err := h.grant(again(g.RefreshToken), mine.proof(h))
	if err != nil {
		t.Fatalf("the thief's try ended the family: %v", err)
	}
	refused("the healing window with another key", "invalid_grant", again(g.RefreshToken), thiefs.proof(h))
	healed, err := h.grant(again(g.RefreshToken), mine.proof(h))
	if err != nil || healed.RefreshToken != next.RefreshToken {
		t.Errorf("the healing window with the same key: %v", err)
	}
	h.clock = h.clock.Add(time.Minute)
	refused("reuse by the thief", "invalid_grant", again(g.RefreshToken), thiefs.proof(h))
	if e := h.last(); e.Action == "token.theft" {
		t.Error("whoever lacks the key can end the family")
	}
	refused("reuse by the owner of the key", "invalid_grant", again(g.RefreshToken), mine.proof(h))
	if e := h.last(); e.Action != "token.theft" || e.Control != "token.rotation" {
		t.Errorf("recorded as %+v", e)
	}

	// An exchange at the gateway goes by the token; that its key was proved the
	// gateway has seen.
	g, err = h.grant(code(), mine.proof(h))
	if err != nil {
		t.Fatal(err)
	}
	h.mustExchange("edge", wire.TypeAccess, g.AccessToken, "a")
}

// TestConfidentialRefresh: a client that proves itself each time keeps its one
// refresh token; nobody else can use it, and it dies of idleness all the same.
func TestConfidentialRefresh(t *testing.T) {
	h := newHouse(t, "")
	own, other := newKey(t, "k"), newKey(t, "k")
	h.register(
		token.Client{ID: "web", Auth: "private_key_jwt", Keys: own.jwks(), Redirects: []string{"https://web.example/cb"}},
		token.Client{ID: "rival", Auth: "private_key_jwt", Keys: other.jwks(), Redirects: []string{"https://rival.example/cb"}},
	)
	back, err := h.authorize(authorization("web", "https://web.example/cb"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := h.grant(with(url.Values{
		"grant_type": {"authorization_code"}, "redirect_uri": {"https://web.example/cb"}, "code": {back.Get("code")}, "code_verifier": {verifier},
	}, own.assertion(h, "web")))
	if err != nil {
		t.Fatal(err)
	}
	form := func() url.Values {
		return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {g.RefreshToken}}
	}
	for range 4 {
		h.clock = h.clock.Add(6 * 24 * time.Hour)
		next, err := h.grant(with(form(), own.assertion(h, "web")))
		if err != nil || next.RefreshToken != g.RefreshToken {
			t.Fatalf("refresh token changed or refused: %v", err)
		}
	}
	if _, err := h.grant(with(form(), other.assertion(h, "rival"))); token.CodeOf(err) != "invalid_grant" {
		t.Errorf("another client: %v", err)
	}
	bare := form()
	bare.Set("client_id", "web")
	if _, err := h.grant(bare); token.CodeOf(err) != "invalid_client" {
		t.Errorf("the token alone: %v", err)
	}
	h.clock = h.clock.Add(7*24*time.Hour + time.Second)
	if _, err := h.grant(with(form(), own.assertion(h, "web"))); token.CodeOf(err) != "invalid_grant" {
		t.Errorf("an idle family: %v", err)
	}
}

func TestScopeOfAGrant(t *testing.T) {
	for _, tc := range []struct {
		name       string
		registered []string // nil: everything
		ask        string
		want, code string
		refresh    string // asked for at the refresh
		then       string
		refused    string
	}{
		{name: "nothing said, nothing registered: everything"},
		{name: "registered is the default", registered: []string{"orders:read"}, want: "orders:read", then: "orders:read"},
		{name: "less", registered: []string{"orders:*"}, ask: "orders:read", want: "orders:read", then: "orders:read"},
		{name: "more", registered: []string{"orders:read"}, ask: "orders:read orders:write", code: "invalid_scope"},
		{name: "a limit of its own", ask: "orders:read orders:write", want: "orders:read orders:write", refresh: "orders:read", then: "orders:read"},
		{name: "more at the refresh", ask: "orders:read", want: "orders:read", refresh: "orders:write", refused: "invalid_scope"},
		{name: "an ID token at the refresh that was not asked for", ask: "orders:read", want: "orders:read", refresh: "openid orders:read", refused: "invalid_scope"},
		{name: "openid alone grants nothing", ask: "openid", want: "openid", then: "openid"},
		{name: "openid is nobody's to register", registered: []string{"orders:read"}, ask: "openid orders:read", want: "openid orders:read", then: "openid orders:read"},
		{name: "offline_access must be registered", registered: []string{"orders:read"}, ask: "offline_access", code: "invalid_scope"},
		{name: "offline_access", registered: []string{"orders:read", "offline_access"}, ask: "offline_access orders:read", want: "offline_access orders:read", then: "offline_access orders:read"},
		{name: "no permission", ask: "admin", code: "invalid_scope"},
		{name: "a role is none", ask: "role:admin:x", code: "invalid_scope"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, "")
			h.register(token.Client{ID: "app", Redirects: []string{"https://app.example/cb"}, Scopes: tc.registered})
			q := authorization("app", "https://app.example/cb")
			if tc.ask != "" {
				q.Set("scope", tc.ask)
			}
			back, err := h.authorize(q)
			if err != nil || back.Get("error") != tc.code {
				t.Fatalf("%v, %v; want error %q", back, err, tc.code)
			}
			if tc.code != "" {
				return
			}
			g, err := h.redeem("app", "https://app.example/cb", back.Get("code"), verifier)
			if err != nil {
				t.Fatal(err)
			}
			h.holds(g, tc.want)
			form := url.Values{"grant_type": {"refresh_token"}, "client_id": {"app"}, "refresh_token": {g.RefreshToken}}
			if tc.refresh != "" {
				form.Set("scope", tc.refresh)
			}
			next, err := h.grant(form)
			if tc.refused != "" {
				if token.CodeOf(err) != tc.refused {
					t.Errorf("refresh: %v, want %s", err, tc.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			h.holds(next, tc.then)
		})
	}
}

// holds demands the scope of a grant, in the answer, in the token, and in the
// subject of an exchange.
func (h *house) holds(g token.Granted, want string) {
	h.t.Helper()
	claims, err := h.edge(g.AccessToken)
	if err != nil {
		h.t.Fatal(err)
	}
	if got := strings.Join(claims.Scope, " "); got != want || g.Scope != want {
		h.t.Errorf("token has scope %q, answer %q; want %q", got, g.Scope, want)
	}
	sub, err := h.AccessToken(h.t.Context(), g.AccessToken)
	if err != nil {
		h.t.Fatal(err)
	}
	var permissions []string
	if want != "" {
		permissions = slices.DeleteFunc(strings.Fields(want), func(s string) bool { return !strings.Contains(s, ":") })
	}
	if (sub.Principal.Scope == nil) != (want == "") || !slices.Equal(sub.Principal.Scope, permissions) {
		h.t.Errorf("the subject is limited to %#v, want %#v", sub.Principal.Scope, permissions)
	}
}

// TestOfflineAccess: a family ends with the browser session unless the client
// asked for more; what ends everything ends it too.
func TestOfflineAccess(t *testing.T) {
	for scope, survives := range map[string]bool{"orders:read": false, "offline_access orders:read": true} {
		h := newHouse(t, "")
		q := authorization("shop", "https://shop.example/cb")
		q.Set("scope", scope)
		back, err := h.authorize(q)
		if err != nil {
			t.Fatal(err)
		}
		g, err := h.redeem("shop", "https://shop.example/cb", back.Get("code"), verifier)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Revoke(t.Context(), "sid", "sid-ann"); err != nil {
			t.Fatal(err)
		}
		h.clock = h.clock.Add(2 * time.Second)
		next, err := h.refresh("shop", g.RefreshToken)
		if (err == nil) != survives {
			t.Errorf("%s: after the session's end: %v", scope, err)
		}
		if err != nil {
			continue
		}
		if _, err := h.Revoke(t.Context(), "sub", "user:ann"); err != nil {
			t.Fatal(err)
		}
		if _, err := h.refresh("shop", next.RefreshToken); err == nil {
			t.Errorf("%s: it survives the end of everything", scope)
		}
	}
}

// TestGrantCarriesAssurance: a client's token says how its person logged in,
// and so does what it is exchanged for.
func TestGrantCarriesAssurance(t *testing.T) {
	h := newHouse(t, "")
	ann := h.people["user:ann"]
	ann.ACR, ann.AMR = "aal2", []string{"pwd", "otp"}
	h.people["user:ann"] = ann
	g := h.login("shop")
	ann.ACR, ann.AMR = "", nil // facts know nothing of logins
	h.people["user:ann"] = ann
	g, err := h.refresh("shop", g.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.read(h.mustExchange("edge", wire.TypeAccess, g.AccessToken, "a"), "edge", "a")
	if err != nil || got.ACR != "aal2" || !slices.Equal(got.AMR, []string{"pwd", "otp"}) || got.AuthTime != h.started.Unix() {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestGrantIsOnRecord: each grant is an event before anybody holds it.
func TestGrantIsOnRecord(t *testing.T) {
	h := newHouse(t, "")
	h.login("shop")
	e := h.last()
	if e.Action != "token.grant" || e.Outcome != audit.Allowed || e.Subject != "user:ann" || e.Actor != "client:shop" || e.Detail["grant_type"] != "authorization_code" || e.Detail["client_auth"] != "none" {
		t.Errorf("recorded as %+v", e)
	}
}

func FuzzAssertion(f *testing.F) {
	h := newHouse(f, "")
	own := newKey(f, "k1")
	h.register(token.Client{ID: "batch", Auth: "private_key_jwt", Keys: own.jwks(), Grants: []string{"client_credentials"}})
	f.Add(own.assertion(h, "batch", set("exp", h.clock.Unix()-100)))
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := h.Grant(t.Context(), token.Request{Form: with(asItself(), text)}); err == nil {
			t.Errorf("%q was accepted", text)
		}
	})
}

// hash is the ath of an access token (RFC 9449 section 4.2).
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return b64.EncodeToString(sum[:])
}
