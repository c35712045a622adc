package filtertest

import (
	"math/big"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
)

// Oracle evaluates conditions straight from their definition, slowly, and
// shares no code with the package that it judges.
type Oracle struct {
	Row       Row
	Principal rampart.Principal
	Relation  func(name string) (bool, error)
}

// Keeps reports whether e is defined and true.
func (o Oracle) Keeps(e filter.Expr) bool {
	v, ok := o.eval(e)
	return ok && v
}

// eval returns the value of e and whether it is defined.
func (o Oracle) eval(e filter.Expr) (value, defined bool) {
	switch e := e.(type) {
	case filter.Const:
		return bool(e), true
	case filter.And:
		l, ok := o.eval(e.L)
		if !ok || !l {
			return false, ok
		}
		return o.eval(e.R)
	case filter.Or:
		l, ok := o.eval(e.L)
		if !ok || l {
			return l, ok
		}
		return o.eval(e.R)
	case filter.Not:
		v, ok := o.eval(e.X)
		return ok && !v, ok
	case filter.Total:
		v, ok := o.eval(e.X)
		return ok && v, true
	case filter.Has:
		return o.attr(e.Attr) != nil, true
	case filter.Rel:
		v, err := o.Relation(e.Name)
		return v, err == nil
	}
	return o.atom(e)
}

func (o Oracle) atom(e filter.Expr) (value, defined bool) {
	switch e := e.(type) {
	case filter.Bool:
		v, ok := o.value(e.X).(bool)
		return v, ok
	case filter.Cmp:
		return compare(e.Op, o.value(e.L), o.value(e.R))
	case filter.In:
		x := o.value(e.X)
		list, ok := o.value(e.List).([]any)
		if x == nil || !ok {
			return false, false
		}
		if _, nested := x.([]any); nested {
			return false, false
		}
		for _, v := range list {
			if same, _ := compare(filter.Eq, x, v); same {
				return true, true
			}
		}
		return false, true
	case filter.Text:
		s, ok1 := o.value(e.X).(string)
		part, ok2 := o.value(e.Part).(string)
		if !ok1 || !ok2 {
			return false, false
		}
		return e.Op == filter.Prefix && strings.HasPrefix(s, part) || e.Op == filter.Suffix && strings.HasSuffix(s, part) ||
			e.Op == filter.Contains && strings.Contains(s, part), true
	}
	return false, false
}

func compare(op filter.Op, l, r any) (value, defined bool) {
	if l == nil || r == nil {
		return false, false
	}
	c, ordered := order(l, r)
	switch op {
	case filter.Eq:
		return ordered && c == 0 || !ordered && l == r, true
	case filter.Ne:
		return ordered && c != 0 || !ordered && l != r, true
	case filter.Lt:
		return c < 0, ordered
	case filter.Le:
		return c <= 0, ordered
	case filter.Gt:
		return c > 0, ordered
	}
	return c >= 0, ordered
}

// order compares texts, and numbers exactly.
func order(l, r any) (int, bool) {
	if s, ok := l.(string); ok {
		t, ok := r.(string)
		return strings.Compare(s, t), ok
	}
	x, y := rational(l), rational(r)
	if x == nil || y == nil {
		return 0, false
	}
	return x.Cmp(y), true
}

func rational(v any) *big.Rat {
	switch v := v.(type) {
	case int64:
		return new(big.Rat).SetInt64(v)
	case float64:
		return new(big.Rat).SetFloat64(v)
	}
	return nil
}

func (o Oracle) value(x filter.Operand) any {
	switch x := x.(type) {
	case filter.Lit:
		return x.Value
	case filter.Attr:
		return o.attr(x.Name)
	case filter.Subject:
		return o.fact(x.Name)
	}
	return nil
}

func (o Oracle) attr(name string) any {
	if v := o.Row[name]; name != "tenant" || v != "" {
		return v
	}
	return nil
}

func (o Oracle) fact(name string) any {
	some := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	list := func(names []string) any {
		out := []any{}
		for _, n := range names {
			out = append(out, n)
		}
		return out
	}
	p := o.Principal
	switch name {
	case "id":
		return some(p.Subject)
	case "kind":
		return some(string(p.Kind))
	case "org":
		return some(p.Tenant)
	case "team":
		return some(p.Team)
	case "role":
		return some(strings.Join(p.Roles[:min(1, len(p.Roles))], ""))
	case "roles":
		return list(p.Roles)
	case "organizations":
		return list(p.Organizations)
	case "managed_teams":
		return list(p.ManagedTeams)
	}
	return nil
}
