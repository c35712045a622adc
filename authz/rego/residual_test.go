package rego

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// kept is the decision point's rule: any forbid, and any failure that is not a
// permit's, denies; then one permit allows.
func kept(v authz.Verdict) bool {
	for _, f := range v.Failures {
		if f.Policy.Effect == rampart.Deny {
			return false
		}
	}
	return len(v.Forbids) == 0 && len(v.Permits) > 0
}

func filterRequest(p rampart.Principal) authz.Request {
	return authz.Request{
		Layer: rampart.LayerDomain, Principal: p, Action: "orders:read",
		Resource: rampart.Resource{Type: "order"}, Context: map[string]any{"limit": int64(10)},
	}
}

// worlds is the source of random policies and rows. Texts are few, so that they
// meet.
type worlds struct{ *rand.Rand }

func (w worlds) pick(of ...string) string { return of[w.IntN(len(of))] }

func (w worlds) maybe(row map[string]any, name string, v any) {
	if w.IntN(3) > 0 {
		row[name] = v
	}
}

func (w worlds) text() string { return w.pick("a", "b", "ab", "user:a", "") }

func (w worlds) row() (map[string]any, map[string]bool) {
	row := map[string]any{"owner": w.text(), "total": []any{1.5, int64(1), 10.25, -3.0}[w.IntN(4)]}
	w.maybe(row, "team_id", w.text())
	w.maybe(row, "frozen", w.IntN(2) == 0)
	w.maybe(row, "state", w.text())
	w.maybe(row, "count", int64(w.IntN(4)))
	tags := []any{}
	for range w.IntN(3) {
		tags = append(tags, w.text())
	}
	w.maybe(row, "tags", tags)
	return row, map[string]bool{"viewer": w.IntN(2) == 0, "editor": w.IntN(2) == 0}
}

func (w worlds) principal() rampart.Principal {
	p := rampart.Principal{Kind: rampart.KindHuman, Subject: w.pick("user:a", "b"), Roles: [][]string{nil, {"admin"}, {"ab", "b"}}[w.IntN(3)]}
	p.Team = w.pick("", "a", "b")
	p.Tenant = w.pick("", "a")
	p.Organizations = [][]string{nil, {"a"}, {"a", "b"}}[w.IntN(3)]
	return p
}

func randomSchema() *authz.Schema {
	s := shop()
	s.Types["order"].Attrs["count"] = authz.Attr{Kind: authz.KindLong, Optional: true}
	return s
}

// textual returns an operand that is a text.
func (w worlds) textual() string {
	return w.pick("input.resource.owner", "input.resource.team_id", "input.resource.state", "input.resource.tenant", "input.user.id",
		"input.user.team_id", `"a"`, `"b"`, `"ab"`, `object.get(input.resource, "state", "a")`, "input.resource.type", "input.resource.id")
}

func (w worlds) compareText() string {
	return w.textual() + " " + w.pick("==", "!=", "<", "<=", ">", ">=") + " " + w.textual()
}

// condition returns a condition in the words of both dialects, but for `in`.
func (w worlds) condition(v1 bool) string {
	switch w.IntN(16) {
	case 0, 1, 2:
		return w.compareText()
	case 3:
		return "input.resource." + w.pick("total", "count") + " " + w.pick("==", "!=", "<", "<=", ">", ">=") + " " + w.pick("1", "1.5", "-3", "input.context.limit", "2", "10.25")
	case 4:
		return w.pick("", "not ") + "input.resource.frozen"
	case 5:
		return "input.resource.frozen " + w.pick("==", "!=") + " " + w.pick("true", "false")
	case 6:
		return w.pick("", "not ") + w.pick("startswith", "endswith", "contains") + "(" + w.textual() + ", " + w.textual() + ")"
	case 7:
		return w.pick("", "not ") + "input.relation." + w.pick("viewer", "editor")
	case 8:
		return "input.resource.tags[_] == " + w.textual()
	case 9:
		return w.pick("input.user.organizations", "input.user.roles") + "[_] == " + w.textual()
	case 10:
		return w.pick("", "not ") + w.pick("helper", "deep", "other", "f(input.resource.owner)", `f("ab")`, "flag", `g(input.resource.state)`)
	case 11:
		return w.pick("flag == true", "flag == false", "flag != true", "level == 2", "level != 2", "kindly == \"x\"")
	case 12:
		return w.pick("object.get(input.resource, \"frozen\", false)", "not object.get(input.resource, \"frozen\", true)",
			`object.get(input.resource, "count", 2) > 1`, `object.get(input.resource, "team_id", "") == input.user.team_id`)
	case 13:
		return "not " + w.compareText()
	case 14:
		if v1 {
			return w.pick("", "not ") + w.textual() + " in " + w.pick(`{"a", "b"}`, `["ab"]`, "input.resource.tags", "input.user.organizations", "input.user.roles", "set()")
		}
		return "input.resource.owner == {\"a\", \"b\"}[_]"
	}
	if v1 {
		return w.pick("some x in input.user.organizations; x == input.resource.team_id", `some t in input.resource.tags; t == "a"`, "true")
	}
	return `x := input.resource.state; x != "a"`
}

