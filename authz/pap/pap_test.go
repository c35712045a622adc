package pap

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/spec"
)

const file = `rampart: v1
system: { name: shop }
authz:
  roles: { clerk: ["orders:read"], boss: ["role:clerk"], auditor: [] }
  separate: [{ roles: [boss, auditor], kind: dynamic }]
  model: shop.fga
  types: { order: { actions: "orders:read", attrs: { owner: string, note: "string?" }, relations: viewer, grants: { "orders:read": viewer }, table: orders, columns: { owner: user_id } } }
  from_token: { "team#member": team }
services:
  edge: { role: gateway }
  orders: { upstream: "http://127.0.0.1:9000", policy: p.cedar, policy_tests: p_test.yaml }
flows:
  - { id: 1, from: users, to: edge }
  - { id: 2, from: edge, to: orders }
`

const (
	model  = "model\n  schema 1.1\ntype user\ntype team\n  relations\n    define member: [user]\ntype order\n  relations\n    define viewer: [user]\n"
	policy = `@id("own") permit (principal, action, resource is Order) when { resource.owner == principal.id };`
)

func load(t *testing.T) *spec.System {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"rampart.yaml": file, "shop.fga": model, "p.cedar": policy, "p_test.yaml": "tests: []\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sys, err := spec.Load(filepath.Join(dir, "rampart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return sys
}

func TestFromSystem(t *testing.T) {
	want := Set{
		System:   "shop",
		Domain:   "shop.internal",
		Roles:    map[string][]string{"clerk": {"orders:read"}, "boss": {"role:clerk"}, "auditor": {}},
		Separate: []pdp.Separation{{Roles: []string{"boss", "auditor"}, Dynamic: true}},
		Schema: &authz.Schema{Types: map[string]authz.Type{"order": {
			Actions: []rampart.Action{"orders:read"},
			Attrs: map[string]authz.Attr{
				"owner": {Kind: authz.KindString, Class: rampart.ClassInternal},
				"note":  {Kind: authz.KindString, Class: rampart.ClassInternal, Optional: true},
			},
			Relations: []string{"viewer"}, Grants: map[rampart.Action]string{"orders:read": "viewer"},
			Table: "orders", Columns: map[string]string{"owner": "user_id"},
		}}},
		FromToken: map[string]string{"team#member": "team"},
		Model:     "shop.fga",
		Services:  map[string]Service{"orders": {Policy: []string{"p.cedar"}, Tests: []string{"p_test.yaml"}}},
		Lines:     map[string]int{"authz": 3, "roles": 4, "role clerk": 4, "role boss": 4, "role auditor": 4, "separate 0": 5, "type order": 7, "flow 1": 13, "flow 2": 14},
		Files:     map[string][]byte{"shop.fga": []byte(model), "p.cedar": []byte(policy), "p_test.yaml": []byte("tests: []\n")},
	}
	if diff := cmp.Diff(want, FromSystem(load(t))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestOptions: what a set gives is what a decision point takes.
func TestOptions(t *testing.T) {
	set := FromSystem(load(t))
	for service, policies := range map[string]int{"orders": 1, "": 0} {
		o := set.Options(service)
		if len(o.Policies) != policies || (o.ModelFile == "") != (service == "") {
			t.Errorf("%q: %d policies, model %q", service, len(o.Policies), o.ModelFile)
		}
		if _, err := pdp.New(o); err != nil {
			t.Errorf("%q: %v", service, err)
		}
	}
}
