package rego

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// TestListDuties: a list asks for what the check of each of its rows asks for,
// or names the rule by which rows differ.
func TestListDuties(t *testing.T) {
	for name, row := range map[string]struct {
		src  string
		line int // of the rule that is refused; 0: none
	}{
		"none":                  {"allow if true", 0},
		"an obligation":         {"allow if true\nobligations contains {\"type\": \"x\", \"to\": input.user.id}", 0},
		"of this user":          {"allow if true\nobligations contains {\"type\": \"x\"} if input.user.id == \"user:alice\"\nmask contains \"a\" if input.user.id == \"user:bob\"", 0},
		"masks":                 {"allow if true\nmask contains \"a\" if ok\nok if { not nok }\nnok if input.user.id == \"x\"\nmask contains x if some x in [\"b\", \"a\"]", 0},
		"fields, not these":     {"allow if true\nfields contains \"a\" if input.action == \"delete\"", 0},
		"fields":                {"allow if true\nfields contains \"a\"\nfields contains \"b\" if input.context.limit > 5", 0},
		"no permit":             {"allow if input.action == \"delete\"\nmask contains \"a\" if input.resource.frozen", 0},
		"a mask of some rows":   {"allow if true\nmask contains \"a\"\nmask contains \"b\" if input.resource.frozen", 4},
		"by a rule":             {"allow if true\nmask contains \"a\" if not ok\nok if input.resource.frozen", 3},
		"by a relation":         {"allow if true\nmask contains \"a\" if input.relation.viewer", 3},
		"a mask named by a row": {"allow if true\nmask contains \"a\"\nmask contains input.resource.owner", 4},
		"an obligation of some": {"allow if true\nobligations contains {\"type\": \"x\", \"to\": input.resource.owner}", 3},
		"no obligation":         {"allow if true\nobligations contains \"x\"", 3},
		"no field":              {"allow if true\nfields contains 1", 3},
	} {
		t.Run(name, func(t *testing.T) {
			e, r := loadWith(t, randomSchema(), row.src), filterRequest(alice())
			got, err := e.Residual(t.Context(), r)
			u, refused := errors.AsType[*filter.Untranslatable](err)
			if refused && u.Policy.Line == row.line {
				return
			}
			if err != nil || row.line > 0 {
				t.Fatalf("got %v, want line %d", err, row.line)
			}
			r.Resource.ID, r.Resource.Attrs = "1", map[string]any{"owner": "user:a", "total": 1.5}
			for i, p := range e.Evaluate(t.Context(), r).Permits {
				var by authz.Ruling
				if got.Rulings != nil {
					by = got.Rulings[i]
				}
				if diff := cmp.Diff([]any{p.Obligations, p.Fields}, []any{by.Obligations, by.Fields}); diff != "" {
					t.Errorf("a check differs from a list:\n%s", diff)
				}
			}
		})
	}
}
