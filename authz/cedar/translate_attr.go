package cedar

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

var errContext = errors.New("a database knows nothing of the context of a request")

// access translates x.attr.
func (t *translator) access(n ast.NodeTypeAccess) (term, error) {
	if name, ok := relationOf(n); ok {
		return condition(filter.Rel{Name: name}), nil
	}
	if isVariable(n.Arg, "context") {
		return t.fromContext(n, n.Value)
	}
	x, err := t.term(n.Arg)
	if err != nil {
		return term{}, err
	}
	switch {
	case x.known != nil:
		return t.look(n, x)
	case x.entity == "resource":
		return t.attr(string(n.Value))
	case x.entity == "principal":
		return subject(string(n.Value))
	}
	return undefined, nil
}

// has translates `x has attr`.
func (t *translator) has(n ast.NodeTypeHas) (term, error) {
	if isVariable(n.Arg, "context") {
		return t.fromContext(n, n.Value)
	}
	if isRelations(n.Arg) {
		return term{}, errors.New("a filter asks whether a relation holds, not whether it is known")
	}
	x, err := t.term(n.Arg)
	if err != nil {
		return term{}, err
	}
	switch {
	case x.known != nil:
		return t.look(n, x)
	case x.entity == "resource":
		return t.hasAttr(string(n.Value))
	case x.entity == "principal":
		return hasSubject(string(n.Value))
	}
	return undefined, nil
}

// fromContext translates what reads one member of the context.
func (t *translator) fromContext(n ast.IsNode, member cedar.String) (term, error) {
	switch {
	case member == relation:
		return term{}, errRelations
	case t.rls:
		return term{}, errContext
	}
	return term{known: n}, nil
}

// look lets n look into the known x, but not into an entity that may turn out to
// be the very resource, or for row-level security the principal:
// Order::"17".owner.
func (t *translator) look(n ast.IsNode, x term) (term, error) {
	if isMember(x.known) {
		return term{known: n}, nil // of the principal or the context, which hold no entities
	}
	v, _ := t.force(x)
	uid, ok := v.(cedar.EntityUID)
	if ok && (uid.Type == t.resource.Type || t.rls && slices.Contains(principalTypes(), uid.Type)) {
		return term{}, fmt.Errorf("an attribute of the named %s", uid)
	}
	return term{known: n}, nil
}

// isMember reports whether n is a variable, or a member of one.
func isMember(n ast.IsNode) bool {
	for {
		access, ok := n.(ast.NodeTypeAccess)
		if !ok {
			break
		}
		n = access.Arg
	}
	_, ok := n.(ast.NodeTypeVariable)
	return ok
}

// attr is an attribute of the resource. One that its type does not declare is
// never shown to a policy.
func (t *translator) attr(name string) (term, error) {
	if name == "id" || name == "tenant" {
		return term{operand: filter.Attr{Name: name}, kind: authz.KindString}, nil
	}
	if t.attrs == nil {
		return term{}, t.undeclared()
	}
	a, ok := t.attrs[name]
	if !ok {
		return undefined, nil
	}
	return term{operand: filter.Attr{Name: name}, kind: a.Kind}, nil
}

func (t *translator) hasAttr(name string) (term, error) {
	if name == "id" || name == "tenant" {
		return condition(filter.Has{Attr: name}), nil
	}
	if t.attrs == nil {
		return term{}, t.undeclared()
	}
	if _, ok := t.attrs[name]; !ok {
		return condition(filter.Const(false)), nil
	}
	return condition(filter.Has{Attr: name}), nil
}

func (t *translator) undeclared() error {
	return fmt.Errorf("rampart.yaml does not declare under `authz.types` what a %s has", t.resource.Type)
}

// subject is a fact of an unknown principal.
func subject(name string) (term, error) {
	switch name {
	case "id", "org", "team":
		return term{operand: filter.Subject{Name: name}, kind: authz.KindString}, nil
	case "roles", "organizations":
		return term{operand: filter.Subject{Name: name}, kind: authz.KindStrings}, nil
	case "managedTeams":
		return term{operand: filter.Subject{Name: "managed_teams"}, kind: authz.KindStrings}, nil
	case "client":
		return term{}, errors.New("a database does not know the principal's client")
	}
	return undefined, nil
}

func hasSubject(name string) (term, error) {
	x, err := subject(name)
	s, ok := x.operand.(filter.Subject)
	if err != nil || !ok {
		return condition(filter.Const(false)), err
	}
	if s.Name == "id" || isList(s) {
		return condition(filter.Const(true)), nil
	}
	return condition(filter.Total{X: need(s)}), nil
}

// is translates `x is T`.
func (t *translator) is(x term, typ cedar.EntityType) term {
	switch x.entity {
	case "resource":
		return condition(filter.Const(t.resource.Type == typ))
	case "principal":
		return condition(isKindOf(typ))
	}
	return undefined
}

func isKindOf(typ cedar.EntityType) filter.Expr {
	for _, kind := range []rampart.PrincipalKind{rampart.KindHuman, rampart.KindClient, rampart.KindService} {
		if principalType(kind) == typ {
			return filter.Cmp{Op: filter.Eq, L: filter.Subject{Name: "kind"}, R: filter.Lit{Value: string(kind)}}
		}
	}
	return filter.Const(false)
}

// isEntity says that the unknown entity x is the one named uid.
func (t *translator) isEntity(x term, uid cedar.EntityUID) (filter.Expr, error) {
	if x.entity == "principal" {
		return and(isKindOf(uid.Type), filter.Cmp{Op: filter.Eq, L: filter.Subject{Name: "id"}, R: filter.Lit{Value: string(uid.ID)}}), nil
	}
	if uid.Type != t.resource.Type {
		return filter.Const(false), nil
	}
	if uid.ID == "" {
		return nil, errors.New("a resource without an id")
	}
	id := filter.Attr{Name: "id"}
	return filter.And{L: filter.Has{Attr: "id"}, R: filter.Cmp{Op: filter.Eq, L: id, R: filter.Lit{Value: string(uid.ID)}}}, nil
}

// in translates `x in y`: nothing here has parents, so it means "is".
func (t *translator) in(x, y term) (term, error) {
	switch {
	case x.entity != "" && y.entity != "":
		return condition(filter.Const(x.entity == y.entity)), nil
	case x.entity == "" && y.entity == "":
		return undefined, nil
	case x.elems != nil || y.elems != nil:
		return term{}, errors.New("a set of what is unknown")
	case x.known == nil && y.known == nil:
		return undefined, nil
	case x.known != nil:
		return t.isNamed(y, x) // `Order::"17" in resource`
	}
	v, _ := t.force(y)
	if set, ok := v.(cedar.Set); ok {
		return t.among(x, set)
	}
	return t.isNamed(x, y)
}

// isNamed says that the unknown entity x is the known y; what is no entity fails.
func (t *translator) isNamed(x, y term) (term, error) {
	v, _ := t.force(y)
	uid, ok := v.(cedar.EntityUID)
	if !ok {
		return undefined, nil
	}
	c, err := t.isEntity(x, uid)
	return condition(c), err
}

// among says that an unknown entity is a member of a known set of entities.
func (t *translator) among(x term, set cedar.Set) (term, error) {
	var any filter.Expr = filter.Const(false)
	for _, e := range inOrder(set) {
		uid, ok := e.(cedar.EntityUID)
		if !ok {
			return undefined, nil
		}
		c, err := t.isEntity(x, uid)
		if err != nil {
			return term{}, err
		}
		any = or(any, c)
	}
	return condition(any), nil
}
