package rego

import (
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart/authz/filter"
)

// values translates an operand into the values that it may have. None means
// that it is undefined.
func (t *translator) values(term *ast.Term) ([]value, error) {
	switch v := term.Value.(type) {
	case ast.Ref:
		return t.ref(term, v)
	case ast.Var:
		if t.bound[v] != nil {
			return t.values(t.bound[v])
		}
	case ast.Call:
		return t.guard(term, v)
	default:
		if lit, ok := literal(v); ok {
			return []value{lit}, nil
		}
	}
	return nil, t.refuse(term, "a value that databases do not know")
}

func one(v value) []value { return []value{v} }

func (t *translator) ref(term *ast.Term, ref ast.Ref) ([]value, error) {
	if ref.HasPrefix(ast.DefaultRootRef) {
		return t.rule(term, ref)
	}
	if !ref.HasPrefix(ast.InputRootRef) || len(ref) < 3 || len(ref) > 4 || !isText(ref[1]) || !isText(ref[2]) {
		return nil, t.refuse(term, "a value that databases do not know")
	}
	name := string(ref[2].Value.(ast.String))
	v, ok := t.member(string(ref[1].Value.(ast.String)), name)
	switch {
	case !ok:
		return nil, t.refuse(term, "a value that rows do not have")
	case len(ref) == 3:
		return one(v), nil
	case v.kind == kindList && t.once(ref[3]):
		v.kind, v.each = kindText, true
		return one(v), nil
	}
	return nil, t.refuse(term, "a member of a list by its place or looked at more than once")
}

// once reports whether index is a variable that nothing else names.
func (t *translator) once(index *ast.Term) bool {
	v, ok := index.Value.(ast.Var)
	return ok && !t.negated && t.vars[v] == 1 && t.bound[v] == nil
}

func (t *translator) member(of, name string) (value, bool) {
	switch of {
	case "resource":
		return t.attribute(name)
	case "relation":
		return value{when: filter.Const(true), defined: filter.Const(true), kind: kindBool, rel: name}, true
	case "user":
		return t.subject(name)
	}
	return value{}, false
}

func (t *translator) attribute(name string) (value, bool) {
	k, ok := kindOf(t.q.kinds[name])
	return value{when: filter.Const(true), defined: filter.Has{Attr: name}, kind: k, op: filter.Attr{Name: name}}, ok
}

// subject names a fact of an unknown principal. Its lists are always there, a
// text is there when it equals itself.
func (t *translator) subject(name string) (value, bool) {
	v := value{when: filter.Const(true), defined: filter.Const(true), kind: kindText}
	switch name {
	case "roles", "organizations", "managed_teams":
		v.kind, v.op = kindList, filter.Subject{Name: name}
		return v, t.q.rls
	case "team_id":
		name = "team"
	case "id", "kind", "org", "role":
	default:
		return value{}, false
	}
	v.op = filter.Subject{Name: name}
	v.defined = filter.Total{X: filter.Cmp{Op: filter.Eq, L: v.op, R: v.op}}
	return v, t.q.rls
}

// guard translates object.get(input.X, "name", default).
func (t *translator) guard(term *ast.Term, call ast.Call) ([]value, error) {
	if len(call) != 4 || !ast.ObjectGet.Ref().Equal(call[0].Value) {
		return nil, t.refuse(term, "%s has no place in a filter", call[0])
	}
	of, ok := call[1].Value.(ast.Ref)
	if !ok || len(of) != 2 || !isText(call[2]) {
		return nil, t.refuse(term, "a guard that is not object.get(input.resource, \"name\", default)")
	}
	key := of.Append(call[2])
	if t.isAbsent(key) {
		return t.values(call[3])
	}
	there, err := t.values(ast.NewTerm(key))
	if err != nil {
		return nil, err
	}
	otherwise, err := t.values(call[3])
	if err != nil {
		return nil, err
	}
	isThere := anyDefined(there)
	for i := range otherwise {
		otherwise[i].when = and(not(isThere), otherwise[i].when)
	}
	return append(there, otherwise...), nil
}

// isAbsent reports whether the type of resource has no such attribute.
func (t *translator) isAbsent(key ast.Ref) bool {
	if !key[1].Equal(ast.InternedTerm("resource")) {
		return false
	}
	name := string(key[2].Value.(ast.String))
	return t.q.kinds[name] == "" && name != "type" && name != "tenant"
}

// rule translates a rule that partial evaluation kept: each of its values holds
// while its body does, and its default while none does.
func (t *translator) rule(term *ast.Term, ref ast.Ref) ([]value, error) {
	rules := t.support[ref.String()]
	if len(rules) == 0 || t.depth == maxSupport {
		return nil, t.refuse(term, "a rule with else, or one that is asked for as a whole")
	}
	t.depth++
	defer func() { t.depth-- }()
	var out []value
	var otherwise []value
	none := filter.Expr(filter.Const(true))
	for _, r := range rules {
		if r.Head.Key != nil || len(r.Head.Args) > 0 || r.Else != nil || r.Head.Value == nil {
			return nil, t.refuse(term, "a set, an object, a function or an else")
		}
		lit, ok := literal(r.Head.Value.Value)
		if !ok {
			return nil, t.refuse(term, "a rule whose value depends on the row")
		}
		if r.Default {
			otherwise = one(lit)
			continue
		}
		cond, err := t.body(r.Body, map[ast.Var]*ast.Term{})
		if err != nil {
			return nil, err
		}
		lit.when = cond
		out = append(out, lit)
		none = and(none, not(cond))
	}
	for _, v := range otherwise {
		v.when = none
		out = append(out, v)
	}
	return out, nil
}
