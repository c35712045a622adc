package token_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/token"
)

// The tests of RFC 9700 hold the service, as it is out of the box, to what the
// Best Current Practice for OAuth 2.0 Security says an authorization server must
// do, one rule per name. What is a matter of HTTP is tested in control, what is
// one of the edge in gateway.
type rule struct {
	name string
	test func(t *testing.T, h *house)
}

const redirect = "https://shop.example/cb" // of the client shop

func holdTo(t *testing.T, rules []rule) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) { r.test(t, newHouse(t, "")) })
	}
}

// TestRFC9700Practices: section 2, what must be done.
func TestRFC9700Practices(t *testing.T) {
	holdTo(t, []rule{
		{"2.1 redirect URIs are compared exactly", func(t *testing.T, h *house) {
			for _, other := range []string{redirect + "/", redirect + "?x", "https://shop.example/CB", "https://evil.example/cb", "https://shop.example.evil.example/cb"} {
				if _, err := h.authorize(authorization("shop", other)); err == nil {
					t.Errorf("redirected to %s", other)
				}
			}
		}},
		{"2.1 the port of a native client's loopback address is free", func(t *testing.T, h *house) {
			if q, err := h.authorize(authorization("shop", "http://127.0.0.1:49152/cb")); err != nil || q.Get("code") == "" {
				t.Errorf("%v, %v", q, err)
			}
		}},
		{"2.1 no redirect but over TLS or loopback can be registered", func(t *testing.T, _ *house) {
			if token.CheckRedirect("http://shop.example/cb") == nil {
				t.Error("plain http was let in")
			}
		}},
		{"2.1 and 4.4 the issuer is in every answer, against mix-up", func(t *testing.T, h *house) {
			good, err := h.authorize(authorization("shop", redirect))
			if err != nil || good.Get("iss") != issuer {
				t.Errorf("success: %v, %v", good, err)
			}
			bad := authorization("shop", redirect)
			bad.Set("response_type", "token")
			if got, err := h.authorize(bad); err != nil || got.Get("iss") != issuer || got.Get("error") == "" {
				t.Errorf("error: %v, %v", got, err)
			}
			if h.Metadata()["authorization_response_iss_parameter_supported"] != true {
				t.Error("the metadata does not say so")
			}
		}},
		{"2.1.1 every client uses PKCE, confidential ones too", func(t *testing.T, h *house) {
			h.register(token.Client{ID: "web", Auth: "private_key_jwt", Keys: newKey(t, "k").jwks(), Redirects: []string{redirect}})
			q := authorization("web", redirect)
			q.Del("code_challenge")
			if got, err := h.authorize(q); err != nil || got.Get("error") != "invalid_request" {
				t.Errorf("%v, %v", got, err)
			}
		}},
		{"2.1.1 the verifier is enforced", func(t *testing.T, h *house) {
			q, err := h.authorize(authorization("shop", redirect))
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range []string{"", strings.Repeat("a", 43), challenge()} {
				if _, err := h.redeem("shop", redirect, q.Get("code"), v); token.CodeOf(err) != "invalid_grant" {
					t.Errorf("verifier %q: %v", v, err)
				}
			}
		}},
		{"2.1.1 support of PKCE is in the metadata, without plain", func(t *testing.T, h *house) {
			if m, ok := h.Metadata()["code_challenge_methods_supported"].([]string); !ok || !slices.Equal(m, []string{"S256"}) {
				t.Errorf("methods %v", m)
			}
		}},
		{"2.1.2 no access token comes out of the authorization endpoint", func(t *testing.T, h *house) {
			for _, kind := range []string{"token", "id_token", "code token", "code id_token", "id_token token"} {
				q := authorization("shop", redirect)
				q.Set("response_type", kind)
				if got, err := h.authorize(q); err != nil || got.Get("error") != "unsupported_response_type" || got.Has("access_token") || got.Has("code") {
					t.Errorf("%s: %v, %v", kind, got, err)
				}
			}
		}},
		{"2.2.1 and 4.10 tokens can be bound to their sender", func(t *testing.T, h *house) {
			if h.Metadata()["dpop_signing_alg_values_supported"] == nil {
				t.Error("no DPoP in the metadata; TestDPoP holds the rest")
			}
		}},
		{"2.2.2 and 4.14 a public client's refresh token rotates, and reuse ends the family", func(t *testing.T, h *house) {
			g := h.login("shop")
			next, err := h.refresh("shop", g.RefreshToken)
			if err != nil || next.RefreshToken == g.RefreshToken {
				t.Fatalf("no rotation: %v", err)
			}
			h.clock = h.clock.Add(11 * time.Second)
			if _, err := h.refresh("shop", g.RefreshToken); err == nil {
				t.Error("reuse was answered")
			}
			if _, err := h.refresh("shop", next.RefreshToken); err == nil {
				t.Error("the family survived")
			}
		}},
		{"2.3 an access token says for whom it is", func(t *testing.T, h *house) {
			if aud := payload(t, h.login("shop").AccessToken)["aud"]; aud != issuer {
				t.Errorf("aud is %v", aud)
			}
			forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
			if _, err := h.read(forA, "edge", "b"); err == nil {
				t.Error("another service takes it")
			}
		}},
		{"2.3 privileges are the least that was asked for", func(t *testing.T, h *house) {
			h.register(token.Client{ID: "app", Redirects: []string{redirect}, Scopes: []string{"orders:read"}})
			q := authorization("app", redirect)
			q.Set("scope", "orders:write")
			if got, err := h.authorize(q); err != nil || got.Get("error") != "invalid_scope" {
				t.Errorf("%v, %v", got, err)
			}
		}},
		{"2.4 no password grant", func(t *testing.T, h *house) {
			_, err := h.grant(url.Values{"grant_type": {"password"}, "client_id": {"shop"}, "username": {"ann"}, "password": {"x"}})
			if token.CodeOf(err) != "unsupported_grant_type" {
				t.Errorf("%v", err)
			}
		}},
		{"2.5 clients prove themselves by keys, not by shared secrets", func(t *testing.T, h *house) {
			if m, ok := h.Metadata()["token_endpoint_auth_methods_supported"].([]string); !ok || !slices.Equal(m, []string{"none", "private_key_jwt"}) {
				t.Errorf("methods %v", m)
			}
		}},
		{"2.6 every endpoint is over TLS", func(t *testing.T, h *house) {
			for name, value := range h.Metadata() {
				if text, ok := value.(string); ok && !strings.HasPrefix(text, "https://") {
					t.Errorf("%s is %s", name, text)
				}
			}
		}},
	})
}

