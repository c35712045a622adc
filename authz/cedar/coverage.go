package cedar

import (
	"context"

	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"github.com/rampart-security/rampart/authz"
)

// Covered is how often one condition was seen to hold and not to.
type Covered struct {
	File, Policy string // the policy's file and @id
	Line         int
	Condition    string // source text; "" for the scope of the policy
	True, False  int
}

// Coverage evaluates requests and reports, for each policy in the order of the
// files, its scope and then its conditions. A condition behind one that did
// not hold is not reached and not counted, nor is one that cannot be evaluated;
// an `unless` counts by the value of its body. A condition with a zero on
// either side was not tested.
func (e *Engine) Coverage(_ context.Context, requests []authz.Request) []Covered {
	counts := make([][]Covered, len(e.order))
	for i, p := range e.order {
		counts[i] = append(counts[i], Covered{File: p.ref.File, Policy: p.ref.ID, Line: p.ref.Line})
		for _, c := range p.parts {
			counts[i] = append(counts[i], Covered{File: p.ref.File, Policy: p.ref.ID, Line: c.line, Condition: c.text})
		}
	}
	for _, r := range requests {
		q, err := e.question(r)
		if err != nil {
			continue
		}
		env := q.env()
		for i, p := range e.order {
			p.cover(counts[i], env)
		}
	}
	var out []Covered
	for _, list := range counts {
		out = append(out, list...)
	}
	return out
}

// cover counts one request: the scope, then each condition that is reached.
func (p *policy) cover(counts []Covered, env eval.Env) {
	if !inScope(p.tree, env) {
		counts[0].False++
		return
	}
	counts[0].True++
	for i, c := range p.parts {
		value, ok := c.eval(env)
		if !ok {
			return
		}
		if value {
			counts[i+1].True++
		} else {
			counts[i+1].False++
		}
		if value != bool(c.Condition) {
			return
		}
	}
}
