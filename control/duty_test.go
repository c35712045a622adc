package control_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// TestGrants: who grants roles is told what nobody may hold, and nothing of it
// is stored.
func TestGrants(t *testing.T) {
	h := found(t, "")
	path := filepath.Join(t.TempDir(), "rampart.yaml")
	text := strings.Replace(file, "    admin: [\"orders:*\"]\n", "    admin: [\"orders:*\"]\n    clerk: []\n    approver: []\n    boss: [\"role:clerk\"]\n  separate: [{ roles: [clerk, approver] }]\n", 1)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	var err error
	h.sys, err = spec.Load(path)
	must(t, err)
	h.start()
	t.Cleanup(func() { h.stop() })
	for roles, want := range map[string]string{
		"clerk":                      "",
		"clerk@acme approver@globex": "",
		"clerk approver":             `both "clerk" and "approver" (authz.separate[0], line 19 of rampart.yaml); grant one of them`,
		"boss approver":              `both "boss" and "approver"`,
		"clerk@acme approver":        `both "clerk@acme" and "approver"`,
		"clerk@acme approver@acme":   `both "clerk@acme" and "approver@acme"`,
		"clerk@acne":                 `role "clerk@acne" is for an organization that its holder does not belong to; add the organization, or grant "clerk" for all`,
		"clerk@":                     `role "clerk@" is for an organization`,
		"clark@acme":                 `role "clark" is not in authz.roles; did you mean "clerk"?`,
	} {
		facts := spec.DemoUser{Roles: strings.Fields(roles), Organizations: []string{"acme", "globex"}}
		for what, grant := range map[string]func() error{
			"user": func() error {
				return h.admin(http.MethodPost, wire.AdminUsers, wire.User{Name: "ann", Password: password, Facts: facts}, nil)
			},
			"client": func() error {
				return h.admin(http.MethodPost, wire.AdminClients, wire.Client{ID: "shop", Principal: "merchant", Roles: facts.Roles, Orgs: facts.Organizations}, nil)
			},
		} {
			err := grant()
			if want == "" {
				must(t, err)
				continue
			}
			if err == nil {
				t.Errorf("%s with %q is granted", what, roles)
				continue
			}
			said := strings.ReplaceAll(err.Error(), `\"`, `"`) // it is JSON
			if !strings.Contains(said, want) || strings.HasPrefix(want, "both") && !strings.HasPrefix(said, "Conflict") {
				t.Errorf("%s with %q: %v, want %s", what, roles, said, want)
			}
		}
	}
	var ann wire.User
	must(t, h.admin(http.MethodGet, wire.AdminUsers+"/ann", nil, &ann))
	if _, ok := map[string]bool{"clerk": true, "clerk@acme approver@globex": true}[strings.Join(ann.Facts.Roles, " ")]; !ok {
		t.Errorf("ann holds %q", ann.Facts.Roles)
	}
}
