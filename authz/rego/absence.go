package rego

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart/authz"
)

const (
	// maxReads bounds the members that one rule may read, by every way of
	// calling helpers counted.
	maxReads = 500
	// maxCalls bounds the ways in which one rule may call helpers.
	maxCalls = 2000
)

// lack is a condition under which a rule reads something absent.
type lack struct {
	name string // of what is read, for people
	body ast.Body
}

// absences finds what rules read that may be absent, in a compiled set of
// modules: there every name is resolved, every variable has a name of its own,
// and what is evaluated before a condition stands above it. Rules form no cycle:
// the compiler refuses recursion.
type absences struct {
	c      *ast.Compiler
	same   ast.Ref // a function that returns its argument, of a type that nobody knows
	permit bool    // the rule at hand permits
	calls  int
	inside map[*ast.Rule]bool  // rules that are being read
	names  map[ast.Var]ast.Var // of renamed variables, what they were
	found  []lack
	err    error
}

// spot is a place in a rule at which something is read.
type spot struct {
	above ast.Body            // conditions that hold when it is reached
	alias map[ast.Var]ast.Ref // variables that stand for input or a member of it
	with  []*ast.With         // that change what is read here
	harms bool                // undefined here is less of a forbid, or more of a permit
	odd   bool                // so it is whatever stands around: in a comprehension, or beside a default
}

// lacks returns what each rule of modules that forbids, or says what a
// permission calls for, may find absent. A permit fails only where the absence
// of a relation could make it hold; it is looked at if some rule reads input as
// a whole, as relationReader knows what is read by name.
func lacks(modules map[string]*ast.Module, s *authz.Schema) (map[*ast.Rule][]lack, error) {
	whole := readsWhole(modules)
	if !whole && !anyWatched(modules) {
		return nil, nil
	}
	c, err := compile(withoutDetail(modules), s)
	if err != nil {
		return nil, err
	}
	out := map[*ast.Rule][]lack{}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		m := modules[name]
		for i, r := range m.Rules {
			if !watched(r) && !(whole && decides(r)) {
				continue
			}
			w := &absences{c: c, permit: !watched(r), names: map[ast.Var]ast.Var{}, inside: map[*ast.Rule]bool{}, same: m.Package.Path.Append(ast.StringTerm(sameRule))}
			w.inside[c.Modules[name].Rules[i]] = true
			w.rule(c.Modules[name].Rules[i], spot{harms: !w.permit})
			if w.err != nil {
				return nil, w.err
			}
			out[r] = w.found
		}
	}
	return out, nil
}

// watched reports whether what r reads must not get lost.
func watched(r *ast.Rule) bool {
	name, _ := r.Head.Ref()[0].Value.(ast.Var)
	return decides(r) && name != allowRule
}

func anyWatched(modules map[string]*ast.Module) bool {
	for _, m := range modules {
		if slices.ContainsFunc(m.Rules, watched) {
			return true
		}
	}
	return false
}

// readsWhole reports whether some rule reads input otherwise than by the name of
// a member.
func readsWhole(modules map[string]*ast.Module) bool {
	whole := false
	look := func(x any) {
		ast.WalkRefs(x, func(ref ast.Ref) bool {
			whole = whole || ref.HasPrefix(ast.InputRootRef) && (len(ref) == 1 || !isText(ref[1]))
			return false
		})
	}
	for _, m := range modules {
		for _, imp := range m.Imports {
			look(imp.Path)
		}
		for _, r := range m.Rules {
			look(r)
		}
	}
	return whole
}

// withoutDetail copies modules and leaves out what members of deny say: one that
// is undefined forbids all the same.
func withoutDetail(modules map[string]*ast.Module) map[string]*ast.Module {
	out := make(map[string]*ast.Module, len(modules))
	for name, m := range modules {
		out[name] = m.Copy()
		for _, r := range out[name].Rules {
			if r.Head.Name == denyRule && r.Head.Key != nil && r.Head.Value == nil && len(r.Head.Ref()) == 1 {
				r.Head.Key = ast.InternedTerm("")
			}
		}
	}
	return out
}

// rule reads r and its else branches. What stands above an else is not known to
// fail, so it counts as reached.
func (w *absences) rule(r *ast.Rule, s spot) {
	for ; r != nil; r = r.Else {
		end := w.body(r.Body, s)
		for _, t := range []*ast.Term{r.Head.Key, r.Head.Value} {
			if t != nil {
				w.term(t, end, false)
			}
		}
	}
}

