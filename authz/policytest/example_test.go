package policytest

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/spec"
)

// example is the payment system, and its services that have policies.
func example(t *testing.T) (pap.Set, []string) {
	t.Helper()
	sys, err := spec.Load("../../examples/payments/rampart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := pap.FromSystem(sys)
	names := slices.Sorted(maps.Keys(s.Services))
	if len(names) < 2 {
		t.Fatalf("the example has policies in %q only", names)
	}
	return s, names
}

// TestExample: what the example's tests want is so, each condition of its
// policies is seen to hold and to fail, and no change of its policies, model or
// roles goes unnoticed.
func TestExample(t *testing.T) {
	s, services := example(t)
	for _, name := range services {
		report, err := Cover(context.Background(), s, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Failed() {
			t.Errorf("%s:%d: %s: %s", f.File, f.Line, f.Name, f.Problem)
		}
		if len(report.Results) == 0 || len(report.Coverage) == 0 {
			t.Errorf("%s: %d rows reach %d conditions", name, len(report.Results), len(report.Coverage))
		}
		for _, c := range report.Coverage {
			if !c.Covered() {
				t.Errorf("%s:%d: %s: held %d times, failed %d times", c.File, c.Line, c.Text, c.Held, c.Failed)
			}
		}
	}
	if t.Failed() {
		return
	}
	m, err := Mutate(context.Background(), s, services, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range m.Survivors {
		t.Errorf("no row notices: %s", v)
	}
	if m.Killed < 70 {
		t.Errorf("only %d changes were tried", m.Killed)
	}
	t.Logf("%d changes noticed, %d do not load", m.Killed, m.Refused)
}