// TestRFC9700Attacks: section 4, what must be withstood.
func TestRFC9700Attacks(t *testing.T) {
	holdTo(t, []rule{
		{"4.2.4 and 4.5 a code is good once, and its second use ends what it was traded for", func(t *testing.T, h *house) {
			q, err := h.authorize(authorization("shop", redirect))
			if err != nil {
				t.Fatal(err)
			}
			g, err := h.redeem("shop", redirect, q.Get("code"), verifier)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.redeem("shop", redirect, q.Get("code"), verifier); token.CodeOf(err) != "invalid_grant" {
				t.Errorf("second use: %v", err)
			}
			if _, err := h.AccessToken(t.Context(), g.AccessToken); err == nil {
				t.Error("the access token survived")
			}
			if e := h.last(); e.Action != "token.theft" {
				t.Errorf("recorded as %s", e.Action)
			}
		}},
		{"4.3.2 tokens are not taken from a query", func(t *testing.T, h *house) {
			if m, ok := h.Resource()["bearer_methods_supported"].([]string); !ok || !slices.Equal(m, []string{"header"}) {
				t.Errorf("methods %v", m)
			}
		}},
		{"4.5 a code is bound to client and redirect", func(t *testing.T, h *house) {
			q, err := h.authorize(authorization("shop", redirect))
			if err != nil {
				t.Fatal(err)
			}
			for name, try := range map[string][2]string{"client": {"other", redirect}, "redirect": {"shop", "http://127.0.0.1/cb"}} {
				if _, err := h.redeem(try[0], try[1], q.Get("code"), verifier); token.CodeOf(err) != "invalid_grant" {
					t.Errorf("another %s: %v", name, err)
				}
			}
		}},
		{"4.5.3.2 the nonce of the request is in the ID token", func(t *testing.T, h *house) {
			if got := payload(t, h.openID("shop").IDToken)["nonce"]; got != "n-0S6" {
				t.Errorf("nonce is %v", got)
			}
		}},
		{"4.8.2 PKCE cannot be downgraded by leaving the challenge out", func(t *testing.T, h *house) {
			for _, drop := range [][]string{{"code_challenge"}, {"code_challenge_method"}, {"code_challenge", "code_challenge_method"}} {
				q := authorization("shop", redirect)
				for _, name := range drop {
					q.Del(name)
				}
				if got, err := h.authorize(q); err != nil || got.Get("error") != "invalid_request" || got.Has("code") {
					t.Errorf("without %v: %v, %v", drop, got, err)
				}
			}
		}},
		{"4.11 nobody is redirected to an address that is not verified", func(t *testing.T, h *house) {
			q := authorization("nobody", "https://evil.example/")
			q.Set("response_type", "token")
			if got, err := h.authorize(q); err == nil {
				t.Errorf("redirected with %v", got)
			}
		}},
		{"4.14.2 a refresh token is bound to its client and scope", func(t *testing.T, h *house) {
			g := h.login("shop")
			if _, err := h.refresh("other", g.RefreshToken); token.CodeOf(err) != "invalid_grant" {
				t.Errorf("another client: %v", err)
			}
			q := authorization("shop", redirect)
			q.Set("scope", "orders:read")
			back, err := h.authorize(q)
			if err != nil {
				t.Fatal(err)
			}
			if g, err = h.redeem("shop", redirect, back.Get("code"), verifier); err != nil {
				t.Fatal(err)
			}
			_, err = h.grant(url.Values{"grant_type": {"refresh_token"}, "client_id": {"shop"}, "refresh_token": {g.RefreshToken}, "scope": {"orders:write"}})
			if token.CodeOf(err) != "invalid_scope" {
				t.Errorf("more scope: %v", err)
			}
		}},
		{"4.14.2 refresh tokens end with the session, and of idleness", func(t *testing.T, h *house) {
			g, idle := h.login("shop"), h.login("shop")
			h.clock = h.clock.Add(7*24*time.Hour + time.Second)
			if _, err := h.refresh("shop", idle.RefreshToken); err == nil {
				t.Error("an idle one works")
			}
			h.clock = h.clock.Add(-7 * 24 * time.Hour)
			if _, err := h.Revoke(t.Context(), "sid", "sid-ann"); err != nil {
				t.Fatal(err)
			}
			if _, err := h.refresh("shop", g.RefreshToken); err == nil {
				t.Error("one works after the logout")
			}
		}},
		{"4.15 a client cannot name itself like a person", func(t *testing.T, h *house) {
			own := newKey(t, "k")
			h.register(token.Client{ID: "user:ann", Auth: "private_key_jwt", Keys: own.jwks(), Grants: []string{"client_credentials"}})
			g, err := h.grant(with(asItself(), own.assertion(h, "user:ann")))
			if err != nil {
				t.Fatal(err)
			}
			sub, err := h.AccessToken(t.Context(), g.AccessToken)
			if err != nil || sub.Principal.Subject != "client:user:ann" || len(sub.Principal.Roles) != 0 {
				t.Errorf("stands for %+v, %v", sub.Principal, err)
			}
		}},
	})
}
