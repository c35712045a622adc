package filter

import (
	"errors"
	"math"
	"slices"
	"strconv"

	"github.com/rampart-security/rampart/authz"
)

// dialect renders what is peculiar to a database. Every text that it returns is
// whole: it needs no parentheses around it.
type dialect interface {
	constant(b bool) string
	// present says that an operand has a value of its kind.
	present(o Operand) (presence, error)
	// has says that a column holds anything.
	has(attr string) (presence, error)
	// The rest renders a condition, or its opposite when no is set, for rows in
	// which all operands are present.
	boolean(x Operand, no bool) (string, error)
	compare(op Op, l, r Operand, of authz.AttrKind) (string, error)
	among(x Operand, list []any, of authz.AttrKind, no bool) (string, error) // list has at least two members
	holds(list, x Operand, no bool) (string, error)                          // a list of strings in a column or of the principal
	look(op TextOp, x, part Operand, no bool) (string, error)
	// related says that the principal stands in a relation to the row.
	related(name string) (string, error)
	// keeps reports whether a text can be in the database at all.
	keeps(text string) bool
}

// kindUUID is the kind of strings that are stored as UUIDs.
const kindUUID authz.AttrKind = "uuid"

// presence is a condition on an operand and its opposite. The zero value: it is
// always there.
type presence struct {
	yes, no string
	strict  bool // yes holds wherever a condition over the operand is true or false, not NULL
	byEqual bool // yes holds where the operand equals a known value that is not ""
}

// atomSQL is an atom as SQL.
type atomSQL struct {
	undefined bool // no row makes it true or false
	no        bool // cond is to say that the atom is false, not that it is true
	cond      sql  // for the rows in which its operands are present
	operands  []presence
	loose     bool // may be true or false where an operand is NULL: NULL <> ALL of nothing is true
	equal     want // what says that an operand equals a known value; else notTrue
}

func renderLeaf(n leaf, d dialect, t Table) (sql, error) {
	switch e := n.atom.(type) {
	case Rel:
		return renderRel(e, n.want, d)
	case Has:
		return renderHas(e, n.want, d)
	}
	a, err := renderAtom(n, d, t)
	if err != nil {
		return sql{}, err
	}
	open := n.want == notTrue || n.want == notFalse
	switch {
	case a.undefined:
		return literally(open), nil
	case open:
		return a.unless(), nil
	}
	return a.guarded(n.want), nil
}

func renderHas(e Has, w want, d dialect) (sql, error) {
	p, err := d.has(e.Attr)
	if err != nil {
		return sql{}, err
	}
	yes := w == wantTrue || w == notFalse
	switch {
	case p.yes == "":
		return literally(yes), nil
	case yes:
		return sql{text: p.yes}, nil
	}
	return sql{text: p.no}, nil
}

// guarded is the atom's condition where all operands are present.
func (a atomSQL) guarded(w want) sql {
	s := a.cond
	loose := s.known || a.loose
	for _, p := range a.operands {
		if p.yes != "" && (loose || !p.strict && !(p.byEqual && a.equal == w)) {
			s = and(sql{text: p.yes}, s)
		}
	}
	return s
}

// unless is the atom's condition, or true where an operand is absent.
func (a atomSQL) unless() sql {
	s := a.cond
	for _, p := range a.operands {
		if p.yes != "" {
			s = or(sql{text: p.no}, s)
		}
	}
	return s
}

// atoms renders the atoms of one filter.
type atoms struct {
	d dialect
	t Table
}

func renderAtom(n leaf, d dialect, t Table) (atomSQL, error) {
	e := n.atom
	kinds, err := t.atomKinds(e)
	if err != nil {
		return atomSQL{}, err
	}
	defined, together := fits(e, kinds)
	if !defined {
		return atomSQL{undefined: true}, nil
	}
	a := atomSQL{equal: notTrue, no: n.want == wantFalse || n.want == notTrue}
	for _, o := range operands(e) {
		p, err := d.present(o)
		if err != nil {
			return atomSQL{}, err
		}
		a.operands = append(a.operands, p)
	}
	if !together {
		c, ok := e.(Cmp)
		return a.always(ok && c.Op == Ne), nil
	}
	of := kinds[0].of
	if c, ok := e.(Cmp); ok {
		if _, known := c.L.(Lit); known {
			e, of = Cmp{flip(c.Op), c.R, c.L}, kinds[1].of
		}
	}
	return atoms{d, t}.render(a, e, of)
}

// always is an atom that is b wherever it is defined.
func (a atomSQL) always(b bool) atomSQL {
	a.cond = literally(b != a.no)
	return a
}

// render renders an atom whose first operand is of the kind given; a known value
// stands second.
func (r atoms) render(a atomSQL, e Expr, of authz.AttrKind) (atomSQL, error) {
	switch e := e.(type) {
	case Bool:
		return a.say(func(no bool) (string, error) { return r.d.boolean(e.X, no) })
	case Cmp:
		return r.compare(a, e, of)
	case In:
		lit, ok := e.List.(Lit)
		if !ok {
			return r.holds(a, e)
		}
		list, _ := lit.Value.([]any)
		return r.among(a, e.X, list, of)
	case Text:
		return r.look(a, e)
	}
	return atomSQL{undefined: true}, nil
}

// say fills in what f renders.
func (a atomSQL) say(f func(no bool) (string, error)) (atomSQL, error) {
	text, err := f(a.no)
	a.cond = sql{text: text}
	return a, err
}

