package rego

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// seed holds three bare rules in the dialect that Rego had before v1.
const seed = `package orders

allow {
	input.action == "read"
	input.resource.type == "order"
	input.resource.owner == input.user.id
}

allow {
	input.action == "read"
	input.resource.type == "order"
	input.resource.team_id == input.user.team_id
	input.user.role == "manager"
}

allow {
	input.action == "read"
	input.resource.type == "order"
	input.user.role == "admin"
}
`

func load(t testing.TB, src string) *Engine {
	t.Helper()
	e, err := New(map[string][]byte{"orders.rego": []byte(src)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func alice() rampart.Principal {
	return rampart.Principal{Kind: rampart.KindHuman, Subject: "user:alice", Team: "red", Roles: []string{"customer"}}
}

func order(attrs map[string]any) authz.Request {
	return authz.Request{
		Layer:     rampart.LayerDomain,
		Principal: alice(),
		Action:    "orders:read",
		Resource:  rampart.Resource{Type: "order", ID: "17", Attrs: attrs},
	}
}

// lines renders references as "file:line".
func lines(rulings []authz.Ruling) []string {
	var out []string
	for _, r := range rulings {
		out = append(out, fmt.Sprintf("%s:%d", r.Policy.File, r.Policy.Line))
	}
	return out
}

func failures(v authz.Verdict) string {
	var b strings.Builder
	for _, f := range v.Failures {
		fmt.Fprintf(&b, "%s %s: %v\n", f.Code, f.Policy, f.Err)
	}
	return b.String()
}

// TestDialects runs the same questions against v0, v1 and mixed files.
func TestDialects(t *testing.T) {
	v1 := strings.ReplaceAll(seed, "allow {", "allow if {")
	withDefault := strings.Replace(v1, "package orders\n", "package orders\ndefault allow := false\n", 1)
	oneRule := "package orders\nimport rego.v1\nallow := input.resource.owner == input.user.id\n"
	for name, row := range map[string]struct {
		src  string
		want []string // of a request by the owner
	}{
		"v0":             {seed, []string{"orders.rego:3"}},
		"v1":             {v1, []string{"orders.rego:3"}},
		"v1 default":     {withDefault, []string{"orders.rego:4"}},
		"a value":        {oneRule, []string{"orders.rego:3"}},
		"an else":        {"package orders\nallow if input.user.role == \"admin\" else if input.resource.owner == input.user.id\n", []string{"orders.rego:2"}},
		"a helper":       {"package orders\nallow if mine\nmine if input.resource.owner == input.user.id\n", []string{"orders.rego:2"}},
		"a dashed name":  {"package shop[\"my-orders\"]\nallow if input.resource.owner == input.user.id\n", []string{"orders.rego:2"}},
		"an odd default": {"package orders\ndefault allow := false\nallow := true if input.resource.owner == input.user.id\n", []string{"orders.rego:3"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := load(t, row.src)
			v := e.Evaluate(t.Context(), order(map[string]any{"owner": "user:alice"}))
			if diff := cmp.Diff(row.want, lines(v.Permits)); diff != "" || len(v.Failures) > 0 {
				t.Errorf("owner: %s%s", diff, failures(v))
			}
			v = e.Evaluate(t.Context(), order(map[string]any{"owner": "user:bob"}))
			if len(v.Permits) > 0 || len(v.Failures) > 0 {
				t.Errorf("stranger: permits %v, %s", v.Permits, failures(v))
			}
		})
	}
}

// TestDeny covers every way in which a deny rule may say no, and that what it
// cannot read denies.
func TestDeny(t *testing.T) {
	const open = "package orders\nallow if true\n"
	for name, row := range map[string]struct {
		deny     string
		attrs    map[string]any
		forbids  []string
		failures string
	}{
		"a boolean":            {`deny if input.resource.frozen == true`, map[string]any{"frozen": true}, []string{"orders.rego:3"}, ""},
		"a boolean, not held":  {`deny if input.resource.frozen == true`, map[string]any{"frozen": false}, nil, ""},
		"a set":                {`deny contains "frozen" if input.resource.frozen`, map[string]any{"frozen": true}, []string{"orders.rego:3"}, ""},
		"an object":            {`deny["frozen"] if input.resource.frozen`, map[string]any{"frozen": true}, []string{"orders.rego:3"}, ""},
		"a value":              {`deny := input.resource.frozen`, map[string]any{"frozen": true}, []string{"orders.rego:3"}, ""},
		"a value, not held":    {`deny := input.resource.frozen`, map[string]any{"frozen": false}, nil, ""},
		"a value, absent":      {`deny := input.resource.frozen`, nil, nil, "input.resource.frozen is absent"},
		"a text":               {`deny := "no" if input.resource.frozen`, map[string]any{"frozen": true}, []string{"orders.rego:3"}, ""},
		"absent":               {`deny if input.resource.frozen == true`, nil, nil, "error rego/orders.deny at orders.rego:3: input.resource.frozen is absent"},
		"absent in a function": {`deny if to_number(input.resource.total) > 5`, nil, nil, "input.resource.total is absent"},
		"null is absent":       {`deny if input.resource.frozen == true`, map[string]any{"frozen": nil}, nil, "input.resource.frozen is absent"},
		"absent, guarded":      {`deny if object.get(input.resource, "frozen", false)`, nil, nil, ""},
		"absent, not reached":  {`deny if { input.resource.type == "payment"; input.resource.frozen }`, nil, nil, ""},
		"absent, under not":    {`deny if not input.resource.cleared`, nil, []string{"orders.rego:3"}, ""},
		"absent in a list":     {`deny if { some tag in input.resource.tags; tag == "frozen" }`, nil, nil, "input.resource.tags is absent"},
		"absent in a set":      {`deny if count({x | x := input.resource.tags[_]; x == "frozen"}) > 0`, nil, nil, "input.resource.tags is absent"},
		"absent in every":      {`deny if { every x in input.resource.tags { x == "frozen" } }`, nil, nil, "input.resource.tags is absent"},
		"a default":            {"default deny := false\ndeny if input.resource.frozen", map[string]any{"frozen": true}, []string{"orders.rego:4"}, ""},
		"a bad default":        {"default deny := true", nil, []string{"orders.rego:3"}, ""},
		"set elsewhere":        {"mine if input.user.id == \"x\"\ndeny if mine with input.user.team_id as \"x\"", nil, nil, ""},
		"a builtin fails":      {`deny if to_number(input.resource.total) > 5`, map[string]any{"total": "abc"}, nil, "to_number"},
	} {
		t.Run(name, func(t *testing.T) {
			v := load(t, open+row.deny+"\n").Evaluate(t.Context(), order(row.attrs))
			if diff := cmp.Diff(row.forbids, lines(v.Forbids)); diff != "" {
				t.Error(diff)
			}
			if got := failures(v); !strings.Contains(got, row.failures) || (row.failures == "") != (got == "") {
				t.Errorf("failures %q, want %q", got, row.failures)
			}
			for _, f := range v.Failures {
				if f.Policy.Effect != rampart.Deny {
					t.Errorf("%v does not deny", f.Policy)
				}
			}
		})
	}
}

func TestConflictFails(t *testing.T) {
	e := load(t, "package orders\nallow := true if input.action == \"read\"\nallow := false if input.resource.frozen\n")
	v := e.Evaluate(t.Context(), order(map[string]any{"frozen": true}))
	if len(v.Permits) > 0 || len(v.Failures) != 1 || v.Failures[0].Policy.File != "orders.rego" {
		t.Errorf("permits %v, failures %s", v.Permits, failures(v))
	}
}

func TestTimeout(t *testing.T) {
	e := load(t, "package orders\nallow if count([x | some x in numbers.range(1, 100000000); x > 0]) > 0\n")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	v := e.Evaluate(ctx, order(nil))
	if len(v.Permits) > 0 || len(v.Failures) != 1 || v.Failures[0].Code != rampart.CodeTimeout {
		t.Errorf("permits %v, failures %s", v.Permits, failures(v))
	}
}

func TestBusyEngineTimesOut(t *testing.T) {
	e := load(t, seed)
	for range cap(e.slots) {
		e.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := e.Evaluate(ctx, order(nil))
	if len(v.Failures) != 1 || v.Failures[0].Code != rampart.CodeTimeout {
		t.Errorf("got %s", failures(v))
	}
	if misses := e.Explain(ctx, order(nil)); misses != nil {
		t.Errorf("explained without a slot: %v", misses)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, row := range map[string]struct{ src, want string }{
		"the network":        {"package a\nallow if http.send({\"method\": \"get\", \"url\": \"https://x\"}).status_code == 200", "a.rego:2: rego_type_error: undefined function http.send"},
		"the environment":    {"package a\nallow if opa.runtime().env.HOME", "undefined function opa.runtime"},
		"the clock":          {"package a\nallow if time.now_ns() > 0", "undefined function time.now_ns"},
		"randomness":         {"package a\nallow if rand.intn(\"a\", 2) == 1", "undefined function rand.intn"},
		"a module in a text": {"package a\nallow if rego.parse_module(\"a\", \"package b\").package", "undefined function rego.parse_module"},
		"a misspelt member":  {"package a\nallow if input.user.rol == \"admin\"", "undefined ref: input.user.rol"},
		"a misspelt root":    {"package a\nallow if input.usr.role == \"admin\"", "undefined ref: input.usr"},
		"neither v0 nor v1":  {"package a\nallow {{", "a.rego:2"},
		"v0 and worse":       {"package a\nallow { input.x == }", "a.rego:2"},
		"nothing":            {"", "empty module"},
		"no decision":        {"package a\nmine if input.user.id == \"a\"", "no file has a rule named allow or deny"},
		"allow by default":   {"package a\ndefault allow := true", "may not default to anything but false"},
		"allow as a set":     {"package a\nallow contains \"x\" if true", "neither a function nor a set"},
		"allow as an object": {"package a\nallow[\"x\"] := true", "neither a function nor a set"},
		"allow as function":  {"package a\nallow(x) if x == 1", "neither a function nor a set"},
		"deny by import":     {"package a\nimport input.resource as r\ndeny if r.frozen", "may not import input.resource"},
		"deny with an else":  {"package a\ndeny if input.context.a else if input.context.b", "may not have an else"},
		"our own names":      {"package a\nallow if true\nrampart_denied contains 1 if true", "are taken"},
		"deep nesting":       {"package a\nallow if " + strings.Repeat("(", 300), "nested deeper"},
		"no text":            {"package a\xff", "UTF-8"},
	} {
		_, err := New(map[string][]byte{"a.rego": []byte(row.src)}, nil)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
}

// TestPackagesDecideTogether: a deny of one package counts beside an allow of
// another, and a library decides nothing.
func TestPackagesDecideTogether(t *testing.T) {
	e, err := New(map[string][]byte{
		"orders.rego": []byte(seed),
		"freeze.rego": []byte("package freeze\nimport data.lib\ndeny if lib.frozen\n"),
		"lib.rego":    []byte("package lib\nfrozen if input.resource.frozen\n"),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	v := e.Evaluate(t.Context(), order(map[string]any{"owner": "user:alice", "frozen": true}))
	if diff := cmp.Diff([]string{"orders.rego:3"}, lines(v.Permits)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"freeze.rego:3"}, lines(v.Forbids)); diff != "" {
		t.Error(diff)
	}
}

func TestExplain(t *testing.T) {
	bob := order(map[string]any{"owner": "user:bob", "team_id": "red"})
	misses := load(t, seed).Explain(t.Context(), bob)
	var got []string
	for _, m := range misses {
		got = append(got, fmt.Sprintf("%s held %d, line %d: %s", m.Policy, m.Held, m.Line, m.Condition))
	}
	want := []string{
		`rego/orders.allow at orders.rego:9 held 3, line 13: input.user.role == "manager"`,
		`rego/orders.allow at orders.rego:3 held 2, line 6: input.resource.owner == input.user.id`,
		`rego/orders.allow at orders.rego:16 held 2, line 19: input.user.role == "admin"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestPolicyTests runs the Rego tests of the example as its author would.
func TestPolicyTests(t *testing.T) {
	const dir = "../../examples/payments/policy/"
	files := map[string][]byte{}
	for _, name := range []string{"orders.rego", "orders_test.rego"} {
		src, err := os.ReadFile(dir + name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = src
	}
	modules, err := parse(files)
	if err != nil {
		t.Fatal(err)
	}
	if modules["orders.rego"].RegoVersion() != ast.RegoV0 || modules["orders_test.rego"].RegoVersion() != ast.RegoV1 {
		t.Error("the example shows the old dialect tested in the new one")
	}
	c, err := compile(modules, nil)
	if err != nil {
		t.Fatal(err)
	}
	results, err := tester.NewRunner().SetCompiler(c).SetModules(modules).Run(t.Context(), modules)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for r := range results {
		n++
		if r.Fail || r.Error != nil {
			t.Errorf("%s at %s: fail %t, %v", r.Name, r.Location, r.Fail, r.Error)
		}
	}
	if n < 8 {
		t.Errorf("only %d policy tests ran", n)
	}
}

// FuzzLoad: no text panics, and what loads and can be said as a filter keeps
// the rows that the check allows.
func FuzzLoad(f *testing.F) {
	f.Add(seed)
	f.Add(strings.ReplaceAll(seed, "allow {", "allow if {"))
	f.Add("package a\ndeny contains x if { some x in input.resource.tags }\n")
	f.Add("package a\nallow := x if x := input.resource.frozen\nelse := false\n")
	f.Add("package a.b[\"c d\"]\ndeny[\"x\"] := 1 if true\n")
	f.Add("package a\nallow if not f(input.resource.owner)\nf(x) if { x != \"b\"; not input.relation.viewer }\nmask contains \"x\" if input.resource.frozen")
	f.Add("package a\nobligations contains {\"type\": \"x\"}\nallow if input.resource.state == object.get(input.resource, \"team_id\", \"a\")\ndefault deny := false")
	w := worlds{rand.New(rand.NewPCG(7, 8))}
	for range 20 {
		f.Add(w.policy())
	}
	f.Fuzz(func(t *testing.T, src string) {
		files := map[string][]byte{"f.rego": []byte(src)}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if e, err := New(files, nil); err == nil {
			e.Evaluate(ctx, order(nil))
			e.Explain(ctx, order(nil))
		}
		e, err := New(files, randomSchema())
		if err != nil {
			return
		}
		_, _ = e.ResidualRLS(ctx, "orders:read", "order")
		r := filterRequest(alice())
		residual, err := e.Residual(ctx, r)
		if err != nil {
			return
		}
		keep := filter.Combine(residual)
		for seed := range uint64(10) {
			w := worlds{rand.New(rand.NewPCG(9, seed))}
			row, facts := w.row()
			compareRow(t, e, keep, r, row, facts, w.text())
		}
	})
}

// FuzzInput: whatever a request holds, the document mirrors it and conversion
// does not panic.
func FuzzInput(f *testing.F) {
	f.Add("user:alice", "owner", "user:alice", int64(1), 1.5)
	f.Add("", "type", "payment", int64(-1<<63), 1e308)
	f.Add("\xff", "", "\u2028", int64(0), -0.0)
	e := load(f, seed)
	f.Fuzz(func(t *testing.T, subject, name, text string, whole int64, fraction float64) {
		r := order(map[string]any{
			name: text, "whole": whole, "fraction": fraction,
			"list": []any{text, whole, map[string]any{name: nil}},
		})
		r.Principal.Subject = subject
		if r.Validate() != nil {
			return
		}
		doc := ast.NewTerm(input(r))
		typ := doc.Value.(ast.Object).Get(ast.StringTerm("resource")).Value.(ast.Object).Get(ast.StringTerm("type"))
		if !typ.Equal(ast.StringTerm("order")) {
			t.Errorf("an attribute changed the type to %v", typ)
		}
		e.Evaluate(t.Context(), r)
	})
}
