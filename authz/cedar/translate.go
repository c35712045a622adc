package cedar

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// translator says expressions about an unknown resource as conditions.
type translator struct {
	env      eval.Env
	resource cedar.EntityUID       // only its type is known
	attrs    map[string]authz.Attr // of that type; nil when it is not declared
	rls      bool                  // the principal and the context are unknown too
}

// term is what an expression comes to. Exactly one of known, cond, operand,
// entity and elems is set.
type term struct {
	known   ast.IsNode     // depends on nothing unknown; Cedar evaluates it when it must
	cond    filter.Expr    // a boolean; Undefined for whatever fails
	operand filter.Operand // an attribute
	kind    authz.AttrKind // of operand
	entity  cedar.String   // "resource" or "principal"
	elems   []term         // a set that is written out
}

func condition(c filter.Expr) term { return term{cond: c} }

var undefined = term{cond: filter.Undefined{}}

// cond translates n as a condition: what is no boolean fails.
func (t *translator) cond(n ast.IsNode) (filter.Expr, error) {
	x, err := t.term(n)
	if err != nil {
		return nil, err
	}
	return t.asCond(x), nil
}

func (t *translator) asCond(x term) filter.Expr {
	switch {
	case x.known != nil:
		v, ok := t.force(x)
		b, isBool := v.(cedar.Boolean)
		if !ok || !isBool {
			return filter.Undefined{}
		}
		return filter.Const(b)
	case x.cond != nil:
		return x.cond
	case x.operand != nil && x.kind == authz.KindBool:
		return filter.Bool{X: x.operand}
	}
	return filter.Undefined{}
}

// force evaluates a known term; false when it fails.
func (t *translator) force(x term) (cedar.Value, bool) {
	v, err := eval.Eval(x.known, t.env)
	return v, err == nil
}

// term translates one node. An error says what cannot be said as a filter.
func (t *translator) term(n ast.IsNode) (term, error) {
	switch n := n.(type) {
	case ast.NodeValue:
		return term{known: n}, nil
	case ast.NodeTypeVariable:
		return t.variable(n)
	case ast.NodeTypeAnd:
		return t.logic(n, n.BinaryNode, filter.Const(false), and)
	case ast.NodeTypeOr:
		return t.logic(n, n.BinaryNode, filter.Const(true), or)
	case ast.NodeTypeIfThenElse:
		return t.choice(n)
	case ast.NodeTypeAccess:
		return t.access(n)
	case ast.NodeTypeHas:
		return t.has(n)
	}
	return t.strict(n)
}

func (t *translator) variable(n ast.NodeTypeVariable) (term, error) {
	switch {
	case n.Name == "resource":
		if slices.Contains(principalTypes(), t.resource.Type) {
			return term{}, fmt.Errorf("resources of type %s cannot be told from who asks", t.resource.Type)
		}
		return term{entity: n.Name}, nil
	case n.Name == "principal" && t.rls:
		return term{entity: n.Name}, nil
	case n.Name == "context":
		return term{}, errors.New("the context as a whole holds relations, which differ from row to row")
	}
	return term{known: n}, nil
}

// logic translates && and ||. decisive is the left value behind which Cedar
// does not look at the right side.
func (t *translator) logic(n ast.IsNode, sides ast.BinaryNode, decisive filter.Const, join func(l, r filter.Expr) filter.Expr) (term, error) {
	l, err := t.term(sides.Left)
	if err != nil {
		return term{}, err
	}
	r, unsayable := t.term(sides.Right)
	if unsayable == nil && l.known != nil && r.known != nil {
		return term{known: n}, nil
	}
	left := t.asCond(l)
	if left == filter.Expr(decisive) || left == filter.Expr(filter.Undefined{}) {
		return condition(left), nil
	}
	if unsayable != nil {
		return term{}, unsayable
	}
	return condition(join(left, t.asCond(r))), nil
}

// choice translates if-then-else between conditions.
func (t *translator) choice(n ast.NodeTypeIfThenElse) (term, error) {
	x, err := t.term(n.If)
	if err != nil {
		return term{}, err
	}
	switch which := t.asCond(x); which {
	case filter.Const(true):
		return t.term(n.Then)
	case filter.Const(false):
		return t.term(n.Else)
	case filter.Expr(filter.Undefined{}):
		return undefined, nil
	default:
		return t.either(which, n)
	}
}

func (t *translator) either(which filter.Expr, n ast.NodeTypeIfThenElse) (term, error) {
	then, err := t.term(n.Then)
	if err != nil {
		return term{}, err
	}
	other, err := t.term(n.Else)
	if err != nil {
		return term{}, err
	}
	if !t.isBool(then) || !t.isBool(other) {
		return term{}, errors.New("an `if` that yields a value; write it as two conditions")
	}
	return bounded(condition(or(and(which, t.asCond(then)), and(not(which), t.asCond(other)))), nil)
}

