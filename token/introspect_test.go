package token_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/token"
)

// introspect asks as a service, or with an assertion as a client.
func (h *house) introspect(as *token.Caller, form url.Values, text string) (map[string]any, error) {
	h.t.Helper()
	form.Set("token", text)
	got, err := h.Introspect(h.t.Context(), token.Request{Form: form, Caller: as, Peer: "192.0.2.1:7"})
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(got)
	if err != nil {
		h.t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		h.t.Fatal(err)
	}
	return out, nil
}

// payload decodes a token's claims without any code of ours.
func payload(t testing.TB, text string) map[string]any {
	t.Helper()
	raw, err := b64.DecodeString(strings.Split(text, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestIntrospectionEqualsTheToken: whoever asks sees what the token says, all
// of it, the act chain and the binding included, and nothing besides.
func TestIntrospectionEqualsTheToken(t *testing.T) {
	h := newHouse(t, "")
	h.limit("orders:read", "orders:write")
	ann := h.people["user:ann"]
	ann.ACR, ann.AMR = "aal2", []string{"pwd", "otp"}
	h.people["user:ann"] = ann
	text := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	text = h.mustExchange("a", wire.TypeJWT, text, "b")
	text = h.mustExchange("b", wire.TypeJWT, text, "c")

	c := h.caller("c")
	got, err := h.introspect(&c, url.Values{}, text)
	if err != nil {
		t.Fatal(err)
	}
	want := payload(t, text)
	for _, name := range []string{"act", "cnf", "sid", "txn", "scope", "acr", "amr", "auth_time", "aud", "jti"} {
		if want[name] == nil {
			t.Fatalf("the token lacks %s: the test shows nothing", name)
		}
	}
	want["active"], want["token_type"] = true, "Bearer"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("internal token: -claims +introspection\n%s", diff)
	}

	own, mine := newKey(t, "k"), newKey(t, "")
	h.register(token.Client{ID: "web", Auth: "private_key_jwt", Keys: own.jwks(), Redirects: []string{"https://web.example/cb"}})
	q := authorization("web", "https://web.example/cb")
	q.Set("scope", "openid orders:read")
	back, err := h.authorize(q)
	if err != nil {
		t.Fatal(err)
	}
	g, err := h.grant(with(url.Values{
		"grant_type": {"authorization_code"}, "redirect_uri": {"https://web.example/cb"}, "code": {back.Get("code")}, "code_verifier": {verifier},
	}, own.assertion(h, "web")), mine.proof(h))
	if err != nil {
		t.Fatal(err)
	}
	got, err = h.introspect(nil, with(url.Values{}, own.assertion(h, "web")), g.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	want = payload(t, g.AccessToken)
	want["active"], want["token_type"] = true, "DPoP"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("access token: -claims +introspection\n%s", diff)
	}
}

// TestIntrospectionIsForWhomItConcerns: everybody else learns that the token is
// not active, and not why.
func TestIntrospectionIsForWhomItConcerns(t *testing.T) {
	h := newHouse(t, "")
	own, other := newKey(t, "k"), newKey(t, "k")
	h.register(
		token.Client{ID: "web", Auth: "private_key_jwt", Keys: own.jwks(), Grants: []string{"client_credentials"}},
		token.Client{ID: "rival", Auth: "private_key_jwt", Keys: other.jwks(), Grants: []string{"client_credentials"}},
	)
	g, err := h.grant(with(asItself(), own.assertion(h, "web")))
	if err != nil {
		t.Fatal(err)
	}
	forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	asWeb := func() url.Values { return with(url.Values{}, own.assertion(h, "web")) }
	asRival := func() url.Values { return with(url.Values{}, other.assertion(h, "rival")) }
	a, b, perService, gateway := h.caller("a"), h.caller("b"), h.caller("own"), h.caller("edge")
	for _, tc := range []struct {
		name   string
		as     *token.Caller
		form   url.Values
		text   string
		active bool
	}{
		{"its own", nil, asWeb(), g.AccessToken, true},
		{"another client's", nil, asRival(), g.AccessToken, false},
		{"an internal token, by a client", nil, asWeb(), forA, false},
		{"nonsense", nil, asWeb(), "x.y.z", false},
		{"nothing", nil, asWeb(), "", false},
		{"an internal token, by its audience", &a, url.Values{}, forA, true},
		{"an internal token, by another service", &b, url.Values{}, forA, false},
		{"a client's token, by a service", &a, url.Values{}, g.AccessToken, false},
		{"a client's token, by a service that the file hands such", &perService, url.Values{}, g.AccessToken, true},
		{"a client's token, by the gateway", &gateway, url.Values{}, g.AccessToken, true},
	} {
		got, err := h.introspect(tc.as, tc.form, tc.text)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if got["active"] != tc.active || !tc.active && len(got) != 1 {
			t.Errorf("%s: %v, want active %t", tc.name, got, tc.active)
		}
	}
	for name, form := range map[string]url.Values{
		"a public client": {"client_id": {"shop"}},
		"nobody":          {},
		"by name alone":   {"client_id": {"web"}},
	} {
		if _, err := h.introspect(nil, form, g.AccessToken); token.CodeOf(err) != "invalid_client" {
			t.Errorf("%s: %v, want invalid_client", name, err)
		}
	}
}

// TestIntrospectionFollowsRevocation: what is void is not active, at once.
func TestIntrospectionFollowsRevocation(t *testing.T) {
	for _, tc := range []struct{ kind, id string }{
		{"sid", "sid-ann"}, {"sub", "user:ann"}, {"svid", "spiffe://shop.internal/gateway/edge"}, {"jti", ""},
	} {
		h := newHouse(t, "")
		forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
		id := tc.id
		if tc.kind == "jti" {
			id, _ = payload(t, forA)["jti"].(string)
		}
		a := h.caller("a")
		if got, err := h.introspect(&a, url.Values{}, forA); err != nil || got["active"] != true {
			t.Fatalf("before: %v, %v", got, err)
		}
		if _, err := h.Revoke(t.Context(), tc.kind, id); err != nil {
			t.Fatal(err)
		}
		if got, err := h.introspect(&a, url.Values{}, forA); err != nil || got["active"] != false || len(got) != 1 {
			t.Errorf("%s: %v, %v", tc.kind, got, err)
		}
		h.clock = h.clock.Add(3 * time.Minute)
		if got, err := h.introspect(&a, url.Values{}, forA); err != nil || got["active"] != false {
			t.Errorf("expired: %v, %v", got, err)
		}
	}
}
