package token_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/token"
)

func TestPrivateKeyJWT(t *testing.T) {
	h := newHouse(t, "")
	own, other := newKey(t, "k1"), newKey(t, "k1")
	h.register(
		token.Client{ID: "batch", Auth: "private_key_jwt", Keys: own.jwks(), Grants: []string{"client_credentials"}, Scopes: []string{"orders:read", "orders:write"}, Roles: []string{"customer"}, Orgs: []string{"acme", "other"}},
		token.Client{ID: "else", Auth: "private_key_jwt", Keys: other.jwks(), Grants: []string{"client_credentials"}},
		token.Client{ID: "off", Auth: "private_key_jwt", Keys: own.jwks(), Grants: []string{"client_credentials"}, Disabled: true},
		token.Client{ID: "service", Auth: "tls_client_auth", Identity: h.sys.ServiceID("a"), Grants: []string{"client_credentials"}},
	)
	gone := token.Client{ID: "gone", Principal: "merchants", Auth: "private_key_jwt", Keys: own.jwks(), Grants: []string{"client_credentials"}}
	if err := h.db.PutClient(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
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
		{"of a client whose principal the file has dropped", with(asItself(), own.assertion(h, "gone")), "invalid_client"},
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
			if !slices.Equal(claims.Roles, []string{"customer"}) || claims.Tenant != "acme" || !slices.Equal(claims.Orgs, []string{"acme", "other"}) {
				t.Errorf("rights are %v in %v of %q", claims.Roles, claims.Orgs, claims.Tenant)
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
	h.signIn()
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

// TestAssertionNamesItsAudience: who signed for another server is told for whom
// to sign.
func TestAssertionNamesItsAudience(t *testing.T) {
	h, own := newHouse(t, ""), newKey(t, "k1")
	h.register(token.Client{ID: "batch", Auth: "private_key_jwt", Keys: own.jwks(), Grants: []string{"client_credentials"}})
	_, err := h.grant(with(asItself(), own.assertion(h, "batch", set("aud", "https://elsewhere.example/"))))
	if want := "aud must be " + issuer + " or " + issuer + "oauth2/token"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}
