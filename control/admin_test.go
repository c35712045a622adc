package control_test

import (
	"net/http"
	"os"
	"testing"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

func TestAdmin(t *testing.T) {
	h := open(t, "")
	info, err := os.Stat(h.plane.AdminSocket())
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %#o", info.Mode().Perm())
	}
	h.addUser("ann", "customer")
	h.wantEvent("POST "+wire.AdminUsers, audit.Allowed, "", "")
	var users []wire.User
	must(t, h.admin(http.MethodGet, wire.AdminUsers, nil, &users))
	if len(users) != 1 || users[0].Name != "ann" || users[0].Password != "" || users[0].Facts.Team != "red" {
		t.Errorf("users are %+v", users)
	}
	var secrets []wire.SecretMeta
	must(t, h.admin(http.MethodGet, wire.AdminSecrets, nil, &secrets))
	if len(secrets) != 1 || secrets[0].Path != "prod/key" || secrets[0].Version != 1 {
		t.Errorf("secrets are %+v", secrets)
	}
	for name, tc := range map[string]struct {
		path string
		in   any
	}{
		"a user without password":    {wire.AdminUsers, wire.User{Name: "bob"}},
		"a short password":           {wire.AdminUsers, wire.User{Name: "bob", Password: "short"}},
		"a user of odd name":         {wire.AdminUsers, wire.User{Name: "Bob:x", Password: password}},
		"a role nobody defined":      {wire.AdminUsers, wire.User{Name: "bob", Password: password, Facts: spec.DemoUser{Roles: []string{"admln"}}}},
		"a client of no principal":   {wire.AdminClients, wire.Client{ID: "x", Principal: "nobody"}},
		"a redirect in plain HTTP":   {wire.AdminClients, wire.Client{ID: "x", Principal: "merchant", Redirects: []string{"http://shop.example/cb"}}},
		"a secret of odd path":       {wire.AdminSecrets, wire.SecretOp{Op: "put", Path: "../x", Value: []byte("v")}},
		"an unknown revocation":      {wire.AdminRevoke, wire.Revocation{Kind: "all", ID: "x"}},
		"a member that means naught": {wire.AdminJoinToken, map[string]string{"identity": "service/orders", "x": "y"}},
	} {
		if err := h.admin(http.MethodPost, tc.path, tc.in, nil); statusOf(err) != http.StatusBadRequest {
			t.Errorf("%s: %v, want 400", name, err)
		}
	}
}

func TestChangeOfRightsEndsSessions(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	b := h.browser()
	b.login("ann", password)
	h.addUser("ann", "admin")
	if _, err := h.resolve(wire.TypeSession, b.cookie); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("a session from before the change: %v, want 401", err)
	}
	b.login("ann", password)
	tok, code := h.exchange("gateway/edge", wire.TypeSession, b.cookie, "orders")
	if code != "" || tok.ExpiresIn < 100 {
		t.Errorf("a login in the very second of the change: %q, %+v", code, tok)
	}
}
