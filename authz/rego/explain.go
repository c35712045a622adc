package rego

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// maxExplained bounds the rules of a package that Explain traces: it has to
// switch the rule index off.
const maxExplained = 64

// Explain implements authz.Engine. It evaluates `allow` once more under a
// tracer and names the condition at which each rule stopped. Packages with more
// than 64 allow rules are left out.
func (e *Engine) Explain(ctx context.Context, r authz.Request) []rampart.NearMiss {
	release, err := e.acquire(ctx)
	if err != nil {
		return nil
	}
	defer release()
	doc := input(r)
	var misses []rampart.NearMiss
	for _, d := range e.packages {
		if d.permits > maxExplained {
			continue
		}
		t := tracer{ref: d.name() + "." + allowRule, rules: map[uint64]*rampart.NearMiss{}}
		// An error ends the trace early; what was seen until then stands.
		_, _ = d.trace.Eval(ctx, rego.EvalParsedInput(doc), rego.EvalRuleIndexing(false), rego.EvalQueryTracer(&t))
		misses = append(misses, t.misses()...)
	}
	slices.SortStableFunc(misses, func(a, b rampart.NearMiss) int { return cmp.Compare(b.Held, a.Held) })
	return misses
}

// tracer records at which condition each allow rule stopped.
type tracer struct {
	ref   string
	rules map[uint64]*rampart.NearMiss // by query, one per rule entered
	order []uint64
}

// Enabled implements topdown.QueryTracer.
func (*tracer) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (*tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (t *tracer) TraceEvent(e topdown.Event) {
	switch e.Op {
	case topdown.EnterOp:
		t.enter(e)
	case topdown.FailOp:
		t.fail(e)
	}
}

func (t *tracer) enter(e topdown.Event) {
	rule, ok := e.Node.(*ast.Rule)
	if !ok || len(rule.Head.Ref()) == 0 || rule.Default {
		return
	}
	name := strings.TrimPrefix(rule.Module.Package.Path.String(), "data.") + "." + rule.Head.Name.String()
	if name != t.ref || rule.Location == nil {
		return
	}
	t.rules[e.QueryID] = &rampart.NearMiss{Policy: rampart.PolicyRef{
		Engine: engineName,
		ID:     name,
		File:   rule.Location.File,
		Line:   rule.Location.Row,
		Effect: rampart.Allow,
	}}
	t.order = append(t.order, e.QueryID)
}

// fail keeps the furthest condition that failed: a body with several
// solutions fails more than once.
func (t *tracer) fail(e topdown.Event) {
	miss := t.rules[e.QueryID]
	condition, ok := e.Node.(*ast.Expr)
	if miss == nil || !ok || condition.Location == nil {
		return
	}
	if miss.Condition != "" && condition.Index < miss.Held {
		return
	}
	miss.Held = condition.Index
	miss.Condition = strings.Join(strings.Fields(string(condition.Location.Text)), " ")
	miss.Line = condition.Location.Row
	miss.Problem = "does not hold"
}

func (t *tracer) misses() []rampart.NearMiss {
	var out []rampart.NearMiss
	for _, id := range t.order {
		if m := t.rules[id]; m.Condition != "" {
			out = append(out, *m)
		}
	}
	return out
}
