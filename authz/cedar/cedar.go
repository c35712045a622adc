// Package cedar evaluates Cedar policies.
//
// What a policy sees:
//
//	principal  User::"user:alice" (Client or Service for the other kinds) with
//	           id, client, org, team: strings, absent when unknown
//	           roles, organizations, managedTeams: sets of strings
//	action     Action::"orders:read"
//	resource   Order::"17": the request's type, first letter in upper case, with
//	           the request's attributes, id and tenant, absent when unknown
//	context    the request's context, and relation.NAME: whether the principal
//	           stands in that relation to the resource
//
// Three things differ from plain Cedar, each towards denial: every policy must
// carry an @id of its own, a forbid that cannot be evaluated is reported as a
// failure that denies (Cedar skips it), and null attributes are absent.
// A number with a fraction becomes a Cedar decimal; with a schema, every number
// becomes what its attribute declares, and what is not declared is not seen.
//
// What a policy may ask for besides, as annotations:
//
//	@id("owner")                          its name, required
//	@obligation("step-up; acr=aal2")      to be carried out before the action;
//	@obligation_mail("notification")      more of them under any further name
//	@fields("id, total, card.last4")      of a permit: only these may be seen
//	@mask("pii, confidential, note")      of a permit: shown as null. pii stands
//	                                      for all personal attributes, a class
//	                                      for all at least that sensitive
//	@reason("Ask the owner.")             what the user may read
//	@doc("...")                           what the operator may read
//
// With a schema, what @fields and @mask name must be declared: an attribute of a
// type that the policy may apply to, id, tenant, or a member of one, as in
// card.last4. Other annotations are the author's own, best with a name that
// begins with x_. One that looks like these misspelt does not load.
package cedar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// MaxPolicies bounds an Engine; New enforces it.
const MaxPolicies = 100_000

const engineName = "cedar"

// Engine holds compiled policies behind an index, so that policies for other
// actions and types cost a request nothing. It is read-only.
type Engine struct {
	index     index
	byID      map[cedar.PolicyID]*policy
	order     []*policy // as the files have them
	objects   map[string]object
	relations relations
}

type policy struct {
	ref    rampart.PolicyRef
	tree   *ast.Policy
	run    *cedar.Policy // without the part of the scope that the index has decided
	ruling authz.Ruling
	parts  []part
	noted  []int // lines of the annotations
}

// New compiles files, keyed by the name that denials will cite. It refuses a
// file beyond authz.CheckSource, a policy without an @id or with one that is
// taken, an action outside the Action type and an annotation that cannot be
// read. With a schema it also refuses a policy that does not fit it (see
// CedarSchema): a misspelt name, a comparison of two kinds, an optional
// attribute that is read without a guard, a member that @fields or @mask names
// and nothing declares. If schema is nil, nothing is known
// of names, and a misspelt one fails when it is read.
func New(files map[string][]byte, schema *authz.Schema) (*Engine, error) {
	check, err := newChecker(schema)
	if err != nil {
		return nil, fmt.Errorf("cedar: %v", err)
	}
	e := newEngine(schema)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := e.load(name, files[name], check); err != nil {
			return nil, fmt.Errorf("cedar: %v", err)
		}
	}
	e.relations.settle()
	return e, nil
}

func newEngine(schema *authz.Schema) *Engine {
	return &Engine{index: newIndex(), byID: map[cedar.PolicyID]*policy{}, objects: objects(schema), relations: relations{}}
}

func (e *Engine) load(name string, text []byte, check *checker) error {
	if err := authz.CheckSource(name, text); err != nil {
		return err
	}
	list, err := cedar.NewPolicyListFromBytes(name, text)
	if err != nil {
		return fmt.Errorf("%s: %v", name, err)
	}
	if len(list) == 0 {
		return fmt.Errorf("%s: holds no policy", name)
	}
	src := source{text: string(text)}
	src.tokens = lex(src.text)
	places := src.statements()
	for i, p := range list {
		var st *statement
		if len(places) == len(list) {
			st = &places[i]
		}
		if line, err := e.take(p, src, st, check); err != nil {
			return fmt.Errorf("%s:%d: %v", name, cmp.Or(line, p.Position().Line), err)
		}
	}
	return nil
}

