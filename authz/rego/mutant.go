package rego

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Mutant is a policy file with one fault that good tests notice.
type Mutant struct {
	Line int    // of the fault, 1-based
	What string // for people: "removed: input.user.role == \"admin\""
	Src  []byte
}

// Mutants returns the variants of a file that lack a rule or a condition,
// compare the other way round, or say the opposite, in the order of the text.
// Each parses in the dialect of src and binds its variables; one that does not
// load beside the other files of a policy is to be passed over.
//
// Left out is what changes no decision: removing `default allow := false` or
// `default deny := false` (an undefined rule neither permits nor forbids), and
// replacing a condition `true`; and what does not load: `default allow := true`.
func Mutants(name string, src []byte) ([]Mutant, error) {
	m, err := parseModule(name, string(src))
	if err != nil {
		return nil, fmt.Errorf("rego: %v", err)
	}
	w := &mutator{name: name, src: src, version: m.RegoVersion(), seen: map[string]bool{string(src): true}}
	for _, r := range m.Rules {
		w.rule(r)
	}
	slices.SortStableFunc(w.out, func(a, b Mutant) int { return cmp.Compare(a.Line, b.Line) })
	return w.out, nil
}

// mutator edits the text, so that lines stay where they are.
type mutator struct {
	name    string
	src     []byte
	version ast.RegoVersion
	seen    map[string]bool
	out     []Mutant
}

func (w *mutator) rule(r *ast.Rule) {
	if r.Default {
		w.defaultRule(r)
		return
	}
	w.replace(r.Location, "", "removed the rule")
	for link := r; link != nil; link = link.Else {
		if link != r {
			w.replace(link.Location, "", "removed the branch")
		}
		w.link(link, link.Else != nil)
	}
}

func (w *mutator) link(r *ast.Rule, branches bool) {
	w.constant(r.Head.Value)
	w.comparisons(r.Head)
	for i, x := range r.Body {
		if x.Generated || x.Location == nil {
			continue
		}
		if branches && i == 0 {
			w.replace(x.Location, "false", "never takes the branch")
		}
		w.condition(x)
	}
}

// defaultRule: the location of a default covers its first word only.
func (w *mutator) defaultRule(r *ast.Rule) {
	value := r.Head.Value
	if value == nil || value.Location == nil {
		return
	}
	name, _ := r.Head.Ref()[0].Value.(ast.Var)
	if name == allowRule {
		return
	}
	w.constant(value)
	if name == denyRule && ast.Boolean(false).Equal(value.Value) {
		return
	}
	all := *r.Location
	end := value.Location.Offset + len(value.Location.Text)
	if end > len(w.src) || all.Offset > end {
		return
	}
	all.Text = w.src[all.Offset:end]
	w.replace(&all, "", "removed the default")
}

func (w *mutator) condition(x *ast.Expr) {
	if ast.Boolean(true).Equal(constantOf(x)) {
		return
	}
	w.replace(x.Location, "true", "removed: "+oneLine(x.Location))
	w.comparisons(x)
	text := string(x.Location.Text)
	switch {
	case x.Negated:
		w.replace(x.Location, strings.TrimSpace(strings.TrimPrefix(text, "not")), "no longer negated: "+oneLine(x.Location))
	case !flips(x) && !binds(x):
		w.replace(x.Location, "not "+text, "negated: "+oneLine(x.Location))
	}
}

func constantOf(x *ast.Expr) ast.Value {
	t, ok := x.Terms.(*ast.Term)
	if !ok {
		return ast.Null{}
	}
	return t.Value
}

// flips reports whether x is a comparison, of which the opposite is a mutant of
// its own.
func flips(x *ast.Expr) bool {
	return x.IsCall() && opposite(string(x.OperatorTerm().Location.Text)) != ""
}

// binds reports whether x may bind variables that others use.
func binds(x *ast.Expr) bool {
	switch x.Terms.(type) {
	case *ast.SomeDecl, *ast.Every:
		return true
	}
	return x.IsAssignment() || x.IsEquality()
}

// comparisons turns each comparison in node round, and each constant operand
// that is true or false.
func (w *mutator) comparisons(node any) {
	call := func(terms []*ast.Term) {
		if len(terms) != 3 || terms[0].Location == nil {
			return
		}
		if flipped := opposite(string(terms[0].Location.Text)); flipped != "" {
			w.replace(terms[0].Location, flipped, fmt.Sprintf("%s became %s", terms[0].Location.Text, flipped))
		}
	}
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if terms, ok := x.Terms.([]*ast.Term); ok {
				call(terms)
			}
		case ast.Call:
			call(x)
		}
		return false
	}).Walk(node)
}

// opposite returns the operator that holds exactly where op does not.
func opposite(op string) string {
	switch op {
	case "==":
		return "!="
	case "!=":
		return "=="
	case "<":
		return ">="
	case ">=":
		return "<"
	case ">":
		return "<="
	case "<=":
		return ">"
	}
	return ""
}

// constant flips a head that says true or false in so many words.
func (w *mutator) constant(t *ast.Term) {
	if t == nil || t.Location == nil {
		return
	}
	switch string(t.Location.Text) {
	case "true":
		w.replace(t.Location, "false", "true became false")
	case "false":
		w.replace(t.Location, "true", "false became true")
	}
}

// replace adds a mutant in which text stands at l, if it is one.
func (w *mutator) replace(l *ast.Location, text, what string) {
	if l == nil || len(l.Text) == 0 || !bytes.HasPrefix(w.src[min(l.Offset, len(w.src)):], l.Text) {
		return
	}
	if text == "" {
		text = strings.Repeat("\n", bytes.Count(l.Text, []byte("\n")))
	}
	src := slices.Concat(w.src[:l.Offset], []byte(text), w.src[l.Offset+len(l.Text):])
	if w.seen[string(src)] || !w.valid(src) {
		return
	}
	w.seen[string(src)] = true
	w.out = append(w.out, Mutant{Line: l.Row, What: what, Src: src})
}

// valid reports whether src is of the same dialect and binds its variables.
// Other faults may be due to files that are not here.
func (w *mutator) valid(src []byte) bool {
	m, err := parseModule(w.name, string(src))
	if err != nil || m.RegoVersion() != w.version && len(m.Rules) > 0 {
		return false
	}
	_, err = compile(map[string]*ast.Module{w.name: m}, nil)
	errs, ok := errors.AsType[ast.Errors](err)
	if !ok {
		return err == nil
	}
	return !slices.ContainsFunc(errs, func(e *ast.Error) bool { return e.Code == ast.UnsafeVarErr })
}

func oneLine(l *ast.Location) string {
	return strings.Join(strings.Fields(string(l.Text)), " ")
}
