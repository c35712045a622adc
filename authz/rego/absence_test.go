package rego

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// TestAbsentAnywhere: what a rule that forbids reads and does not find denies,
// by whatever way it reads, and only there. The resource has no `frozen`, the
// user no team.
func TestAbsentAnywhere(t *testing.T) {
	for name, row := range map[string]struct{ src, want string }{
		"written in the rule":           {"deny if input.resource.frozen == true", "input.resource.frozen"},
		"in a helper":                   {"deny if frozen\nfrozen if input.resource.frozen == true", "input.resource.frozen"},
		"in a helper's helper":          {"deny if x\nx if y\ny if input.resource.frozen", "input.resource.frozen"},
		"in one of two helpers":         {"deny if x\nx if input.resource.frozen\nx if input.user.id == \"x\"", "input.resource.frozen"},
		"in a helper's value":           {"deny if frozen\nfrozen := input.resource.frozen", "input.resource.frozen"},
		"in another package":            {"deny if data.lib.frozen", "input.resource.frozen"},
		"in a package as a value":       {"deny if { l := data.lib; l.frozen }", "input.resource.frozen"},
		"in a function":                 {"deny if frozen(input.resource)\nfrozen(r) if r.frozen == true", "input.resource.frozen"},
		"in a function, nested":         {"deny if f(g(input.resource))\nf(x) if x == true\ng(r) := r.frozen", "input.resource.frozen"},
		"in a function of two bodies":   {"deny if f(input.resource, \"a\")\nf(r, \"a\") if r.frozen\nf(r, \"b\") if r.tags[0] == \"x\"", "input.resource.frozen"},
		"by a function that returns it": {"deny if { r := same(input.resource); r.frozen }\nsame(x) := x", "r.frozen"},
		"by a variable":                 {"deny if { r := input.resource; r.frozen == true }", "input.resource.frozen"},
		"by a variable's variable":      {"deny if { i := input; r := i.resource; r.frozen }", "input.resource.frozen"},
		"by a computed name":            {"deny if { k := \"frozen\"; input.resource[k] }", "input.resource[k]"},
		"of the elements of a list":     {"deny if { some x in input.context.items; x.bad }", "x.bad"},
		"of elements by their place":    {"deny if input.context.items[_].bad", "].bad"},
		"in a list of one":              {"deny if { some x in [input.user.team_id]; x != \"red\" }", "input.user.team_id"},
		"of the user":                   {"deny if outsider\noutsider if input.user.team_id != \"red\"", "input.user.team_id"},
		"in what is said":               {"deny contains m if m := sprintf(\"%v\", [input.user.team_id])", "input.user.team_id"},
		"under not, in a call":          {"deny if not startswith(input.user.team_id, \"r\")", "input.user.team_id"},
		"under not, in a list":          {"deny if not input.user.team_id in [\"red\"]", "input.user.team_id"},
		"under not, in a comprehension": {"deny if not count([1 | input.user.team_id != \"red\"]) == 0", "input.user.team_id"},
		"under two nots":                {"deny if not ok\nok if not bad\nbad if input.user.team_id != \"red\"", "input.user.team_id"},
		"beside a default":              {"deny if level == 2\ndefault level := 1\nlevel := 2 if input.resource.frozen", "input.resource.frozen"},
		"beside a default, under not":   {"deny if not level == 1\ndefault level := 1\nlevel := 2 if input.resource.frozen", "input.resource.frozen"},
		"beside an else":                {"deny if not ok\nok := false if input.resource.frozen else := true", "input.resource.frozen"},
		"in a set":                      {"deny if count(why) > 0\nwhy contains 1 if input.resource.frozen", "input.resource.frozen"},
		"in every":                      {"deny if x\nx if { every k in [\"frozen\"] { input.resource[k] } }", "input.resource[k]"},
		"with a changed input":          {"deny if x with input.user.team_id as \"red\"\nx if { input.user.team_id == \"red\"; input.resource.frozen }", "input.resource.frozen"},
		"in a helper of any type":       {"deny if n(input.resource.total) == 5\nn(x) := lower(x) if is_string(x)\nn(x) := y if { is_number(x); y := x + input.context.more }", "input.context.more"},
		"in a value made here":          {"deny if {\"t\": input.user.team_id}.t != \"red\"", "input.user.team_id"},
		"by an undeclared variable":     {"deny if x\nx if { input.user.roles[i]; input.context.items[i].bad }", "input.context.items[i].bad"},
		"in a function called twice":    {"deny if { f(input.user, \"id\"); f(input.user, \"team_id\") }\nf(u, k) if u[k] != \"\"", "[k]"},
		"a mask by a helper":            {"mask contains \"total\" if frozen\nfrozen if input.resource.frozen", "input.resource.frozen"},
		"an obligation by a function":   {"obligations contains {\"type\": \"x\"} if f(input.resource)\nf(r) if r.frozen", "input.resource.frozen"},
		"fields by a variable":          {"fields contains n if { u := input.user; n := u.team_id }", "input.user.team_id"},

		"guarded in the rule":         {"deny if { input.resource.type == \"payment\"; frozen }\nfrozen if input.resource.frozen", ""},
		"guarded in the helper":       {"deny if frozen\nfrozen if { input.resource.type == \"payment\"; input.resource.frozen }", ""},
		"guarded in the function":     {"deny if f(input.resource, input.action)\nf(r, a) if { a == \"delete\"; r.frozen }", ""},
		"guarded by an argument":      {"deny if f(input.resource, \"b\")\nf(r, \"a\") if r.frozen\nf(r, \"b\") if r.type == \"payment\"", ""},
		"guarded in a comprehension":  {"deny if count([1 | input.resource.type == \"payment\"; input.resource.frozen]) > 0", ""},
		"object.get":                  {"deny if frozen\nfrozen if object.get(input.resource, \"frozen\", false)", ""},
		"object.get of a variable":    {"deny if f(input.resource)\nf(r) if object.get(r, \"frozen\", false)", ""},
		"always there, by a variable": {"deny if { u := input.user; u.id == \"x\" }", ""},
		"elements that are none":      {"deny if x\nx if { some r in input.user.roles; r == \"x\" }", ""},
		"elements that lack nothing":  {"deny if { some x in input.context.items; x.good == false }", ""},
		"a table":                     {"deny if not input.action in table[input.user.role]\ntable := {\"customer\": [\"read\"]}", ""},
		"set by with":                 {"deny if x with input.user.team_id as \"red\"\nx if input.user.team_id == \"blue\"", ""},
		"what nobody calls":           {"deny if false\nunused if input.resource.frozen", ""},
		"of a permit":                 {"allow if input.resource.frozen\ndeny if false", ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := absentees(t, "allow if true\n"+row.src).Evaluate(t.Context(), absentee())
			got := failures(v)
			if !strings.Contains(got, row.want+" is absent") && row.want != "" || row.want == "" && got != "" {
				t.Errorf("failures %q, want %q", got, row.want)
			}
			if kept(v) != (row.want == "") {
				t.Errorf("permits %v, forbids %v, failures %s", v.Permits, v.Forbids, got)
			}
		})
	}
}