// take admits one policy; the line of an error is 0 where it is the policy's.
func (e *Engine) take(p *cedar.Policy, src source, st *statement, check *checker) (line int, err error) {
	tree := (*ast.Policy)(p.AST())
	for _, c := range tree.Conditions {
		if tooDeep(c.Body, maxChain) {
			return 0, fmt.Errorf("conditions are nested or chained more than %d deep", maxChain)
		}
	}
	named, err := actionsOf(tree.Action)
	if err != nil {
		return 0, err
	}
	if err := areActions(named); err != nil {
		return 0, err
	}
	entry := &policy{tree: tree, run: afterIndex(tree), parts: parts(tree, src, st), noted: linesOf(tree.Annotations, src, st)}
	if entry.ref, err = e.name(p); err != nil {
		return 0, err
	}
	if line, err := check.check(tree, entry.parts); err != nil {
		return line, err
	}
	var at int
	if entry.ruling, at, err = ruling(entry.ref, tree.Annotations, check.attrs(tree)); err != nil {
		return entry.noted[at], err
	}
	return e.add(entry)
}

// name reads a policy's @id.
func (e *Engine) name(p *cedar.Policy) (rampart.PolicyRef, error) {
	id := string(p.Annotations()["id"])
	if id == "" || len(id) > 128 {
		return rampart.PolicyRef{}, errors.New("a policy names itself: @id(\"...\") with 1 to 128 bytes")
	}
	if other, taken := e.byID[cedar.PolicyID(id)]; taken {
		return rampart.PolicyRef{}, fmt.Errorf("@id(%q) is taken by %s:%d", id, other.ref.File, other.ref.Line)
	}
	if len(e.byID) == MaxPolicies {
		return rampart.PolicyRef{}, fmt.Errorf("at most %d policies", MaxPolicies)
	}
	ref := rampart.PolicyRef{Engine: engineName, ID: id, File: p.Position().Filename, Line: p.Position().Line}
	if p.Effect() == cedar.Permit {
		ref.Effect = rampart.Allow
	}
	return ref, nil
}

// add enters a policy in the index and its relations in theirs.
func (e *Engine) add(p *policy) (line int, err error) {
	names := map[string]bool{}
	for _, c := range p.parts {
		if err := relationsIn(c.Body, names); err != nil {
			return c.line, err
		}
	}
	e.byID[cedar.PolicyID(p.ref.ID)] = p
	e.order = append(e.order, p)
	if err := e.index.add(p); err != nil || len(names) == 0 {
		return 0, err
	}
	named, err := actionsOf(p.tree.Action)
	for _, a := range e.index.expand(p.tree.Action, named) {
		e.relations.add(about{rampart.Action(a.ID), typeName(typeOf(p.tree.Resource))}, names)
	}
	return 0, err
}

// Evaluate implements authz.Engine. Cedar has no loops, so evaluation ends
// without looking at ctx. What no policy for this question reads is not looked
// at either. Obligations, fields and reasons of rulings are shared
// between verdicts and must not be changed.
func (e *Engine) Evaluate(_ context.Context, r authz.Request) authz.Verdict {
	q := e.subjectOf(r)
	s := e.index.slice(q.request)
	if err := q.fill(r, s.reads); err != nil {
		return authz.Verdict{Failures: []authz.Failure{{
			Policy: rampart.PolicyRef{Engine: engineName, ID: "input"},
			Code:   rampart.CodeError,
			Err:    err,
		}}}
	}
	_, diag := cedar.Authorize(&s, q, q.request)
	return e.verdict(diag, s.permits())
}

// verdict reports what Cedar found, and as failures what it skipped.
func (e *Engine) verdict(diag cedar.Diagnostic, looked int) authz.Verdict {
	v := authz.Verdict{Looked: looked}
	for _, reason := range diag.Reasons {
		p := e.byID[reason.PolicyID]
		if p.ref.Effect == rampart.Allow {
			v.Permits = append(v.Permits, p.ruling)
		} else {
			v.Forbids = append(v.Forbids, p.ruling)
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
func (e *Engine) Relations(action rampart.Action, resourceType string) []string {
	return e.relations.of(about{action, resourceType})
}