func (w worlds) body(v1 bool) string {
	n := 1 + w.IntN(3)
	var out []string
	for range n {
		out = append(out, w.condition(v1))
	}
	text := strings.Join(out, "; ")
	if strings.Count(text, "x := ") > 1 || strings.Count(text, "some x ") > 1 || strings.Count(text, "some t ") > 1 {
		return w.body(v1)
	}
	return "{ " + text + " }"
}

// policy returns a policy with helpers that its conditions may call. Helpers
// call no helpers but one.
func (w worlds) policy() string {
	v1 := w.IntN(3) > 0
	iff, set := " if ", func(name, v string) string { return name + " contains " + v + " if " }
	if !v1 {
		iff, set = " ", func(name, v string) string { return name + "[" + v + "] " }
	}
	plain := func() string {
		for {
			if b := w.body(v1); !strings.ContainsAny(b, "()") || !helperCall(b) {
				if !helperCall(b) {
					return b
				}
			}
		}
	}
	var b strings.Builder
	b.WriteString("package orders\n")
	for _, helper := range []string{"helper", "helper", "other"} {
		b.WriteString(helper + iff + plain() + "\n")
	}
	b.WriteString("deep" + iff + "{ " + w.pick("helper", "not helper") + "; " + w.pick("not other", "other") + " }\n")
	b.WriteString("default flag = false\nflag" + iff + plain() + "\n")
	b.WriteString("default level = 1\nlevel = 2" + iff + plain() + "\n")
	b.WriteString("kindly = \"x\"" + iff + plain() + "\n")
	b.WriteString("f(x)" + iff + "{ x == \"a\" }\nf(x)" + iff + "{ startswith(x, " + w.pick(`"u"`, `input.user.id`, "input.resource.owner") + ") }\n")
	b.WriteString("g(x)" + iff + "{ not f(x); x != \"b\" }\n")
	for range 1 + w.IntN(2) {
		b.WriteString("allow" + iff + w.body(v1) + "\n")
	}
	switch w.IntN(6) {
	case 0:
		b.WriteString("deny" + iff + w.body(v1) + "\n")
	case 1:
		b.WriteString(set("deny", `"frozen"`) + w.body(v1) + "\n")
	case 2:
		b.WriteString(set("deny", `{"code": "x", "msg": input.resource.state}`) + w.body(v1) + "\n" + set("deny", `"y"`) + w.body(v1) + "\n")
	case 3:
		b.WriteString("deny = true" + iff + w.body(v1) + "\n")
	case 4:
		b.WriteString("deny := input.resource.owner == input.user.id\n")
	}
	if w.IntN(8) == 0 {
		b.WriteString(set("mask", w.pick(`"total"`, "input.resource.owner", "input.resource.team_id")) + w.body(v1) + "\n")
	}
	return b.String()
}

func helperCall(b string) bool {
	for _, word := range []string{"helper", "deep", "other", "f(", "flag", "g(", "level", "kindly"} {
		if strings.Contains(b, word) && !strings.Contains(b, "\""+word) {
			return true
		}
	}
	return false
}

