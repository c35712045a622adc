package rego

import (
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// compileForFilters compiles modules so that partial evaluation keeps what a
// condition needs to be there. The compiler turns `not f(input.x)` into
// `v = input.x; not f(v)`, which does not hold without input.x; partial
// evaluation then drops v, and what is left would hold. So each such v is
// followed by `w = input.x; w != null`, which it keeps. No attribute is null. (Context may
// hold no null either: input leaves them out.)
//
// What a deny rule says is no condition of it and left out.
func compileForFilters(modules map[string]*ast.Module, s *authz.Schema) (*ast.Compiler, error) {
	bare := make(map[string]*ast.Module, len(modules))
	for name, m := range modules {
		bare[name] = m.Copy()
		for _, r := range bare[name].Rules {
			if list, ok := detailOf(r); ok {
				r.Head.Key = list.Elem(0)
			}
		}
	}
	return compileWith(bare, s, func(c *ast.Compiler) *ast.Compiler {
		return c.WithStageAfterID(ast.StageCheckTypes, ast.CompilerStageDefinition{
			Name: "RampartKeepPresence", MetricName: "rampart_keep_presence",
			Stage: func(c *ast.Compiler) *ast.Error {
				for _, m := range c.Modules {
					keepPresence(m)
				}
				return nil
			},
		})
	})
}

// detailOf returns what detailed made.
func detailOf(r *ast.Rule) (*ast.Array, bool) {
	if r.Head.Name != denied || r.Head.Key == nil {
		return nil, false
	}
	list, ok := r.Head.Key.Value.(*ast.Array)
	return list, ok && list.Len() == 2
}

func keepPresence(m *ast.Module) {
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Rule:
			x.Body = withPresence(x.Body)
		case *ast.ArrayComprehension:
			x.Body = withPresence(x.Body)
		case *ast.SetComprehension:
			x.Body = withPresence(x.Body)
		case *ast.ObjectComprehension:
			x.Body = withPresence(x.Body)
		case *ast.Every:
			x.Body = withPresence(x.Body)
		}
		return false
	}).Walk(m)
}

func withPresence(body ast.Body) ast.Body {
	out := make(ast.Body, 0, len(body))
	for _, x := range body {
		out.Append(selfEqual(x))
		if ref := liftedInput(x); ref != nil {
			v := ast.VarTerm(localValue + "_" + strconv.Itoa(len(out)))
			out.Append(generated(x, ast.Equality.Expr(v, ref)))
			out.Append(generated(x, ast.NotEqual.Expr(v, ast.NullTerm())))
		}
	}
	return out
}

func generated(from, x *ast.Expr) *ast.Expr {
	x.Location, x.Generated = from.Location, true
	return x
}

// selfEqual: partial evaluation takes `input.x = input.x` for true, though it
// asks whether input.x is there.
func selfEqual(x *ast.Expr) *ast.Expr {
	if !x.IsEquality() || !x.Operand(0).Equal(x.Operand(1)) {
		return x
	}
	if ref, ok := x.Operand(0).Value.(ast.Ref); !ok || !ref.HasPrefix(ast.InputRootRef) {
		return x
	}
	of := ast.NewBody(ast.Equality.Expr(ast.VarTerm(localValue+"_self"), x.Operand(0)))
	out := generated(x, ast.Equality.Expr(ast.ArrayComprehensionTerm(ast.InternedTerm(1), of), ast.ArrayTerm()))
	out.With = x.With
	out.Negated = !x.Negated // the list is empty when it is absent
	return out
}

// liftedInput returns input.x.y of `v = input.x.y`.
func liftedInput(x *ast.Expr) *ast.Term {
	if !x.IsEquality() || x.Negated || len(x.With) > 0 {
		return nil
	}
	l, r := x.Operand(0), x.Operand(1)
	if _, ok := l.Value.(ast.Var); !ok {
		l, r = r, l
	}
	v, ok := l.Value.(ast.Var)
	ref, isRef := r.Value.(ast.Ref)
	if !ok || !isRef || strings.HasPrefix(string(v), localValue) || !ref.HasPrefix(ast.InputRootRef) || !ref.IsGround() || len(ref) < 3 {
		return nil
	}
	return r
}

// spare drops from conditions that all must hold each Has that another implies.
func spare(conditions []filter.Expr) filter.Expr {
	implied := map[string]bool{}
	for _, c := range conditions {
		if t, ok := c.(filter.Total); ok {
			for _, name := range attributesOf(t.X) {
				implied[name] = true
			}
		}
	}
	out := filter.Expr(filter.Const(true))
	for _, c := range conditions {
		has, ok := c.(filter.Has)
		if ok && implied[has.Attr] {
			continue
		}
		if ok {
			implied[has.Attr] = true
		}
		out = and(out, c)
	}
	return out
}

// attributesOf returns the attributes without which an atom is undefined.
func attributesOf(atom filter.Expr) []string {
	var names []string
	add := func(operands ...filter.Operand) {
		for _, o := range operands {
			if a, ok := o.(filter.Attr); ok {
				names = append(names, a.Name)
			}
		}
	}
	switch a := atom.(type) {
	case filter.Bool:
		add(a.X)
	case filter.Cmp:
		add(a.L, a.R)
	case filter.In:
		add(a.X, a.List)
	case filter.Text:
		add(a.X, a.Part)
	}
	return names
}
