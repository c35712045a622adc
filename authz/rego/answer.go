package rego

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// decisionQuery asks for everything at once: for each package the allow rules
// that hold, the deny rules that hold, and the absent members.
func decisionQuery(packages []*decider) ast.Body {
	var terms []*ast.Term
	for _, d := range packages {
		terms = append(terms,
			d.ask(d.plainAllow, allowed, allowRule),
			d.ask(d.plainDeny, denied, denyRule),
			d.ask(true, unknown, ""))
	}
	return ast.NewBody(ast.NewExpr(ast.ArrayTerm(terms...)))
}

// ask returns a term that is never undefined: the companion set, nothing when
// it has no rule, or a list that holds the rule's own value if it has one.
func (d *decider) ask(plain bool, companion, rule string) *ast.Term {
	if plain && !d.added[companion] {
		return ast.ArrayTerm()
	}
	if plain {
		return ast.NewTerm(d.rule(companion))
	}
	x := ast.VarTerm("x")
	return ast.ArrayComprehensionTerm(x, ast.NewBody(ast.Equality.Expr(x, ast.NewTerm(d.rule(rule)))))
}

// read adds one package's answers to v.
func (d *decider) read(v *authz.Verdict, answers []any) error {
	permits, err := d.answer(answers[0], d.plainAllow, rampart.Allow)
	if err != nil {
		return err
	}
	forbids, err := d.answer(answers[1], d.plainDeny, rampart.Deny)
	if err != nil {
		return err
	}
	v.Permits = append(v.Permits, rulings(permits)...)
	v.Forbids = append(v.Forbids, rulings(forbids)...)
	missing, _ := answers[2].([]any)
	for _, m := range missing {
		pair, _ := m.([]any)
		if len(pair) != 2 {
			return errors.New("the check for absent members gave the wrong shape")
		}
		ref, err := d.ref(pair[0])
		if err != nil {
			return err
		}
		v.Failures = append(v.Failures, authz.Failure{
			Policy: ref,
			Code:   rampart.CodeError,
			Err:    fmt.Errorf("%v is absent: guard it, or read it with object.get", pair[1]),
		})
	}
	return nil
}

// answer returns the rules behind one answer. Where rules have values of their
// own, only the first rule of the package can be named.
func (d *decider) answer(a any, plain bool, effect rampart.Effect) ([]rampart.PolicyRef, error) {
	list, ok := a.([]any)
	if !ok {
		return nil, errors.New("the policies gave an answer of the wrong shape")
	}
	if plain {
		return d.numbered(list)
	}
	if len(list) == 0 {
		return nil, nil
	}
	yes, err := says(list[0], effect)
	if err != nil || !yes {
		return nil, err
	}
	i := slices.IndexFunc(d.refs, func(r rampart.PolicyRef) bool { return r.Effect == effect })
	return d.refs[i : i+1 : i+1], nil
}

func (d *decider) numbered(list []any) ([]rampart.PolicyRef, error) {
	var refs []rampart.PolicyRef
	for _, n := range list {
		ref, err := d.ref(n)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

func (d *decider) ref(n any) (rampart.PolicyRef, error) {
	i, err := strconv.Atoi(fmt.Sprint(n))
	if err != nil || i < 0 || i >= len(d.refs) {
		return rampart.PolicyRef{}, errors.New("an answer names no rule")
	}
	return d.refs[i], nil
}

// says reads the value of a rule: a permit is exactly true; a forbid is
// anything but false, an empty set and an empty object.
func says(value any, effect rampart.Effect) (bool, error) {
	if b, ok := value.(bool); ok {
		return b, nil
	}
	if effect == rampart.Allow {
		return false, errors.New("allow is neither true nor false")
	}
	switch v := value.(type) {
	case []any:
		return len(v) > 0, nil
	case map[string]any:
		return len(v) > 0, nil
	}
	return true, nil
}

func rulings(refs []rampart.PolicyRef) []authz.Ruling {
	out := make([]authz.Ruling, len(refs))
	for i, ref := range refs {
		out[i].Policy = ref
	}
	return out
}
