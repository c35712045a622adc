package cedar

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	shape "github.com/cedar-policy/cedar-go/x/exp/schema/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// CedarSchema renders what s declares as a schema of the Cedar language, for
// editors and for those who want to know what a policy may say. Policies given
// to New are checked against it. It fails where a type's name is taken by
// Cedar or by who asks.
//
// What the asker adds to the context is not declared and so cannot be read: a
// policy would believe a name that anybody may send. Who needs such a value
// makes it an attribute of the type.
func CedarSchema(s *authz.Schema) ([]byte, error) {
	tree, err := cedarSchema(s)
	if err != nil {
		return nil, fmt.Errorf("cedar: %v", err)
	}
	return schema.NewSchemaFromAST(tree).MarshalCedar()
}

// principals are the entity types of who asks.
var principals = []shape.EntityTypeRef{"User", "Client", "Service", "Nobody"}

// taken are names that Cedar gives a meaning of its own.
var taken = []string{"Action", "Bool", "Boolean", "Entity", "Extension", "Long", "Record", "Set", "String"}

func cedarSchema(s *authz.Schema) (*shape.Schema, error) {
	tree := &shape.Schema{Entities: shape.Entities{}, Actions: shape.Actions{}}
	for _, p := range principals {
		tree.Entities[shape.Ident(p)] = shape.Entity{Shape: principalShape()}
	}
	if s == nil {
		return tree, nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.Types)) {
		if err := declare(tree, name, s.Types[name]); err != nil {
			return nil, err
		}
	}
	return tree, nil
}

// declare adds one type and its actions.
func declare(tree *shape.Schema, name string, t authz.Type) error {
	cedarName := resourceType(name)
	if slices.Contains(principals, shape.EntityTypeRef(cedarName)) {
		if len(t.Actions) == 0 {
			return nil // a subject of relations, of which no policy asks
		}
		return fmt.Errorf("type %q: in Cedar, %s is who asks; give the resource another name, such as \"account\"", name, cedarName)
	}
	if slices.Contains(taken, string(cedarName)) {
		return fmt.Errorf("type %q: %s means something else in Cedar; give the resource another name", name, cedarName)
	}
	attrs := shape.RecordType{}
	for attr, a := range t.Attrs {
		kind, err := attrShape(a.Kind)
		if err != nil {
			return fmt.Errorf("type %q, attribute %q: %v", name, attr, err)
		}
		attrs[cedar.String(attr)] = shape.Attribute{Type: kind, Optional: a.Optional}
	}
	attrs["id"] = shape.Attribute{Type: shape.String(), Optional: true}
	attrs["tenant"] = shape.Attribute{Type: shape.String(), Optional: true}
	tree.Entities[shape.Ident(cedarName)] = shape.Entity{Shape: attrs}
	for _, action := range t.Actions {
		apply(tree, cedar.String(action), shape.EntityTypeRef(cedarName), t.Relations)
	}
	return nil
}

// apply lets an action apply to one more type.
func apply(tree *shape.Schema, action cedar.String, to shape.EntityTypeRef, names []string) {
	known, ok := tree.Actions[action]
	if !ok {
		known.AppliesTo = &shape.AppliesTo{Principals: principals, Context: shape.RecordType{
			"now":    {Type: shape.Long()},
			"caller": {Type: shape.String(), Optional: true},
			"flow":   {Type: shape.String(), Optional: true},
		}}
	}
	known.AppliesTo.Resources = append(known.AppliesTo.Resources, to)
	tree.Actions[action] = known
	if len(names) == 0 {
		return
	}
	about := known.AppliesTo.Context.(shape.RecordType)
	if _, ok := about[relation]; !ok {
		about[relation] = shape.Attribute{Type: shape.RecordType{}}
	}
	facts := about[relation].Type.(shape.RecordType)
	for _, name := range names {
		facts[cedar.String(name)] = shape.Attribute{Type: shape.Bool()}
	}
}

func principalShape() shape.RecordType {
	list := shape.Attribute{Type: shape.Set(shape.String())}
	maybe := shape.Attribute{Type: shape.String(), Optional: true}
	return shape.RecordType{
		"id":     {Type: shape.String()},
		"client": maybe, "org": maybe, "team": maybe,
		"roles": list, "organizations": list, "managedTeams": list,
	}
}

func attrShape(k authz.AttrKind) (shape.IsType, error) {
	switch k {
	case authz.KindString:
		return shape.String(), nil
	case authz.KindBool:
		return shape.Bool(), nil
	case authz.KindLong:
		return shape.Long(), nil
	case authz.KindDecimal:
		return shape.Decimal(), nil
	case authz.KindStrings:
		return shape.Set(shape.String()), nil
	}
	return nil, fmt.Errorf("there is no kind %q", k)
}

// checker refuses policies that a schema does not fit. A nil checker accepts
// all.
type checker struct {
	schema *authz.Schema
	names  map[string][]string // what may stand where, for suggestions
	valid  *validate.Validator
}

