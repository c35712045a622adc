package token_test

import (
	"context"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/token"
)

// relyingParty verifies ID tokens as a client of ours would.
func (h *house) relyingParty(client string, alg jwt.Algorithm) *jwt.IDToken {
	h.t.Helper()
	set, err := jwt.ParseForeignKeySet(h.Published(), alg)
	if err != nil {
		h.t.Fatal(err)
	}
	return jwt.NewIDToken(jwt.ForeignOptions{
		Keys:   func(context.Context, string) (*jwt.KeySet, error) { return set, nil },
		Issuer: issuer, Audience: client, Algorithms: []jwt.Algorithm{alg}, Now: h.now,
	})
}

func (h *house) openID(client string, change ...func(url.Values)) token.Granted {
	h.t.Helper()
	redirect := "https://" + client + ".example/cb"
	q := authorization(client, redirect)
	q.Set("scope", "openid")
	q.Set("nonce", "n-0S6")
	for _, f := range change {
		f(q)
	}
	back, err := h.authorize(q)
	if err != nil {
		h.t.Fatal(err)
	}
	g, err := h.redeem(client, redirect, back.Get("code"), verifier)
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

func TestIDToken(t *testing.T) {
	h := newHouse(t, "")
	ann := h.people["user:ann"]
	ann.ACR, ann.AMR = "aal2", []string{"pwd", "otp"}
	h.people["user:ann"] = ann
	h.register(token.Client{ID: "modern", Redirects: []string{"https://modern.example/cb"}, IDAlg: "ES256"})
	for client, alg := range map[string]jwt.Algorithm{"shop": jwt.RS256, "modern": jwt.ES256} {
		g := h.openID(client)
		id, err := h.relyingParty(client, alg).Verify(t.Context(), g.IDToken, "n-0S6")
		if err != nil {
			t.Fatalf("%s: %v", client, err)
		}
		if id.Subject != "user:ann" || id.ACR != "aal2" || !slices.Equal(id.AMR, ann.AMR) || id.AuthTime != h.started.Unix() || id.Session != "sid-ann" || id.AtHash == "" || id.Expires-id.IssuedAt != 300 {
			t.Errorf("%s: %+v", client, id.IDClaims)
		}
		if err := id.CheckAccessToken(g.AccessToken); err != nil {
			t.Errorf("%s: %v", client, err)
		}
		next, err := h.refresh(client, g.RefreshToken)
		if err != nil || next.IDToken == "" {
			t.Errorf("%s: no ID token at the refresh: %v", client, err)
		}
		// It is no access token, and no hint of an access token works.
		if _, err := h.AccessToken(t.Context(), g.IDToken); err == nil {
			t.Errorf("%s: an ID token opened an API", client)
		}
		if _, err := h.exchange("edge", wire.TypeAccess, g.IDToken, "a"); err == nil {
			t.Errorf("%s: an ID token was exchanged", client)
		}
	}
	if g := h.login("shop"); g.IDToken != "" {
		t.Error("an ID token that nobody asked for")
	}
}

func TestUserInfo(t *testing.T) {
	h := newHouse(t, "")
	g := h.openID("shop")
	mine := newKey(t, "")
	back, err := h.authorize(func() url.Values {
		q := authorization("shop", "https://shop.example/cb")
		q.Set("scope", "openid")
		return q
	}())
	if err != nil {
		t.Fatal(err)
	}
	bound, err := h.grant(url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"shop"}, "redirect_uri": {"https://shop.example/cb"}, "code": {back.Get("code")}, "code_verifier": {verifier},
	}, mine.proof(h))
	if err != nil {
		t.Fatal(err)
	}
	here := issuer + "oauth2/userinfo"
	proof := func(text string, change ...func(map[string]any)) string {
		return mine.proof(h, append([]func(map[string]any){set("htm", "GET"), set("htu", here), set("ath", hash(text))}, change...)...)
	}
	for _, tc := range []struct {
		name, scheme, text string
		proofs             []string
		ok                 bool
	}{
		{"bearer", "Bearer", g.AccessToken, nil, true},
		{"bound, with its proof", "DPoP", bound.AccessToken, []string{proof(bound.AccessToken)}, true},
		{"bound, as a bearer", "Bearer", bound.AccessToken, nil, false},
		{"bound, without proof", "DPoP", bound.AccessToken, nil, false},
		{"bound, with the proof of another token", "DPoP", bound.AccessToken, []string{proof(g.AccessToken)}, false},
		{"bound, with a proof for the token endpoint", "DPoP", bound.AccessToken, []string{mine.proof(h)}, false},
		{"bearer, as if bound", "DPoP", g.AccessToken, []string{proof(g.AccessToken)}, false},
		{"a token without openid", "Bearer", h.login("shop").AccessToken, nil, false},
		{"an ID token", "Bearer", g.IDToken, nil, false},
		{"basic", "Basic", g.AccessToken, nil, false},
	} {
		got, err := h.UserInfo(t.Context(), token.Presented{Scheme: tc.scheme, Token: tc.text, Proofs: tc.proofs, Method: "GET", URL: here})
		if (err == nil) != tc.ok || tc.ok && (got.Subject != "user:ann" || got.Name != "ann") {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
}

// TestWhatARequestWantsOfThePerson: prompt, max_age and acr_values.
func TestWhatARequestWantsOfThePerson(t *testing.T) {
	for _, tc := range []struct {
		name   string
		set    url.Values
		acr    string        // of the login there is
		age    time.Duration // of it
		silent bool
		want   *token.StepUp // nil: nothing
	}{
		{name: "nothing", acr: "aal1", age: time.Hour},
		{name: "prompt=none", set: url.Values{"prompt": {"none"}}, acr: "aal1", silent: true},
		{name: "prompt=consent", set: url.Values{"prompt": {"consent"}}, acr: "aal1"},
		{name: "prompt=login", set: url.Values{"prompt": {"login"}}, acr: "aal1", want: &token.StepUp{MaxAge: time.Minute}},
		{name: "fresh enough", set: url.Values{"max_age": {"300"}}, acr: "aal1", age: 4 * time.Minute},
		{name: "too old", set: url.Values{"max_age": {"300"}}, acr: "aal1", age: 6 * time.Minute, want: &token.StepUp{MaxAge: 5 * time.Minute}},
		{name: "max_age=0 is prompt=login", set: url.Values{"max_age": {"0"}}, acr: "aal1", want: &token.StepUp{MaxAge: time.Minute}},
		{name: "strong enough", set: url.Values{"acr_values": {"aal2"}}, acr: "aal2"},
		{name: "too weak", set: url.Values{"acr_values": {"urn:x aal2 aal1"}}, acr: "aal1", want: &token.StepUp{ACR: "aal2"}},
		{name: "a level nobody knows", set: url.Values{"acr_values": {"urn:x"}}, acr: "aal1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, "")
			h.started = h.clock.Add(-tc.age)
			ann := h.people["user:ann"]
			ann.ACR = tc.acr
			h.people["user:ann"] = ann
			q := authorization("shop", "https://shop.example/cb")
			for name, values := range tc.set {
				q[name] = values
			}
			a, err := h.ParseAuthorization(t.Context(), q)
			if err != nil || a.Silent != tc.silent {
				t.Fatalf("silent %t, %v", a.Silent, err)
			}
			who, err := h.Session(t.Context(), "ann")
			if err != nil {
				t.Fatal(err)
			}
			up, needed := h.Wants(a, who)
			if needed != (tc.want != nil) || tc.want != nil && up != *tc.want {
				t.Fatalf("wants %+v, %t; want %+v", up, needed, tc.want)
			}
			if !needed {
				return
			}
			// Who has done it and comes back is done.
			who.Principal.AuthTime, who.Principal.ACR = h.clock, "aal2"
			h.clock = h.clock.Add(30 * time.Second)
			if a, err = h.ParseAuthorization(t.Context(), token.Again(q)); err != nil {
				t.Fatal(err)
			}
			if up, needed := h.Wants(a, who); needed {
				t.Errorf("after the login it wants %+v again", up)
			}
		})
	}
}

