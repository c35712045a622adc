package rego

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
)

// maxSupport bounds how deep rules that partial evaluation kept call each other.
const maxSupport = 16

// translator turns what partial evaluation leaves into conditions. Every
// condition that it makes is total: undefined conditions of Rego do not hold.
type translator struct {
	q       open
	d       *decider
	support map[string][]*ast.Rule // by path
	depth   int
	policy  rampart.PolicyRef // whose conditions are looked at
	vars    map[ast.Var]int   // how often the body names them
	bound   map[ast.Var]*ast.Term
	negated bool // the condition at hand is under `not`
}

func newTranslator(q open, d *decider, support []*ast.Module) *translator {
	t := &translator{q: q, d: d, support: map[string][]*ast.Rule{}}
	for _, m := range support {
		for _, r := range m.Rules {
			path := m.Package.Path.Extend(r.Head.Ref().GroundPrefix()).String()
			t.support[path] = append(t.support[path], r)
		}
	}
	return t
}

func (t *translator) refuse(node fmt.Stringer, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if node != nil {
		what += ": " + clip(node.String())
	}
	return &filter.Untranslatable{Policy: t.policy, What: what}
}

// query translates one member of a companion set: conditions, and among them
// the number of the rule that they belong to.
func (t *translator) query(body ast.Body) (rest, error) {
	t.policy = rampart.PolicyRef{Engine: engineName, ID: t.d.name()}
	found, err := strconv.Atoi(fmt.Sprint(keyOf(body)))
	if err != nil || found < 0 || found >= len(t.d.refs) {
		return rest{}, t.refuse(body, "an answer names no rule")
	}
	t.policy = t.d.refs[found]
	conditions := slices.DeleteFunc(slices.Clone(body), isKey)
	cond, err := t.body(conditions, map[ast.Var]*ast.Term{})
	if err != nil || cond == filter.Const(false) {
		return rest{found, cond}, err
	}
	if what := t.d.doubtful[found]; what != "" {
		return rest{}, t.refuse(nil, "%s", what)
	}
	return rest{found, cond}, nil
}

// keyOf returns n of `rampart_value = n` or `rampart_value = [n, ...]`.
func keyOf(body ast.Body) *ast.Term {
	for _, x := range body {
		if !isKey(x) {
			continue
		}
		key := x.Operand(1)
		if key.Value.Compare(ast.Var(localValue)) == 0 {
			key = x.Operand(0)
		}
		if list, ok := key.Value.(*ast.Array); ok && list.Len() > 0 {
			return list.Elem(0)
		}
		return key
	}
	return nil
}

func isKey(x *ast.Expr) bool {
	if !x.IsEquality() || x.Negated {
		return false
	}
	return x.Operand(0).Value.Compare(ast.Var(localValue)) == 0 || x.Operand(1).Value.Compare(ast.Var(localValue)) == 0
}

// body translates conditions from left to right and stops at one that cannot
// hold. args are variables that have a value already; body adds to them.
func (t *translator) body(body ast.Body, args map[ast.Var]*ast.Term) (filter.Expr, error) {
	vars, bound, negated := t.vars, t.bound, t.negated
	defer func() { t.vars, t.bound, t.negated = vars, bound, negated }()
	t.vars, t.bound = map[ast.Var]int{}, args
	ast.WalkVars(body, func(v ast.Var) bool {
		t.vars[v]++
		return false
	})
	var all []filter.Expr
	for _, x := range body {
		c, err := t.condition(x)
		if err != nil {
			return nil, err
		}
		if c == filter.Const(false) {
			return c, nil
		}
		all = append(all, c)
	}
	return spare(all), nil
}

func (t *translator) condition(x *ast.Expr) (filter.Expr, error) {
	if len(x.With) > 0 {
		return nil, t.refuse(x, "a condition with `with`")
	}
	t.negated = x.Negated
	c, err := t.atom(x)
	if err != nil {
		return nil, err
	}
	c = total(c)
	if x.Negated {
		c = not(c)
	}
	return c, nil
}

func (t *translator) atom(x *ast.Expr) (filter.Expr, error) {
	switch terms := x.Terms.(type) {
	case *ast.Term:
		return t.truth(terms)
	case []*ast.Term:
		return t.call(x, terms)
	case *ast.SomeDecl:
		return filter.Const(true), nil
	}
	return nil, t.refuse(x, "a condition that is not about one row")
}

