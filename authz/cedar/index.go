package cedar

import (
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// actionType is the one entity type of actions.
const actionType = "Action"

// key is what a policy's scope demands; "" demands nothing.
type key struct {
	action    cedar.String
	resource  cedar.EntityType
	principal cedar.EntityType
}

// index lists policies by the scope they demand. A scope that names no type,
// such as `resource in Project::"p"`, may hold members of any type.
type index map[key][]*policy

func (x index) add(p *policy) error {
	tree := (*ast.Policy)(p.policy.AST())
	actions, err := actionsOf(tree.Action)
	if err != nil {
		return err
	}
	for _, a := range actions {
		k := key{action: a, resource: typeOf(tree.Resource), principal: typeOf(tree.Principal)}
		x[k] = append(x[k], p)
	}
	return nil
}

// slice collects the policies that may apply to req, broadest scope last, so
// that the order is the same every time.
func (x index) slice(req cedar.Request) slice {
	var s slice
	for _, a := range [2]cedar.String{req.Action.ID, ""} {
		for _, r := range [2]cedar.EntityType{req.Resource.Type, ""} {
			for _, p := range [2]cedar.EntityType{req.Principal.Type, ""} {
				if list := x[key{a, r, p}]; list != nil {
					s.lists[s.n] = list
					s.n++
				}
			}
		}
	}
	return s
}

// actionsOf returns the actions that a scope names, or "" for all of them.
// Actions have no groups here, so `in` a single action means that action.
func actionsOf(scope ast.IsActionScopeNode) ([]cedar.String, error) {
	var named []cedar.EntityUID
	switch s := scope.(type) {
	case ast.ScopeTypeAll:
		return []cedar.String{""}, nil
	case ast.ScopeTypeEq:
		named = []cedar.EntityUID{s.Entity}
	case ast.ScopeTypeIn:
		named = []cedar.EntityUID{s.Entity}
	case ast.ScopeTypeInSet:
		named = s.Entities
	default:
		return nil, fmt.Errorf("action scope %T is not supported", scope)
	}
	var ids []cedar.String
	for _, uid := range named {
		if uid.Type != actionType || uid.ID == "" {
			return nil, fmt.Errorf("%s is no action: write Action::\"type:verb\"", uid)
		}
		if !slices.Contains(ids, uid.ID) {
			ids = append(ids, uid.ID)
		}
	}
	return ids, nil
}

// typeOf returns the entity type that a scope demands, or "".
func typeOf(scope ast.IsScopeNode) cedar.EntityType {
	switch s := scope.(type) {
	case ast.ScopeTypeEq:
		return s.Entity.Type
	case ast.ScopeTypeIs:
		return s.Type
	case ast.ScopeTypeIsIn:
		return s.Type
	}
	return ""
}
