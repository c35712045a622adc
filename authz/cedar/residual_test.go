package cedar

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// orders is a schema in which every kind is there, required and optional.
func orders() *authz.Schema {
	return &authz.Schema{Types: map[string]authz.Type{
		"order": {
			Actions:   []rampart.Action{"orders:read", "orders:list"},
			Relations: []string{"viewer", "editor"},
			Attrs: map[string]authz.Attr{
				"owner": {Kind: authz.KindString}, "team": {Kind: authz.KindString, Optional: true},
				"paid": {Kind: authz.KindBool}, "frozen": {Kind: authz.KindBool, Optional: true},
				"total": {Kind: authz.KindLong}, "limit": {Kind: authz.KindLong, Optional: true},
				"rate": {Kind: authz.KindDecimal}, "fee": {Kind: authz.KindDecimal, Optional: true},
				"tags": {Kind: authz.KindStrings}, "groups": {Kind: authz.KindStrings, Optional: true},
			},
		},
		"card": {Actions: []rampart.Action{"cards:read"}, Attrs: map[string]authz.Attr{
			"last4": {Kind: authz.KindString, PII: true}, "pin": {Kind: authz.KindString, Class: rampart.ClassSecret},
		}},
	}}
}

// unchecked loads policies that the schema would refuse, because they fail.
func unchecked(t testing.TB, src string) *Engine {
	t.Helper()
	e := newEngine(orders())
	if err := e.load("p.cedar", []byte(src), nil); err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	e.relations.settle()
	return e
}

// world draws what a policy is asked about.
type world struct {
	*rand.Rand
	seen map[bool]int // rows kept and dropped
}

func (w world) pick(list ...string) string { return list[w.IntN(len(list))] }

func (w world) some(list ...string) []string {
	var out []string
	for _, s := range list {
		if w.IntN(2) == 0 {
			out = append(out, s)
		}
	}
	return out
}

func (w world) principal() rampart.Principal {
	kinds := []rampart.PrincipalKind{rampart.KindHuman, rampart.KindHuman, rampart.KindClient, rampart.KindService}
	return rampart.Principal{
		Kind: kinds[w.IntN(4)], Subject: w.pick("user:a", "user:b"), Tenant: w.pick("", "acme", "globex"), Team: w.pick("", "red", "blue"),
		Roles: w.some("admin", "red"), Organizations: w.some("acme", "globex"), ManagedTeams: w.some("red", "blue"),
	}
}

// row draws a resource: optional attributes are absent half of the time, and
// required ones now and then, as a NULL in a column would have it.
func (w world) row() map[string]any {
	row := map[string]any{"id": w.pick("1", "2")}
	draw := map[string]func() any{
		"tenant": func() any { return w.pick("acme", "globex") },
		"owner":  func() any { return w.pick("user:a", "user:b", "a*b", "") }, "team": func() any { return w.pick("red", "blue", "reddish") },
		"paid": func() any { return w.IntN(2) == 0 }, "frozen": func() any { return w.IntN(2) == 0 },
		"total": func() any { return int64(w.IntN(3)) }, "limit": func() any { return int64(w.IntN(3)) },
		"rate": func() any { return []any{0.5, 1.0, int64(1), 2.25}[w.IntN(4)] }, "fee": func() any { return []any{0.5, int64(1)}[w.IntN(2)] },
		"tags": func() any { return w.list("red", "user:a") }, "groups": func() any { return w.list("red", "acme") },
	}
	for _, name := range []string{"tenant", "owner", "team", "paid", "frozen", "total", "limit", "rate", "fee", "tags", "groups"} {
		chance := 8
		if orders().Types["order"].Attrs[name].Optional || name == "tenant" {
			chance = 2
		}
		if w.IntN(chance) != 0 {
			row[name] = draw[name]()
		}
	}
	return row
}

