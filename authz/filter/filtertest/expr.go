package filtertest

import (
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// Conditions generates conditions over the attributes of a world.
type Conditions struct {
	World   *World
	Subject bool // facts of the principal too
	Rel     bool // relations too
}

// Expr is a condition of up to depth connectives above one another.
func (c Conditions) Expr(r Rand, depth int) filter.Expr {
	if depth > 0 {
		switch r.IntN(10) {
		case 0, 1, 2:
			return filter.And{L: c.Expr(r, depth-1), R: c.Expr(r, depth-1)}
		case 3, 4, 5:
			return filter.Or{L: c.Expr(r, depth-1), R: c.Expr(r, depth-1)}
		case 6, 7:
			return filter.Not{X: c.Expr(r, depth-1)}
		case 8:
			return filter.Total{X: c.Expr(r, depth-1)}
		}
	}
	return c.atom(r)
}

func (c Conditions) atom(r Rand) filter.Expr {
	switch n := r.IntN(100); {
	case n < 4:
		return filter.Const(chance(r, 50))
	case n < 6:
		return filter.Undefined{}
	case n < 16:
		return filter.Has{Attr: c.anyAttr(r)}
	case n < 22 && c.Rel:
		return filter.Rel{Name: pick(r, []string{"viewer", "none"})}
	case n < 32:
		return filter.Bool{X: c.operand(r, c.kind(r, authz.KindBool))}
	case n < 72:
		return c.cmp(r)
	case n < 88:
		return c.in(r)
	}
	x, part := c.operand(r, c.kind(r, authz.KindString)), c.operand(r, authz.KindString)
	return filter.Text{Op: pick(r, []filter.TextOp{filter.Prefix, filter.Suffix, filter.Contains}), X: x, Part: part}
}

// kind is most often want, as a policy that passed a type check has it.
func (c Conditions) kind(r Rand, want authz.AttrKind) authz.AttrKind {
	if chance(r, 90) {
		return want
	}
	return pick(r, []authz.AttrKind{authz.KindString, authz.KindBool})
}

func (c Conditions) cmp(r Rand) filter.Expr {
	kind := pick(r, []authz.AttrKind{authz.KindString, authz.KindString, authz.KindLong, authz.KindDecimal, authz.KindBool})
	other := kind
	if chance(r, 12) {
		kind, other = pick(r, []authz.AttrKind{authz.KindLong, authz.KindDecimal}), pick(r, []authz.AttrKind{authz.KindString, authz.KindBool, authz.KindLong, authz.KindDecimal})
	}
	op := pick(r, []filter.Op{filter.Eq, filter.Eq, filter.Ne, filter.Lt, filter.Le, filter.Gt, filter.Ge})
	l, right := c.operand(r, kind), c.operand(r, other)
	if chance(r, 50) {
		l, right = right, l
	}
	return filter.Cmp{Op: op, L: l, R: right}
}

func (c Conditions) in(r Rand) filter.Expr {
	if chance(r, 35) {
		var list filter.Operand = filter.Attr{Name: "tags"}
		if c.Subject && chance(r, 60) {
			list = filter.Subject{Name: pick(r, []string{"roles", "organizations", "managed_teams"})}
		}
		return filter.In{X: c.operand(r, c.kind(r, authz.KindString)), List: list}
	}
	kind := pick(r, []authz.AttrKind{authz.KindString, authz.KindString, authz.KindLong, authz.KindDecimal, authz.KindBool})
	list := []any{}
	for range r.IntN(5) {
		list = append(list, literal(r, kind))
	}
	if chance(r, 10) {
		list = append(list, pick(r, []any{"a", true, int64(5), 5.0, 0.3, int64(1 << 62)}))
	}
	return filter.In{X: c.operand(r, kind), List: filter.Lit{Value: list}}
}

func (c Conditions) operand(r Rand, kind authz.AttrKind) filter.Operand {
	switch n := r.IntN(10); {
	case n < 6:
		return filter.Attr{Name: c.attr(r, kind)}
	case n < 8 && c.Subject && kind == authz.KindString:
		return filter.Subject{Name: pick(r, []string{"id", "kind", "org", "team"})}
	}
	return filter.Lit{Value: literal(r, kind)}
}

func literal(r Rand, kind authz.AttrKind) any {
	v := Value(r, kind)
	if n, whole := v.(int64); whole && kind == authz.KindDecimal {
		return float64(n)
	}
	return v
}

func (c Conditions) attr(r Rand, kind authz.AttrKind) string {
	if kind == authz.KindString && chance(r, 25) {
		return pick(r, []string{"id", "tenant"})
	}
	return pick(r, names(kind))
}

func (c Conditions) anyAttr(r Rand) string {
	return pick(r, []string{"id", "tenant", "owner", "select", "count", "order", "total", "tags"})
}
