package rego

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// kind is what Rego tells apart when it compares, in its order of sorting.
type kind int

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindText
	kindList
)

func kindOf(k authz.AttrKind) (kind, bool) {
	switch k {
	case authz.KindBool:
		return kindBool, true
	case authz.KindLong, authz.KindDecimal:
		return kindNumber, true
	case authz.KindString:
		return kindText, true
	case authz.KindStrings:
		return kindList, true
	}
	return 0, false
}

// value is what an operand may be. An operand such as object.get has several,
// of which at most one is there.
type value struct {
	when    filter.Expr // total: this is the value
	defined filter.Expr // total: the value is there
	kind    kind
	op      filter.Operand
	rel     string // instead of op: a relation
	each    bool   // some member of op, a list of texts
}

func known(k kind, v any) value {
	return value{when: filter.Const(true), defined: filter.Const(true), kind: k, op: filter.Lit{Value: v}}
}

// truth is a boolean's own condition.
func (v value) truth() filter.Expr {
	if v.rel != "" {
		return filter.Rel{Name: v.rel}
	}
	if b, ok := v.literal().(bool); ok {
		return filter.Const(b)
	}
	return filter.Bool{X: v.op}
}

// literal is nil for what is no literal.
func (v value) literal() any {
	lit, _ := v.op.(filter.Lit)
	return lit.Value
}

func anyDefined(values []value) filter.Expr {
	out := filter.Expr(filter.Const(false))
	for _, v := range values {
		out = or(out, and(v.when, v.defined))
	}
	return out
}

// compare translates a comparison of two values as Rego makes it: two kinds are
// never equal, and ordered by kind.
func compare(op filter.Op, l, r value) (filter.Expr, bool) {
	if l.each || r.each {
		return compareEach(op, l, r)
	}
	if l.kind != r.kind {
		return and(and(l.defined, r.defined), filter.Const(compareKinds(op, l.kind, r.kind))), true
	}
	switch l.kind {
	case kindBool:
		return compareBools(op, l, r)
	case kindNumber, kindText:
		return filter.Cmp{Op: op, L: l.op, R: r.op}, true
	}
	return nil, false
}

func compareKinds(op filter.Op, l, r kind) bool {
	switch op {
	case filter.Ne:
		return true
	case filter.Lt, filter.Le:
		return l < r
	case filter.Gt, filter.Ge:
		return l > r
	}
	return false
}

func compareBools(op filter.Op, l, r value) (filter.Expr, bool) {
	if op != filter.Eq && op != filter.Ne {
		return nil, false
	}
	for range 2 {
		if want, ok := l.literal().(bool); ok {
			if want == (op == filter.Eq) {
				return r.truth(), true
			}
			return and(r.defined, not(total(r.truth()))), true
		}
		l, r = r, l
	}
	if l.rel != "" || r.rel != "" {
		return nil, false
	}
	return filter.Cmp{Op: op, L: l.op, R: r.op}, true
}

// compareEach: some member of a list equals a text.
func compareEach(op filter.Op, l, r value) (filter.Expr, bool) {
	if l.each {
		l, r = r, l
	}
	if op != filter.Eq || l.each || l.kind != kindText {
		return nil, false
	}
	return filter.In{X: l.op, List: r.op}, true
}

// member translates `x in list`.
func member(x, list value) (filter.Expr, bool) {
	if x.each || list.each || list.kind != kindList || x.kind == kindList || x.rel != "" {
		return nil, false
	}
	literal, isLiteral := list.literal().([]any)
	switch {
	case isLiteral && len(literal) == 0, x.kind == kindNull, !isLiteral && x.kind != kindText:
		return filter.Const(false), true
	}
	return filter.In{X: x.op, List: list.op}, true
}

// scalars returns the scalars in a collection; others equal no attribute.
func scalars(v ast.Value) ([]any, bool) {
	list := []any{}
	exact := true
	add := func(t *ast.Term) {
		lit, ok := literal(t.Value)
		switch {
		case !ok:
			exact = exact && isCollection(t.Value)
		case lit.kind != kindList && lit.kind != kindNull:
			list = append(list, lit.literal())
		}
	}
	switch v := v.(type) {
	case *ast.Array:
		v.Foreach(add)
	case ast.Set:
		v.Foreach(add)
	case ast.Object:
		v.Foreach(func(_, value *ast.Term) { add(value) })
	default:
		return nil, false
	}
	return list, exact && v.IsGround()
}

func isCollection(v ast.Value) bool {
	switch v.(type) {
	case *ast.Array, ast.Set, ast.Object:
		return v.IsGround()
	}
	return false
}

// number returns an int64 or a decimal that float64 holds with four digits
// after the point.
func number(n json.Number) (any, bool) {
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return i, true
	}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil || math.Abs(f) > float64(1<<53)/1e4 || math.Round(f*1e4)/1e4 != f {
		return nil, false
	}
	return f, strings.TrimRight(strconv.FormatFloat(f, 'f', 4, 64), "0") == plainDigits(string(n))
}

// plainDigits spells n without the zeros at its end, so that digits beyond
// those of float64 show.
func plainDigits(n string) string {
	if strings.ContainsAny(n, "eE") || !strings.Contains(n, ".") {
		return n
	}
	return strings.TrimRight(n, "0")
}
