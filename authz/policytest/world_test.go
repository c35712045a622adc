package policytest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/rbac"
)

// typed is the shop with declared types, a model, a provider of an attribute
// and roles that are kept apart.
func typed(tests string) pap.Set {
	s := shop(tests)
	s.Roles["auditor"] = []string{"orders:read"}
	s.Separate = append(s.Separate, rbac.Separation{Roles: []string{"manager", "auditor"}, Dynamic: true})
	s.Lines["type order"], s.Lines["separate 0"] = 9, 7
	s.Model, s.FromToken = "model.fga", map[string]string{"team#member": "team"}
	s.Schema = &authz.Schema{Types: map[string]authz.Type{"order": {
		Actions: []rampart.Action{"orders:read", "orders:create", "orders:approve"},
		Attrs: map[string]authz.Attr{"owner": {Kind: authz.KindString}, "team_id": {Kind: authz.KindString}, "frozen": {Kind: authz.KindBool, Optional: true},
			"card": {Kind: authz.KindString, Optional: true, PII: true}, "price": {Kind: authz.KindDecimal, Optional: true}, "items": {Kind: authz.KindLong, Optional: true},
			"tags": {Kind: authz.KindStrings, Optional: true}, "risk": {Kind: authz.KindLong, Optional: true, Provider: "scores"}},
		Grants: map[rampart.Action]string{"orders:read": "viewer"}, Table: "orders", Columns: map[string]string{"tenant": "org"},
	}}}
	s.Files["model.fga"] = []byte("model\n  schema 1.1\n\ntype user\n\ntype team\n  relations\n    define member: [user]\n\ntype order\n  relations\n    define viewer: [user, team#member]\n")
	s.Files["orders.cedar"] = append(s.Files["orders.cedar"], []byte(`
@id("risky")
forbid (principal, action == Action::"orders:approve", resource is Order)
when { resource has risk && resource.risk > 5 };
`)...)
	return s
}

const typedTests = `policy_test: v1
now: 2026-05-01T09:00:00Z
subjects:
  alice: { roles: [customer], organizations: [acme], team: red }
  bob: { roles: [customer], organizations: [acme], team: blue }
  carol: { roles: [manager], organizations: [acme], team: red }
  both: { roles: [manager, auditor], organizations: [acme], team: red }
resources:
  own: { type: order, id: "17", tenant: acme, attrs: { owner: user:alice, team_id: red } }
  shared: { type: order, id: "18", tenant: acme, attrs: { owner: user:zoe, team_id: green } }
  risky: { type: order, id: "19", tenant: acme, attrs: { owner: user:zoe, team_id: red, risk: 9 } }
  calm: { type: order, id: "20", tenant: acme, attrs: { owner: user:zoe, team_id: red, risk: 5 } }
relations:
  - order:18#viewer@user:bob
  - { tuple: "order:18#viewer@team:red#member" }
tests:
  - bob may orders:read shared by order#viewer
  - alice may orders:read shared by order#viewer
  - carol may not orders:approve risky because forbidden
  - carol may orders:approve calm
  - both may not orders:approve calm because separation_of_duty
  - { subject: alice, action: orders:read, list: [own, shared, risky], expect: [own, shared] }
`

