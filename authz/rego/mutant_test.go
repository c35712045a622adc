package rego

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func examplePolicy(t testing.TB, names ...string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range names {
		src, err := os.ReadFile("../../examples/payments/policy/" + name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = src
	}
	return files
}

func TestMutants(t *testing.T) {
	const src = `package orders

default allow := false

default blocked := false

allow if {
	not blocked
	input.resource.total <= 100
	some team in input.user.managed_teams
	team == input.resource.team_id
}

blocked if input.resource.frozen

level := 1 if { input.user.role == "admin" } else := 2 if { input.user.kind == "human" }

open := input.resource.owner == input.user.id

deny contains "x" := true if true
`
	valid := strings.Replace(src, "deny contains \"x\" := true if true\n", "ok(x) := true if x\n", 1)
	got, err := Mutants("a.rego", []byte(valid))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, m := range got {
		lines = append(lines, fmt.Sprintf("%d %s", m.Line, m.What))
	}
	want := []string{
		"5 false became true",
		"5 removed the default",
		"7 removed the rule",
		"8 removed: not blocked",
		"8 no longer negated: not blocked",
		"9 removed: input.resource.total <= 100",
		"9 <= became >",
		"11 removed: team == input.resource.team_id",
		"11 == became !=",
		"14 removed the rule",
		"14 removed: input.resource.frozen",
		"14 negated: input.resource.frozen",
		"16 removed the rule",
		`16 never takes the branch`,
		`16 removed: input.user.role == "admin"`,
		"16 == became !=",
		"16 removed the branch",
		`16 removed: input.user.kind == "human"`,
		"16 == became !=",
		"18 removed the rule",
		"18 == became !=",
		"20 removed the rule",
		"20 true became false",
		"20 removed: x",
		"20 negated: x",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	for _, m := range got {
		if strings.Count(string(m.Src), "\n") != strings.Count(valid, "\n") {
			t.Errorf("%s moves lines:\n%s", m.What, m.Src)
		}
	}
}

// TestMutantsAreNoticed: each mutant of the example fails a native test.
func TestMutantsAreNoticed(t *testing.T) {
	files := examplePolicy(t, "orders.rego", "orders_test.rego")
	mutants, err := Mutants("orders.rego", files["orders.rego"])
	if err != nil {
		t.Fatal(err)
	}
	missed := 0
	for _, m := range mutants {
		results, err := RunTests(t.Context(), map[string][]byte{"orders.rego": m.Src, "orders_test.rego": files["orders_test.rego"]}, nil)
		if err != nil {
			t.Errorf("line %d, %s: %v", m.Line, m.What, err)
		}
		failed := 0
		for _, r := range results {
			if !r.Passed {
				failed++
			}
		}
		if failed == 0 {
			missed++
			t.Logf("not noticed: line %d, %s", m.Line, m.What)
		}
	}
	t.Logf("%d mutants, %d not noticed", len(mutants), missed)
	if len(mutants) < 30 {
		t.Errorf("only %d mutants", len(mutants))
	}
}

func FuzzMutants(f *testing.F) {
	f.Add(seed)
	f.Add(strings.ReplaceAll(seed, "allow {", "allow if {"))
	f.Add("package a\ndefault x = true\nx if not y\ny := 1 if { 1 < 2 } else := 2\nz { x } { y }")
	f.Fuzz(func(t *testing.T, src string) {
		if len(src) > 4<<10 {
			return
		}
		_, _ = Mutants("f.rego", []byte(src))
	})
}
