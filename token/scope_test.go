package token_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

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
		{name: "a role alone limits no permission", ask: "role:clerk", want: "role:clerk", then: "role:clerk"},
		{name: "a role beside what is registered", registered: []string{"orders:read"}, ask: "role:clerk", want: "orders:read role:clerk", then: "orders:read role:clerk"},
		{name: "a role that is registered keeps the other limits", registered: []string{"orders:read", "role:clerk"}, ask: "role:clerk", want: "orders:read role:clerk", then: "orders:read role:clerk"},
		{name: "another role than registered", registered: []string{"orders:read", "role:clerk"}, ask: "role:admin", code: "invalid_scope"},
		{name: "a role at the refresh", ask: "orders:read", want: "orders:read", refresh: "role:clerk", then: "orders:read role:clerk"},
		{name: "another role at the refresh", ask: "orders:read role:clerk", want: "orders:read role:clerk", refresh: "role:admin", refused: "invalid_scope"},
		{name: "a role is of one part", ask: "role:admin:x", code: "invalid_scope"},
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
