package rego

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// TestCapabilities: nothing that reaches outside is left, and the list of hosts
// is empty rather than nil, which would allow every host.
func TestCapabilities(t *testing.T) {
	for _, v := range []ast.RegoVersion{ast.RegoV0, ast.RegoV1} {
		c := capabilities(v)
		if c.AllowNet == nil || len(c.AllowNet) > 0 {
			t.Errorf("%v: hosts %#v", v, c.AllowNet)
		}
		for _, b := range c.Builtins {
			if b.Nondeterministic {
				t.Errorf("%v: %s depends on more than its input", v, b.Name)
			}
		}
	}
	for _, call := range []string{
		"http.send({})", "opa.runtime()", "net.lookup_ip_addr(\"x\")", "time.now_ns()", "rand.intn(\"x\", 2)",
		"uuid.rfc4122(\"x\")", "io.jwt.decode_verify(\"x\", {})", "trace(\"x\")", "rego.parse_module(\"x\", \"y\")",
	} {
		for _, dialect := range []string{"package a\nallow if %", "package a\nallow { % }", "package a\nallow if true\nhelper := x if x := %"} {
			src := strings.Replace(dialect, "%", call, 1)
			_, err := New(map[string][]byte{"a.rego": []byte(src)}, nil)
			name, _, _ := strings.Cut(call, "(")
			if err == nil || !strings.Contains(err.Error(), "undefined function "+name) {
				t.Errorf("%s: got %v", src, err)
			}
		}
	}
}

// TestRunaways: what never ends is stopped at the deadline, and denies.
func TestRunaways(t *testing.T) {
	for name, src := range map[string]string{
		"a range":               "allow if true\ndeny if count(numbers.range(1, 1000000000)) > 3",
		"a loop":                "allow if count([x | some x in numbers.range(1, 100000000); x > 0]) > 0",
		"loops in loops":        "allow if { xs := numbers.range(1, 3000); count([1 | xs[_] = a; xs[_] = b; xs[_] = c; a + b == c]) > 0 }",
		"a mask":                "allow if true\nmask contains \"x\" if count(numbers.range(1, 1000000000)) > 3",
		"a relation-less every": "allow if { every x in numbers.range(1, 100000000) { x > 0 } }",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			v := loadWith(t, nil, src).Evaluate(ctx, order(nil))
			if len(v.Permits) > 0 || len(v.Failures) != 1 || v.Failures[0].Code != rampart.CodeTimeout || v.Failures[0].Policy.Effect != rampart.Deny {
				t.Errorf("permits %v, failures %s", v.Permits, failures(v))
			}
		})
	}
}

// TestTraps: the pitfalls of Rego that have let requests through elsewhere.
func TestTraps(t *testing.T) {
	for name, row := range map[string]struct {
		src   string
		attrs map[string]any
		want  bool
	}{
		"a builtin error in a forbid denies":   {"allow if true\ndeny if to_number(input.resource.x) > 5", map[string]any{"x": "abc"}, false},
		"a builtin error in a helper denies":   {"allow if true\ndeny if big\nbig if to_number(input.resource.x) > 5", map[string]any{"x": "abc"}, false},
		"a builtin error in a permit denies":   {"allow if true\nallow if to_number(input.resource.x) > 5", map[string]any{"x": "abc"}, false},
		"an absent member in a forbid denies":  {"allow if true\ndeny if input.resource.x > 5", nil, false},
		"no rule that holds permits nothing":   {"allow if input.resource.x > 5", nil, false},
		"a member among constants and input":   {"allow if input.resource.x in {\"a\", input.user.id}", map[string]any{"x": "user:alice"}, true},
		"an index on that is no permit":        {"allow if input.resource.x in {\"a\", input.user.id}", map[string]any{"x": "user:bob"}, false},
		"an empty set of forbids is none":      {"allow if true\ndeny contains \"x\" if false", nil, true},
		"a text is not true":                   {"allow := \"true\" if true", nil, false},
		"absent is not absent":                 {"allow if input.resource.x == input.resource.y", nil, false},
		"null is absent, not null":             {"allow if input.resource.x == null", map[string]any{"x": nil}, false},
		"an attribute cannot pose as the type": {"allow if input.resource.type == \"payment\"", map[string]any{"type": "payment"}, false},
		"division by zero denies":              {"allow if true\ndeny if 1 / input.resource.x > 5", map[string]any{"x": int64(0)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := loadWith(t, nil, row.src).Evaluate(t.Context(), order(row.attrs))
			if kept(v) != row.want {
				t.Errorf("permits %v, forbids %v, failures %s", v.Permits, v.Forbids, failures(v))
			}
		})
	}
}

// TestIndexChangesNothing: the rule index is an optimisation, and has been wrong
// before.
func TestIndexChangesNothing(t *testing.T) {
	w := worlds{rand.New(rand.NewPCG(5, 6))}
	for range 60 {
		src := w.policy()
		e, err := New(map[string][]byte{"orders.rego": []byte(src)}, randomSchema())
		if err != nil {
			t.Fatalf("%v\n%s", err, src)
		}
		for range 10 {
			r := filterRequest(w.principal())
			r.Resource.Attrs, r.Relations = w.row()
			results, err := e.query.Eval(t.Context(), rego.EvalParsedInput(input(r)), rego.EvalRuleIndexing(false))
			if err != nil {
				t.Fatalf("%v\n%s", err, src)
			}
			plain := authz.Verdict{Looked: e.permits}
			if err := e.read(&plain, results); err != nil {
				t.Fatal(err)
			}
			indexed := e.Evaluate(t.Context(), r)
			if diff := cmp.Diff(lines(plain.Permits), lines(indexed.Permits)) + cmp.Diff(lines(plain.Forbids), lines(indexed.Forbids)) +
				cmp.Diff(failures(plain), failures(indexed)); diff != "" {
				t.Fatalf("%s\n%s", diff, src)
			}
		}
	}
}

// TestDialectsAgree: the seed in its own dialect and in today's decide alike on
// the whole grid.
func TestDialectsAgree(t *testing.T) {
	old := load(t, seed)
	today := load(t, strings.ReplaceAll(seed, "allow {", "allow if {"))
	values := []string{"", "user:alice", "user:bob"}
	asked, allowed := 0, 0
	for _, owner := range values {
		for _, team := range []string{"", "red", "blue"} {
			for _, role := range []string{"", "customer", "manager", "admin"} {
				for _, action := range []rampart.Action{"orders:read", "orders:delete"} {
					for _, typ := range []string{"order", "payment"} {
						r := authz.Request{Action: action, Principal: alice(), Resource: rampart.Resource{Type: typ, Attrs: map[string]any{}}}
						r.Principal.Roles = nil
						if role != "" {
							r.Principal.Roles = []string{role}
						}
						if owner != "" {
							r.Resource.Attrs["owner"] = owner
						}
						if team != "" {
							r.Resource.Attrs["team_id"] = team
						}
						a, b := old.Evaluate(t.Context(), r), today.Evaluate(t.Context(), r)
						if diff := cmp.Diff(a, b); diff != "" {
							t.Errorf("%+v: %s", r, diff)
						}
						asked++
						if kept(a) {
							allowed++
						}
					}
				}
			}
		}
	}
	if asked != 144 || allowed != 20 {
		t.Errorf("%d of %d allowed", allowed, asked)
	}
}
