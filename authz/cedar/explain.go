package cedar

import (
	"cmp"
	"context"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// maxExplained bounds how many permits Explain takes apart.
const maxExplained = 64

// Explain implements authz.Engine. It splits each condition at its top-level
// && and names the first part that did not hold; parts after it are not
// reached, because an earlier part may guard them. Inside || it can only show
// the whole part.
func (e *Engine) Explain(_ context.Context, r authz.Request) []rampart.NearMiss {
	q, err := e.question(r)
	if err != nil {
		return nil
	}
	s := e.index.slice(q.request)
	env := q.env()
	var misses []rampart.NearMiss
	for p := range s.each {
		if p.ref.Effect != rampart.Allow {
			continue
		}
		if m, ok := explain(p, env); ok {
			misses = append(misses, m)
		}
		if len(misses) == maxExplained {
			break
		}
	}
	slices.SortStableFunc(misses, func(a, b rampart.NearMiss) int { return cmp.Compare(b.Held, a.Held) })
	return misses
}

// explain returns the first condition of p that does not hold; false when p
// matches, or concerns another principal or resource.
func explain(p *policy, env eval.Env) (rampart.NearMiss, bool) {
	if !inScope(p.tree, env) {
		return rampart.NearMiss{}, false
	}
	miss := rampart.NearMiss{Policy: p.ref}
	for _, part := range p.parts {
		v, err := eval.Eval(part.Body, env)
		holds, isBool := v.(cedar.Boolean)
		if err == nil && isBool && bool(holds) == bool(part.Condition) {
			miss.Held++
			continue
		}
		miss.Condition, miss.Line = part.text, part.line
		miss.Problem = problem(part, err)
		return miss, true
	}
	return rampart.NearMiss{}, false
}

// inScope decides what the index leaves open: a named principal or resource.
func inScope(p *ast.Policy, env eval.Env) bool {
	scope := *p
	scope.Conditions = nil
	v, err := eval.Eval(eval.PolicyToNode(&scope).AsIsNode(), env)
	return err == nil && v == cedar.True
}

func problem(part part, err error) string {
	if err != nil {
		return "cannot be evaluated: " + err.Error()
	}
	if part.Condition == ast.ConditionUnless {
		return "is true, and is an exception"
	}
	return "is false"
}