func TestContradictionsAreRefused(t *testing.T) {
	h := newHouse(t, "")
	for name, tc := range map[string]struct{ param, value, code string }{
		"silent and yet again": {"prompt", "none login", "invalid_request"},
		"an unknown prompt":    {"prompt", "create", "invalid_request"},
		"a negative age":       {"max_age", "-1", "invalid_request"},
		"a request object":     {"request", "eyJ", "request_not_supported"},
		"a request_uri":        {"request_uri", "https://x.example/", "request_uri_not_supported"},
		"another resource":     {"resource", "https://x.example/", "invalid_target"},
		"a fragment":           {"response_mode", "fragment", "invalid_request"},
		"a short dpop_jkt":     {"dpop_jkt", "abc", "invalid_request"},
	} {
		q := authorization("shop", "https://shop.example/cb")
		q.Set(tc.param, tc.value)
		if got, err := h.authorize(q); err != nil || got.Get("error") != tc.code {
			t.Errorf("%s: %v, %v; want %s", name, got, err, tc.code)
		}
	}
}

// TestLogoutHint: the hint names a client and a login; it needs no life of its
// own, and it is no other kind of token.
func TestLogoutHint(t *testing.T) {
	h := newHouse(t, "")
	g := h.openID("shop")
	h.clock = h.clock.Add(2 * time.Hour)
	const back = "https://shop.example/cb"
	for _, tc := range []struct {
		name, client, hint, redirect string
		want                         token.Logout
		ok                           bool
	}{
		{"an expired hint", "", g.IDToken, back, token.Logout{Client: "shop", Session: "sid-ann", Redirect: back}, true},
		{"the client alone", "shop", "", back, token.Logout{Client: "shop", Redirect: back}, true},
		{"both", "shop", g.IDToken, "", token.Logout{Client: "shop", Session: "sid-ann"}, true},
		{"nothing", "", "", "", token.Logout{}, true},
		{"a hint for another client", "other", g.IDToken, "", token.Logout{}, false},
		{"an address of another client", "shop", "", "https://other.example/cb", token.Logout{}, false},
		{"an address of nobody", "", "", back, token.Logout{}, false},
		{"an access token as hint", "", g.AccessToken, "", token.Logout{}, false},
		{"a hint that we never signed", "", newKey(t, "x").sign(map[string]any{"typ": "JWT", "alg": "ES256", "kid": "x"}, map[string]any{"iss": issuer, "aud": "shop", "sub": "user:ann", "sid": "sid-ann"}), "", token.Logout{}, false},
	} {
		got, err := h.ParseLogout(t.Context(), tc.client, tc.hint, tc.redirect)
		if (err == nil) != tc.ok || tc.ok && got != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
}

// TestMetadataListsWhatIsOn: every endpoint in it is below the issuer, and
// nothing in it is what RFC 9700 warns of.
func TestMetadataListsWhatIsOn(t *testing.T) {
	h := newHouse(t, "authz: { roles: { customer: [\"orders:read\", \"orders:*\"] } }\n")
	m := h.Metadata()
	if scopes, ok := m["scopes_supported"].([]string); !ok || !slices.Equal(scopes, []string{"offline_access", "openid", "orders:*", "orders:read"}) {
		t.Errorf("scopes are %v", m["scopes_supported"])
	}
	if h.Resource()["resource"] != issuer || m["issuer"] != issuer {
		t.Errorf("issuer is %v, resource %v", m["issuer"], h.Resource()["resource"])
	}
}