// body reads conditions from left to right and returns the place behind them.
func (w *absences) body(body ast.Body, s spot) spot {
	s.above, s.alias = s.above.Copy(), maps.Clone(s.alias)
	if s.alias == nil {
		s.alias = map[ast.Var]ast.Ref{}
	}
	for _, x := range body {
		w.expr(x, s)
		s.learn(x)
		s.add(w, x)
	}
	return s
}

// add takes x for a condition that holds from here on.
func (s *spot) add(w *absences, x *ast.Expr) {
	if t, ok := x.Terms.(*ast.Term); ok && ast.Boolean(true).Equal(t.Value) && !x.Negated {
		return
	}
	x = x.Copy()
	if len(s.with) > 0 && len(x.With) > 0 {
		w.fail(x.Location, "`with` in what is called with `with`: which members it reads is not known")
		return
	}
	if len(s.with) > 0 {
		x.With = s.with
	}
	s.above.Append(x)
}

// learn remembers that a variable stands for input or a member of it.
func (s *spot) learn(x *ast.Expr) {
	if x.Negated || len(x.With) > 0 || len(s.with) > 0 || !x.IsEquality() {
		return
	}
	for _, pair := range [][2]*ast.Term{{x.Operand(0), x.Operand(1)}, {x.Operand(1), x.Operand(0)}} {
		s.standsFor(pair[0], pair[1])
	}
}

func (s *spot) standsFor(name, of *ast.Term) {
	v, ok := name.Value.(ast.Var)
	if !ok {
		return
	}
	if ref := s.resolve(of); ref != nil && ref.IsGround() {
		s.alias[v] = ref
	}
}

// resolve returns what t is of input, or nil.
func (s *spot) resolve(t *ast.Term) ast.Ref {
	switch v := t.Value.(type) {
	case ast.Var:
		return s.alias[v]
	case ast.Ref:
		if v.HasPrefix(ast.InputRootRef) {
			return v
		}
		if head, ok := v[0].Value.(ast.Var); ok && s.alias[head] != nil {
			return s.alias[head].Concat(v[1:])
		}
	}
	return nil
}

func (w *absences) expr(x *ast.Expr, s spot) {
	for _, m := range x.With {
		w.modifier(m, s)
	}
	if len(x.With) > 0 {
		s.with = x.With
	}
	if x.Negated {
		s.harms = !s.harms
	}
	switch t := x.Terms.(type) {
	case *ast.Term:
		w.term(t, s, false)
	case []*ast.Term:
		w.call(t, s)
	case *ast.Every:
		w.every(t, s)
	case *ast.Not:
		s.harms = !s.harms
		w.body(t.Body, s)
	case *ast.LogicalAnd:
		w.body(t.Rhs, w.body(t.Lhs, s))
	case *ast.LogicalOr:
		w.body(t.Lhs, s)
		w.body(t.Rhs, s)
	}
}

// modifier reads the value of a `with`. Of a function that stands in for another
// it is not known what it will be given.
func (w *absences) modifier(m *ast.With, s spot) {
	w.term(m.Value, s, false)
	ref, ok := m.Value.Value.(ast.Ref)
	if !ok || !ref.HasPrefix(ast.DefaultRootRef) {
		return
	}
	if slices.ContainsFunc(w.c.GetRulesDynamic(ref), func(r *ast.Rule) bool { return len(r.Head.Args) > 0 }) {
		w.fail(m.Location, "a function may not stand in for another here: which members it reads is not known")
	}
}

// every reads its body for each element.
func (w *absences) every(e *ast.Every, s spot) {
	w.term(e.Domain, s, false)
	key := e.Key
	if key == nil {
		key = w.fresh()
	}
	of, ok := e.Domain.Value.(ast.Ref)
	if !ok {
		of = ast.Ref{e.Domain}
	}
	s.above = s.above.Copy()
	s.add(w, ast.Equality.Expr(e.Value, ast.NewTerm(of.Append(key))))
	w.body(e.Body, s)
}

// fresh returns a variable of its own.
func (w *absences) fresh() *ast.Term {
	w.calls++
	return ast.VarTerm(companion + "any_" + strconv.Itoa(w.calls))
}

