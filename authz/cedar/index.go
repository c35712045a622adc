package cedar

import (
	"fmt"
	"iter"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/rampart-security/rampart"
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
	lists map[key]*bucket
	// members are the actions of each group of actions. Ours have no groups;
	// the tests of the language do.
	members map[cedar.EntityUID][]cedar.EntityUID
}

// bucket holds the policies of one key.
type bucket struct {
	policies []*policy
	permits  int
	reads    reads
}

func (b *bucket) add(p *policy) {
	b.policies = append(b.policies, p)
	if p.ref.Effect == rampart.Allow {
		b.permits++
	}
	for _, c := range p.parts {
		b.reads.add(c.Body)
	}
}

func newIndex() index { return index{lists: map[key]*bucket{}} }

func (x index) add(p *policy) error {
	tree := p.tree
	actions, err := actionsOf(tree.Action)
	if err != nil {
		return err
	}
	for _, a := range x.expand(tree.Action, actions) {
		k := key{action: a, resource: typeOf(tree.Resource), principal: typeOf(tree.Principal)}
		if x.lists[k] == nil {
			x.lists[k] = &bucket{reads: reads{}}
		}
		x.lists[k].add(p)
	}
	return nil
}

// afterIndex compiles a policy without what holds for every request that finds
// it in the index: its action, and the types of principal and resource.
func afterIndex(tree *ast.Policy) *cedar.Policy {
	rest := *tree
	rest.Action = ast.Scope{}.All()
	if _, ok := rest.Principal.(ast.ScopeTypeIs); ok {
		rest.Principal = ast.Scope{}.All()
	}
	if _, ok := rest.Resource.(ast.ScopeTypeIs); ok {
		rest.Resource = ast.Scope{}.All()
	}
	return fromTree(&rest)
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
				if b := x.lists[key{a, r, p}]; b != nil {
					s.buckets[s.n] = b
					s.n++
				}
			}
		}
	}
	return s
}

// slice holds the policies whose scope may fit one request, as up to eight
// lists of the index.
type slice struct {
	buckets [8]*bucket
	n       int
}

// All implements cedar.PolicyIterator.
func (s *slice) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for p := range s.each {
			if !yield(cedar.PolicyID(p.ref.ID), p.run) {
				return
			}
		}
	}
}

func (s *slice) each(yield func(*policy) bool) {
	for _, b := range s.buckets[:s.n] {
		for _, p := range b.policies {
			if !yield(p) {
				return
			}
		}
	}
}

func (s *slice) permits() int {
	n := 0
	for _, b := range s.buckets[:s.n] {
		n += b.permits
	}
	return n
}

// reads reports whether a policy of the slice may read a member of that name.
func (s *slice) reads(name string) bool {
	for _, b := range s.buckets[:s.n] {
		if b.reads[cedar.String(name)] || b.reads[everything] {
			return true
		}
	}
	return false
}

// reads are the names of members that policies read, of whatever.
type reads map[cedar.String]bool

// everything stands for all names: a policy handles the context as a whole.
// It is no name that an attribute may have.
const everything = "\xff"

func (r reads) add(n ast.IsNode) {
	switch n := n.(type) {
	case ast.NodeTypeAccess:
		r.member(n.StrOpNode)
		return
	case ast.NodeTypeHas:
		r.member(n.StrOpNode)
		return
	}
	if isVariable(n, "context") {
		r[everything] = true
	}
	for _, child := range children(n) {
		r.add(child)
	}
}

func (r reads) member(n ast.StrOpNode) {
	r[n.Value] = true
	if !isVariable(n.Arg, "context") {
		r.add(n.Arg)
	}
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
