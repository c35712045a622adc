package rego

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
)

// TestRowLevelIsCheck: with the principal's facts put in, the filter for
// row-level security keeps what the check allows.
func TestRowLevelIsCheck(t *testing.T) {
	const rows = 25
	w := worlds{rand.New(rand.NewPCG(3, 4))}
	want, tried, refused, keeps := pairs(t, 3000), 0, 0, 0
	for tried < want {
		src := w.policy()
		e, err := New(map[string][]byte{"orders.rego": []byte(src)}, randomSchema())
		if err != nil {
			t.Fatalf("%v\n%s", err, src)
		}
		residual, err := e.ResidualRLS(t.Context(), "orders:read", "order")
		if u, ok := errors.AsType[*filter.Untranslatable](err); ok {
			if refused++; refused%20 == 1 {
				t.Log(u)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, src)
		}
		r := filterRequest(w.principal())
		f := filter.Combine(filter.Residual{Permits: withFacts(residual.Permits, r.Principal), Forbids: withFacts(residual.Forbids, r.Principal)})
		for range rows {
			tried++
			row, facts := w.row()
			if compareRow(t, e, f, r, row, facts, w.text()) {
				keeps++
			}
			if t.Failed() {
				t.Fatalf("%s\nresidual %+v", src, residual)
			}
		}
	}
	t.Logf("%d pairs, %d kept, %d policies refused", tried, keeps, refused)
}

// withFacts puts the facts of p where conditions name the subject. A text that
// is missing is nil, which is undefined.
func withFacts(conditions []filter.Expr, p rampart.Principal) []filter.Expr {
	text := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	list := func(of []string) any {
		out := []any{}
		for _, s := range of {
			out = append(out, s)
		}
		return out
	}
	facts := map[string]any{
		"id": text(p.Subject), "kind": text(string(p.Kind)), "org": text(p.Tenant), "team": text(p.Team),
		"role": text(first(p.Roles)), "roles": list(p.Roles), "organizations": list(p.Organizations), "managed_teams": list(p.ManagedTeams),
	}
	operand := func(o filter.Operand) filter.Operand {
		if s, ok := o.(filter.Subject); ok {
			return filter.Lit{Value: facts[s.Name]}
		}
		return o
	}
	var put func(e filter.Expr) filter.Expr
	put = func(e filter.Expr) filter.Expr {
		switch e := e.(type) {
		case filter.And:
			return filter.And{L: put(e.L), R: put(e.R)}
		case filter.Or:
			return filter.Or{L: put(e.L), R: put(e.R)}
		case filter.Not:
			return filter.Not{X: put(e.X)}
		case filter.Total:
			return filter.Total{X: put(e.X)}
		case filter.Bool:
			return filter.Bool{X: operand(e.X)}
		case filter.Cmp:
			return filter.Cmp{Op: e.Op, L: operand(e.L), R: operand(e.R)}
		case filter.In:
			return filter.In{X: operand(e.X), List: operand(e.List)}
		case filter.Text:
			return filter.Text{Op: e.Op, X: operand(e.X), Part: operand(e.Part)}
		}
		return e
	}
	out := make([]filter.Expr, len(conditions))
	for i, c := range conditions {
		out[i] = put(c)
	}
	return out
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func TestRowLevelRefuses(t *testing.T) {
	for src, want := range map[string]string{
		`allow if input.resource.total < input.context.limit`:            "input.context.limit",
		`deny if { some r in input.user.roles; r != "a"; r != "b" }`:     "looked at more than once",
		`allow if input.user.roles == input.resource.tags`:               "databases make differently",
		`allow if { input.action == "delete"; input.context.limit > 3 }`: "",
	} {
		_, err := loadWith(t, randomSchema(), src).ResidualRLS(t.Context(), "orders:read", "order")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", src, err, want)
		}
	}
}
