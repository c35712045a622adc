package policytest

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authz/pap"
)

// shop is a small system: one Cedar and one Rego policy.
func shop(tests string) pap.Set {
	return pap.Set{
		Roles: map[string][]string{
			"customer": {"orders:read", "orders:create"},
			"manager":  {"role:customer", "orders:approve"},
		},
		Lines: map[string]int{"role customer": 3, "role manager": 4},
		Services: map[string]pap.Service{"orders": {
			Policy: []string{"orders.cedar", "orders.rego"},
			Tests:  []string{"orders_test.yaml"},
		}},
		Files: map[string][]byte{
			"orders.cedar": []byte(`@id("owner")
permit (principal is User, action == Action::"orders:read", resource is Order)
when { resource.owner == principal.id };

@id("frozen")
forbid (principal, action, resource is Order)
when { resource has frozen && resource.frozen };
`),
			"orders.rego": []byte(`package orders

allow if {
	input.action == "approve"
	input.resource.type == "order"
	input.resource.team_id == input.user.team_id
}
`),
			"orders_test.yaml": []byte(tests),
		},
	}
}

const shopTests = `policy_test: v1
subjects:
  alice: { roles: [customer], organizations: [acme], team: red }
  bob: { roles: [customer], organizations: [acme], team: blue }
  carol: { roles: [manager], organizations: [acme], team: red }
  mallory: { organizations: [other] }
resources:
  own: { type: order, id: "17", tenant: acme, attrs: { owner: user:alice, team_id: red } }
  stopped: { type: order, id: "18", tenant: acme, attrs: { owner: user:alice, team_id: red, frozen: true } }
  moving: { type: order, id: "19", tenant: acme, attrs: { owner: user:alice, team_id: red, frozen: false } }
tests:
  - { subject: alice, action: orders:read, resource: own, expect: allow, policy: owner, line: 1 }
  - { subject: bob, action: orders:read, resource: own, expect: deny, layer: domain, code: no_permit, reason: resource.owner == principal.id }
  - alice may not orders:read stopped because forbidden
  - alice may orders:read moving
  - { subject: mallory, action: orders:read, resource: own, expect: deny, layer: gateway, code: role_missing }
  - { subject: alice, action: orders:read, resource: own, tenant: globex, expect: deny, layer: service, code: not_member }
  - { subject: mallory, action: orders:read, at: gateway, allow: [any], expect: allow }
  - carol may orders:approve own by orders.allow
matrix:
  - actions: [orders:read, orders:create, orders:approve]
    roles:
      customer: [orders:read, orders:create]
      manager: [orders:read, orders:create, orders:approve]
      nobody: []
`

func TestRun(t *testing.T) {
	report, err := Run(context.Background(), shop(shopTests), "orders")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Failed() {
		t.Errorf("%s:%d: %s: %s", f.File, f.Line, f.Name, f.Problem)
	}
	if len(report.Results) != 8+9 || len(report.Grids) != 1 {
		t.Errorf("%d results, %d grids", len(report.Results), len(report.Grids))
	}
}

// TestRunFails: each row that wants the wrong thing says what it got.
func TestRunFails(t *testing.T) {
	head, _, _ := strings.Cut(shopTests, "tests:\n")
	for row, want := range map[string]string{
		"bob may orders:read own":                           "want allow, got deny at the domain layer (no_permit)",
		"alice may not orders:read own":                     "want deny, got allow by cedar/owner at orders.cedar:1",
		"alice may orders:read own by frozen":               "want it by frozen, got allow by cedar/owner",
		"mallory may not orders:read own because no_permit": "want code no_permit, got deny at the gateway layer (role_missing)",
		"{ subject: alice, action: orders:read, resource: own, expect: allow, policy: owner, line: 2 }": "want it by owner at line 2",
		"{ subject: bob, action: orders:read, resource: own, expect: deny, layer: gateway }":            "want layer gateway, got deny at the domain layer",
		"{ subject: bob, action: orders:read, resource: own, expect: deny, reason: weather }":           `want a reason with "weather"`,
		"{ subject: alice, action: orders:read, resource: own, expect: allow, mask: [card] }":           "want mask [card], got []",
	} {
		report, err := Run(context.Background(), shop(head+"tests:\n  - "+row+"\n"), "orders")
		if err != nil {
			t.Fatal(row, err)
		}
		if len(report.Results) != 1 || !strings.Contains(report.Results[0].Problem, want) {
			t.Errorf("%s: got %+v, want %q", row, report.Results, want)
		}
	}
}

// TestMutateRoles: what no row asks about survives.
func TestMutateRoles(t *testing.T) {
	whole, _, _ := strings.Cut(shopTests, "matrix:")
	for name, row := range map[string]struct {
		tests   string
		survive []string
	}{
		"every change is noticed": {shopTests, nil},
		"without the matrix": {whole, []string{
			"rampart.yaml:3: role customer has orders:approve as well",
			"rampart.yaml:3: role customer no longer has orders:create",
			"rampart.yaml:4: role manager no longer has role:customer",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := shop(row.tests)
			m, err := Mutate(context.Background(), s, []string{"orders"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{}
			for _, v := range m.Survivors {
				if v.File == manifest {
					got[v.String()] = true
				}
			}
			want := map[string]bool{}
			for _, v := range row.survive {
				want[v] = true
			}
			if !maps.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestMutateNeedsGreen(t *testing.T) {
	s := shop(strings.Replace(shopTests, "alice may orders:read moving", "bob may orders:read moving", 1))
	if _, err := Mutate(context.Background(), s, []string{"orders"}, nil); !errors.Is(err, ErrRed) {
		t.Errorf("got %v", err)
	}
}
