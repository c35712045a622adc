package rego

import "github.com/rampart-security/rampart/authz/filter"

// and, or, not and total join conditions and drop what cannot matter.

func and(l, r filter.Expr) filter.Expr {
	switch {
	case l == filter.Const(true):
		return r
	case l == filter.Const(false), r == filter.Const(true):
		return l
	}
	return filter.And{L: l, R: r}
}

func or(l, r filter.Expr) filter.Expr {
	switch {
	case l == filter.Const(false):
		return r
	case l == filter.Const(true), r == filter.Const(false):
		return l
	}
	return filter.Or{L: l, R: r}
}

func not(x filter.Expr) filter.Expr {
	switch x := x.(type) {
	case filter.Const:
		return !x
	case filter.Not:
		return x.X
	}
	return filter.Not{X: x}
}

// total is how Rego reads an atom: what is undefined does not hold. A relation
// that cannot be had stays undefined, because a check would deny then.
func total(x filter.Expr) filter.Expr {
	switch x := x.(type) {
	case filter.Const, filter.Has, filter.Rel, filter.Total, filter.Not:
		return x
	case filter.And:
		return and(total(x.L), total(x.R))
	case filter.Or:
		return or(total(x.L), total(x.R))
	}
	return filter.Total{X: x}
}
