// Package cedar evaluates Cedar policies.
//
// What a policy sees:
//
//	principal  User::"user:alice" (Client or Service for the other kinds) with
//	           id, client, org, team: strings, absent when unknown
//	           roles, organizations, managedTeams: sets of strings
//	action     Action::"orders:read"
//	resource   Order::"17": the request's type, first letter in upper case, with
//	           the request's attributes and tenant, absent when unknown
//	context    the request's context
//
// Three things differ from plain Cedar, each towards denial: every policy must
// carry an @id of its own, a forbid that cannot be evaluated is reported as a
// failure that denies (Cedar skips it), and null attributes are absent.
// A number with a fraction becomes a Cedar decimal.
package cedar

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/cedar-policy/cedar-go"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// MaxPolicies bounds an Engine; New enforces it.
const MaxPolicies = 100_000

const engineName = "cedar"

// Engine holds compiled policies behind an index, so that policies for other
// actions and types cost a request nothing. It is read-only.
type Engine struct {
	index index
	byID  map[cedar.PolicyID]*policy
}

type policy struct {
	ref    rampart.PolicyRef
	policy *cedar.Policy
}

// New compiles files, keyed by the name that denials will cite. It refuses a
// file beyond authz.CheckSource, a policy without an @id or with one that is
// taken, and an action outside the Action type.
func New(files map[string][]byte, _ *authz.Schema) (*Engine, error) {
	e := &Engine{index: index{}, byID: map[cedar.PolicyID]*policy{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := e.load(name, files[name]); err != nil {
			return nil, fmt.Errorf("cedar: %v", err)
		}
	}
	return e, nil
}

func (e *Engine) load(name string, src []byte) error {
	if err := authz.CheckSource(name, src); err != nil {
		return err
	}
	list, err := cedar.NewPolicyListFromBytes(name, src)
	if err != nil {
		return fmt.Errorf("%s: %v", name, err)
	}
	if len(list) == 0 {
		return fmt.Errorf("%s: holds no policy", name)
	}
	for _, p := range list {
		if err := e.add(p); err != nil {
			return fmt.Errorf("%s:%d: %v", name, p.Position().Line, err)
		}
	}
	return nil
}

func (e *Engine) add(p *cedar.Policy) error {
	id := string(p.Annotations()["id"])
	if id == "" || len(id) > 128 {
		return errors.New("a policy names itself: @id(\"...\") with 1 to 128 bytes")
	}
	if other, taken := e.byID[cedar.PolicyID(id)]; taken {
		return fmt.Errorf("@id(%q) is taken by %s:%d", id, other.ref.File, other.ref.Line)
	}
	if len(e.byID) == MaxPolicies {
		return fmt.Errorf("at most %d policies", MaxPolicies)
	}
	ref := rampart.PolicyRef{Engine: engineName, ID: id, File: p.Position().Filename, Line: p.Position().Line}
	if p.Effect() == cedar.Permit {
		ref.Effect = rampart.Allow
	}
	entry := &policy{ref: ref, policy: p}
	e.byID[cedar.PolicyID(id)] = entry
	return e.index.add(entry)
}

// Evaluate implements authz.Engine. Cedar has no loops, so evaluation ends
// without looking at ctx.
func (e *Engine) Evaluate(_ context.Context, r authz.Request) authz.Verdict {
	q, err := newQuestion(r)
	if err != nil {
		return authz.Verdict{Failures: []authz.Failure{{
			Policy: rampart.PolicyRef{Engine: engineName, ID: "input"},
			Code:   rampart.CodeError,
			Err:    err,
		}}}
	}
	s := e.index.slice(q.request)
	_, diag := cedar.Authorize(&s, q, q.request)
	v := authz.Verdict{Looked: s.permits()}
	for _, reason := range diag.Reasons {
		ref := e.byID[reason.PolicyID].ref
		if ref.Effect == rampart.Allow {
			v.Permits = append(v.Permits, authz.Ruling{Policy: ref})
		} else {
			v.Forbids = append(v.Forbids, authz.Ruling{Policy: ref})
		}
	}
	for _, failed := range diag.Errors {
		v.Failures = append(v.Failures, authz.Failure{
			Policy: e.byID[failed.PolicyID].ref,
			Code:   rampart.CodeError,
			Err:    errors.New(failed.Message),
		})
	}
	return v
}

// Relations implements authz.Engine.
func (e *Engine) Relations(rampart.Action, string) []string { return nil }

// slice holds the policies whose scope may fit one request, as up to eight
// lists of the index.
type slice struct {
	lists [8][]*policy
	n     int
}

// All implements cedar.PolicyIterator.
func (s *slice) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for p := range s.each {
			if !yield(cedar.PolicyID(p.ref.ID), p.policy) {
				return
			}
		}
	}
}

func (s *slice) each(yield func(*policy) bool) {
	for _, list := range s.lists[:s.n] {
		for _, p := range list {
			if !yield(p) {
				return
			}
		}
	}
}

func (s *slice) permits() int {
	n := 0
	for p := range s.each {
		if p.ref.Effect == rampart.Allow {
			n++
		}
	}
	return n
}
