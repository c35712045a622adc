package filter

import (
	"cmp"
	"math"
	"strings"
)

// Match reports whether f keeps one row, given as attributes in the values of
// rampart.Resource.Attrs with "id" and "tenant" beside them; a nil value and an
// empty tenant are absent. relation answers for relations that f still names;
// its error, or a nil relation, makes such a condition undefined.
func (f Filter) Match(row map[string]any, relation func(name string) (bool, error)) bool {
	if f.keep != some {
		return f.keep == all
	}
	return eval(f.cond, row, relation) == isTrue
}

// truth is the value of a condition. Its zero value is undefined.
type truth uint8

const (
	isUndefined truth = iota
	isTrue
	isFalse
)

func truthOf(b bool) truth {
	if b {
		return isTrue
	}
	return isFalse
}

func (v truth) not() truth {
	switch v {
	case isTrue:
		return isFalse
	case isFalse:
		return isTrue
	}
	return v
}

type relations func(name string) (bool, error)

func eval(e Expr, row map[string]any, rel relations) truth {
	switch e := e.(type) {
	case Const:
		return truthOf(bool(e))
	case And:
		if l := eval(e.L, row, rel); l != isTrue {
			return l
		}
		return eval(e.R, row, rel)
	case Or:
		if l := eval(e.L, row, rel); l != isFalse {
			return l
		}
		return eval(e.R, row, rel)
	case Not:
		return eval(e.X, row, rel).not()
	case Total:
		return truthOf(eval(e.X, row, rel) == isTrue)
	case Has:
		_, ok := get(row, e.Attr)
		return truthOf(ok)
	case Rel:
		return evalRel(e, rel)
	}
	return evalAtom(e, row)
}

func evalRel(e Rel, rel relations) truth {
	if rel == nil {
		return isUndefined
	}
	holds, err := rel(e.Name)
	if err != nil {
		return isUndefined
	}
	return truthOf(holds)
}

func evalAtom(e Expr, row map[string]any) truth {
	switch e := e.(type) {
	case Bool:
		b, ok := value(e.X, row).(bool)
		if !ok {
			return isUndefined
		}
		return truthOf(b)
	case Cmp:
		return compare(e.Op, value(e.L, row), value(e.R, row))
	case In:
		list, ok := value(e.List, row).([]any)
		return member(value(e.X, row), list, ok)
	case Text:
		return look(e.Op, value(e.X, row), value(e.Part, row))
	}
	return isUndefined // Undefined, nil, and whatever else is no condition
}

// value is nil where an operand is absent or unknown.
func value(o Operand, row map[string]any) any {
	switch o := o.(type) {
	case Lit:
		return o.Value
	case Attr:
		v, _ := get(row, o.Name)
		return v
	}
	return nil
}

// get reads an attribute. An empty tenant is none: engines see it as absent.
func get(row map[string]any, name string) (any, bool) {
	v := row[name]
	if name == "tenant" && v == "" {
		return nil, false
	}
	return v, v != nil
}

func compare(op Op, l, r any) truth {
	if !scalar(l) || !scalar(r) {
		return isUndefined
	}
	switch op {
	case Eq:
		return truthOf(equal(l, r))
	case Ne:
		return truthOf(!equal(l, r))
	}
	c, ok := order(l, r)
	if !ok {
		return isUndefined
	}
	return ordered(op, c)
}

func ordered(op Op, c int) truth {
	switch op {
	case Lt:
		return truthOf(c < 0)
	case Le:
		return truthOf(c <= 0)
	case Gt:
		return truthOf(c > 0)
	case Ge:
		return truthOf(c >= 0)
	}
	return isUndefined
}

func scalar(v any) bool {
	switch v := v.(type) {
	case string, bool, int64:
		return true
	case float64:
		return !math.IsNaN(v) && !math.IsInf(v, 0)
	}
	return false
}

func equal(l, r any) bool {
	if c, ok := order(l, r); ok {
		return c == 0
	}
	return l == r
}

// order compares two strings, or two numbers by value.
func order(l, r any) (int, bool) {
	switch l := l.(type) {
	case string:
		r, ok := r.(string)
		return strings.Compare(l, r), ok
	case int64:
		switch r := r.(type) {
		case int64:
			return cmp.Compare(l, r), true
		case float64:
			return -compareMixed(r, l), true
		}
	case float64:
		switch r := r.(type) {
		case float64:
			return cmp.Compare(l, r), true
		case int64:
			return compareMixed(l, r), true
		}
	}
	return 0, false
}

// compareMixed compares a decimal with a whole number without losing a digit of
// either.
func compareMixed(f float64, i int64) int {
	const limit = 1 << 63
	switch whole := math.Floor(f); {
	case whole >= limit:
		return 1
	case whole < -limit:
		return -1
	case int64(whole) != i:
		return cmp.Compare(int64(whole), i)
	default:
		return cmp.Compare(f, whole)
	}
}

func member(x any, list []any, ok bool) truth {
	if !ok || !scalar(x) {
		return isUndefined
	}
	for _, e := range list {
		if scalar(e) && equal(x, e) {
			return isTrue
		}
	}
	return isFalse
}

func look(op TextOp, x, part any) truth {
	s, ok1 := x.(string)
	p, ok2 := part.(string)
	if !ok1 || !ok2 {
		return isUndefined
	}
	switch op {
	case Prefix:
		return truthOf(strings.HasPrefix(s, p))
	case Suffix:
		return truthOf(strings.HasSuffix(s, p))
	case Contains:
		return truthOf(strings.Contains(s, p))
	}
	return isUndefined
}
