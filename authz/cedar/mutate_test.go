package cedar

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/authz"
)

func TestMutants(t *testing.T) {
	src := `// two rules
@id("a")
permit (principal is User, action in [Action::"orders:read", Action::"orders:list"], resource is Order)
when { resource has team && principal.managedTeams.contains(resource.team) }
unless { resource.total > 5 };
@id("b") @obligation_a("notification; to=x") @doc("d") forbid (principal, action, resource is Order) when {
  resource has frozen && // a guard that a forbid needs
  resource.frozen
};
`
	got := mutants(t, src)
	want := []string{
		`3: now a forbid`,
		`3: removed`,
		`3: dropped from the scope: principal is User`,
		`3: dropped from the scope: action in [Action::"orders:read", Action::"orders:list"]`,
		`3: dropped from the scope: Action::"orders:read"`,
		`3: dropped from the scope: Action::"orders:list"`,
		`4: negated: resource has team`,
		`4: dropped: principal.managedTeams.contains(resource.team)`,
		`4: negated: principal.managedTeams.contains(resource.team)`,
		`4: && became ||`,
		`5: dropped: resource.total > 5`,
		`5: > became <=`,
		`6: now a permit`,
		`6: removed`,
		`6: dropped: @obligation_a("notification; to=x")`,
		`7: dropped: resource has frozen`,
		`7: negated: resource has frozen`,
		`8: dropped: resource.frozen`,
		`8: negated: resource.frozen`,
		`7: && became ||`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// mutants lists the mutants of src; each must load and keep its lines.
func mutants(t *testing.T, src string) []string {
	t.Helper()
	list, err := Mutants("p.cedar", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range list {
		out = append(out, fmt.Sprintf("%d: %s", m.Line, m.What))
		if string(m.Src) == src || strings.Count(string(m.Src), "\n") != strings.Count(src, "\n") {
			t.Errorf("%s: the same, or on other lines:\n%s", m.What, m.Src)
		}
		if _, err := New(map[string][]byte{"p.cedar": m.Src}, nil); err != nil {
			t.Errorf("%s: %v", m.What, err)
		}
	}
	return out
}

func TestMutantsRefuse(t *testing.T) {
	if _, err := Mutants("p.cedar", []byte("permit")); err == nil || !strings.Contains(err.Error(), "cedar: p.cedar: ") {
		t.Errorf("got %v", err)
	}
	if _, err := Mutants("p.cedar", []byte("\xff")); err == nil {
		t.Error("took what is no text")
	}
}

func TestCoverage(t *testing.T) {
	e := load(t, payments)
	var got []string
	for _, c := range e.Coverage(t.Context(), []authz.Request{
		payment(map[string]any{"owner": "user:alice", "team_id": "blue", "frozen": true}),
		payment(map[string]any{"owner": "user:bob", "team_id": "red"}),
		payment(map[string]any{"team_id": "red"}),
		{Action: "payments:read"},
	}) {
		got = append(got, fmt.Sprintf("%s:%d %s %s %d/%d", c.File, c.Line, c.Policy, c.Condition, c.True, c.False))
	}
	want := []string{
		"p.cedar:1 owner  3/1",
		"p.cedar:3 owner resource.owner == principal.id 1/1",
		"p.cedar:5 manager  3/1",
		"p.cedar:7 manager principal.managedTeams.contains(resource.team_id) 1/2",
		"p.cedar:9 frozen  3/1",
		"p.cedar:11 frozen resource has frozen 1/2",
		"p.cedar:11 frozen resource.frozen 1/0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
