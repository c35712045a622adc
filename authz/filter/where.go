package filter

// Filter says which rows of one table may be seen. The zero Filter keeps
// nothing. It is a value: nothing changes it, and it may be shared between
// goroutines.
type Filter struct {
	keep extent
	cond Expr // folded, when keep is some; neither Const nor Undefined
}

type extent uint8

const (
	none extent = iota
	all
	some
)

// All keeps every row.
func All() Filter { return Filter{keep: all} }

// None keeps no row, as the zero Filter does.
func None() Filter { return Filter{} }

// Where keeps the rows for which e is defined and true. A nil e keeps none.
func Where(e Expr) Filter {
	switch e := fold(e).(type) {
	case Undefined:
		return None()
	case Const:
		if e {
			return All()
		}
		return None()
	default:
		return Filter{keep: some, cond: e}
	}
}

// Combine joins what engines left by the rule of the decision point: a row is
// kept when one permit is defined and true and no forbid is true or undefined.
func Combine(residuals ...Residual) Filter {
	var permits, clear []Expr
	for _, r := range residuals {
		for _, p := range r.Permits {
			permits = append(permits, Total{p})
		}
		for _, f := range r.Forbids {
			clear = append(clear, Total{Not{f}})
		}
	}
	return Where(anyOf(permits)).And(Where(allOf(clear)))
}

// And keeps the rows that f and each of others keep.
func (f Filter) And(others ...Filter) Filter {
	for _, o := range others {
		f = Where(And{f.expr(), o.expr()})
	}
	return f
}

// expr is total: each part of a filter is two-valued.
func (f Filter) expr() Expr {
	if f.keep == some {
		return Total{f.cond}
	}
	return Const(f.keep == all)
}

// IsAll reports whether f keeps every row.
func (f Filter) IsAll() bool { return f.keep == all }

// IsNone reports whether f keeps no row, whatever the rows hold.
func (f Filter) IsNone() bool { return f.keep == none }