// absentees loads src beside a library.
func absentees(t *testing.T, src string) *Engine {
	t.Helper()
	e, err := New(map[string][]byte{
		"orders.rego": []byte("package orders\n" + src + "\n"),
		"lib.rego":    []byte("package lib\nfrozen if input.resource.frozen\n"),
	}, shopWithout("state"))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func shopWithout(attr string) *authz.Schema {
	s := shop()
	delete(s.Types["order"].Attrs, attr)
	return s
}

func absentee() authz.Request {
	r := order(map[string]any{"owner": "user:alice", "total": int64(5)})
	r.Principal.Team = ""
	r.Context = map[string]any{"items": []any{map[string]any{"good": true}}}
	return r
}

// TestWholeInput: a relation that is read by way of the whole input is a fact
// like any other, or the policy does not load.
func TestWholeInput(t *testing.T) {
	for name, row := range map[string]struct{ src, open, declared string }{
		"by its name":         {"deny if input.relation.viewer", "", ""},
		"by a variable":       {"deny if { x := input; x.relation.viewer }", "read as a whole", ""},
		"by a function":       {"deny if b(input)\nb(i) if i.relation.viewer", "read as a whole", ""},
		"a member's variable": {"deny if { x := input; r := x.relation; r.viewer }", "read as a whole", ""},
		"in a permit":         {"allow if not b(input)\nb(i) if i.relation.viewer", "read as a whole", ""},
		"by object.get":       {"deny if object.get(input, [\"relation\", \"viewer\"], false)", "read as a whole", "read as a whole"},
		"by walk":             {"deny if { walk(input, [p, v]); p == [\"relation\", \"viewer\"]; v }", "read as a whole", "read as a whole"},
		"by any name":         {"deny if { some k; input[k].viewer == true }", "read as a whole", "read as a whole"},
		"in a list":           {"deny if { x := [input]; x[0].relation.viewer }", "read as a whole", "read as a whole"},
		"in a permit's walk":  {"allow if not b\nb if { walk(input, [p, v]); v == true }", "read as a whole", "read as a whole"},
		"a computed relation": {"deny if { k := \"viewer\"; input.relation[k] }", "by its name only", "by its name only"},
		"computed, by a name": {"deny if { x := input; k := \"viewer\"; x.relation[k] }", "read as a whole", "by its name only"},
		"with itself":         {"deny if b with input as input\nb if input.relation.viewer", "read as a whole", "read as a whole"},
	} {
		for schema, want := range map[*authz.Schema]string{nil: row.open, shop(): row.declared} {
			t.Run(fmt.Sprintf("%s, schema %t", name, schema != nil), func(t *testing.T) {
				e, err := New(map[string][]byte{"orders.rego": []byte("package orders\nallow if input.action == \"x\"\n" + row.src + "\n")}, schema)
				if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "orders.rego:")) {
					t.Fatalf("got %v, want %q", err, want)
				}
				if err != nil {
					return
				}
				if v := e.Evaluate(t.Context(), order(nil)); len(v.Failures) == 0 || !strings.Contains(failures(v), "input.relation.viewer is absent") || kept(v) {
					t.Errorf("permits %v, failures %s", v.Permits, failures(v))
				}
			})
		}
	}
}

