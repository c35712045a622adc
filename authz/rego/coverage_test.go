package rego

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/authz"
)

func TestCoverage(t *testing.T) {
	e := load(t, `package orders

allow if {
	input.action == "read"
	not blocked
	lower(input.resource.owner) == input.user.id
}

allow if {
	input.user.role == "admin"
	count([1 | some x in input.resource.tags; x == "no"]) == 0
}

blocked if {
	input.resource.state in {"lost", "found"}
	input.resource.total > 3
}

deny contains "frozen" if input.resource.frozen == true
`)
	requests := []authz.Request{
		order(map[string]any{"owner": "USER:alice", "state": "lost", "total": int64(1), "frozen": false}),
		order(map[string]any{"owner": "user:bob", "state": "ok", "frozen": true}),
		order(map[string]any{"owner": "user:bob", "state": "found", "total": int64(4)}),
	}
	got, err := e.Coverage(t.Context(), requests)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range got {
		lines = append(lines, fmt.Sprintf("%d %s: %t %t", c.Line, c.Condition, c.True > 0, c.False > 0))
	}
	want := []string{
		`4 input.action == "read": true false`,
		`5 not blocked: true true`,
		`6 lower(input.resource.owner) == input.user.id: true true`,
		`10 input.user.role == "admin": false true`,
		`11 count([1 | some x in input.resource.tags; x == "no"]) == 0: false false`,
		`15 input.resource.state in {"lost", "found"}: true true`,
		`16 input.resource.total > 3: true true`,
		`19 input.resource.frozen == true: true true`,
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}

func TestRunTests(t *testing.T) {
	files := map[string][]byte{
		"orders.rego": []byte(seed),
		"t_test.rego": []byte(`package t
import data.orders
test_yes if orders.allow with input as {"action": "read", "resource": {"type": "order"}, "user": {"role": "admin"}}
test_no if orders.allow with input as {"action": "read"}
test_broken if to_number("x") == 1
todo_test_later if false
`),
	}
	results, err := RunTests(t.Context(), files, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range results {
		got = append(got, fmt.Sprintf("%s:%d %s %t %t %t", r.File, r.Line, r.Name, r.Passed, r.Skipped, r.Err != nil))
	}
	want := []string{
		"t_test.rego:3 t.test_yes true false false",
		"t_test.rego:4 t.test_no false false false",
		"t_test.rego:5 t.test_broken false false true",
		"t_test.rego:6 t.todo_test_later false true false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if results, err := RunTests(over, files, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("tests go on when their time is over: %v, %v", results, err)
	}
	files["t_test.rego"] = []byte("package t\ntest_net if http.send({})\n")
	if _, err := RunTests(t.Context(), files, nil); err == nil || !strings.Contains(err.Error(), "undefined function http.send") {
		t.Errorf("tests reach the network: %v", err)
	}
}
