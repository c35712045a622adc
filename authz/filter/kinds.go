package filter

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/rampart-security/rampart/authz"
)

// kind is what an operand holds, as far as a table tells.
type kind struct {
	of       authz.AttrKind // of a list, what its members are; "" when they differ or there are none
	list     bool
	nullable bool // may be absent
}

func (k kind) is(of authz.AttrKind) bool { return k.of == of && !k.list }

// kindOf fails for what the table does not know, or has no column for.
func (t Table) kindOf(o Operand) (kind, error) {
	switch o := o.(type) {
	case Attr:
		return t.kindOfColumn(o.Name)
	case Subject:
		list, ok := subjectNames[o.Name]
		if !ok {
			return kind{}, fmt.Errorf("nothing is known of a principal under the name %q", clip(o.Name))
		}
		return kind{of: authz.KindString, list: list, nullable: true}, nil
	case Lit:
		return kindOfLiteral(o.Value)
	}
	return kind{}, errors.New("an operand is missing")
}

func (t Table) kindOfColumn(attr string) (kind, error) {
	c, ok := t.Columns[attr]
	if !ok {
		return kind{}, fmt.Errorf("the table has no column for the attribute %q", clip(attr))
	}
	switch c.Kind {
	case authz.KindStrings:
		return kind{of: authz.KindString, list: true, nullable: c.Nullable}, nil
	case authz.KindString, authz.KindBool, authz.KindLong, authz.KindDecimal:
		return kind{of: c.Kind, nullable: c.Nullable}, nil
	}
	return kind{}, fmt.Errorf("the column of %q has the unknown kind %q", clip(attr), clip(string(c.Kind)))
}

func kindOfLiteral(v any) (kind, error) {
	switch v := v.(type) {
	case string:
		return kind{of: authz.KindString}, nil
	case bool:
		return kind{of: authz.KindBool}, nil
	case int64:
		return kind{of: authz.KindLong}, nil
	case float64:
		return kind{of: authz.KindDecimal}, nil
	case []any:
		return kindOfList(v)
	}
	return kind{}, fmt.Errorf("a %T is no value of a filter", v)
}

func kindOfList(list []any) (kind, error) {
	k := kind{list: true}
	for i, v := range list {
		e, err := kindOfLiteral(v)
		if err != nil || e.list {
			return kind{}, errors.New("a list holds single values only")
		}
		if i > 0 && e.of != k.of {
			return kind{list: true}, nil
		}
		k.of = e.of
	}
	return k, nil
}

var errSets = errors.New("a whole list is compared; only \"in\" looks into a list")

// alike reports whether values of two kinds can be equal. Longs and decimals are
// numbers, compared by value: Rego has one kind of number, and of Cedar, which
// has two, no mixed comparison ever becomes an Expr.
func alike(a, b authz.AttrKind) bool { return a == b || isNumber(a) && isNumber(b) }

func isNumber(k authz.AttrKind) bool { return k == authz.KindLong || k == authz.KindDecimal }

// atomKinds returns the kinds of an atom's operands. It fails for what no
// renderer can say.
func (t Table) atomKinds(e Expr) ([]kind, error) {
	ops := operands(e)
	kinds := make([]kind, len(ops))
	for i, o := range ops {
		k, err := t.kindOf(o)
		if err != nil {
			return nil, err
		}
		kinds[i] = k
	}
	if _, ok := e.(Cmp); ok && slices.ContainsFunc(kinds, func(k kind) bool { return k.list }) {
		return nil, errSets
	}
	return kinds, nil
}

// fits reports whether an atom can be true or false at all, given the kinds of
// its operands, and whether these kinds belong together.
func fits(e Expr, kinds []kind) (defined, together bool) {
	switch e := e.(type) {
	case Bool:
		ok := kinds[0].is(authz.KindBool)
		return ok, ok
	case Cmp:
		same := alike(kinds[0].of, kinds[1].of)
		switch e.Op {
		case Eq, Ne:
			return true, same
		case Lt, Le, Gt, Ge:
			ok := same && kinds[0].of != authz.KindBool
			return ok, ok
		}
	case In:
		return !kinds[0].list && kinds[1].list, alike(kinds[0].of, kinds[1].of) || kinds[1].of == ""
	case Text:
		known := e.Op == Prefix || e.Op == Suffix || e.Op == Contains
		ok := known && kinds[0].is(authz.KindString) && kinds[1].is(authz.KindString)
		return ok, ok
	}
	return false, false
}

// total reports whether an atom is never undefined for rows of t.
func (t Table) total(e Expr) bool {
	kinds, err := t.atomKinds(e)
	if err != nil || slices.ContainsFunc(kinds, func(k kind) bool { return k.nullable }) {
		return false
	}
	defined, _ := fits(e, kinds)
	return defined
}

// Validate reports the first thing of f that cannot be said for t: an attribute
// without a column, kinds that do not belong together, a fact of the principal,
// or a size beyond the bounds. It is stricter than SQL, which treats two kinds
// as the engines do: they are not equal, and nothing orders them.
func (f Filter) Validate(t Table) error {
	if f.keep != some {
		return nil
	}
	if err := checkBounds(f.cond); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	if err := t.validate(f.cond); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	return nil
}

func (t Table) validate(e Expr) error {
	switch e := e.(type) {
	case And:
		return cmp.Or(t.validate(e.L), t.validate(e.R))
	case Or:
		return cmp.Or(t.validate(e.L), t.validate(e.R))
	case Not:
		return t.validate(e.X)
	case Total:
		return t.validate(e.X)
	case Has:
		_, err := t.kindOfColumn(e.Attr)
		return err
	case Const, Undefined, Rel:
		return nil
	}
	return t.validateAtom(e)
}

func (t Table) validateAtom(e Expr) error {
	for _, o := range operands(e) {
		if s, ok := o.(Subject); ok {
			return fmt.Errorf("the principal's %q is known to row-level security only", clip(s.Name))
		}
	}
	kinds, err := t.atomKinds(e)
	if err != nil {
		return err
	}
	if _, together := fits(e, kinds); !together {
		return fmt.Errorf("values of two kinds are compared: %s", describe(e, kinds))
	}
	return nil
}

func describe(e Expr, kinds []kind) string {
	text := fmt.Sprintf("%T", e)
	for i, o := range operands(e) {
		of := string(kinds[i].of)
		if kinds[i].list {
			of = "list of " + of
		}
		if a, ok := o.(Attr); ok {
			of = clip(a.Name) + " is a " + of
		}
		text += ", " + of
	}
	return text
}