// TestUnknownReads: what cannot be followed does not load.
func TestUnknownReads(t *testing.T) {
	for name, row := range map[string]struct{ src, want string }{
		"with in with":           {"deny if a with input.user.id as \"x\"\na if b with input.user.kind as \"y\"\nb if input.resource.frozen", "orders.rego:4: `with` in what is called with `with`"},
		"a function for another": {"deny if f(1) with f as g\nf(x) if x == 2\ng(x) if input.resource.frozen == x", "orders.rego:3: a function may not stand in"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(map[string][]byte{"orders.rego": []byte("package orders\nallow if true\n" + row.src + "\n")}, nil)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

// TestReadsAreBounded: helpers that call helpers many times over do not make a
// load endless.
func TestReadsAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("package orders\nallow if true\ndeny if h0\n")
	for i := range 20 {
		fmt.Fprintf(&b, "h%d if { h%d; h%d }\n", i, i+1, i+1)
	}
	b.WriteString("h20 if input.resource.frozen\n")
	_, err := New(map[string][]byte{"orders.rego": []byte(b.String())}, nil)
	if err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v", err)
	}
}

// TestAbsentInFilters: a filter leaves out the rows for which a check fails in a
// helper.
func TestAbsentInFilters(t *testing.T) {
	for name, src := range map[string]string{
		"a helper":         "deny if frozen\nfrozen if input.resource.frozen",
		"a helper's value": "deny if frozen == true\nfrozen := input.resource.frozen",
		"a function":       "deny if f(input.action)\nf(a) if { a == \"read\"; input.resource.frozen }",
		"a variable":       "deny if { f := input.resource.frozen; f == true }",
		"under two nots":   "deny if not ok\nok if not bad\nbad if input.resource.frozen",
	} {
		t.Run(name, func(t *testing.T) {
			e := loadWith(t, shop(), "allow if true\n"+src)
			residual, err := e.Residual(t.Context(), filterRequest(rampart.Principal{Kind: rampart.KindHuman, Subject: "user:alice"}))
			if err != nil {
				t.Fatal(err)
			}
			f := filter.Combine(residual)
			for _, frozen := range []any{nil, true, false} {
				row := map[string]any{"owner": "a"}
				if frozen != nil {
					row["frozen"] = frozen
				}
				if keeps := compareRow(t, e, f, filterRequest(alice()), row, nil, "a"); keeps != (frozen == false) {
					t.Errorf("frozen %v: keeps %t", frozen, keeps)
				}
			}
		})
	}
}
