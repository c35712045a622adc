package rebac

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/authz"
)

const header = "model\n  schema 1.1\ntype user\n"

func TestModelsThatAreRefused(t *testing.T) {
	doc := func(defs ...string) string {
		return header + "type doc\n  relations\n    define " + strings.Join(defs, "\n    define ") + "\n"
	}
	for name, row := range map[string]struct{ src, want string }{
		"empty":                {"", "m:"},
		"no schema 1.1":        {"model\n  schema 1.2\ntype user\n", "1.1"},
		"a module":             {"module m\ntype user\n", "1.1"},
		"syntax":               {header + "type doc\n  relations\n    define a b\n", "m:6: missing ':'"},
		"syntax far below":     {header + strings.Repeat("\n# a comment\n", 5000) + "type doc\n  relations\n    define a b\n", "m:10006: missing ':'"},
		"type twice":           {header + "type user\n", "twice"},
		"relation twice":       {doc("a: [user]", "a: [user]"), "already defined"},
		"unknown relation":     {doc("a: [user] or b"), "m:6: a: the type doc has no relation \"b\""},
		"unknown type":         {doc("a: [robot]"), "m:6: a: there is no type \"robot\""},
		"unknown userset":      {doc("a: [user, doc#b]"), "has no relation \"b\""},
		"unknown condition":    {doc("a: [user with c]"), "there is no condition \"c\""},
		"condition in tuples":  {doc("a: [user with $expression]"), "not supported"},
		"from a userset":       {doc("p: [doc#p, doc]", "a: [user] or a from p"), "m:6: p is used after"},
		"from a wildcard":      {doc("p: [doc:*]", "a: [user] or a from p"), "m:6: p is used after"},
		"from a rewrite":       {doc("q: [doc]", "p: q", "a: [user] or a from p"), "m:7: p is used after"},
		"from what has it not": {doc("p: [user]", "a: [user] or a from p"), "m:7: a: no type that p names has the relation"},
		"round in circles":     {doc("a: b", "b: a"), "nobody can ever have doc#a, doc#b"},
		"a group of itself":    {doc("a: [doc#a]"), "nobody can ever have doc#a"},
		"condition not bool":   {doc("a: [user with c]") + "condition c(x: int) {\n  x + 1\n}\n", "m:7: condition c: the expression is a int"},
		"condition not typed":  {doc("a: [user with c]") + "condition c(x: int) {\n  x == \"a\"\n}\n", "m:7: condition c:"},
		"carriage returns":     {header + strings.Repeat("\r", 5000), "carriage return"},
		"brackets":             {doc("a: " + strings.Repeat("(", 300) + "[user]"), "nested deeper"},
		"too large":            {strings.Repeat(" ", MaxModelBytes+1), "at most"},
	} {
		if _, err := ParseModel("m", []byte(row.src)); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
}

func TestModelNames(t *testing.T) {
	m := model(t, orders)
	if diff := cmp.Diff([]string{"client", "order", "org", "team", "user"}, m.Types()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"manager", "member"}, m.Relations("team")); diff != "" || m.Relations("x") != nil {
		t.Error(diff)
	}
	for want, row := range map[int][2]string{5: {"team", ""}, 7: {"team", "member"}, 21: {"order", "guest"}, 0: {"order", "boss"}} {
		if got := m.Line(row[0], row[1]); got != want || m.Has(row[0], row[1]) != (want > 0) {
			t.Errorf("%v: line %d, want %d", row, got, want)
		}
	}
}