func (w world) list(names ...string) []any {
	out := []any{}
	for _, s := range w.some(names...) {
		out = append(out, s)
	}
	return out
}

func (w world) facts() map[string]bool {
	out := map[string]bool{}
	for _, name := range []string{"viewer", "editor"} {
		if w.IntN(4) != 0 {
			out[name] = w.IntN(2) == 0
		}
	}
	return out
}

// expr writes a condition with at most n connectives.
func (w world) expr(n int) string {
	if n == 0 {
		return w.atom()
	}
	l := w.IntN(n)
	switch w.IntN(8) {
	case 0, 1, 2:
		return "(" + w.expr(l) + ") && (" + w.expr(n-1-l) + ")"
	case 3, 4, 5:
		return "(" + w.expr(l) + ") || (" + w.expr(n-1-l) + ")"
	case 6:
		return "!(" + w.expr(n-1) + ")"
	}
	if w.IntN(2) == 0 {
		return "(" + w.expr(l) + ") " + w.pick("==", "!=") + " (" + w.expr(n-1-l) + ")"
	}
	return "if " + w.atom() + " then " + w.expr(l) + " else " + w.expr(n-1-l)
}

func (w world) atom() string {
	text := w.pick("resource.owner", "resource.team", "resource.id", "resource.tenant", "principal.id", "principal.team", "principal.org", `"red"`, `"user:a"`, "resource.paid", "resource.total", "resource.nothing")
	long := w.pick("resource.total", "resource.limit", "1", "0", "(1 + 1)", "context.now", "9223372036854775807 + 1", "resource.owner")
	dec := w.pick("resource.rate", "resource.fee", `decimal("0.5")`, `decimal("1.0")`, "resource.total")
	set := w.pick("resource.tags", "resource.groups", "principal.roles", "principal.organizations", "principal.managedTeams", `["red", "user:a"]`, `[1, "red"]`, "[]", "[resource.owner, resource.team]", "resource.owner")
	switch w.IntN(22) {
	case 20, 21:
		return w.odd()
	case 0, 1, 2:
		return text + w.pick(" == ", " != ") + w.pick("resource.owner", "resource.team", "principal.id", "principal.team", `"red"`, "1", "true", long)
	case 3, 4:
		return long + w.pick(" < ", " <= ", " > ", " >= ", " == ") + w.pick("resource.total", "resource.limit", "1")
	case 5:
		return dec + "." + w.pick("lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual") + "(" + w.pick("resource.rate", "resource.fee", `decimal("1.0")`) + ")"
	case 6:
		return dec + " == " + w.pick("resource.fee", `decimal("1.0")`, "1")
	case 7, 8, 9:
		return w.pick("resource", "resource", "principal") + " has " + w.pick("team", "frozen", "limit", "fee", "groups", "tenant", "id", "nothing", "org")
	case 10, 11:
		return w.pick("resource.paid", "resource.frozen", "true", "resource.owner", "principal.nothing")
	case 12:
		return text + " like " + w.pick(`"red*"`, `"*:a"`, `"*e*"`, `"*"`, `"red"`, `"a\*b"`, `"*\**"`)
	case 13, 14:
		return set + ".contains(" + text + ")"
	case 15:
		return set + w.pick(".containsAny(", ".containsAll(") + w.pick(`["red", "acme"]`, "principal.roles", `[1]`, "[]", "resource.tags") + ")"
	case 16:
		return w.pick("resource", "principal", `Order::"1"`) + w.pick(" == ", " in ", " != ") + w.pick(`Order::"1"`, `User::"user:a"`, `[Order::"1", Order::"2"]`, "resource", "principal", `"1"`)
	case 17:
		return w.pick("principal", "resource") + " is " + w.pick("User", "Client", "Service", "Order", `Order in Order::"1"`, `User in User::"user:a"`)
	case 18:
		return w.pick("principal.roles", "principal.organizations") + ".contains(" + w.pick(`"admin"`, "resource.tenant", "resource.team") + ")"
	}
	return "context.relation." + w.pick("viewer", "editor")
}

