package cedar

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

var _ filter.Source = (*Engine)(nil)

// Residual implements filter.Source. It needs a schema that declares the type:
// without one, nobody knows which column an attribute is and what is in it.
//
// What depends on nothing unknown is evaluated by Cedar itself; the rest is
// said as filter.Expr node by node, whose rules of what is undefined are
// Cedar's. Rulings are shared with verdicts and must not be changed. The resource's tenant stays a condition even where r knows it.
func (e *Engine) Residual(_ context.Context, r authz.Request) (filter.Residual, error) {
	q, err := e.question(authz.Request{
		Principal: r.Principal, Action: r.Action, Context: r.Context,
		Resource: rampart.Resource{Type: r.Resource.Type},
	})
	if err != nil {
		return filter.Residual{}, fmt.Errorf("cedar: %v", err)
	}
	t := e.translator(r.Resource.Type, q)
	s := e.index.slice(q.request)
	return e.residual(t, s.each)
}

// ResidualRLS is Residual for row-level security: the principal is unknown
// too, and what policies read of it becomes filter.Subject. A database masks
// nothing and carries out no obligation: whoever asks for rows does. The
// context of a request, its time included, is unknown to a database; a policy that reads it
// is Untranslatable.
func (e *Engine) ResidualRLS(_ context.Context, action rampart.Action, resourceType string) (filter.Residual, error) {
	q, err := e.question(authz.Request{Action: action, Resource: rampart.Resource{Type: resourceType}})
	if err != nil {
		return filter.Residual{}, fmt.Errorf("cedar: %v", err)
	}
	t := e.translator(resourceType, q)
	t.rls = true
	return e.residual(t, func(yield func(*policy) bool) {
		for _, p := range e.order {
			if !yield(p) {
				return
			}
		}
	})
}

func (e *Engine) translator(typ string, q *question) *translator {
	o := e.object(typ)
	return &translator{
		resource: q.request.Resource,
		attrs:    o.attrs,
		env:      q.env(),
	}
}

// residual translates each policy. A policy that can match nothing is left
// out; a forbid that cannot be evaluated stays, as it forbids everything.
func (e *Engine) residual(t *translator, each func(func(*policy) bool)) (filter.Residual, error) {
	var out filter.Residual
	for p := range each {
		cond, err := t.policy(p)
		if err != nil {
			return filter.Residual{}, err
		}
		switch {
		case cond == filter.Const(false) || p.ref.Effect == rampart.Allow && neverTrue(cond):
		case p.ref.Effect == rampart.Allow:
			out.Permit(cond, p.ruling)
		default:
			out.Forbids = append(out.Forbids, cond)
		}
	}
	return out, nil
}

// neverTrue reports whether c is known to be false or undefined for all rows.
func neverTrue(c filter.Expr) bool {
	if and, ok := c.(filter.And); ok {
		return neverTrue(and.L) || neverTrue(and.R)
	}
	return ends(c)
}

// policy says a whole policy as one condition: its scope, then its conditions
// in Cedar's order. Behind a false one nothing is looked at, so nothing need be
// translatable there.
func (t *translator) policy(p *policy) (filter.Expr, error) {
	var whole filter.Expr = filter.Const(true)
	list := append(scopeParts(p), p.parts...)
	for _, c := range list {
		cond, err := t.cond(c.Body)
		if err != nil {
			return nil, t.refuse(p, c, err)
		}
		if c.Condition == ast.ConditionUnless {
			cond = not(cond)
		}
		if whole = and(whole, cond); ends(whole) {
			break
		}
	}
	return whole, nil
}

// scopeParts returns what a policy's scope demands as conditions. A scope never
// fails, so the action, which is known, may come first.
func scopeParts(p *policy) []part {
	tree, all := p.tree, ast.Scope{}.All()
	var out []part
	for _, scope := range []ast.Policy{
		{Principal: all, Action: tree.Action, Resource: all},
		{Principal: all, Action: all, Resource: tree.Resource},
		{Principal: tree.Principal, Action: all, Resource: all},
	} {
		body := eval.PolicyToNode(&scope).AsIsNode()
		out = append(out, part{ConditionType: ast.ConditionType{Condition: ast.ConditionWhen, Body: body}, line: p.ref.Line})
	}
	return out
}

// ends reports whether no condition after c can change anything.
func ends(c filter.Expr) bool {
	return c == filter.Const(false) || c == filter.Expr(filter.Undefined{})
}

func (t *translator) refuse(p *policy, c part, why error) error {
	what := why.Error()
	if c.text != "" {
		what = clip(c.text) + ": " + what
	}
	if c.line > 0 {
		what = fmt.Sprintf("%s:%d: %s", p.ref.File, c.line, what)
	}
	return &filter.Untranslatable{Policy: p.ref, What: what}
}

// clip keeps a long condition from filling a message.
func clip(text string) string {
	const limit = 200
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "..."
}

// The connectives, with what is known folded away. The right side of a false
// And or a true Or is never looked at, as in Cedar.
func and(l, r filter.Expr) filter.Expr {
	switch {
	case l == filter.Const(true):
		return r
	case ends(l) || r == filter.Const(true):
		return l
	}
	return filter.And{L: l, R: r}
}

func or(l, r filter.Expr) filter.Expr {
	switch {
	case l == filter.Const(false):
		return r
	case l == filter.Const(true) || l == filter.Expr(filter.Undefined{}) || r == filter.Const(false):
		return l
	}
	return filter.Or{L: l, R: r}
}

func not(x filter.Expr) filter.Expr {
	switch x := x.(type) {
	case filter.Const:
		return !x
	case filter.Undefined:
		return x
	case filter.Not:
		return x.X
	}
	return filter.Not{X: x}
}

// all joins conditions with and.
func all(list ...filter.Expr) filter.Expr {
	var out filter.Expr = filter.Const(true)
	for _, c := range list {
		out = and(out, c)
	}
	return out
}

// literal turns a known value into one of a filter; false for what a filter
// has no value for.
func literal(v cedar.Value) (filter.Lit, authz.AttrKind, bool) {
	switch v := v.(type) {
	case cedar.String:
		return filter.Lit{Value: string(v)}, authz.KindString, true
	case cedar.Boolean:
		return filter.Lit{Value: bool(v)}, authz.KindBool, true
	case cedar.Long:
		return filter.Lit{Value: int64(v)}, authz.KindLong, true
	case cedar.Decimal:
		f := v.Float()
		back, err := decimal(f)
		return filter.Lit{Value: f}, authz.KindDecimal, err == nil && back.Equal(v) && math.Abs(f) < maxExact/1e4
	}
	return filter.Lit{}, "", false
}
