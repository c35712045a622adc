package rego

import (
	"context"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// partDuties is what permits of the package ask for, whatever the row.
func (d *decider) partDuties(ctx context.Context, q open, permits []rest) (authz.Ruling, error) {
	if q.rls {
		if err := d.noObligations(ctx, q, permits); err != nil {
			return authz.Ruling{}, err
		}
		return authz.Ruling{}, d.textDuties()
	}
	if len(permits) == 0 {
		return authz.Ruling{}, nil
	}
	asked := map[string][]any{}
	for _, name := range duties() {
		if !d.duties[name] {
			continue
		}
		var err error
		if asked[name], err = d.known(ctx, q, name); err != nil {
			return authz.Ruling{}, err
		}
	}
	obligations, err := d.readObligations(asked[obligationsRule])
	if err != nil {
		return authz.Ruling{}, d.noDuty(obligationsRule, 0, err.Error())
	}
	fields, err := d.readFields(asked)
	if err != nil {
		return authz.Ruling{}, d.noDuty(maskRule, 0, err.Error())
	}
	return authz.Ruling{Obligations: obligations, Fields: fields}, nil
}

// known returns the members of a duty's set. It refuses one that depends on
// what is unknown.
func (d *decider) known(ctx context.Context, q open, name string) ([]any, error) {
	left, err := d.partial(ctx, q, d.members(name))
	if err != nil {
		return nil, err
	}
	found := ast.NewSet()
	for _, body := range left.Queries {
		key := wholeKey(body)
		if key == nil || !key.IsGround() {
			return nil, d.noDuty(name, lineOf(body), "what it calls for depends on the resource, and is the same for all rows of a list")
		}
		found.Add(key)
	}
	list, err := ast.JSON(found)
	if err != nil {
		return nil, err
	}
	members, _ := list.([]any)
	return members, nil
}

// members asks for each member of a set.
func (d *decider) members(name string) ast.Body {
	return ast.NewBody(ast.NewExpr(ast.NewTerm(d.rule(name).Append(ast.VarTerm(localValue)))))
}

// wholeKey is the member, if nothing is left to be known of whether it is one.
func wholeKey(body ast.Body) *ast.Term {
	if len(body) != 1 || !isKey(body[0]) || len(body[0].With) > 0 {
		return nil
	}
	if key := body[0].Operand(1); key.Value.Compare(ast.Var(localValue)) != 0 {
		return key
	}
	return body[0].Operand(0)
}

// lineOf is where what is left stands; 0 when nothing tells.
func lineOf(body ast.Body) int {
	for _, x := range body {
		if x.Location != nil && x.Location.File != "" && !isKey(x) {
			return x.Location.Row
		}
	}
	return 0
}

// noDuty refuses the last rule of a duty that begins at the line or above, or
// else its first.
func (d *decider) noDuty(name string, line int, what string) error {
	rules := d.rules[name]
	if len(rules) == 0 { // mask stands for fields, too
		rules = d.rules[fieldsRule]
	}
	rule := rules[0]
	for _, r := range rules {
		if r.Location.Row <= line {
			rule = r
		}
	}
	return &filter.Untranslatable{Policy: d.refs[d.numbers[rule]], What: what}
}

// noObligations refuses a package that may call for obligations.
func (d *decider) noObligations(ctx context.Context, q open, permits []rest) error {
	if !d.duties[obligationsRule] || len(permits) == 0 {
		return nil
	}
	left, err := d.partial(ctx, q, d.members(obligationsRule))
	if err != nil || len(left.Queries) == 0 {
		return err
	}
	return &filter.Untranslatable{Policy: d.refs[permits[0].rule], What: "it calls for obligations, which a database cannot carry out"}
}

// textDuties refuses masks and fields that might be no texts: a check fails
// then, for some rows.
func (d *decider) textDuties() error {
	c, err := d.forFilters()
	if err != nil {
		return err
	}
	for _, name := range []string{maskRule, fieldsRule} {
		if !d.duties[name] {
			continue
		}
		set, ok := c.TypeEnv.GetByRef(d.rule(name)).(*types.Set)
		if !ok || types.Compare(set.Of(), types.S) != 0 {
			return &filter.Untranslatable{Policy: d.refs[d.numbers[d.rules[name][0]]], What: "its members might be no texts"}
		}
	}
	return nil
}