// call reads an operator and its operands. A variable, or the parameter of a
// function, may stand for the whole of input: what is read of it is followed.
func (w *absences) call(terms []*ast.Term, s spot) {
	operator, _ := terms[0].Value.(ast.Ref)
	function := operator.HasPrefix(ast.DefaultRootRef)
	for i, t := range terms[1:] {
		names := false
		if operator.Equal(ast.Equality.Ref()) {
			_, names = terms[2-i].Value.(ast.Var)
		}
		w.term(t, s, function || names)
	}
	if function {
		w.callees(operator, terms[1:], s)
	}
}

// term reads t. followed says that what is read of t is followed.
func (w *absences) term(t *ast.Term, s spot, followed bool) {
	switch v := t.Value.(type) {
	case ast.Var:
		if len(s.alias[v]) == 1 && !followed {
			w.fail(t.Location, wholeInput)
		}
	case ast.Ref:
		w.ref(v, s, followed)
	case ast.Call:
		w.call(v, s)
	case *ast.ArrayComprehension:
		w.term(v.Term, w.body(v.Body, s.oddly()), false)
	case *ast.SetComprehension:
		w.term(v.Term, w.body(v.Body, s.oddly()), false)
	case *ast.ObjectComprehension:
		end := w.body(v.Body, s.oddly())
		w.term(v.Key, end, false)
		w.term(v.Value, end, false)
	case *ast.Not:
		s.harms = !s.harms
		w.body(v.Body, s)
	case *ast.Array:
		v.Foreach(func(e *ast.Term) { w.term(e, s, false) })
	case ast.Set:
		v.Foreach(func(e *ast.Term) { w.term(e, s, false) })
	case ast.Object:
		v.Foreach(func(k, e *ast.Term) {
			w.term(k, s, false)
			w.term(e, s, false)
		})
	}
}

// oddly is s where undefined may be less of a condition as well as more.
func (s spot) oddly() spot {
	s.odd = true
	return s
}

const wholeInput = "input is read as a whole, so it is not known which relations: write input.relation.NAME and the like"

func (w *absences) ref(ref ast.Ref, s spot, followed bool) {
	for i, t := range ref {
		if _, root := t.Value.(ast.Var); i > 0 || !root {
			w.term(t, s, false)
		}
	}
	if ref.HasPrefix(ast.DefaultRootRef) {
		w.callees(ref, nil, s)
		return
	}
	of := s.resolve(ast.NewTerm(ref))
	if of != nil && (len(of) == 1 && !followed || len(of) > 1 && !isText(of[1])) {
		w.fail(ref[0].Location, wholeInput)
		return
	}
	if of != nil && isRelation(of) && (len(of) == 2 && !followed || len(of) > 2 && !isText(of[2])) {
		w.fail(ref[0].Location, "a relation is read by its name only: input.relation.NAME")
		return
	}
	if s.harms || s.odd {
		w.watch(ref, of, s)
	}
}

func isRelation(ref ast.Ref) bool {
	return ref.HasPrefix(ast.InputRootRef) && len(ref) > 1 && ref[1].Equal(ast.InternedTerm("relation"))
}

// watch adds what of ref may be absent, where ref may stand for `of`, a member of
// input. What is looked for in a list is not absent if there is none; the list
// is.
func (w *absences) watch(ref, of ast.Ref, s spot) {
	if w.permit && !isRelation(of) || isRelation(ref) {
		return // relationReader has the relations that are read by name
	}
	if of != nil && len(s.with) == 0 {
		ref = of
	}
	bound := boundBy(s.above)
	done := 1
	for i := 1; i < len(ref); i++ {
		v, ok := ref[i].Value.(ast.Var)
		if !ok || bound.Contains(v) {
			continue
		}
		if i > done {
			w.add(ref[:i], s)
		}
		s.above = s.above.Copy()
		s.add(w, ast.Equality.Expr(w.fresh(), ast.NewTerm(ref[:i+1].Copy())))
		bound.Add(v)
		done = i + 1
	}
	if len(ref) > done {
		w.add(ref, s)
	}
}

// boundBy returns the variables that have a value when body holds.
func boundBy(body ast.Body) ast.VarSet {
	v := ast.NewVarVisitor().WithParams(ast.VarVisitorParams{SkipClosures: true, SkipRefCallHead: true})
	v.Walk(body)
	return v.Vars()
}

