package cedar

import (
	"errors"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/rampart-security/rampart"
)

// relation is the member of the context that holds the facts of the relation
// graph. It is never the asker's.
const relation = "relation"

// relationOf returns NAME if n is context.relation.NAME.
func relationOf(n ast.IsNode) (string, bool) {
	outer, ok := n.(ast.NodeTypeAccess)
	if !ok || !isRelations(outer.Arg) {
		return "", false
	}
	return string(outer.Value), true
}

func isRelations(n ast.IsNode) bool {
	inner, ok := n.(ast.NodeTypeAccess)
	return ok && inner.Value == relation && isVariable(inner.Arg, "context")
}

func isVariable(n ast.IsNode, name cedar.String) bool {
	v, ok := n.(ast.NodeTypeVariable)
	return ok && v.Name == name
}

var errRelations = errors.New("relations are read one by one, as context.relation.NAME")

// relationsIn adds the names of relations that n reads to names.
func relationsIn(n ast.IsNode, names map[string]bool) error {
	if name, ok := relationOf(n); ok {
		names[name] = true
		return nil
	}
	if has, ok := n.(ast.NodeTypeHas); ok && isRelations(has.Arg) {
		names[string(has.Value)] = true
		return nil
	}
	if isRelations(n) {
		return errRelations
	}
	for _, child := range children(n) {
		if err := relationsIn(child, names); err != nil {
			return err
		}
	}
	return nil
}

// about is what a question is about; "" is any.
type about struct {
	action rampart.Action
	typ    string // as authz.Request has it, not as Cedar does
}

// relations are the names that the policies of each scope read, sorted.
type relations map[about][]string

func (x relations) add(a about, names map[string]bool) {
	for name := range names {
		if i, has := slices.BinarySearch(x[a], name); !has {
			x[a] = slices.Insert(x[a], i, name)
		}
	}
}

// settle lets each scope know what the broader ones read.
func (x relations) settle() {
	full := relations{}
	for a := range x {
		full[a] = x.merge(a)
	}
	for a, names := range full {
		x[a] = names
	}
}

func (x relations) merge(a about) []string {
	var all []string
	for _, broader := range [4]about{a, {a.action, ""}, {"", a.typ}, {}} {
		all = append(all, x[broader]...)
	}
	return sorted(all)
}

// of returns what a question needs to know. Only where no policy has this very
// scope, and one for the action and one for the type both read relations, is a
// list made anew.
func (x relations) of(a about) []string {
	if names, ok := x[a]; ok {
		return names
	}
	byAction, byType := x[about{a.action, ""}], x[about{"", a.typ}]
	switch {
	case byType == nil && byAction == nil:
		return x[about{}]
	case byType == nil:
		return byAction
	case byAction == nil:
		return byType
	}
	return x.merge(a)
}

// typeName turns Cedar's "Order" into "order".
func typeName(t cedar.EntityType) string {
	if t == "" {
		return ""
	}
	return strings.ToLower(string(t[:1])) + string(t[1:])
}