func newChecker(s *authz.Schema) (*checker, error) {
	if s == nil {
		return nil, nil
	}
	tree, err := cedarSchema(s)
	if err != nil {
		return nil, err
	}
	resolved, err := schema.NewSchemaFromAST(tree).Resolve()
	if err != nil {
		return nil, err
	}
	return &checker{schema: s, names: vocabulary(tree), valid: validate.New(resolved, validate.WithStrict())}, nil
}

func vocabulary(tree *shape.Schema) map[string][]string {
	names := map[string][]string{"attribute": {"id", "roles", "organizations", "managedTeams", "client", "org", "team", "now", "caller", "flow", relation}}
	for _, name := range slices.Sorted(maps.Keys(tree.Entities)) {
		names["type"] = append(names["type"], string(name))
		for attr := range tree.Entities[name].Shape {
			names["attribute"] = append(names["attribute"], string(attr))
		}
	}
	for action, a := range tree.Actions {
		names["action"] = append(names["action"], cedar.NewEntityUID(actionType, action).String())
		if facts, ok := a.AppliesTo.Context.(shape.RecordType)[relation].Type.(shape.RecordType); ok {
			for name := range facts {
				names["attribute"] = append(names["attribute"], string(name))
			}
		}
	}
	for _, list := range names {
		slices.Sort(list)
	}
	return names
}

// check returns where and why a policy does not fit; line 0 is the policy's own.
func (c *checker) check(tree *ast.Policy, list []part) (line int, err error) {
	if c == nil {
		return 0, nil
	}
	whole := c.valid.Policy("", tree)
	if whole == nil {
		return 0, nil
	}
	if name := c.idle(tree); name != "" {
		return 0, fmt.Errorf("no action applies to the type %q: declare actions: of type %q", name, name)
	}
	scope := *tree
	scope.Conditions = nil
	if err := c.valid.Policy("", &scope); err != nil {
		return 0, c.say(err)
	}
	for i, p := range list {
		scope.Conditions = []ast.ConditionType{upTo(list, i)}
		if err := c.valid.Policy("", &scope); err != nil {
			return p.line, c.say(err)
		}
	}
	return 0, c.say(whole)
}

// idle returns the type that a policy is about when no action is declared for
// it, or "".
func (c *checker) idle(tree *ast.Policy) string {
	about := typeOf(tree.Resource)
	for name, t := range c.schema.Types {
		if resourceType(name) == about && len(t.Actions) == 0 {
			return name
		}
	}
	return ""
}

// upTo returns condition i with those of its clause that guard it.
func upTo(list []part, i int) ast.ConditionType {
	first := i
	for first > 0 && list[first-1].clause == list[i].clause {
		first--
	}
	body := list[first].Body
	for _, p := range list[first+1 : i+1] {
		body = ast.NodeTypeAnd{BinaryNode: ast.BinaryNode{Left: body, Right: p.Body}}
	}
	return ast.ConditionType{Condition: list[i].Condition, Body: body}
}

// say chooses the most telling of the faults that were found in one place, and
// the name that was probably meant.
func (c *checker) say(err error) error {
	lines := strings.Split(err.Error(), "\n")
	slices.SortFunc(lines, func(a, b string) int {
		return strings.Compare(weight(a)+a, weight(b)+b)
	})
	fault := lines[0]
	_, rest, _ := strings.Cut(fault, "`")
	name, _, _ := strings.Cut(rest, "`")
	switch {
	case strings.HasPrefix(fault, "unrecognized action"):
		return c.suggest(fault, name, "action")
	case strings.HasPrefix(fault, "unrecognized entity type"):
		return c.suggest(fault, name, "type")
	case strings.HasPrefix(fault, "attribute"):
		return c.suggest(fault, name, "attribute")
	case strings.HasPrefix(fault, "unable to guarantee safety"):
		return fmt.Errorf("%s may be absent: ask `has %s` before it, joined by &&, or the policy fails (%s)", name, name, fault)
	}
	return errors.New(fault)
}

func weight(fault string) string {
	if strings.HasPrefix(fault, "unrecognized") {
		return "0"
	}
	return "1"
}

func (c *checker) suggest(fault, name, kind string) error {
	if near := nearest(name, c.names[kind]); near != "" {
		return fmt.Errorf("%s; did you mean %s?", fault, near)
	}
	return errors.New(fault)
}

// attrs returns the attributes of the types that a policy may apply to, or nil
// without a schema.
func (c *checker) attrs(tree *ast.Policy) map[string][]authz.Attr {
	if c == nil {
		return nil
	}
	out := map[string][]authz.Attr{}
	for name, t := range c.schema.Types {
		if !mayApply(tree, resourceType(name), t.Actions) {
			continue
		}
		for attr, a := range t.Attrs {
			out[attr] = append(out[attr], a)
		}
	}
	return out
}

func mayApply(tree *ast.Policy, name types.EntityType, actions []rampart.Action) bool {
	if t := typeOf(tree.Resource); t != "" {
		return t == name
	}
	named, err := actionsOf(tree.Action)
	if err != nil || named == nil {
		return true
	}
	return slices.ContainsFunc(named, func(uid cedar.EntityUID) bool {
		return slices.Contains(actions, rampart.Action(uid.ID))
	})
}
