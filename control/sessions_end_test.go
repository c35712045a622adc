package control_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/token"
)

// code lets the shop in from the browser's session and returns its code.
func (b *browser) code(scope string) string {
	b.h.t.Helper()
	return location(b.h.t, b.do(http.MethodGet, authorizePath("scope", scope), nil)).Query().Get("code")
}

// granted is the token endpoint's answer to the shop.
type granted struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Scope   string `json:"scope"`
	Error   string `json:"error"`
}

func (b *browser) grant(form url.Values) granted {
	b.h.t.Helper()
	form.Set("client_id", "shop")
	var g granted
	must(b.h.t, json.NewDecoder(b.do(http.MethodPost, wire.PathToken, form).Body).Decode(&g))
	return g
}

func (b *browser) redeem(code string) granted {
	return b.grant(url.Values{"grant_type": {"authorization_code"}, "redirect_uri": {shopBack}, "code": {code}, "code_verifier": {shopVerifier}})
}

func (b *browser) refresh(text string) granted {
	return b.grant(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {text}})
}

// TestOthersTakeTheirAppsAlong: whoever signs the others out, or changes the
// password, is rid of every app but those that hang on this very session: of
// those that would stay for a month, and of codes that were not redeemed yet.
func TestOthersTakeTheirAppsAlong(t *testing.T) {
	for name, end := range map[string]func(*browser){
		"signed out the others": func(b *browser) { b.do(http.MethodDelete, "/sessions", nil) },
		"changed the password": func(b *browser) {
			const fresh = "a wholly different phrase"
			b.wantPost("/account/password", url.Values{"current": {password}, "new": {fresh}, "repeat": {fresh}}, "/account?done=password")
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, "")
			there := h.shop()
			here, app := h.browser(), h.browser()
			here.login("ann", password)
			const stay = "offline_access orders:read"
			mine, mineToStay := app.redeem(here.code("orders:read")), app.redeem(here.code(stay))
			gone := map[string]granted{"another's": app.redeem(there.code("orders:read")), "another's, to stay": app.redeem(there.code(stay)), "mine, to stay": mineToStay}
			codes := map[string]string{"another's": there.code("orders:read"), "another's, to stay": there.code(stay)}
			end(here)
			for what, code := range codes {
				if g := app.redeem(code); g.Error != "invalid_grant" {
					t.Errorf("code, %s: %+v, want invalid_grant", what, g)
				}
			}
			for what, g := range gone {
				if next := app.refresh(g.Refresh); next.Error != "invalid_grant" {
					t.Errorf("app, %s: %+v, want invalid_grant", what, next)
				}
				if _, err := h.resolve(wire.TypeAccess, g.Access); statusOf(err) != http.StatusUnauthorized {
					t.Errorf("access token, %s: %v", what, err)
				}
			}
			if g := app.refresh(mine.Refresh); g.Error != "" {
				t.Errorf("the app of this session is gone: %+v", g)
			}
		})
	}
}

// TestAppsEndWithTheSession: without offline_access an app is let in for as long
// as the browser's session lives, and no longer.
func TestAppsEndWithTheSession(t *testing.T) {
	for name, tc := range map[string]struct {
		scope string
		idle  time.Duration
		lives bool
	}{
		"while it lives":            {"orders:read", 29 * time.Minute, true},
		"once it idled away":        {"orders:read", 31 * time.Minute, false},
		"once it idled away, stays": {"offline_access orders:read", 31 * time.Minute, true},
	} {
		h := open(t, "")
		b := h.shop()
		g := b.redeem(b.code(tc.scope))
		h.pass(tc.idle)
		if next := h.browser().refresh(g.Refresh); (next.Error == "") != tc.lives {
			t.Errorf("%s: %+v", name, next)
		}
	}
}

// late is a store in which something happens just before a code is spent.
type late struct {
	store.Store
	use func()
}

func (l *late) UseCode(ctx context.Context, hash [sha256.Size]byte, f token.Family) error {
	if l.use != nil {
		l.use()
	}
	return l.Store.UseCode(ctx, hash, f)
}

