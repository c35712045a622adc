package cedar

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

const payments = `@id("owner")
permit (principal is User, action in [Action::"payments:read", Action::"payments:create"], resource is Payment)
when { resource.owner == principal.id };

@id("manager")
permit (principal is User, action == Action::"payments:read", resource is Payment)
when { principal.managedTeams.contains(resource.team_id) };

@id("frozen")
forbid (principal, action, resource is Payment)
when { resource has frozen && resource.frozen };
`

func load(t testing.TB, src string) *Engine {
	t.Helper()
	e, err := New(map[string][]byte{"p.cedar": []byte(src)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func payment(attrs map[string]any) authz.Request {
	return authz.Request{
		Layer: rampart.LayerDomain,
		Principal: rampart.Principal{
			Kind: rampart.KindHuman, Subject: "user:alice", Tenant: "acme", Team: "red",
			Organizations: []string{"acme"}, Roles: []string{"customer"}, ManagedTeams: []string{"blue"},
		},
		Action:   "payments:read",
		Resource: rampart.Resource{Type: "payment", ID: "17", Tenant: "acme", Attrs: attrs},
		Context:  map[string]any{"now": int64(1_700_000_000)},
	}
}

func ids(rulings []authz.Ruling) string {
	var out []string
	for _, r := range rulings {
		out = append(out, fmt.Sprintf("%s:%d", r.Policy.ID, r.Policy.Line))
	}
	return strings.Join(out, " ")
}

func TestEvaluate(t *testing.T) {
	e := load(t, payments)
	for name, row := range map[string]struct {
		attrs            map[string]any
		permits, forbids string
		fails            string // id of a policy that cannot be evaluated
	}{
		"mine":              {map[string]any{"owner": "user:alice", "team_id": "red"}, "owner:1", "", ""},
		"a managed team's":  {map[string]any{"owner": "user:bob", "team_id": "blue"}, "manager:5", "", ""},
		"both":              {map[string]any{"owner": "user:alice", "team_id": "blue"}, "manager:5 owner:1", "", ""},
		"neither":           {map[string]any{"owner": "user:bob", "team_id": "red"}, "", "", ""},
		"mine but frozen":   {map[string]any{"owner": "user:alice", "team_id": "red", "frozen": true}, "", "frozen:9", ""},
		"a permit fails":    {map[string]any{"owner": "user:alice"}, "owner:1", "", "manager"},
		"a forbid fails":    {map[string]any{"owner": "user:alice", "team_id": "red", "frozen": "yes"}, "owner:1", "", "frozen"},
		"null is absent":    {map[string]any{"owner": "user:alice", "team_id": nil, "frozen": nil}, "owner:1", "", "manager"},
		"an array of nulls": {map[string]any{"owner": []any{nil}}, "", "", "input"},
		"nobody reads it":   {map[string]any{"owner": "user:alice", "team_id": "red", "x": []any{nil}}, "owner:1", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := e.Evaluate(t.Context(), payment(row.attrs))
			slices.SortFunc(v.Permits, func(a, b authz.Ruling) int { return strings.Compare(a.Policy.ID, b.Policy.ID) })
			got := []string{ids(v.Permits), ids(v.Forbids), ""}
			for _, f := range v.Failures {
				got[2] = f.Policy.ID
			}
			if diff := cmp.Diff([]string{row.permits, row.forbids, row.fails}, got); diff != "" {
				t.Error(diff, v.Failures)
			}
		})
	}
}

// TestWhatAPolicySees pins the document of the package comment: each
// condition must hold, and none may hold for a principal without the fact.
func TestWhatAPolicySees(t *testing.T) {
	for _, condition := range []string{
		`principal == User::"user:alice"`,
		`principal.id == "user:alice"`,
		`principal.org == "acme"`,
		`principal.team == "red"`,
		`principal.roles.contains("customer")`,
		`principal.organizations.contains(resource.tenant)`,
		`principal.managedTeams == ["blue"]`,
		`action == Action::"payments:read"`,
		`resource == Payment::"17"`,
		`resource.tenant == "acme"`,
		`resource.total == 1999`,
		`resource.rate == decimal("0.25")`,
		`resource.tags.contains("gift")`,
		`resource.card.brand == "visa"`,
		`context.now == 1700000000`,
	} {
		e := load(t, `@id("x") permit (principal, action, resource) when { `+condition+` };`)
		r := payment(map[string]any{
			"total": 1999.0, "rate": 0.25, "tags": []any{"gift"}, "tenant": "globex",
			"card": map[string]any{"brand": "visa", "country": nil},
		})
		if v := e.Evaluate(t.Context(), r); len(v.Permits) != 1 {
			t.Errorf("%s does not hold: %+v", condition, v)
		}
		if v := e.Evaluate(t.Context(), authz.Request{Action: "orders:read", Resource: rampart.Resource{Type: "order"}}); len(v.Permits) != 0 {
			t.Errorf("%s holds for nobody", condition)
		}
	}
}

// TestUnknownIsAbsent: were it empty, two unknown teams would be the same team.
func TestUnknownIsAbsent(t *testing.T) {
	r := authz.Request{
		Principal: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:gus"},
		Action:    "payments:read",
		Resource:  rampart.Resource{Type: "payment"},
	}
	for _, fact := range []string{"principal has team", "principal has org", "principal has client", "resource has tenant"} {
		e := load(t, `@id("x") permit (principal, action, resource) when { `+fact+` };`)
		if v := e.Evaluate(t.Context(), r); len(v.Permits) != 0 {
			t.Errorf("%s holds of an unknown one", fact)
		}
	}
}

func TestPrincipalKinds(t *testing.T) {
	for kind, typ := range map[rampart.PrincipalKind]string{
		rampart.KindHuman: "User", rampart.KindClient: "Client", rampart.KindService: "Service",
	} {
		e := load(t, `@id("x") permit (principal is `+typ+`, action, resource);`)
		r := payment(nil)
		for _, other := range []rampart.PrincipalKind{rampart.KindHuman, rampart.KindClient, rampart.KindService, ""} {
			r.Principal.Kind = other
			if v := e.Evaluate(t.Context(), r); (len(v.Permits) == 1) != (other == kind) {
				t.Errorf("is %s: a %q got %v", typ, other, v.Permits)
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, row := range map[string]struct{ src, want string }{
		"no id":            {"\npermit (principal, action, resource);", "p.cedar:2: a policy names itself"},
		"an empty id":      {`@id("") permit (principal, action, resource);`, "names itself"},
		"an id twice":      {strings.Repeat("@id(\"a\") permit (principal, action, resource);\n", 2), `p.cedar:2: @id("a") is taken by p.cedar:1`},
		"a foreign type":   {`@id("a") permit (principal, action == Act::"orders:read", resource);`, "is no action"},
		"a foreign list":   {`@id("a") permit (principal, action in [Action::"a:b", User::"c"], resource);`, "is no action"},
		"no policy at all": {"// later", "holds no policy"},
		"half a policy":    {"permit", "p.cedar: parse"},
		"all relations":    {`@id("a") permit (principal, action, resource)` + "\nwhen { context.relation == {} };", "p.cedar:2: relations are read one by one"},
		"a long chain":     {`@id("a") permit (principal, action, resource) when { ` + strings.Repeat("true && ", 1000) + "true };", "p.cedar:1: conditions are nested or chained more than 1000 deep"},
		"deep nesting":     {`@id("a") permit (principal, action, resource) when { ` + strings.Repeat("(", 300), "nested deeper"},
	} {
		_, err := New(map[string][]byte{"p.cedar": []byte(row.src)}, nil)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
}

// TestIndexAgreesWithAll compares the index with plain Cedar over every policy,
// for each combination of scopes.
func TestIndexAgreesWithAll(t *testing.T) {
	var src strings.Builder
	all := cedar.NewPolicySet()
	n := 0
	for _, principal := range []string{"principal", "principal is User", "principal is Client", `principal == User::"user:alice"`, `principal in User::"user:alice"`, `principal is User in User::"user:alice"`} {
		for _, action := range []string{"action", `action == Action::"payments:read"`, `action in Action::"payments:read"`, `action in [Action::"payments:create", Action::"payments:read", Action::"payments:read"]`} {
			for _, resource := range []string{"resource", "resource is Payment", "resource is Order", `resource == Payment::"17"`, `resource in Payment::"17"`, `resource is Payment in Payment::"17"`} {
				for _, effect := range []string{"permit", "forbid"} {
					fmt.Fprintf(&src, "@id(\"%d\") %s (%s, %s, %s) when { context.flag || context.other };\n", n, effect, principal, action, resource)
					n++
				}
			}
		}
	}
	e := load(t, src.String())
	for id, p := range e.byID {
		all.Add(id, fromTree(p.tree))
	}
	for _, r := range questions() {
		q, err := e.question(r)
		if err != nil {
			t.Fatal(err)
		}
		_, want := cedar.Authorize(all, q, q.request)
		v := e.Evaluate(t.Context(), r)
		got := map[string]bool{}
		for _, ruling := range slices.Concat(v.Permits, v.Forbids) {
			got[ruling.Policy.ID] = true
		}
		expected := map[string]bool{}
		for _, reason := range want.Reasons {
			expected[string(reason.PolicyID)] = true
		}
		if !maps.Equal(expected, got) || len(want.Errors) != len(v.Failures) {
			t.Errorf("%+v: index and full scan differ: %s", r, cmp.Diff(expected, got))
		}
	}
}

func questions() []authz.Request {
	var out []authz.Request
	for _, subject := range []string{"user:alice", "user:bob"} {
		for _, kind := range []rampart.PrincipalKind{rampart.KindHuman, rampart.KindClient, ""} {
			for _, action := range []rampart.Action{"payments:read", "payments:create", "payments:delete"} {
				for _, typ := range []string{"payment", "order", "card"} {
					for _, id := range []string{"17", "18"} {
						r := payment(nil)
						r.Principal.Subject, r.Principal.Kind = subject, kind
						r.Action, r.Resource.Type, r.Resource.ID = action, typ, id
						r.Context = map[string]any{"flag": id == "17"} // for 18 every policy fails
						out = append(out, r)
					}
				}
			}
		}
	}
	return out
}

func TestExplain(t *testing.T) {
	e := load(t, payments+`
@id("big") permit (principal, action, resource is Payment)
when { resource.owner == "user:bob" && resource.team_id == principal.team && resource.total > 10 }
unless { principal.roles.contains("customer") };
@id("other") permit (principal == User::"user:zoe", action, resource);
`)
	r := payment(map[string]any{"owner": "user:bob", "team_id": "red", "total": int64(20)})
	var got []string
	for _, m := range e.Explain(t.Context(), r) {
		got = append(got, fmt.Sprintf("%s after %d: line %d: %s %s", m.Policy.ID, m.Held, m.Line, m.Condition, m.Problem))
	}
	want := []string{
		`big after 3: line 15: principal.roles.contains("customer") is true, and is an exception`,
		`owner after 0: line 3: resource.owner == principal.id is false`,
		`manager after 0: line 7: principal.managedTeams.contains(resource.team_id) is false`,
	}
	slices.Sort(want[1:])
	slices.Sort(got[1:])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(payments)
	f.Add(`@id("x") permit (principal in Role::"a", action, resource) when { ip("::1").isLoopback() };`)
	f.Add(onOrders + ` when { resource has team && [resource.team, principal.id].contains("a") || context.relation.viewer };`)
	f.Add(`@id("x") forbid (principal, action, resource) unless { if context.a then -1 < 2 else {"a": [1]}.a like "*" };`)
	f.Fuzz(func(t *testing.T, src string) {
		for _, schema := range []*authz.Schema{nil, orders()} {
			e, err := New(map[string][]byte{"f.cedar": []byte(src)}, schema)
			if err != nil {
				continue
			}
			r := payment(map[string]any{"owner": "user:alice"})
			e.Evaluate(t.Context(), r)
			e.Explain(t.Context(), r)
			e.Coverage(t.Context(), []authz.Request{r})
			e.Residual(t.Context(), r)
			e.ResidualRLS(t.Context(), "orders:read", "order")
		}
	})
}

// FuzzInput: a number is carried over exactly or refused, and no value panics.
func FuzzInput(f *testing.F) {
	f.Add("owner", "user:alice", int64(1), 1.5)
	f.Add("tenant", "globex", int64(math.MinInt64), 1e300)
	f.Add("", "\u0000", int64(0), math.Copysign(0, -1))
	e := load(f, payments)
	f.Fuzz(func(t *testing.T, name, text string, whole int64, fraction float64) {
		r := payment(map[string]any{
			name: text, "whole": whole, "fraction": fraction,
			"list": []any{text, whole, map[string]any{name: nil}},
		})
		if r.Validate() != nil {
			return
		}
		q, err := e.question(r)
		if err != nil {
			return
		}
		if got, _ := q.resource.Attributes.Get("tenant"); got != cedar.String("acme") {
			t.Errorf("an attribute changed the tenant to %v", got)
		}
		e.Evaluate(t.Context(), r)
	})
}