// comparisons of Rego's builtins.
func comparison(operator string) (filter.Op, bool) {
	switch operator {
	case "eq", "equal":
		return filter.Eq, true
	case "neq":
		return filter.Ne, true
	case "lt":
		return filter.Lt, true
	case "lte":
		return filter.Le, true
	case "gt":
		return filter.Gt, true
	case "gte":
		return filter.Ge, true
	}
	return "", false
}

func look(operator string) (filter.TextOp, bool) {
	switch operator {
	case "startswith":
		return filter.Prefix, true
	case "endswith":
		return filter.Suffix, true
	case "contains":
		return filter.Contains, true
	}
	return "", false
}

// call translates a call in the place of a condition. It has one operand more
// than its builtin when its result is bound or compared.
func (t *translator) call(x *ast.Expr, terms []*ast.Term) (filter.Expr, error) {
	name, operands := terms[0].String(), terms[1:]
	if name == "object.get" && len(operands) == 4 {
		return t.equality(x, callTerm(terms[:4]), operands[3])
	}
	if name == "object.get" && len(operands) == 3 {
		return t.truth(callTerm(terms))
	}
	if name == "eq" && len(operands) == 2 {
		return t.equality(x, operands[0], operands[1])
	}
	if strings.HasPrefix(name, "data.") {
		return t.function(x, name, operands)
	}
	if len(operands) == 3 {
		return t.result(x, name, operands)
	}
	if len(operands) != 2 {
		return nil, t.refuse(x, "%s has no place in a filter", name)
	}
	return t.binary(x, name, operands[0], operands[1])
}

// function translates a call of a function that partial evaluation kept.
func (t *translator) function(x *ast.Expr, name string, operands []*ast.Term) (filter.Expr, error) {
	rules := t.support[name]
	if len(rules) == 0 || t.depth == maxSupport {
		return nil, t.refuse(x, "%s has no place in a filter", name)
	}
	t.depth++
	defer func() { t.depth-- }()
	defined, out := filter.Expr(filter.Const(true)), filter.Expr(filter.Const(false))
	for _, o := range operands {
		values, err := t.values(o)
		if err != nil {
			return nil, err
		}
		defined = and(defined, anyDefined(values))
	}
	for _, r := range rules {
		args, ok := t.arguments(r, operands)
		if !ok || !saysTrue(r) || r.Else != nil {
			return nil, t.refuse(x, "%s has no place in a filter", name)
		}
		cond, err := t.body(r.Body, args)
		if err != nil {
			return nil, err
		}
		out = or(out, cond)
	}
	return and(defined, out), nil
}

// arguments binds the parameters of r, which must be plain.
func (t *translator) arguments(r *ast.Rule, operands []*ast.Term) (map[ast.Var]*ast.Term, bool) {
	args := map[ast.Var]*ast.Term{}
	if len(r.Head.Args) != len(operands) {
		return nil, false
	}
	for i, o := range operands {
		parameter, ok := r.Head.Args[i].Value.(ast.Var)
		if !ok {
			return nil, false
		}
		if v, isVar := o.Value.(ast.Var); isVar {
			if o = t.bound[v]; o == nil {
				return nil, false
			}
		}
		if ref, isRef := o.Value.(ast.Ref); isRef && !ref.IsGround() {
			return nil, false
		}
		args[parameter] = o
	}
	return args, true
}

func callTerm(terms []*ast.Term) *ast.Term { return &ast.Term{Value: ast.Call(terms)} }

// result translates a comparison whose outcome is compared with a constant.
func (t *translator) result(x *ast.Expr, name string, operands []*ast.Term) (filter.Expr, error) {
	want, ok := operands[2].Value.(ast.Boolean)
	if !ok {
		return nil, t.refuse(x, "%s has no place in a filter", name)
	}
	c, err := t.binary(x, name, operands[0], operands[1])
	if err != nil || bool(want) {
		return c, err
	}
	defined := filter.Expr(filter.Const(true))
	for _, o := range operands[:2] {
		values, err := t.values(o)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(values, func(v value) bool { return v.each }) {
			return nil, t.refuse(x, "a member of a list that must not be")
		}
		defined = and(defined, anyDefined(values))
	}
	return and(defined, not(total(c))), nil
}

