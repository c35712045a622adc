package filter

// SQL and its relatives know true and false at the top of a condition, and
// their NULL is not what undefined is to an engine. So a three-valued condition
// is lowered to a plain one that says "x is true", or one of three other
// things, with its negations only at the atoms. What is left of NULL then
// stands in conjunctions and disjunctions alone, where it counts as false.

// want is what a lowered condition says of the one that it was made from.
type want uint8

const (
	wantTrue  want = iota // defined and true
	wantFalse             // defined and false
	notTrue               // false or undefined
	notFalse              // true or undefined
)

// not is what Not makes of w: "not x is true" says "x is false".
func (w want) not() want { return w ^ 1 }

// node is a lowered condition.
type node interface{ node() }

type (
	fixed  bool
	both   struct{ l, r node }
	either struct{ l, r node }
	leaf   struct {
		atom Expr // Has, Bool, Cmp, In, Text or Rel
		want want
	}
)

func (fixed) node()  {}
func (both) node()   {}
func (either) node() {}
func (leaf) node()   {}

// maxLowered bounds the nodes that lowering makes: where a side of And or Or
// may be undefined it is said twice.
const maxLowered = 50_000

// lowering holds what it takes to lower one condition.
type lowering struct {
	total func(atom Expr) bool // whether an atom is never undefined
	left  int
}

// lower returns false when the result would be too large.
func lower(e Expr, total func(atom Expr) bool) (node, bool) {
	l := lowering{total: total, left: maxLowered}
	n := l.lower(e, wantTrue)
	return n, l.left > 0
}

func (l *lowering) lower(e Expr, w want) node {
	if l.left--; l.left <= 0 {
		return fixed(false)
	}
	switch e := e.(type) {
	case Const:
		return fixed(bool(e) == (w == wantTrue || w == notFalse))
	case Not:
		return l.lower(e.X, w.not())
	case Total:
		if w == wantTrue || w == notFalse {
			return l.lower(e.X, wantTrue)
		}
		return l.lower(e.X, notTrue)
	case And:
		return l.chain(e.L, e.R, w, wantTrue)
	case Or:
		// x || y is !(!x && !y), in three values too.
		return l.chain(e.L, e.R, w, wantFalse)
	case Has, Bool, Cmp, In, Text, Rel:
		return leaf{e, w}
	}
	return fixed(w == notTrue || w == notFalse)
}

// chain lowers L && R, when on is wantTrue, or L || R, when it is wantFalse: R
// counts only where L is what on says.
func (l *lowering) chain(L, R Expr, w, on want) node {
	off := on.not()
	if l.isTotal(L) && l.isTotal(R) {
		w = definite(w)
	}
	switch w {
	case on:
		return conjoin(l.lower(L, on), l.lower(R, on))
	case off:
		if l.isTotal(L) {
			return disjoin(l.lower(L, off), l.lower(R, off))
		}
		return disjoin(l.lower(L, off), conjoin(l.lower(L, on), l.lower(R, off)))
	case maybe(on): // not off
		if l.isTotal(L) {
			return conjoin(l.lower(L, on), l.lower(R, w))
		}
		return conjoin(l.lower(L, w), disjoin(l.lower(L, notOf(on)), l.lower(R, w)))
	default: // not on
		return disjoin(l.lower(L, w), l.lower(R, w))
	}
}

// definite is w where nothing is undefined.
func definite(w want) want {
	switch w {
	case notTrue:
		return wantFalse
	case notFalse:
		return wantTrue
	}
	return w
}

// notOf is the opposite of w: where w does not hold.
func notOf(w want) want {
	switch w {
	case wantTrue:
		return notTrue
	case wantFalse:
		return notFalse
	case notTrue:
		return wantTrue
	}
	return wantFalse
}

// maybe is w or undefined.
func maybe(w want) want { return notOf(w.not()) }

func (l *lowering) isTotal(e Expr) bool {
	switch e := e.(type) {
	case Const, Total, Has:
		return true
	case Not:
		return l.isTotal(e.X)
	case And:
		return l.isTotal(e.L) && l.isTotal(e.R)
	case Or:
		return l.isTotal(e.L) && l.isTotal(e.R)
	case Bool, Cmp, In, Text:
		return l.total(e)
	}
	return false
}

func conjoin(l, r node) node {
	if f, ok := l.(fixed); ok {
		if f {
			return r
		}
		return l
	}
	if f, ok := r.(fixed); ok {
		if f {
			return l
		}
		return r
	}
	return both{l, r}
}

func disjoin(l, r node) node {
	if f, ok := l.(fixed); ok {
		if f {
			return l
		}
		return r
	}
	if f, ok := r.(fixed); ok {
		if f {
			return r
		}
		return l
	}
	return either{l, r}
}