func TestValidate(t *testing.T) {
	m := model(t, orders)
	for text, ok := range map[string]bool{
		"order:1#viewer@user:a": true, "order:1#viewer@user:*": true, "team:a#member@team:b#member": true,
		"order:1#owner@user:*": false, "order:1#reader@user:a": false, "order:1#viewer@team:a": false, "order:1#viewer@team:a#member": false,
		"order:*#viewer@user:a": false, "order:#viewer@user:a": false, "x:1#viewer@user:a": false, "order:1#x@user:a": false, "order:1#viewer@a:b:c": false,
		"order:1#guest@user:a": false,
	} {
		if err := m.Validate(tuples(t, text)[0]); (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalidTuple) {
			t.Errorf("%s: %v", text, err)
		}
	}
	withoutUse := authz.Tuple{Object: "order:1", Relation: "viewer", Subject: "user:a", Context: map[string]any{"x": 1}}
	unknown := authz.Tuple{Object: "order:1", Relation: "guest", Subject: "user:a", Condition: "until", Context: map[string]any{"x": 1}}
	for _, bad := range []authz.Tuple{withoutUse, unknown} {
		if err := m.Validate(bad); !errors.Is(err, ErrInvalidTuple) || !errors.Is(err, ErrCondition) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestMutants(t *testing.T) {
	src := header + `type team
  relations
    define member: [user, team#member]
type doc
  relations
    define team: [team]
    define owner: [user] # or nobody
    define viewer: ([user] or owner or member from team) but not blocked
    define editor: owner and viewer
    define blocked: [user]
`
	var got []string
	for _, m := range Mutants("m", []byte(src)) {
		if _, err := ParseModel("m", m.Src); err != nil || string(m.Src) == src {
			t.Errorf("%s: %v", m.What, err)
		}
		line := strings.Split(string(m.Src), "\n")[m.Line-1]
		got = append(got, m.What+" => "+strings.TrimSpace(line))
	}
	want := []string{
		`team#member: nobody by "team#member" => define member: [user]`,
		`doc#viewer: without the branch "[user]" => define viewer: (owner or member from team) but not blocked`,
		`doc#viewer: without the branch "owner" => define viewer: ([user] or member from team) but not blocked`,
		`doc#viewer: without the branch "member from team" => define viewer: ([user] or owner) but not blocked`,
		`doc#viewer: without "but not blocked" => define viewer: ([user] or owner or member from team)`,
		`doc#editor: "or" instead of "and" in "owner and viewer" => define editor: owner or viewer`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := Mutants("m", []byte("nonsense")); got != nil {
		t.Errorf("got %v", got)
	}
}

// FuzzParseModel: nothing panics; what parses answers questions, and every
// mutant parses.
func FuzzParseModel(f *testing.F) {
	f.Add(orders, "order:1#viewer@user:a")
	f.Add(orgModel, "team:a#member@team:b#member")
	f.Add(header+"type doc\n  relations\n    define a: ([user with c] and a) but not (b or a)\n    define b: [user]\ncondition c(x: map<int>, y: list<ipaddress>) {\n  x.a in [1] && y[0].in_cidr('10.0.0.0/8')\n}\n", "doc:1#a@user:*")
	f.Add("model\n schema 1.1\ntype a\n relations\n define b: [a] or b from c\n define c: [a]", "a:1#c@a:2")
	f.Fuzz(func(t *testing.T, src, text string) {
		m, err := ParseModel("m", []byte(src))
		if err != nil {
			return
		}
		object, rest, _ := strings.Cut(text, "#")
		relation, subject, _ := strings.Cut(rest, "@")
		tuple := authz.Tuple{Object: object, Relation: relation, Subject: subject}
		x := NewIndex(m, Options{})
		must(t, x.Reset(1, func(yield func(authz.Tuple) bool) { yield(tuple) }))
		typ, id, _ := strings.Cut(object, ":")
		got, err := x.Related(t.Context(), authz.RelationQuery{Subject: subject, Relation: relation, Type: typ, ID: id}, true)
		if m.Validate(tuple) == nil && m.pureAt(typ, relation) && (err != nil || !got.Holds) {
			t.Errorf("%q holds not: %v %v", text, got, err)
		}
		for _, u := range Mutants("m", []byte(src)) {
			if _, err := ParseModel("m", u.Src); err != nil {
				t.Errorf("%s: %v", u.What, err)
			}
		}
	})
}

func (m *Model) pureAt(typ, relation string) bool {
	r, err := m.relation(typ, relation)
	return err == nil && r.pure
}
