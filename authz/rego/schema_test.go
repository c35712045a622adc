package rego

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// shop declares two types that share a name of an attribute and differ in its
// kind.
func shop() *authz.Schema {
	return &authz.Schema{Types: map[string]authz.Type{
		"order": {
			Attrs: map[string]authz.Attr{
				"owner": {Kind: authz.KindString}, "team_id": {Kind: authz.KindString, Optional: true},
				"frozen": {Kind: authz.KindBool, Optional: true}, "total": {Kind: authz.KindDecimal},
				"state": {Kind: authz.KindString}, "tags": {Kind: authz.KindStrings, Optional: true},
			},
			Relations: []string{"editor", "viewer"},
		},
		"payment": {
			Attrs:     map[string]authz.Attr{"state": {Kind: authz.KindLong}},
			Relations: []string{"payer"},
		},
	}}
}

func loadWith(t testing.TB, s *authz.Schema, src string) *Engine {
	t.Helper()
	e, err := New(map[string][]byte{"orders.rego": []byte("package orders\n" + src + "\n")}, s)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestSchema: what is not declared does not load, and the error says what is.
func TestSchema(t *testing.T) {
	for name, row := range map[string]struct{ src, want string }{
		"declared":                {`allow if { input.resource.owner == input.user.id; input.resource.tenant == "acme" }`, ""},
		"a guard":                 {`deny if object.get(input.resource, "frozen", false)`, ""},
		"of one of two kinds":     {`allow if input.resource.state == 3`, ""},
		"a misspelt attribute":    {`allow if input.resource.ownr == input.user.id`, "undefined ref: input.resource.ownr"},
		"which are there":         {`allow if input.resource.ownr == input.user.id`, `want (one of): ["frozen" "id" "owner"`},
		"of the wrong kind":       {`allow if input.resource.frozen == "yes"`, "match error"},
		"a misspelt guard":        {`deny if object.get(input.resource, "frozn", false)`, `input.resource has no "frozn"`},
		"a misspelt user's guard": {`deny if object.get(input.user, "team", "") == "x"`, `input.user has no "team"`},
		"a misspelt relation":     {`allow if input.relation.viewr`, "input.relation.viewr"},
		"any relation":            {`allow if input.relation[_]`, "orders.rego:2: a relation is read by its name only"},
		"a guarded relation":      {`deny if object.get(input.relation, "viewer", false)`, "a relation is read by its name only"},
		"relations by import":     {"import input.relation as r\nallow if r.viewer", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(map[string][]byte{"orders.rego": []byte("package orders\n" + row.src + "\n")}, shop())
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestRelations(t *testing.T) {
	for name, row := range map[string]struct {
		src  string
		want map[string][]string
	}{
		"none":            {`allow if input.action == "read"`, nil},
		"a permit's":      {`allow if input.relation.viewer`, map[string][]string{"order": {"viewer"}}},
		"a forbid's":      {`deny if not input.relation.editor`, map[string][]string{"order": {"editor"}}},
		"two types'":      {"allow if input.relation.viewer\nallow if input.relation.payer", map[string][]string{"order": {"viewer"}, "payment": {"payer"}}},
		"a helper's":      {"allow if can\ncan if input.relation.viewer\ncan if input.relation.editor", map[string][]string{"order": {"editor", "viewer"}}},
		"a function's":    {"allow if f(1)\nf(x) if { x == 1; input.relation.viewer }", map[string][]string{"order": {"viewer"}}},
		"a mask's":        {"allow if true\nmask contains \"total\" if not input.relation.editor", map[string][]string{"order": {"editor"}}},
		"not a stranger":  {"allow if true\nunused if input.relation.viewer", nil},
		"the whole input": {"allow if f(input)\nf(x) if x.relation.viewer", map[string][]string{"order": {"editor", "viewer"}, "payment": {"payer"}}},
		"only written":    {"allow if can with input.relation.viewer as true\ncan if input.user.id == \"x\"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := loadWith(t, shop(), row.src)
			for _, typ := range slices.Sorted(maps.Keys(shop().Types)) {
				if diff := cmp.Diff(row.want[typ], e.Relations("orders:read", typ)); diff != "" {
					t.Errorf("%s: %s", typ, diff)
				}
			}
			if n := testing.AllocsPerRun(10, func() { e.Relations("orders:read", "order") }); n > 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

// TestUnknownRelation: a fact that nobody knows never opens anything.
func TestUnknownRelation(t *testing.T) {
	const open = "allow if true\n"
	for name, row := range map[string]struct {
		src     string
		permits int
		fails   bool
	}{
		"a permit":                       {"allow if input.relation.viewer", 0, false},
		"a permit, by its value":         {"allow := input.relation.viewer", 0, false},
		"a permit under not":             {"allow if not input.relation.viewer", 0, true},
		"a permit by a helper":           {"allow if can\ncan if input.relation.viewer\ncan if input.resource.owner == \"user:alice\"", 1, false},
		"a permit by a negated helper":   {"allow if not blocked\nblocked if input.relation.viewer", 0, true},
		"a permit by a default":          {"allow if blocked == false\ndefault blocked := false\nblocked if input.relation.viewer", 0, true},
		"a permit by a count":            {"allow if count([1 | input.relation.viewer]) == 0", 0, true},
		"a permit by a set":              {"allow if count(blocked) == 0\nblocked contains 1 if input.relation.viewer", 0, true},
		"a permit by a value, under not": {"allow := true if not input.relation.viewer\nelse := true if not input.relation.editor", 0, true},
		"another permit stands":          {open + "allow if not input.relation.viewer", 1, true},
		"a forbid":                       {open + "deny if input.relation.viewer", 1, true},
		"a forbid by a helper":           {open + "deny if blocked\nblocked if input.relation.viewer", 1, true},
		"a forbid by a function":         {open + "deny contains \"x\" if f(1)\nf(x) if input.relation.viewer", 1, true},
		"a forbid by two negations":      {open + "deny if not can\ncan if not input.relation.viewer", 1, true},
		"a forbid by its value":          {open + "deny := input.relation.viewer", 1, true},
		"a forbid, not reached":          {open + "deny if { input.resource.type == \"payment\"; blocked }\nblocked if input.relation.viewer", 1, false},
		"a mask":                         {open + "mask contains \"total\" if blocked\nblocked if input.relation.viewer", 1, true},
		"a mask of another package":      {"allow if false\nmask contains \"total\" if input.relation.viewer", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, schema := range []*authz.Schema{nil, shop()} {
				v := loadWith(t, schema, row.src).Evaluate(t.Context(), order(map[string]any{"owner": "user:alice"}))
				if len(v.Permits) != row.permits || (len(v.Failures) > 0) != row.fails {
					t.Errorf("permits %v, failures %s", v.Permits, failures(v))
				}
				for _, f := range v.Failures {
					if !strings.Contains(f.Err.Error(), "input.relation.") {
						t.Error(f.Err)
					}
					if strings.HasPrefix(name, "a forbid") && f.Policy.Effect == rampart.Allow {
						t.Errorf("%v does not deny", f.Policy)
					}
				}
			}
		})
	}
}

func TestKnownRelation(t *testing.T) {
	e := loadWith(t, shop(), "allow if input.relation.viewer\ndeny if blocked\nblocked if not input.relation.editor")
	r := order(nil)
	r.Relations = map[string]bool{"viewer": true, "editor": false}
	if v := e.Evaluate(t.Context(), r); len(v.Permits) != 1 || len(v.Forbids) != 1 || len(v.Failures) > 0 {
		t.Errorf("got %+v", v)
	}
	r.Relations = map[string]bool{"viewer": false, "editor": true}
	if v := e.Evaluate(t.Context(), r); len(v.Permits) != 0 || len(v.Forbids) != 0 || len(v.Failures) > 0 {
		t.Errorf("got %+v", v)
	}
}
