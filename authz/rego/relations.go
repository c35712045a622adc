package rego

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart/authz"
)

// relationSet is a set of relations. The value says whether one is read where its
// absence could make a condition hold: under `not`, in a comprehension, or by
// way of a rule that has a value when its body fails.
type relationSet map[string]bool

func (n relationSet) add(other relationSet, odd bool) {
	for name, was := range other {
		n[name] = n[name] || was || odd
	}
}

// read is one relation that a condition of a rule reads.
type read struct {
	above int // conditions above it
	name  string
	odd   bool
}

// relationReader finds the relations that rules read, in a compiled set of
// modules, where every name is resolved. Rules form no cycle: the compiler
// refuses recursion.
type relationReader struct {
	c      *ast.Compiler
	schema *authz.Schema
	seen   map[*ast.Rule]relationSet
	whole  bool // some rule reads input as a whole, so any relation
	err    error
}

// mentionsRelations is a cheap look that spares most policies the work.
func mentionsRelations(files map[string][]byte) bool {
	for _, src := range files {
		if bytes.Contains(src, []byte("relation")) || bytes.Contains(src, []byte(`\u`)) {
			return true
		}
	}
	return false
}

// rule returns the relations that r reads, those of its callees included.
func (w *relationReader) rule(r *ast.Rule) relationSet {
	if found, ok := w.seen[r]; ok {
		return found
	}
	found := relationSet{}
	w.seen[r] = found
	for ; r != nil; r = r.Else {
		w.visit(found, r.Head, false)
		w.visit(found, r.Body, false)
	}
	return found
}

// visit adds what node reads to found.
func (w *relationReader) visit(found relationSet, node any, odd bool) {
	var v *ast.GenericVisitor
	v = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if x.Negated && !odd {
				positive := x.Copy()
				positive.Negated = false
				w.visit(found, positive, true)
				return true
			}
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every, *ast.Not:
			if !odd {
				w.visit(found, x, true)
				return true
			}
		case *ast.With:
			v.Walk(x.Value) // its target is written, not read
			return true
		case ast.Ref:
			w.ref(found, x, odd)
		}
		return false
	})
	v.Walk(node)
}

func (w *relationReader) ref(found relationSet, ref ast.Ref, odd bool) {
	if ref.HasPrefix(ast.DefaultRootRef) {
		rules := w.c.GetRulesDynamic(ref)
		odd = odd || slices.ContainsFunc(rules, hasDefault)
		for _, r := range rules {
			found.add(w.rule(r), odd)
		}
		return
	}
	if !ref.HasPrefix(ast.InputRootRef) {
		return
	}
	if len(ref) == 1 || !isText(ref[1]) {
		w.whole = true
		if w.schema == nil {
			w.fail(ref, wholeInput+", or declare authz.types")
		}
		return
	}
	if !ref[1].Equal(ast.InternedTerm("relation")) {
		return
	}
	name, ok := relationName(ref)
	if !ok {
		w.fail(ref, "a relation is read by its name only: input.relation.NAME")
		return
	}
	if declared := allRelations(w.schema); w.schema != nil && !slices.Contains(declared, name) {
		w.fail(ref, fmt.Sprintf("relation %q is not declared; declared are: %s", name, strings.Join(declared, ", ")))
		return
	}
	found[name] = found[name] || odd
}

func (w *relationReader) fail(ref ast.Ref, what string) {
	if w.err == nil {
		w.err = fmt.Errorf("%s: %s", ref[0].Location, what)
	}
}

// hasDefault reports whether r may have a value when no body of it holds.
func hasDefault(r *ast.Rule) bool {
	return r.Default || r.Else != nil || r.Head.RuleKind() == ast.MultiValue || len(r.Head.Ref()) > 1
}

func isText(t *ast.Term) bool {
	_, ok := t.Value.(ast.String)
	return ok
}

// relationName returns NAME of input.relation.NAME.
func relationName(ref ast.Ref) (string, bool) {
	if len(ref) != 3 {
		return "", false
	}
	name, ok := ref[2].Value.(ast.String)
	return string(name), ok
}

// reads returns the relations that the conditions of original read, where
// compiled is the same rule with its names resolved.
func (w *relationReader) reads(original, compiled *ast.Rule) []read {
	var out []read
	add := func(above int, found relationSet) {
		for _, name := range slices.Sorted(maps.Keys(found)) {
			out = append(out, read{above, name, found[name]})
		}
	}
	head := relationSet{}
	w.visit(head, compiled.Head, false)
	for _, x := range compiled.Body {
		found := relationSet{}
		w.visit(found, x, false)
		add(conditionsAbove(original, x), found)
	}
	add(len(original.Body), head)
	if compiled.Else != nil {
		add(0, w.rule(compiled.Else))
	}
	return out
}

// conditionsAbove finds x's place in the body as it was written: the compiler
// moves and splits conditions, but leaves them their location.
func conditionsAbove(original *ast.Rule, x *ast.Expr) int {
	above := len(original.Body)
	for i, condition := range original.Body {
		if x.Location == nil || condition.Location == nil {
			return 0
		}
		if condition.Location.Offset <= x.Location.Offset {
			above = i
		}
	}
	return above
}

// relationReads returns what each rule of modules reads of the relation graph.
func relationReads(modules map[string]*ast.Module, s *authz.Schema) (map[*ast.Rule][]read, error) {
	c, err := compile(modules, s)
	if err != nil {
		return nil, err
	}
	w := &relationReader{c: c, schema: s, seen: map[*ast.Rule]relationSet{}}
	out := map[*ast.Rule][]read{}
	for name, m := range modules {
		for i, r := range m.Rules {
			if decides(r) {
				out[r] = w.reads(r, c.Modules[name].Rules[i])
			}
		}
	}
	return out, w.err
}

// relationsRead returns the relations that the rules that decide read.
func relationsRead(c *ast.Compiler, s *authz.Schema) ([]string, error) {
	w := &relationReader{c: c, schema: s, seen: map[*ast.Rule]relationSet{}}
	found := relationSet{}
	for _, m := range c.Modules {
		for _, r := range m.Rules {
			if decides(r) {
				found.add(w.rule(r), false)
			}
		}
	}
	if w.whole {
		return allRelations(s), w.err
	}
	return slices.Sorted(maps.Keys(found)), w.err
}

func allRelations(s *authz.Schema) []string {
	if s == nil {
		return nil
	}
	found := map[string]bool{}
	for _, t := range s.Types {
		for _, name := range t.Relations {
			found[name] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// byType splits read by the types that have the relations.
func byType(read []string, s *authz.Schema) map[string][]string {
	out := map[string][]string{}
	if s == nil {
		return out
	}
	for name, t := range s.Types {
		for _, relation := range read {
			if slices.Contains(t.Relations, relation) {
				out[name] = append(out[name], relation)
			}
		}
	}
	return out
}