func (w world) odd() string { return w.pick(odd()...) }

// odd lists what few policies say.
func odd() []string {
	return []string{
		`[Order::"1", Order::"3", "a"].contains(resource)`, `[User::"user:a"].contains(principal)`, `[principal, resource].contains(resource)`, `[principal.id].contains(resource.owner)`,
		`[resource.total, 1].contains(1)`, `[decimal("0.5"), decimal("1.0"), 2].contains(resource.rate)`, `[decimal("922337203685477.5807")].contains(resource.rate)`,
		`resource.rate == decimal("922337203685477.5807")`, `resource.rate.lessThan(decimal("922337203685477.5807"))`, `resource.tags == ["red"]`, `resource.tags == resource.groups`,
		`Order::"1".owner == "user:a"`, `Order::"1" has owner`, `{"a": Order::"1"}.a.owner == "a"`, `User::"user:a".team == "red"`, `User::"user:a" has team`,
		`principal.client == "c"`, `principal has client`, `principal has id`, `principal has roles`, `resource == principal`, `principal in resource`, `resource in [resource, principal]`,
		`[Order::"1"] in resource`, `1 in resource`, `resource in "a"`, `resource in [1]`, `resource.owner in resource`, `resource.owner in principal`, `resource == [1]`, `[resource] == 1`,
		`resource.owner.length == 1`, `resource.owner has length`, `(resource.paid == true) has x`, `resource.tags.isEmpty()`, `ip(resource.owner).isLoopback()`, `resource.total + 1 > 2`, `-resource.total < 0`,
		`(if resource.paid then 1 else 2) == 1`, `(if resource.paid then resource.owner else resource.team) == "red"`, `(if resource.paid then resource.frozen else "a")`, `(if principal.id == "user:a" then resource.owner else resource.nothing) == "user:a"`,
		`context == {"now": 1}`, `context has now`, `context has relation`, `context.relation has viewer`, `context has nothing && context.nothing`, `resource.owner like "a*b"`, `resource.owner like "a*b*"`,
		`resource.hasTag("a")`, `resource.getTag(resource.owner) == 1`, `{"a": resource.total}.a == 1`, `resource.tags.contains(resource)`, `resource.tags.contains(resource.tags)`, `resource.tags.contains(resource.paid == true)`,
		`[true].contains(resource.paid == true)`, `[[1]].contains(resource.tags)`, `resource.tags.containsAll(["a", 1])`, `["red", "acme"].containsAny(resource.groups)`, `["red", "acme"].containsAll(resource.groups)`, `resource.tags.containsAny(1)`, `1.containsAny(resource.tags)`, `resource.tags.containsAny([resource.owner])`, `resource.tags.containsAny(resource)`,
		`resource.paid == resource.frozen`, `resource.paid == (resource.total == 1)`, `(resource.total == 1) == "a"`, `(resource.total == 1) == resource.owner`, `(resource.total == 1) == resource`, `resource.total == resource.rate`, `resource.total < datetime("2024-01-01")`, `resource is Card && resource.nothing`,
	}
}

func (w world) policies() string {
	var b strings.Builder
	for i := range 1 + w.IntN(3) {
		fmt.Fprintf(&b, "@id(\"p%d\") %s (%s, %s, %s)", i, w.pick("permit", "permit", "forbid"),
			w.pick("principal", "principal", "principal is User", `principal == User::"user:a"`, `principal in User::"user:a"`),
			w.pick("action", `action == Action::"orders:read"`, `action in [Action::"orders:list", Action::"orders:read"]`),
			w.pick("resource", "resource is Order", "resource is Order", `resource == Order::"1"`, `resource in Order::"1"`, "resource is Card"))
		for range w.IntN(3) {
			fmt.Fprintf(&b, " %s { %s }", w.pick("when", "when", "unless"), w.expr(w.IntN(5)))
		}
		b.WriteString(";\n")
	}
	return b.String()
}