func TestRunTyped(t *testing.T) {
	s := typed(typedTests)
	report, err := Run(context.Background(), s, "orders")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Failed() {
		t.Errorf("%s: %s", f.Name, f.Problem)
	}
	m, err := Mutate(context.Background(), s, []string{"orders"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	survive := func(part string) bool {
		return slices.ContainsFunc(m.Survivors, func(v Mutant) bool { return strings.Contains(v.String(), part) })
	}
	for _, noticed := range []string{"may be used together", "no longer grants orders:read", "a token no longer says team#member", "model.fga", "resource.risk"} {
		if survive(noticed) {
			t.Errorf("no row notices: %s", noticed)
		}
	}
	if !survive("resource.frozen") || m.Score() <= 0 || m.Score() >= 1 {
		t.Errorf("nothing is about frozen, and yet: score %v, %v", m.Score(), m.Survivors)
	}
}

// TestFiles: what a test file may not say of the model, and of a policy.
func TestFiles(t *testing.T) {
	for name, row := range map[string]struct{ old, new, want string }{
		"a relation of nowhere": {"order:18#viewer@user:bob", "order:18#owner@user:bob", "relations[0]"},
		"no such row":           {"bob may orders:read shared", "bob may orders:read shred", `"shred" is not declared`},
		"no such action":        {"carol may not orders:approve risky", "carol may not orders:aprove risky", `orders_test.yaml:19:5: tests[2].action: no type and no role has the action "orders:aprove"; did you mean "orders:approve"?`},
		"no such role":          {"bob: { roles: [customer]", "bob: { roles: [custmer]", `orders_test.yaml:5:8: subjects.bob.roles: authz.roles has no "custmer"; did you mean "customer"?`},
		"no such type":          {"calm: { type: order", "calm: { type: oder", `orders_test.yaml:12:9: resources.calm.type: authz.types declares no "oder"; did you mean "order"?`},
		"no such code":          {"because forbidden", "because forbiden", `no decision has the code "forbiden"; did you mean "forbidden"?`},
		"no such policy":        {"by order#viewer", "by order#viewr", `no policy of this service is called "order#viewr"; did you mean "order#viewer"?`},
		"no such role to admit": {"tests:\n", "tests:\n  - { subject: bob, action: orders:read, at: gateway, allow: [\"role:custmer\"], expect: deny }\n", `tests[0].allow: authz.roles has no "custmer"`},
		"no such line":          {"tests:\n", "matrix: [{ actions: [orders:read], roles: { custmer: [] } }]\ntests:\n", `matrix[0].roles: authz.roles has no "custmer"`},
	} {
		_, err := Run(context.Background(), typed(strings.Replace(typedTests, row.old, row.new, 1)), "orders")
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	s := shop(strings.Replace(shopTests, "tests:\n", "relations: [\"order:1#viewer@user:bob\"]\ntests:\n", 1))
	if _, err := Run(context.Background(), s, "orders"); err == nil || !strings.Contains(err.Error(), "names no model of relations") {
		t.Errorf("tuples without a model: %v", err)
	}
}

func TestWorld(t *testing.T) {
	s := typed(typedTests)
	w, err := WorldOf(s, "orders")
	if err != nil || len(w.Relations) != 2 || len(w.Resources) != 4 {
		t.Fatal(w, err)
	}
	ask := func(who, id string) []rampart.Decision {
		i := slices.IndexFunc(w.Resources, func(r rampart.Resource) bool { return r.ID == id })
		out, err := w.Ask(context.Background(), s, "orders", Question{Principal: w.Subjects[who], Action: "orders:read", Resource: w.Resources[i]})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if d := ask("bob", "18"); len(d) != 3 || !d[2].Allowed() || !slices.Equal(d[2].Path, []string{"order:18#viewer@user:bob"}) {
		t.Errorf("shared: %+v", d)
	}
	if d := ask("bob", "17"); d[2].Allowed() || len(d[2].Missing) == 0 {
		t.Errorf("not shared: %+v", d)
	}
	q := Question{Principal: w.Subjects["bob"], Action: "orders:approve", Resource: rampart.Resource{Type: "order"}}
	if _, d, err := w.List(context.Background(), s, "orders", q); err != nil || d.Layer != rampart.LayerGateway {
		t.Errorf("a list without the permission: %+v, %v", d, err)
	}
	if _, err := Tuple("order:17"); err == nil {
		t.Error("half a tuple was read")
	}
}

func TestDiff(t *testing.T) {
	before, after := typed(typedTests), typed(typedTests)
	after.Files["model.fga"] = []byte(strings.Replace(string(after.Files["model.fga"]), "[user, team#member]", "[user]", 1))
	after.Files["orders_test.yaml"] = []byte(strings.Replace(typedTests, `  - { tuple: "order:18#viewer@team:red#member" }`+"\n", "", 1))
	closed, err := Diff(context.Background(), before, after, "orders")
	if err != nil || len(closed) != 0 {
		t.Fatal(closed, err) // the tuple is gone from the questions, too: both deny
	}
	after = typed(typedTests)
	after.Roles["customer"] = []string{"orders:create"}
	closed, err = Diff(context.Background(), before, after, "orders")
	if err != nil || len(closed) != 2 || closed[0].Opens() || closed[0].Name != "bob orders:read shared" {
		t.Errorf("%+v, %v", closed, err)
	}
	opened, err := Diff(context.Background(), after, before, "orders")
	if err != nil || len(opened) != 2 || !opened[0].Opens() {
		t.Errorf("%+v, %v", opened, err)
	}
}

func TestFuzzed(t *testing.T) {
	s := typed(typedTests)
	for seed := range uint64(3) {
		out, err := Fuzz(context.Background(), s, "orders", 300, seed)
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Differences) > 0 || out.Asked != 300 || out.Shown == 0 {
			t.Errorf("seed %d: %+v", seed, out)
		}
	}
}

// TestFuzzedProvider: what a provider must supply is made up; a list of it can
// be made when there is a column.
func TestFuzzedProvider(t *testing.T) {
	for name, columns := range map[string]map[string]string{"no column": nil, "a column": {"risk": "risk"}} {
		s := typed(typedTests)
		order := s.Schema.Types["order"]
		order.Attrs["risk"] = authz.Attr{Kind: authz.KindLong, Provider: "scores"}
		order.Columns = columns
		s.Schema.Types["order"] = order
		s.Files["orders.cedar"] = []byte(strings.ReplaceAll(string(s.Files["orders.cedar"]), "resource has risk && ", ""))
		out, err := Fuzz(context.Background(), s, "orders", 300, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Differences) > 0 || out.Asked != 300 || out.Shown == 0 || (len(out.Untranslatable) == 0) != (columns != nil) {
			t.Errorf("%s: %+v", name, out)
		}
	}
}

func TestAltered(t *testing.T) {
	before, after := typed(typedTests), typed(typedTests)
	if got := Altered(before, after); len(got) > 0 {
		t.Errorf("equal, and yet: %q", got)
	}
	after.Roles["clerk"] = []string{"orders:read"}
	delete(after.Roles, "auditor")
	after.Schema.Types["order"].Grants["orders:read"] = "owner"
	after.Files["orders.cedar"] = append(after.Files["orders.cedar"], "// more"...)
	after.Separate = nil
	want := []string{"role auditor is gone", "role clerk is new", "type order", "separate", "orders.cedar"}
	if got := Altered(before, after); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if n, err := Questions(before, after, "orders"); err != nil || n != 6 {
		t.Errorf("%d questions, %v", n, err)
	}
}

func TestLint(t *testing.T) {
	s := typed(typedTests)
	s.Roles["customer"] = append(s.Roles["customer"], "orders:raed")
	s.Files["orders.cedar"] = append(s.Files["orders.cedar"], []byte(`
@id("all")
@only("owner")
permit (principal is User, action == Action::"orders:create", resource is Order);
`)...)
	broken := typed(typedTests)
	broken.Files["orders.cedar"] = []byte("@id(\"a\")\npermit (principal, action, resource is Order) when { resource.ownr == 1 };")
	bare := typed(typedTests)
	bare.Services = map[string]pap.Service{"orders": {}}
	untested := typed(typedTests)
	untested.Services = map[string]pap.Service{"orders": {Policy: []string{"orders.cedar"}}}
	for name, row := range map[string]struct {
		set  pap.Set
		want []string
	}{
		"what is hardly meant": {s, []string{
			"orders.cedar:13: unconditional: all permits orders:create of every order, and card is classified",
			"orders.cedar:14: idle: @only of all asks for nothing",
			"orders.cedar:7: undecided: no test sees it hold: resource.frozen",
			`rampart.yaml:3: unused: role customer holds orders:raed, which no route, flow or type asks for; remove it, or correct its spelling: did you mean "orders:read"?`,
		}},
		"what does not load": {broken, []string{"orders.cedar:2: load: "}},
		"no policy":          {bare, []string{"rampart.yaml: no-policy: service orders has routes"}},
		"no test":            {untested, []string{"rampart.yaml: untested: the policies of service orders have no test"}},
	} {
		var text []string
		for _, p := range Lint(context.Background(), row.set, []string{"orders"}, Uses{Routes: map[string]bool{"orders": true}}) {
			text = append(text, p.String())
		}
		all := strings.Join(text, "\n")
		for _, want := range row.want {
			if !strings.Contains(all, want) {
				t.Errorf("%s: no %q in\n%s", name, want, all)
			}
		}
	}
}

// TestConditions: what is about another action is not shown, and what stands
// behind a failure was not reached.
func TestConditions(t *testing.T) {
	s := typed(typedTests)
	w, err := WorldOf(s, "orders")
	if err != nil {
		t.Fatal(err)
	}
	q := Question{Principal: w.Subjects["carol"], Action: "orders:approve",
		Resource: rampart.Resource{Type: "order", ID: "20", Tenant: "acme", Attrs: map[string]any{"owner": "user:zoe", "team_id": "red"}}}
	got, err := w.Conditions(context.Background(), s, "orders", q)
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, c := range got {
		text = append(text, fmt.Sprintf("%s %s %v %v", c.Policy, c.Text, c.Held > 0, c.Failed > 0))
	}
	for _, want := range []string{"frozen resource has frozen false true", "frozen resource.frozen false false", ` input.action == "approve" true false`} {
		if !slices.Contains(text, want) {
			t.Errorf("no %q in %q", want, text)
		}
	}
	if slices.ContainsFunc(text, func(s string) bool { return strings.HasPrefix(s, "owner") }) {
		t.Errorf("about another action: %q", text)
	}
}