func (t *translator) isBool(x term) bool {
	if x.known != nil {
		v, ok := t.force(x)
		_, isBool := v.(cedar.Boolean)
		return !ok || isBool
	}
	return x.cond != nil || x.operand != nil && x.kind == authz.KindBool
}

// strict translates nodes that evaluate everything below them.
func (t *translator) strict(n ast.IsNode) (term, error) {
	below := children(n)
	list := make([]term, len(below))
	known, fails := true, false
	for i, child := range below {
		var err error
		if list[i], err = t.term(child); err != nil {
			return term{}, err
		}
		known = known && list[i].known != nil
		fails = fails || list[i].cond == filter.Expr(filter.Undefined{})
	}
	if known {
		return term{known: n}, nil
	}
	for _, x := range list {
		if x.known != nil {
			_, ok := t.force(x)
			fails = fails || !ok
		}
	}
	if fails {
		return undefined, nil
	}
	return bounded(t.operate(n, list))
}

// bounded refuses a condition that is too large: a comparison of conditions
// says both twice, so that forty of them in each other would never end.
func bounded(x term, err error) (term, error) {
	left := filter.MaxNodes
	if err == nil && !fits(x.cond, &left) {
		return term{}, fmt.Errorf("a condition of more than %d parts", filter.MaxNodes)
	}
	return x, err
}

func fits(c filter.Expr, left *int) bool {
	if *left--; *left < 0 {
		return false
	}
	switch c := c.(type) {
	case filter.And:
		return fits(c.L, left) && fits(c.R, left)
	case filter.Or:
		return fits(c.L, left) && fits(c.R, left)
	case filter.Not:
		return fits(c.X, left)
	}
	return true
}

// operate applies n to terms that are not all known; those that are, do not fail.
func (t *translator) operate(n ast.IsNode, list []term) (term, error) {
	switch n := n.(type) {
	case ast.NodeTypeSet:
		return term{elems: list}, nil
	case ast.NodeTypeNot:
		return condition(not(t.asCond(list[0]))), nil
	case ast.NodeTypeEquals:
		return t.equal(list[0], list[1])
	case ast.NodeTypeNotEquals:
		x, err := t.equal(list[0], list[1])
		return condition(not(x.cond)), err
	case ast.NodeTypeLessThan:
		return t.order(filter.Lt, authz.KindLong, list)
	case ast.NodeTypeLessThanOrEqual:
		return t.order(filter.Le, authz.KindLong, list)
	case ast.NodeTypeGreaterThan:
		return t.order(filter.Gt, authz.KindLong, list)
	case ast.NodeTypeGreaterThanOrEqual:
		return t.order(filter.Ge, authz.KindLong, list)
	case ast.NodeTypeExtensionCall:
		return t.call(n, list)
	case ast.NodeTypeLike:
		return t.like(list[0], n.Value)
	case ast.NodeTypeIs:
		return t.is(list[0], n.EntityType), nil
	case ast.NodeTypeIsIn:
		x, err := t.in(list[0], list[1])
		return condition(and(t.is(list[0], n.EntityType).cond, x.cond)), err
	case ast.NodeTypeIn:
		return t.in(list[0], list[1])
	case ast.NodeTypeContains:
		return t.contains(list[0], list[1])
	case ast.NodeTypeContainsAny:
		return t.containsAny(list[0], list[1])
	case ast.NodeTypeContainsAll:
		return t.containsAll(list[0], list[1])
	}
	return term{}, errors.New("a filter neither computes nor builds values, and knows no tags")
}

// need is true where o is there, and undefined elsewhere.
func need(o filter.Operand) filter.Expr {
	switch o := o.(type) {
	case filter.Attr:
		return filter.Or{L: filter.Has{Attr: o.Name}, R: filter.Undefined{}}
	case filter.Subject:
		if !isList(o) {
			return filter.Cmp{Op: filter.Eq, L: o, R: o}
		}
	}
	return filter.Const(true)
}

// defined is true where x can be evaluated, and undefined elsewhere.
func (t *translator) defined(x term) filter.Expr {
	switch {
	case x.cond != nil:
		return or(x.cond, not(x.cond))
	case x.operand != nil:
		return need(x.operand)
	}
	var each []filter.Expr
	for _, e := range x.elems {
		each = append(each, t.defined(e))
	}
	return all(each...)
}

// never is false where all of list can be evaluated, and undefined elsewhere.
func (t *translator) never(list ...term) term {
	var each []filter.Expr
	for _, x := range list {
		each = append(each, t.defined(x))
	}
	return condition(and(all(each...), filter.Const(false)))
}

func isList(s filter.Subject) bool {
	return s.Name == "roles" || s.Name == "organizations" || s.Name == "managed_teams"
}

func principalTypes() []cedar.EntityType {
	var out []cedar.EntityType
	for _, kind := range []rampart.PrincipalKind{rampart.KindHuman, rampart.KindClient, rampart.KindService, ""} {
		out = append(out, principalType(kind))
	}
	return out
}
