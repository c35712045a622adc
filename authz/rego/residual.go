package rego

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// maxBodies bounds the conditions that one set of rules leaves.
const maxBodies = 2000

// Residual implements filter.Source: it evaluates the policies with id,
// attributes and relations of the resource unknown (the tenant too, unless r
// names one) and translates what is left. A schema must declare the type. Of
// the values of rows the schema's kinds are taken for granted, as the decision
// point checks them before a check.
//
// Obligations, masks and fields come with the permits of their package. A rule
// of theirs that depends on the resource is refused with Untranslatable: what a
// list calls for, and what it shows, is the same for all of its rows.
func (e *Engine) Residual(ctx context.Context, r authz.Request) (filter.Residual, error) {
	q := e.question(r.Resource.Type)
	r.Resource = rampart.Resource{Type: r.Resource.Type, Tenant: r.Resource.Tenant}
	r.Relations = nil
	if r.Resource.Tenant != "" {
		delete(q.kinds, "tenant")
	}
	q.doc = input(r)
	return e.residual(ctx, q)
}

// ResidualRLS does so with principal and context unknown as well: facts of the
// principal become filter.Subject, for row-level security. A database masks
// nothing: masks and fields are left to Residual, and a package that may call
// for obligations is refused.
func (e *Engine) ResidualRLS(ctx context.Context, action rampart.Action, resourceType string) (filter.Residual, error) {
	q := e.question(resourceType)
	q.rls = true
	var doc members
	doc.put(key.action, authz.Verb(action))
	doc.put(key.actionFull, string(action))
	doc.add(key.resource, ast.NewTerm(resource(rampart.Resource{Type: resourceType})))
	doc.add(key.relation, relations(nil))
	q.doc = doc.object()
	return e.residual(ctx, q)
}

// open is a question with unknowns.
type open struct {
	declared  bool
	kinds     map[string]authz.AttrKind // of unknown attributes
	relations []string
	rls       bool
	doc       ast.Value
}

func (e *Engine) question(resourceType string) open {
	q := open{kinds: map[string]authz.AttrKind{"id": authz.KindString, "tenant": authz.KindString}}
	if e.schema == nil {
		return q
	}
	t, ok := e.schema.Types[resourceType]
	q.declared, q.relations = ok, t.Relations
	for name, a := range t.Attrs {
		if name != "id" && name != "tenant" && name != "type" {
			q.kinds[name] = a.Kind
		}
	}
	return q
}

// unknowns lists what partial evaluation must leave alone.
func (q open) unknowns() []*ast.Term {
	under := func(parent, name string) *ast.Term {
		return ast.NewTerm(ast.InputRootRef.Append(ast.StringTerm(parent)).Append(ast.StringTerm(name)))
	}
	var out []*ast.Term
	for _, name := range slices.Sorted(maps.Keys(q.kinds)) {
		out = append(out, under("resource", name))
	}
	for _, name := range q.relations {
		out = append(out, under("relation", name))
	}
	if q.rls {
		out = append(out,
			ast.NewTerm(ast.InputRootRef.Append(ast.StringTerm("user"))),
			ast.NewTerm(ast.InputRootRef.Append(ast.StringTerm("context"))))
	}
	return out
}

func (e *Engine) residual(ctx context.Context, q open) (filter.Residual, error) {
	if !q.declared {
		return filter.Residual{}, errors.New("rego: a filter needs a resource type that the schema declares")
	}
	release, err := e.acquire(ctx)
	if err != nil {
		return filter.Residual{}, fmt.Errorf("rego: %w", err)
	}
	defer release()
	var out filter.Residual
	for _, d := range e.packages {
		part, err := d.residual(ctx, q)
		if u, ok := errors.AsType[*filter.Untranslatable](err); ok {
			return filter.Residual{}, u
		}
		if topdown.IsCancel(err) && ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil {
			return filter.Residual{}, fmt.Errorf("rego: %w", err)
		}
		out = merge(out, part)
	}
	return out, nil
}

