package cedar

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/google/go-cmp/cmp"
)

// TestParts: each condition is shown as the file has it, on its line.
func TestParts(t *testing.T) {
	src := `// permit (x) when { && };
@id("a;b") @doc("when { \"&&\" }")
permit (principal, action, resource)
when {
  principal.id == "&& } ;" && // a && b
  (resource.a /* && */ &&
    (resource.b == 1 || true && false)) &&
  resource has c.d
}
when { if resource.a then true else true && false }
unless { resource.x && resource["y z"] };
@id("c") forbid (principal, action, resource is Order,) when { [1, 2].contains(3) && -1 < 2 };
`
	e := load(t, src)
	var got []string
	for _, p := range e.order {
		for _, c := range p.parts {
			got = append(got, fmt.Sprintf("%d: %s", c.line, c.text))
		}
	}
	want := []string{
		`5: principal.id == "&& } ;"`,
		`6: resource.a`,
		`7: resource.b == 1 || true && false`,
		`8: resource has c.d`,
		`8: resource has c.d`,
		`10: if resource.a then true else true && false`,
		`11: resource.x && resource["y z"]`,
		`12: [1, 2].contains(3)`,
		`12: -1 < 2`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestUnplaced: where the text cannot be found, a condition is shown as Cedar
// prints it.
func TestUnplaced(t *testing.T) {
	e := load(t, payments)
	for _, st := range []*statement{nil, {clauses: []clause{{body: span{0, 0}}}}} {
		got := parts(e.order[2].tree, source{}, st)
		if len(got) != 2 || got[0].text != "resource has frozen" || got[1].text != "resource.frozen" || got[0].line != 0 {
			t.Errorf("%+v", got)
		}
	}
}

// FuzzParts: whatever Cedar loads is taken apart, and what is shown for a
// condition means what the condition means.
func FuzzParts(f *testing.F) {
	f.Add(payments)
	f.Add(`@id("x") permit (principal, action, resource) when { (a && b) && !(c || d) && resource has e.f.g } unless { "\"" like "*\*" };`)
	f.Add(`permit(principal,action,resource)when{if true then(false&&true)else{"a":[1,]}.a};`)
	f.Add("permit(principal,action,resource)when{\"\\u{41}\"==\"//\"/* } */&&true\n&&1<=2};// ;")
	f.Fuzz(func(t *testing.T, src string) {
		s := source{text: src}
		s.tokens = lex(src) // of anything
		places := s.statements()
		list, err := cedar.NewPolicyListFromBytes("f", []byte(src))
		if err != nil || len(list) == 0 {
			return
		}
		if len(places) != len(list) {
			t.Fatalf("%d policies, %d found", len(list), len(places))
		}
		for i, p := range list {
			tree := (*ast.Policy)(p.AST())
			if got := s.line(places[i].effect); got < p.Position().Line {
				t.Errorf("policy on line %d found on %d", p.Position().Line, got)
			}
			if len(places[i].clauses) != len(tree.Conditions) {
				t.Fatalf("%d conditions, %d found", len(tree.Conditions), len(places[i].clauses))
			}
			for _, c := range parts(tree, s, &places[i]) {
				same(t, c)
			}
		}
	})
}

// same parses the text that is shown for a condition.
func same(t *testing.T, c part) {
	var p cedar.Policy
	if err := p.UnmarshalCedar([]byte("permit (principal, action, resource) unless { " + c.text + " };")); err != nil {
		t.Errorf("%q is shown for a condition: %v", c.text, err)
		return
	}
	body := (*ast.Policy)(p.AST()).Conditions[0].Body
	if ast.Equal(ast.NewNode(body), ast.NewNode(c.Body)) {
		return
	}
	if !strings.Contains(c.text, "has") { // `has a.b` is one text for two conditions
		t.Errorf("%q is shown for another condition", c.text)
	}
}

// TestPartsOfTheCorpus does the same with every policy that Cedar ships.
func TestPartsOfTheCorpus(t *testing.T) {
	n := 0
	for name, text := range corpus(t) {
		if !strings.HasSuffix(name, ".cedar") {
			continue
		}
		s := source{text: string(text)}
		s.tokens = lex(s.text)
		list, err := cedar.NewPolicyListFromBytes(name, text)
		places := s.statements()
		if err != nil || len(list) != len(places) {
			t.Fatalf("%s: %d policies, %d found, %v", name, len(list), len(places), err)
		}
		for i, p := range list {
			for _, c := range parts((*ast.Policy)(p.AST()), s, &places[i]) {
				if c.line == 0 {
					t.Errorf("%s: a condition without a line", name)
				}
				same(t, c)
				n++
			}
		}
	}
	t.Logf("%d conditions found in their files", n)
}

func FuzzMutants(f *testing.F) {
	f.Add(payments)
	f.Add(`permit(principal,action in[Action::"a",Action::"b",],resource)when{a==1&&b};`)
	f.Fuzz(func(t *testing.T, src string) {
		list, err := Mutants("f", []byte(src))
		if err != nil || len(src) > 2000 {
			return
		}
		for _, m := range list {
			if string(m.Src) == src {
				t.Errorf("%s changes nothing", m.What)
			}
		}
	})
}