func (t *translator) binary(x *ast.Expr, name string, l, r *ast.Term) (filter.Expr, error) {
	if op, ok := comparison(name); ok {
		return t.cross(x, l, r, func(l, r value) (filter.Expr, bool) { return compare(op, l, r) })
	}
	if op, ok := look(name); ok {
		return t.cross(x, l, r, func(l, r value) (filter.Expr, bool) {
			if l.kind != kindText || r.kind != kindText || l.each || r.each {
				return nil, false
			}
			return filter.Text{Op: op, X: l.op, Part: r.op}, true
		})
	}
	if name == ast.Member.Name {
		return t.cross(x, l, r, member)
	}
	return nil, t.refuse(x, "%s has no place in a filter", name)
}

// cross applies f to each pair of the values that two operands may have.
func (t *translator) cross(x *ast.Expr, l, r *ast.Term, f func(l, r value) (filter.Expr, bool)) (filter.Expr, error) {
	left, err := t.values(l)
	if err != nil {
		return nil, err
	}
	right, err := t.values(r)
	if err != nil {
		return nil, err
	}
	out := filter.Expr(filter.Const(false))
	for _, a := range left {
		for _, b := range right {
			c, ok := f(a, b)
			if !ok {
				return nil, t.refuse(x, "a comparison that databases make differently or not at all")
			}
			out = or(out, and(and(a.when, b.when), total(c)))
		}
	}
	return out, nil
}

// equality translates `l = r`, which compares, asks for presence, or names.
func (t *translator) equality(x *ast.Expr, l, r *ast.Term) (filter.Expr, error) {
	if c, ok, err := t.absence(l, r); ok {
		return c, err
	}
	if c, ok, err := t.naming(x, l, r); ok {
		return c, err
	}
	if c, ok, err := t.naming(x, r, l); ok {
		return c, err
	}
	return t.binary(x, "eq", l, r)
}

// absence recognizes what absent makes.
func (t *translator) absence(l, r *ast.Term) (filter.Expr, bool, error) {
	c, ok := l.Value.(*ast.ArrayComprehension)
	if list, empty := r.Value.(*ast.Array); !ok || !empty || list.Len() > 0 || len(c.Body) != 1 || !c.Body[0].IsEquality() {
		return nil, false, nil
	}
	named, read := c.Body[0].Operand(0), c.Body[0].Operand(1)
	if _, ok := named.Value.(ast.Var); !ok {
		named, read = read, named
	}
	if v, ok := named.Value.(ast.Var); !ok || !strings.HasPrefix(string(v), localValue) {
		return nil, false, nil
	}
	values, err := t.values(read)
	if err != nil {
		return nil, true, err
	}
	return not(anyDefined(values)), true, nil
}

// naming handles a variable that is bound here: the other side must be there.
func (t *translator) naming(x *ast.Expr, named, what *ast.Term) (filter.Expr, bool, error) {
	v, ok := named.Value.(ast.Var)
	if !ok || t.bound[v] != nil {
		return nil, false, nil
	}
	values, err := t.values(what)
	if err != nil {
		return nil, true, err
	}
	if slices.ContainsFunc(values, func(v value) bool { return v.each }) {
		return nil, true, t.refuse(x, "a member of a list that is looked at more than once")
	}
	t.bound[v] = what
	return anyDefined(values), true, nil
}

// truth translates a term in the place of a condition: anything but false.
func (t *translator) truth(term *ast.Term) (filter.Expr, error) {
	values, err := t.values(term)
	if err != nil {
		return nil, err
	}
	out := filter.Expr(filter.Const(false))
	for _, v := range values {
		if v.each {
			return nil, t.refuse(term, "a condition that is not about one value")
		}
		c := v.defined
		if v.kind == kindBool {
			c = v.truth()
		}
		out = or(out, and(v.when, total(c)))
	}
	return out, nil
}

func literal(v ast.Value) (value, bool) {
	switch v := v.(type) {
	case ast.Boolean:
		return known(kindBool, bool(v)), true
	case ast.String:
		return known(kindText, string(v)), true
	case ast.Null:
		return known(kindNull, nil), true
	case ast.Number:
		n, ok := number(json.Number(v))
		return known(kindNumber, n), ok
	}
	list, ok := scalars(v)
	return known(kindList, list), ok
}
