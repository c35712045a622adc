package cedar

import (
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// actionType is the one entity type of actions.
const actionType = "Action"

// key is what a policy's scope demands; zero demands nothing.
type key struct {
	action    cedar.EntityUID
	resource  cedar.EntityType
	principal cedar.EntityType
}

// index lists policies by the scope they demand. A scope that names no type,
// such as `resource in Project::"p"`, may hold members of any type.
type index struct {
	lists map[key][]*policy
	// members are the actions of each group of actions. Ours have no groups;
	// the tests of the language do.
	members map[cedar.EntityUID][]cedar.EntityUID
}

func newIndex() index { return index{lists: map[key][]*policy{}} }

func (x index) add(p *policy) error {
	tree := p.tree()
	actions, err := actionsOf(tree.Action)
	if err != nil {
		return err
	}
	for _, a := range x.expand(tree.Action, actions) {
		k := key{action: a, resource: typeOf(tree.Resource), principal: typeOf(tree.Principal)}
		x.lists[k] = append(x.lists[k], p)
	}
	return nil
}

// expand returns the actions to list a policy under: those of a group that an
// `in` names count too.
func (x index) expand(scope ast.IsActionScopeNode, named []cedar.EntityUID) []cedar.EntityUID {
	if _, all := scope.(ast.ScopeTypeAll); all {
		return []cedar.EntityUID{{}}
	}
	var out []cedar.EntityUID
	for _, uid := range named {
		list := []cedar.EntityUID{uid}
		if _, eq := scope.(ast.ScopeTypeEq); !eq {
			list = append(list, x.members[uid]...)
		}
		for _, a := range list {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// slice collects the policies that may apply to req, broadest scope last, so
// that the order is the same every time.
func (x index) slice(req cedar.Request) slice {
	var s slice
	for _, a := range [2]cedar.EntityUID{req.Action, {}} {
		for _, r := range [2]cedar.EntityType{req.Resource.Type, ""} {
			for _, p := range [2]cedar.EntityType{req.Principal.Type, ""} {
				if list := x.lists[key{a, r, p}]; list != nil {
					s.lists[s.n] = list
					s.n++
				}
			}
		}
	}
	return s
}

// actionsOf returns the actions that a scope names; nil for all of them.
func actionsOf(scope ast.IsActionScopeNode) ([]cedar.EntityUID, error) {
	switch s := scope.(type) {
	case ast.ScopeTypeAll:
		return nil, nil
	case ast.ScopeTypeEq:
		return []cedar.EntityUID{s.Entity}, nil
	case ast.ScopeTypeIn:
		return []cedar.EntityUID{s.Entity}, nil
	case ast.ScopeTypeInSet:
		return s.Entities, nil
	}
	return nil, fmt.Errorf("action scope %T is not supported", scope)
}

// areActions refuses what no request can ask.
func areActions(named []cedar.EntityUID) error {
	for _, uid := range named {
		if uid.Type != actionType || uid.ID == "" {
			return fmt.Errorf("%s is no action: write Action::\"type:verb\"", uid)
		}
	}
	return nil
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