func merge(a, b filter.Residual) filter.Residual {
	for i, p := range b.Permits {
		var by authz.Ruling
		if b.Rulings != nil {
			by = b.Rulings[i]
		}
		a.Permit(p, by)
	}
	a.Forbids = append(a.Forbids, b.Forbids...)
	return a
}

// residual joins the companions of one package as read joins their answers.
func (d *decider) residual(ctx context.Context, q open) (filter.Residual, error) {
	permits, err := d.said(ctx, q, rampart.Allow)
	if err != nil {
		return filter.Residual{}, err
	}
	forbids, err := d.said(ctx, q, rampart.Deny)
	if err != nil {
		return filter.Residual{}, err
	}
	if len(permits)+len(forbids) == 0 && !d.added[unknown] {
		return filter.Residual{}, nil
	}
	missing, err := d.left(ctx, q, unknown)
	if err != nil {
		return filter.Residual{}, err
	}
	by, err := d.partDuties(ctx, q, permits)
	if err != nil {
		return filter.Residual{}, err
	}
	return d.join(permits, forbids, missing, by), nil
}

// join takes as by what the package's permits ask for.
func (d *decider) join(permits, forbids, missing []rest, by authz.Ruling) filter.Residual {
	permits = slices.Clone(permits)
	for i, p := range permits {
		for _, m := range missing {
			if d.refs[m.rule].Effect == rampart.Allow && (m.rule == p.rule || !d.plainAllow) {
				permits[i].cond = and(permits[i].cond, not(m.cond))
			}
		}
	}
	answered := filter.Expr(filter.Const(false))
	var out filter.Residual
	for _, p := range permits {
		by.Policy = d.refs[p.rule]
		out.Permit(p.cond, by)
		answered = or(answered, p.cond)
	}
	for _, f := range forbids {
		out.Forbids = append(out.Forbids, f.cond)
		answered = or(answered, f.cond)
	}
	for _, m := range missing {
		switch {
		case d.refs[m.rule].Effect == rampart.Allow:
		case d.decide[m.rule]:
			out.Forbids = append(out.Forbids, and(m.cond, filter.Undefined{}))
		default:
			out.Forbids = append(out.Forbids, and(and(m.cond, answered), filter.Undefined{}))
		}
	}
	return out
}

// rest is what one rule leaves.
type rest struct {
	rule int
	cond filter.Expr // never undefined but by a relation
}

// left evaluates a companion set as far as q is known.
func (d *decider) left(ctx context.Context, q open, set string) ([]rest, error) {
	if !d.added[set] {
		return nil, nil
	}
	n := ast.VarTerm(localValue)
	left, err := d.partial(ctx, q, ast.NewBody(ast.NewExpr(ast.NewTerm(d.rule(set).Append(n)))))
	if err != nil {
		return nil, err
	}
	if len(left.Queries) > maxBodies {
		return nil, &filter.Untranslatable{Policy: d.refs[0], What: fmt.Sprintf("its rules leave more than %d conditions", maxBodies)}
	}
	t := newTranslator(q, d, left.Support)
	var out []rest
	for _, body := range left.Queries {
		r, err := t.query(body)
		if err != nil {
			return nil, err
		}
		if r.cond != filter.Const(false) {
			out = append(out, r)
		}
	}
	return out, nil
}

func (d *decider) partial(ctx context.Context, q open, body ast.Body) (*rego.PartialQueries, error) {
	compiler, err := d.forFilters()
	if err != nil {
		return nil, err
	}
	prepared, err := rego.New(
		rego.ParsedQuery(body),
		rego.Compiler(compiler),
		rego.StrictBuiltinErrors(true),
	).PrepareForPartial(ctx)
	if err != nil {
		return nil, err
	}
	return prepared.Partial(ctx, rego.EvalParsedInput(q.doc), rego.EvalParsedUnknowns(q.unknowns()))
}