// TestSignOutWhileAnAppIsLetIn: whichever comes first, the app is out in the end.
func TestSignOutWhileAnAppIsLetIn(t *testing.T) {
	h, db := found(t, ""), &late{}
	h.openDB = func(ctx context.Context) (store.Store, error) {
		s, err := sqlite.Open(ctx, h.state.Path("control.db"))
		db.Store = s
		return db, err
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	b := h.shop()
	code := b.code("offline_access orders:read")
	db.use = func() { b.do(http.MethodDelete, "/session", nil) }
	if g := h.browser().redeem(code); g.Error != "invalid_grant" || g.Refresh != "" {
		t.Errorf("redeemed: %+v, want invalid_grant", g)
	}
	if left, err := h.db.Families(t.Context(), "user:ann"); err != nil || len(left) != 0 {
		t.Errorf("%d apps are left, %v", len(left), err)
	}
}

// TestStolenTokenEndsTheSession: a refresh token that is used again costs the
// browser its session, and somebody is told.
func TestStolenTokenEndsTheSession(t *testing.T) {
	h := open(t, "")
	b := h.shop()
	g := b.redeem(b.code("orders:read"))
	app := h.browser()
	app.refresh(g.Refresh)
	h.pass(11 * time.Second)
	if next := app.refresh(g.Refresh); next.Error != "invalid_grant" {
		t.Fatalf("used again: %+v", next)
	}
	if e := h.events("token.theft"); len(e) != 1 || e[0].Detail["alert"] != "true" {
		t.Errorf("on record: %+v", e)
	}
	if _, err := h.resolve(wire.TypeSession, b.cookie); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("the browser's session lives on: %v", err)
	}
}

// TestClientLosesAScope: what an administrator takes from a client is gone from
// what it holds.
func TestClientLosesAScope(t *testing.T) {
	h := open(t, "")
	b := h.shop()
	g := b.redeem(b.code("offline_access orders:read orders:cancel"))
	register := func(scopes ...string) {
		h.mustAdmin(wire.AdminClients, wire.Client{ID: "shop", Principal: "customer", Redirects: []string{shopBack}, Scopes: scopes}, nil)
	}
	register("orders:read", "offline_access")
	if r, err := h.resolve(wire.TypeAccess, g.Access); err != nil || len(r.Principal.Scope) != 1 || r.Principal.Scope[0] != "orders:read" {
		t.Errorf("the access token may %v, %v", r.Principal.Scope, err)
	}
	if g = b.refresh(g.Refresh); g.Scope != "offline_access orders:read" {
		t.Errorf("refreshed to %+v", g)
	}
	register("orders:read")
	if g = b.refresh(g.Refresh); g.Error != "invalid_grant" {
		t.Errorf("it stays: %+v", g)
	}
}

// TestKeyOfADisabledClient: a key that was made since opens nothing, whichever
// way it is shown.
func TestKeyOfADisabledClient(t *testing.T) {
	h := open(t, "")
	h.mustAdmin(wire.AdminClients, wire.Client{ID: "shop", Principal: "merchant"}, nil)
	h.mustAdmin(wire.AdminClients+"/shop"+wire.SubDisable, struct{}{}, nil)
	var key wire.APIKey
	h.mustAdmin(wire.AdminAPIKeys, wire.APIKeyRequest{Client: "shop"}, &key)
	if _, err := h.resolve(wire.TypeAPIKey, key.Key); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("resolved: %v", err)
	}
	if _, code := h.exchange("gateway/edge", wire.TypeAPIKey, key.Key, "orders"); code != "invalid_grant" {
		t.Errorf("exchanged: %q, want invalid_grant", code)
	}
	h.mustAdmin(wire.AdminClients+"/shop"+wire.SubEnable, struct{}{}, nil)
	if _, code := h.exchange("gateway/edge", wire.TypeAPIKey, key.Key, "orders"); code != "" {
		t.Errorf("of a client that is enabled: %q", code)
	}
}
