// Package rego evaluates Rego policies, in the v1 dialect and in v0.
//
// A package decides by its rules `allow` (true when one of them holds) and
// `deny` (a boolean, a set or an object: anything but false and empty forbids).
// Packages without either are libraries. What a policy sees:
//
//	input.action             the verb: "read" of "orders:read"
//	input.action_full        "orders:read"
//	input.resource           type ("order"), id, tenant and the request's attributes
//	input.relation.NAME      whether the user stands in that relation to the resource
//	input.user               id, kind, role (the first of roles), roles, org,
//	                         team_id, organizations, managed_teams
//	input.context            the request's context
//
// What a policy may say besides, in a package that decides:
//
//	deny contains {"code": "frozen", "msg": "for operators", "reason": "for the user"} if ...
//	obligations contains {"type": "step-up", "acr": "aal2"} if ...
//	mask contains "card_last4" if ...
//	fields contains "id"
//
// Unknown facts are absent, never empty or null. A misspelt member of input or
// input.user does not load, nor, with a schema, one of input.resource or
// input.relation. Builtins that reach outside (network, clock, randomness,
// environment) do not exist.
//
// A rule of `deny` that reads an absent member would silently not hold, so it
// is a failure that denies, wherever it reads: in the rule, in the rules and
// functions that it calls, by a variable, in a comprehension. So are rules of
// obligations, mask and fields when their package permits. It is no failure
// where a condition above, in the rule or in the helper around the read, does
// not hold; where object.get reads it; and directly under `not`, where absence
// makes the rule hold. A helper with several bodies fails if any of them reads
// something absent, whatever the others say. Looking through a list for what it
// does not hold is no such read; reading a member that one of its elements lacks
// is. (The compiler takes the operands of a call out of a `not`: in
// `not startswith(input.user.team_id, "a")` an absent team is a failure.)
//
// Where the absence of a relation could make an `allow` hold, as under `not`,
// that rule fails. Relations are looked up by the names that policies read, so
// input as a whole does not load without a schema; with one it may be a
// variable or an argument, of which members are then read by name.
//
// The same policies are filters, see Engine.Residual.
package rego

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

const engineName = "rego"

// Engine holds compiled Rego files. Cost grows with the number of deciding
// packages, not with rules that begin with `input.MEMBER == constant`. It is
// read-only but for slots.
type Engine struct {
	query    rego.PreparedEvalQuery
	packages []*decider
	permits  int
	reads    []string            // relations
	byType   map[string][]string // the same, split by the schema's types; nil without a schema
	schema   *authz.Schema
	files    map[string][]byte
	slots    chan struct{} // bounds concurrent evaluations: Rego bounds no memory
}

// New compiles files, keyed by the name that denials will cite. With a schema,
// what a policy reads of input.resource and input.relation must be declared;
// without one (nil), those two are open. Errors name file and line.
func New(files map[string][]byte, schema *authz.Schema) (*Engine, error) {
	e, err := build(files, schema)
	if err != nil {
		return nil, fmt.Errorf("rego: %v", err)
	}
	return e, nil
}

func build(files map[string][]byte, schema *authz.Schema) (*Engine, error) {
	modules, err := parse(files)
	if err != nil {
		return nil, err
	}
	if err := checkGuards(modules, schema); err != nil {
		return nil, err
	}
	var reads map[*ast.Rule][]read
	if mentionsRelations(files) {
		if reads, err = relationReads(modules, schema); err != nil {
			return nil, err
		}
	}
	lacks, err := lacks(modules, schema)
	if err != nil {
		return nil, err
	}
	packages, err := instrument(modules, reads, lacks)
	if err != nil {
		return nil, err
	}
	compiler, err := compile(modules, schema)
	if err != nil {
		return nil, err
	}
	e := &Engine{packages: packages, files: files, slots: make(chan struct{}, 4*runtime.GOMAXPROCS(0))}
	if e.reads, err = relationsRead(compiler, schema); err != nil {
		return nil, err
	}
	if schema != nil {
		e.schema, e.byType = schema, byType(e.reads, schema)
	}
	e.prepareFilters(compiler, modules)
	return e, e.prepare(compiler)
}

