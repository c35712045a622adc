package rego

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/rampart-security/rampart/authz"
)

// Covered says how often one condition of a rule held and did not hold. A
// condition that was never reached has neither.
type Covered struct {
	File        string
	Line        int
	Condition   string
	True, False int
}

// Coverage evaluates requests and counts, for each condition of each rule of
// each file, helpers included, how it went. Conditions that are the value of a
// rule (`allow := a == b`) are left out: they always hold or fail with it. The
// rule index is off: a rule that it would pass over counts as looked at. A
// condition counts once for each evaluation, which may be more than one for a
// request. A request that fails counts for as far as it came.
func (e *Engine) Coverage(ctx context.Context, requests []authz.Request) ([]Covered, error) {
	modules, err := parse(e.files)
	if err != nil {
		return nil, fmt.Errorf("rego: %v", err)
	}
	t := newCoverTracer(modules)
	for _, r := range requests {
		release, err := e.acquire(ctx)
		if err != nil {
			return nil, fmt.Errorf("rego: %w", err)
		}
		clear(t.rules)
		_, _ = e.query.Eval(ctx, rego.EvalParsedInput(input(r)), rego.EvalRuleIndexing(false), rego.EvalQueryTracer(t))
		release()
	}
	return t.covered(), nil
}

// place is where a condition begins.
type place struct {
	file   string
	offset int
}

// coverTracer attributes what happens to compiled conditions to the written
// ones: the compiler splits a condition, and the parts keep its location or one
// inside it.
type coverTracer struct {
	bodies map[place][]*Covered // by rule
	starts map[*Covered]*ast.Location
	rules  map[uint64]place // by query
}

func newCoverTracer(modules map[string]*ast.Module) *coverTracer {
	t := &coverTracer{bodies: map[place][]*Covered{}, starts: map[*Covered]*ast.Location{}, rules: map[uint64]place{}}
	for _, m := range modules {
		for _, r := range m.Rules {
			for ; r != nil && !r.Default; r = r.Else {
				t.addRule(r)
			}
		}
	}
	return t
}

func (t *coverTracer) addRule(r *ast.Rule) {
	at := place{r.Location.File, r.Location.Offset}
	for _, x := range r.Body {
		if x.Generated || x.Location == nil {
			continue
		}
		c := &Covered{File: x.Location.File, Line: x.Location.Row, Condition: oneLine(x.Location)}
		t.bodies[at] = append(t.bodies[at], c)
		t.starts[c] = x.Location
	}
}

// Enabled implements topdown.QueryTracer.
func (*coverTracer) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (*coverTracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (t *coverTracer) TraceEvent(e topdown.Event) {
	if r, ok := e.Node.(*ast.Rule); ok && e.Op == topdown.EnterOp && r.Location != nil {
		t.rules[e.QueryID] = place{r.Location.File, r.Location.Offset}
		return
	}
	x, ok := e.Node.(*ast.Expr)
	if !ok || x.Location == nil || e.Op != topdown.EvalOp && e.Op != topdown.FailOp {
		return
	}
	c := t.find(t.rules[e.QueryID], x.Location)
	if c == nil {
		return
	}
	whole := t.starts[c].Offset == x.Location.Offset && len(t.starts[c].Text) == len(x.Location.Text)
	switch {
	case e.Op == topdown.FailOp && whole:
		c.True--
		c.False++
	case e.Op == topdown.FailOp:
		c.False++
	case whole:
		c.True++ // until it fails
	}
}

// find returns the written condition in which l lies.
func (t *coverTracer) find(rule place, l *ast.Location) *Covered {
	for _, c := range t.bodies[rule] {
		start := t.starts[c]
		if l.File == start.File && l.Offset >= start.Offset && l.Offset < start.Offset+len(start.Text) {
			return c
		}
	}
	return nil
}

func (t *coverTracer) covered() []Covered {
	var out []Covered
	for c := range t.starts {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Covered) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Condition, b.Condition))
	})
	return out
}