func (w *absences) add(ref ast.Ref, s spot) {
	if alwaysThere(ref) {
		return
	}
	if len(w.found) >= maxReads {
		w.fail(ref[0].Location, fmt.Sprintf("a rule may read at most %d members, those that it reads by helpers included", maxReads))
		return
	}
	body := s.above.Copy()
	check := absent(ref)
	check.With = s.with
	body.Append(check)
	w.found = append(w.found, lack{name: w.display(ref), body: body})
}

// display writes ref with its variables as they are in the file.
func (w *absences) display(ref ast.Ref) string {
	out := ref.Copy()
	for i, t := range out {
		v, ok := t.Value.(ast.Var)
		if !ok {
			continue
		}
		if was, ok := w.names[v]; ok {
			v = was
		}
		if was, ok := w.c.RewrittenVars[v]; ok {
			v = was
		}
		out[i] = ast.NewTerm(v)
	}
	return out.String()
}

// callees reads the rules that ref names as if they stood where they are called.
func (w *absences) callees(ref ast.Ref, args []*ast.Term, s spot) {
	rules := w.c.GetRulesDynamic(ref)
	s.odd = s.odd || slices.ContainsFunc(rules, hasDefault) || len(rules) > 1 && slices.ContainsFunc(rules, func(r *ast.Rule) bool { return !saysTrue(r) })
	slices.SortFunc(rules, func(a, b *ast.Rule) int {
		return cmp.Or(strings.Compare(a.Location.File, b.Location.File), cmp.Compare(a.Location.Offset, b.Location.Offset))
	})
	for _, r := range rules {
		if w.calls++; w.calls > maxCalls {
			w.fail(ref[0].Location, fmt.Sprintf("a rule may call helpers in at most %d ways", maxCalls))
		}
		if w.err != nil {
			return
		}
		if w.inside[r] {
			continue // `data.a[x]` names what calls it too, and does not call it
		}
		w.inside[r] = true
		if own, inside, ok := w.enter(r, args, s); ok {
			w.rule(own, inside)
		}
		delete(w.inside, r)
	}
}

// enter returns a copy of r with variables of its own, and the place at which its
// parameters have their values. It is false if args do not fit.
func (w *absences) enter(r *ast.Rule, args []*ast.Term, s spot) (*ast.Rule, spot, bool) {
	if len(r.Head.Args) > len(args) {
		return nil, s, false // named, not called
	}
	own, err := w.renamed(r)
	if err != nil {
		w.err = err
		return nil, s, false
	}
	s.above, s.alias = s.above.Copy(), maps.Clone(s.alias)
	for i, parameter := range own.Head.Args {
		if ast.IsConstant(parameter.Value) && ast.IsConstant(args[i].Value) && !parameter.Equal(args[i]) {
			return nil, s, false
		}
		if len(s.with) == 0 {
			s.standsFor(parameter, args[i])
		}
		given := ast.CallTerm(ast.NewTerm(w.same), args[i])
		s.above.Append(ast.Equality.Expr(parameter, given))
	}
	return own, s, true
}

// renamed copies r so that no variable of it is one of another rule, nor of
// another call.
func (w *absences) renamed(r *ast.Rule) (*ast.Rule, error) {
	v := ast.NewVarVisitor().WithParams(ast.VarVisitorParams{SkipRefCallHead: true})
	v.Walk(r)
	suffix := ast.Var("__" + companion + strconv.Itoa(w.calls))
	x, err := ast.TransformVars(r.Copy(), func(name ast.Var) (ast.Value, error) {
		if ast.RootDocumentNames.Contains(ast.NewTerm(name)) || !v.Vars().Contains(name) {
			return name, nil
		}
		w.names[name+suffix] = name
		return name + suffix, nil
	})
	if err != nil {
		return nil, err
	}
	own, ok := x.(*ast.Rule)
	if !ok {
		return nil, fmt.Errorf("%s: a rule that cannot be followed", r.Location)
	}
	return own, nil
}

func (w *absences) fail(at *ast.Location, what string) {
	if w.err != nil {
		return
	}
	if at == nil {
		w.err = fmt.Errorf("%s", what)
		return
	}
	w.err = fmt.Errorf("%s: %s", at, what)
}

// absent is the condition that ref has no value.
func absent(ref ast.Ref) *ast.Expr {
	body := ast.NewBody(ast.Equality.Expr(ast.VarTerm(localValue), ast.NewTerm(ref)))
	return ast.Equal.Expr(ast.ArrayComprehensionTerm(ast.InternedTerm(1), body), ast.ArrayTerm())
}