// prepareFilters: only a schema makes filters possible.
func (e *Engine) prepareFilters(compiler *ast.Compiler, modules map[string]*ast.Module) {
	if e.schema == nil {
		return
	}
	once := sync.OnceValues(func() (*ast.Compiler, error) { return compileForFilters(modules, e.schema) })
	w := &doubter{c: compiler, seen: map[*ast.Rule]string{}}
	for _, p := range e.packages {
		p.forFilters = once
		p.doubts(compiler, modules, w)
	}
	for _, t := range e.schema.Types {
		if t.Table != "" {
			_, _ = once() // now: the first list would pay for it within its own time limit. An error is that of every list
			return
		}
	}
}

func (e *Engine) prepare(compiler *ast.Compiler) (err error) {
	if e.query, err = prepare(compiler, decisionQuery(e.packages)); err != nil {
		return err
	}
	for _, p := range e.packages {
		e.permits += p.permits
		if p.trace, err = prepare(compiler, ast.NewBody(ast.NewExpr(ast.NewTerm(p.rule(allowRule))))); err != nil {
			return err
		}
	}
	return nil
}

func prepare(c *ast.Compiler, query ast.Body) (rego.PreparedEvalQuery, error) {
	return rego.New(
		rego.ParsedQuery(query),
		rego.Compiler(c),
		rego.StrictBuiltinErrors(true),
	).PrepareForEval(context.Background())
}

// Evaluate implements authz.Engine. It stops at ctx's deadline.
func (e *Engine) Evaluate(ctx context.Context, r authz.Request) authz.Verdict {
	release, err := e.acquire(ctx)
	if err != nil {
		return failed(err)
	}
	defer release()
	results, err := e.query.Eval(ctx, rego.EvalParsedInput(input(r)), rego.EvalMetrics(metrics.NoOp()))
	if err != nil {
		return failed(err)
	}
	v := authz.Verdict{Looked: e.permits}
	if err := e.read(&v, results); err != nil {
		return failed(err)
	}
	return v
}

// Relations implements authz.Engine. It returns the relations that the policies
// read for any action and, with a schema, that resourceType has.
func (e *Engine) Relations(_ rampart.Action, resourceType string) []string {
	if e.byType == nil {
		return e.reads
	}
	return e.byType[resourceType]
}

func (e *Engine) acquire(ctx context.Context) (release func(), err error) {
	select {
	case e.slots <- struct{}{}:
		return func() { <-e.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// failed turns an evaluation error into a verdict that denies: Rego does not
// say whether a permit or a forbid was lost.
func failed(err error) authz.Verdict {
	f := authz.Failure{
		Policy: rampart.PolicyRef{Engine: engineName, ID: "evaluation"},
		Code:   rampart.CodeError,
		Err:    err,
	}
	if topdown.IsCancel(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		f.Code = rampart.CodeTimeout
	}
	if at, ok := errors.AsType[*topdown.Error](err); ok && at.Location != nil {
		f.Policy.File, f.Policy.Line = at.Location.File, at.Location.Row
	}
	return authz.Verdict{Failures: []authz.Failure{f}}
}

// read takes the answer of decisionQuery apart: one list with four members
// for each package.
func (e *Engine) read(v *authz.Verdict, results rego.ResultSet) error {
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return errors.New("the policies gave no answer")
	}
	answers, ok := results[0].Expressions[0].Value.([]any)
	if !ok || len(answers) != answersEach*len(e.packages) {
		return errors.New("the policies gave an answer of the wrong shape")
	}
	for i, p := range e.packages {
		if err := p.read(v, answers[answersEach*i:]); err != nil {
			return err
		}
	}
	return nil
}