func (r atoms) compare(a atomSQL, e Cmp, of authz.AttrKind) (atomSQL, error) {
	if lit, ok := e.R.(Lit); ok {
		if e.Op == Eq || e.Op == Ne {
			return r.equals(a, e, lit.Value, of)
		}
	}
	if !r.keeps(e.R) {
		return a, errUnstorable
	}
	return a.say(func(no bool) (string, error) {
		if no {
			return r.d.compare(complement(e.Op), e.L, e.R, of)
		}
		return r.d.compare(e.Op, e.L, e.R, of)
	})
}

// equals compares with a known value.
func (r atoms) equals(a atomSQL, e Cmp, v any, of authz.AttrKind) (atomSQL, error) {
	list, of := r.storable(e.L, []any{v}, of)
	if len(list) == 0 {
		return a.always(e.Op == Ne), nil
	}
	if v != "" {
		a.equal = wantTrue
		if e.Op == Ne {
			a.equal = wantFalse
		}
	}
	return a.say(func(no bool) (string, error) {
		op := e.Op
		if no {
			op = complement(op)
		}
		return r.d.compare(op, e.L, Lit{list[0]}, of)
	})
}

// among looks x up in a known list, of which only members of x's kind matter.
func (r atoms) among(a atomSQL, x Operand, list []any, of authz.AttrKind) (atomSQL, error) {
	list, of = r.storable(x, sameKind(list, of), of)
	switch {
	case len(list) == 0:
		return a.always(false), nil
	case of == authz.KindBool && len(list) == 2:
		return a.always(true), nil
	}
	if !slices.Contains(list, any("")) {
		a.equal = wantTrue
	}
	if len(list) == 1 {
		return a.say(func(no bool) (string, error) {
			if no {
				return r.d.compare(Ne, x, Lit{list[0]}, of)
			}
			return r.d.compare(Eq, x, Lit{list[0]}, of)
		})
	}
	return a.say(func(no bool) (string, error) { return r.d.among(x, list, of, no) })
}

func (r atoms) holds(a atomSQL, e In) (atomSQL, error) {
	if !r.keeps(e.X) {
		return a.always(false), nil
	}
	a.loose = true
	return a.say(func(no bool) (string, error) { return r.d.holds(e.List, e.X, no) })
}

func (r atoms) look(a atomSQL, e Text) (atomSQL, error) {
	if !r.keeps(e.X) {
		return a, errUnstorable
	}
	if !r.keeps(e.Part) {
		return a.always(false), nil
	}
	return a.say(func(no bool) (string, error) { return r.d.look(e.Op, e.X, e.Part, no) })
}

// errUnstorable: what would order it, or look into it, is in no database.
var errUnstorable = errors.New("a text with a zero byte is compared")

// keeps reports whether o, if it is a known text, can be in the database.
func (r atoms) keeps(o Operand) bool {
	lit, _ := o.(Lit)
	s, ok := lit.Value.(string)
	return !ok || r.d.keeps(s)
}

// sameKind keeps the members that values of a kind can equal, each once.
func sameKind(list []any, of authz.AttrKind) []any {
	var out []any
	seen := make(map[any]bool, len(list))
	for _, v := range list {
		k, err := kindOfLiteral(v)
		if err != nil || !alike(k.of, of) || seen[v] {
			continue
		}
		seen[v] = true
		out = append(out, v)
	}
	return out
}

// storable keeps the values that x's column can equal, as they are stored.
func (r atoms) storable(x Operand, list []any, of authz.AttrKind) ([]any, authz.AttrKind) {
	switch of {
	case authz.KindLong:
		return wholeNumbers(list), of
	case authz.KindBool, authz.KindDecimal:
		return list, of
	}
	attr, _ := x.(Attr)
	stored := r.t.Columns[attr.Name].Stored
	var out []any
	for _, v := range list {
		s, _ := v.(string)
		switch {
		case stored == StoredLong:
			if n, err := strconv.ParseInt(s, 10, 64); err == nil && strconv.FormatInt(n, 10) == s {
				out = append(out, n)
			}
		case stored == StoredUUID && !isUUID(s), !r.d.keeps(s):
		default:
			out = append(out, s)
		}
	}
	switch stored {
	case StoredLong:
		return out, authz.KindLong
	case StoredUUID:
		return out, kindUUID
	}
	return out, of
}

// wholeNumbers keeps the numbers that a long can equal, as longs.
func wholeNumbers(list []any) []any {
	var out []any
	for _, v := range list {
		if f, ok := v.(float64); ok {
			if f != math.Trunc(f) {
				continue
			}
			v = int64(f) // exact, see checkBounds
		}
		out = append(out, v)
	}
	return out
}

// isUUID: in the one spelling that PostgreSQL writes.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// complement is the operator that is true where op is false.
func complement(op Op) Op {
	switch op {
	case Eq:
		return Ne
	case Ne:
		return Eq
	case Lt:
		return Ge
	case Le:
		return Gt
	case Gt:
		return Le
	}
	return Lt
}

// flip is the operator that says the same of its operands exchanged.
func flip(op Op) Op {
	switch op {
	case Lt:
		return Gt
	case Le:
		return Ge
	case Gt:
		return Lt
	case Ge:
		return Le
	}
	return op
}

// operator spells op in SQL.
func operator(op Op) string {
	switch op {
	case Eq:
		return " = "
	case Ne:
		return " <> "
	}
	return " " + string(op) + " "
}