func allowed(v authz.Verdict) bool {
	for _, f := range v.Failures {
		if f.Policy.Effect == rampart.Deny {
			return false
		}
	}
	return len(v.Permits) > 0 && len(v.Forbids) == 0
}

func check(e *Engine, t *testing.T, p rampart.Principal, row map[string]any, facts map[string]bool) bool {
	attrs := map[string]any{}
	for name, v := range row {
		if name != "id" && name != "tenant" {
			attrs[name] = v
		}
	}
	tenant, _ := row["tenant"].(string)
	return allowed(e.Evaluate(t.Context(), authz.Request{
		Principal: p, Action: "orders:read", Context: map[string]any{"now": int64(1)}, Relations: facts,
		Resource: rampart.Resource{Type: "order", ID: row["id"].(string), Tenant: tenant, Attrs: attrs},
	}))
}

func related(facts map[string]bool) func(string) (bool, error) {
	return func(name string) (bool, error) {
		holds, known := facts[name]
		if !known {
			return false, errors.New("unknown")
		}
		return holds, nil
	}
}

func pairs() int {
	if n, err := strconv.Atoi(os.Getenv("RAMPART_FILTER_PAIRS")); err == nil {
		return n
	}
	return 3_000
}

// TestFilterIsCheck: a row is in the filter exactly when the check allows it,
// with the principal known and, as row-level security has it, unknown.
func TestFilterIsCheck(t *testing.T) {
	seed := rand.Uint64()
	w := world{rand.New(rand.NewPCG(seed, 0)), map[bool]int{}}
	count := map[string]int{}
	for count["policies"] < pairs() {
		src := w.policies()
		e := unchecked(t, src)
		p := w.principal()
		plain, err := e.Residual(t.Context(), authz.Request{Principal: p, Action: "orders:read", Context: map[string]any{"now": int64(1)}, Resource: rampart.Resource{Type: "order"}})
		count["policies"]++
		if agrees(t, src, e, w, p, plain, err) {
			count["filters"]++
		}
		rls, err := e.ResidualRLS(t.Context(), "orders:read", "order")
		if err == nil {
			rls = known(rls, p)
		}
		if agrees(t, src, e, w, p, rls, err) {
			count["rls"]++
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%v of %d pairs of policies and rows are filters, %d for row-level security; they keep %d rows and drop %d; 0 differ", count["filters"], count["policies"], count["rls"], w.seen[true], w.seen[false])
	if count["filters"] < count["policies"]/2 || count["rls"] < count["policies"]/3 {
		t.Error("too few of them can be said as filters")
	}
	if w.seen[true] < w.seen[false]/10 {
		t.Error("hardly a row is kept, so little is compared")
	}
}

// TestOddFilters puts each odd condition in each place that Cedar may or may
// not come to.
func TestOddFilters(t *testing.T) {
	w := world{rand.New(rand.NewPCG(1, 0)), map[bool]int{}}
	said := 0
	for _, x := range odd() {
		for _, place := range []string{"X", "true && X", "X && true", "false || X", "resource.paid && X", "X || resource.frozen", "!X", "if resource.paid then X else true", "if X then true else resource.frozen", "X == resource.paid"} {
			for _, effect := range []string{"forbid", "permit"} {
				src := `@id("a") permit (principal, action, resource); @id("x") ` + effect + ` (principal, action, resource) when { ` + strings.Replace(place, "X", "("+x+")", 1) + " };"
				if effect == "permit" {
					_, src, _ = strings.Cut(src, "; ")
				}
				e, p := unchecked(t, src), w.principal()
				plain, err := e.Residual(t.Context(), authz.Request{Principal: p, Action: "orders:read", Context: map[string]any{"now": int64(1)}, Resource: rampart.Resource{Type: "order"}})
				if agrees(t, src, e, w, p, plain, err) {
					said++
				}
				rls, err := e.ResidualRLS(t.Context(), "orders:read", "order")
				if err == nil {
					rls = known(rls, p)
				}
				agrees(t, src, e, w, p, rls, err)
			}
		}
	}
	t.Logf("%d odd policies are filters", said)
}

// TestUntranslatable: what cannot be said as a filter is refused with its line,
// unless a condition before it is false anyway.
func TestUntranslatable(t *testing.T) {
	for condition, want := range map[string]string{
		`resource.tags == ["a"]`:                           "whole sets",
		`resource.total + 1 > 2`:                           "neither computes",
		`resource.owner like "a*b"`:                        "a pattern other than",
		`ip(resource.owner).isLoopback()`:                  "ip of what is unknown",
		`Order::"1".owner == "a"`:                          `an attribute of the named Order::"1"`,
		`(if resource.paid then 1 else 2) == 1`:            "two conditions",
		`resource == Order::""`:                            "without an id",
		`context.relation has viewer`:                      "whether a relation holds",
		`context has relation`:                             "one by one",
		`context == {"now": 1}`:                            "the context as a whole",
		`resource.rate == decimal("922337203685477.5807")`: "too many digits",
		`[["a"]].contains(resource.tags)`:                  "membership",
		`["a"].containsAll(resource.tags)`:                 "no other members",
	} {
		src := "@id(\"x\") permit (principal, action, resource is Order) when {\n resource.paid &&\n " + condition + " };"
		_, err := unchecked(t, src).Residual(t.Context(), authz.Request{Action: "orders:read", Resource: rampart.Resource{Type: "order"}})
		refused, ok := errors.AsType[*filter.Untranslatable](err)
		if !ok || refused.Policy.ID != "x" || !strings.HasPrefix(refused.What, "p.cedar:3: ") || !strings.Contains(refused.What, want) {
			t.Errorf("%s: got %v, want %q", condition, err, want)
		}
		src = strings.Replace(src, "resource.paid", "principal is Client", 1)
		left, err := unchecked(t, src).Residual(t.Context(), authz.Request{Action: "orders:read", Resource: rampart.Resource{Type: "order"}})
		if err != nil || left.Permits != nil {
			t.Errorf("%s behind a false condition: %v, %v", condition, left, err)
		}
	}
}

// TestGrowth: comparisons of conditions double what they compare, and are
// stopped before they fill the memory.
func TestGrowth(t *testing.T) {
	for _, nest := range []string{"(%s == resource.paid)", "(if %s then resource.paid else resource.frozen)", "[%s].contains(resource.paid)", "(%s != (resource.total == 1))"} {
		condition := "(resource.total > 1)"
		for range 60 {
			condition = strings.Replace(nest, "%s", condition, 1)
		}
		_, err := unchecked(t, onOrders+" when { "+condition+" };").Residual(t.Context(), authz.Request{
			Principal: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:a"}, Action: "orders:read", Resource: rampart.Resource{Type: "order"},
		})
		if err == nil || !strings.Contains(err.Error(), "more than 10000 parts") {
			t.Errorf("%.40s: %.200v", condition, err)
		}
	}
}

// TestUnsaidForRLS: a database knows neither the context nor the client.
func TestUnsaidForRLS(t *testing.T) {
	for _, condition := range []string{"context.now > 5", "context has now", `principal.client == "c"`, "principal has client", `User::"user:a".team == "red"`} {
		e := unchecked(t, `@id("x") permit (principal, action, resource is Order) when { `+condition+` };`)
		if _, err := e.ResidualRLS(t.Context(), "orders:read", "order"); err == nil {
			t.Errorf("%s was said", condition)
		}
	}
}

// TestUndeclared: without a type in the schema nothing is known of columns, and
// a resource that is a principal cannot be told apart.
func TestUndeclared(t *testing.T) {
	for typ, condition := range map[string]string{"bill": "resource.owner == principal.id", "note": "resource has owner", "user": "resource has tenant"} {
		e := load(t, `@id("x") permit (principal, action, resource) when { `+condition+` };`)
		_, err := e.Residual(t.Context(), authz.Request{Action: "bills:read", Resource: rampart.Resource{Type: typ}})
		if _, ok := errors.AsType[*filter.Untranslatable](err); !ok {
			t.Errorf("%s: %v", typ, err)
		}
	}
	e := load(t, `@id("x") permit (principal, action, resource) when { resource has tenant };`)
	if _, err := e.Residual(t.Context(), authz.Request{Action: "bills:read", Resource: rampart.Resource{Type: "bill"}}); err != nil {
		t.Error("every type has a tenant: ", err)
	}
	r := authz.Request{Resource: rampart.Resource{Type: "bill"}, Context: map[string]any{"tenant": []any{nil}}}
	if _, err := e.Residual(t.Context(), r); err == nil {
		t.Error("took a context with a null in a list")
	}
}

// agrees compares one filter with the check on some rows; false when the
// policies cannot be said as a filter.
func agrees(t *testing.T, src string, e *Engine, w world, p rampart.Principal, left filter.Residual, err error) bool {
	t.Helper()
	if err != nil {
		if _, ok := errors.AsType[*filter.Untranslatable](err); !ok {
			t.Errorf("%v\n%s", err, src)
		}
		return false
	}
	f := filter.Combine(left)
	for range 4 {
		row, facts := w.row(), w.facts()
		want, got := check(e, t, p, row, facts), f.Match(row, related(facts))
		w.seen[got]++
		if want != got {
			t.Errorf("check says %v, filter %v of %v by %+v, facts %v\n%s\npermits %#v\nforbids %#v", want, got, row, p, facts, src, left.Permits, left.Forbids)
		}
	}
	return true
}

// known puts the facts of a principal where a filter for row-level security
// names them, as the database does.
func known(r filter.Residual, p rampart.Principal) filter.Residual {
	facts := map[string]any{"id": p.Subject, "kind": string(p.Kind), "roles": anys(p.Roles), "organizations": anys(p.Organizations), "managed_teams": anys(p.ManagedTeams)}
	if p.Tenant != "" {
		facts["org"] = p.Tenant
	}
	if p.Team != "" {
		facts["team"] = p.Team
	}
	var out filter.Residual
	for _, c := range r.Permits {
		out.Permits = append(out.Permits, fill(c, facts))
	}
	for _, c := range r.Forbids {
		out.Forbids = append(out.Forbids, fill(c, facts))
	}
	return out
}

func anys(list []string) []any {
	out := []any{}
	for _, s := range list {
		out = append(out, s)
	}
	return out
}

func fill(e filter.Expr, facts map[string]any) filter.Expr {
	value := func(o filter.Operand) filter.Operand {
		if s, ok := o.(filter.Subject); ok {
			return filter.Lit{Value: facts[s.Name]}
		}
		return o
	}
	switch e := e.(type) {
	case filter.And:
		return filter.And{L: fill(e.L, facts), R: fill(e.R, facts)}
	case filter.Or:
		return filter.Or{L: fill(e.L, facts), R: fill(e.R, facts)}
	case filter.Not:
		return filter.Not{X: fill(e.X, facts)}
	case filter.Total:
		return filter.Total{X: fill(e.X, facts)}
	case filter.Bool:
		return filter.Bool{X: value(e.X)}
	case filter.Cmp:
		return filter.Cmp{Op: e.Op, L: value(e.L), R: value(e.R)}
	case filter.In:
		return filter.In{X: value(e.X), List: value(e.List)}
	case filter.Text:
		return filter.Text{Op: e.Op, X: value(e.X), Part: value(e.Part)}
	}
	return e
}