func pairs(t testing.TB, otherwise int) int {
	text := os.Getenv("RAMPART_FILTER_PAIRS")
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFilterIsCheck: a row is in the filter exactly when the check allows it.
// RAMPART_FILTER_PAIRS sets how many pairs of policy and row are tried.
func TestFilterIsCheck(t *testing.T) {
	const rows = 25
	w := worlds{rand.New(rand.NewPCG(1, 2))}
	want, tried, refused, keeps := pairs(t, 4000), 0, 0, 0
	for policies := 0; tried < want; policies++ {
		src := w.policy()
		e, err := New(map[string][]byte{"orders.rego": []byte(src)}, randomSchema())
		if err != nil {
			t.Fatalf("%v\n%s", err, src)
		}
		r := filterRequest(w.principal())
		r.Resource.Tenant = w.pick("", "a")
		residual, err := e.Residual(t.Context(), r)
		if u, ok := errors.AsType[*filter.Untranslatable](err); ok {
			if refused++; refused%20 == 1 {
				t.Log(u)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, src)
		}
		f := filter.Combine(residual)
		for range rows {
			tried++
			row, facts := w.row()
			if compareRow(t, e, f, r, row, facts, w.text()) {
				keeps++
			}
			if t.Failed() {
				t.Fatalf("policy %d:\n%s\nresidual %+v", policies, src, residual)
			}
		}
	}
	t.Logf("%d pairs, %d kept, %d policies refused", tried, keeps, refused)
	if keeps < tried/20 {
		t.Error("hardly any row is kept: the policies test nothing")
	}
}

// compareRow asks check and filter about one row.
func compareRow(t *testing.T, e *Engine, f filter.Filter, r authz.Request, row map[string]any, facts map[string]bool, tenant string) bool {
	t.Helper()
	if r.Resource.Tenant == "" {
		r.Resource.Tenant = tenant
	}
	r.Resource.ID, r.Resource.Attrs, r.Relations = "a", row, facts
	v := e.Evaluate(t.Context(), r)
	whole := map[string]any{"id": "a", "tenant": r.Resource.Tenant}
	for name, value := range row {
		whole[name] = value
	}
	got := f.Match(whole, func(name string) (bool, error) { return facts[name], nil })
	if got != kept(v) {
		t.Errorf("filter %t, check %t of %v, relations %v, principal %+v\npermits %v, forbids %v, %s", got, kept(v), whole, facts, r.Principal, v.Permits, v.Forbids, failures(v))
	}
	return got
}

func TestUntranslatable(t *testing.T) {
	for name, row := range map[string]struct{ src, want string }{
		"a count":                  {"allow if count(input.resource.tags) > 1", "rego/orders.allow at orders.rego:2 cannot be said as a filter"},
		"every":                    {`allow if every x in input.resource.tags { x == "a" }`, "not about one row"},
		"arithmetic":               {"allow if input.resource.total + 1 > 5", "plus"},
		"case":                     {`allow if lower(input.resource.owner) == "a"`, "lower"},
		"a place in a list":        {`allow if input.resource.tags[0] == "a"`, "by its place"},
		"two looks at a member":    {`allow if { some t in input.resource.tags; t != "a"; t != "b" }`, "looked at more than once"},
		"an else":                  {"allow if level == 1\nlevel := 1 if input.resource.frozen else := 2", "else"},
		"two values at once":       {"allow if level == 1\nlevel := 1 if input.resource.frozen\nlevel := 2 if input.resource.owner == \"a\"", "data.orders.level (orders.rego:3) may have two values at once"},
		"many values":              {"allow if tag == \"a\"\ntag := t if some t in input.resource.tags", "may have two values at once"},
		"values that disagree":     {"allow := true if input.resource.frozen\nallow := false if input.resource.owner == \"a\"", "contradict"},
		"an obligation":            {"allow if true\nobligations contains {\"type\": \"x\"} if input.resource.frozen", "rego/orders.obligations at orders.rego:3 cannot be said as a filter: what it calls for depends on the resource"},
		"a number too exact":       {"allow if input.resource.total > 0.00001", "databases do not know"},
		"an order of booleans":     {"allow if input.resource.frozen > false", "make differently"},
		"a list as a whole":        {`allow if input.resource.tags == ["a"]`, "make differently"},
		"with":                     {"allow if ok with input.resource.owner as input.resource.state\nok if input.resource.owner == \"a\"", "with"},
		"of another action":        {"allow if { input.action == \"delete\"; count(input.resource.tags) > 1 }", ""},
		"of another type":          {"allow if { input.resource.type == \"payment\"; count(input.resource.tags) > 1 }", ""},
		"an obligation not called": {"allow if true\nobligations contains {\"type\": \"x\"} if input.action == \"delete\"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := loadWith(t, randomSchema(), row.src).Residual(t.Context(), filterRequest(alice()))
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
			if _, ok := errors.AsType[*filter.Untranslatable](err); err != nil && !ok {
				t.Errorf("%T is not an Untranslatable", err)
			}
		})
	}
}

func TestFilterNeedsSchema(t *testing.T) {
	if _, err := loadWith(t, nil, "allow if true").Residual(t.Context(), filterRequest(alice())); err == nil {
		t.Error("filtered without a schema")
	}
	r := filterRequest(alice())
	r.Resource.Type = "stranger"
	if _, err := loadWith(t, shop(), "allow if true").Residual(t.Context(), r); err == nil {
		t.Error("filtered an undeclared type")
	}
}

// TestResidualForms pins some residuals, so that filters stay short.
func TestResidualForms(t *testing.T) {
	attr := func(name string) filter.Operand { return filter.Attr{Name: name} }
	lit := func(v any) filter.Operand { return filter.Lit{Value: v} }
	owner := filter.Total{X: filter.Cmp{Op: filter.Eq, L: lit("user:alice"), R: attr("owner")}}
	frozen := filter.Total{X: filter.Bool{X: attr("frozen")}}
	for name, row := range map[string]struct {
		src  string
		want filter.Residual
	}{
		"all":        {"allow if input.action == \"read\"", filter.Residual{Permits: []filter.Expr{filter.Const(true)}}},
		"none":       {"allow if input.action == \"delete\"", filter.Residual{}},
		"an owner":   {"allow if input.resource.owner == input.user.id", filter.Residual{Permits: []filter.Expr{owner}}},
		"a relation": {"allow if not input.relation.viewer", filter.Residual{Permits: []filter.Expr{filter.Not{X: filter.Rel{Name: "viewer"}}}}},
		"a forbid that may fail": {"deny if input.resource.frozen", filter.Residual{Forbids: []filter.Expr{
			frozen, filter.And{L: filter.Not{X: filter.Has{Attr: "frozen"}}, R: filter.Undefined{}},
		}}},
		"a fact that the type lacks": {"deny if input.relation.payer", filter.Residual{Forbids: []filter.Expr{filter.Undefined{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := loadWith(t, shop(), row.src).Residual(t.Context(), filterRequest(alice()))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(fmt.Sprintf("%#v", row.want), fmt.Sprintf("%#v", got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
