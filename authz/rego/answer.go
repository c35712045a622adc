package rego

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// decisionQuery asks for everything at once: for each package the allow rules
// that hold, the deny rules that hold, the absent members, and the duties.
func decisionQuery(packages []*decider) ast.Body {
	var terms []*ast.Term
	for _, d := range packages {
		terms = append(terms,
			d.ask(d.plainAllow, allowed, allowRule),
			d.ask(d.plainDeny, denied, denyRule),
			d.ask(true, unknown, ""),
			d.askDuties())
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

// askDuties returns a list of the package's duties, empty when it has no rule
// of the kind.
func (d *decider) askDuties() *ast.Term {
	var terms []*ast.Term
	for _, name := range duties() {
		if d.duties[name] {
			terms = append(terms, ast.NewTerm(d.rule(name)))
		}
	}
	return ast.ArrayTerm(terms...)
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
	missing, err := d.missing(answers[2])
	if err != nil {
		return err
	}
	permits = slices.DeleteFunc(permits, func(f finding) bool {
		return slices.ContainsFunc(missing, func(m absence) bool {
			return d.refs[m.rule].Effect == rampart.Allow && (m.rule == f.rule || !d.plainAllow)
		})
	})
	answered := len(permits)+len(forbids) > 0
	for _, m := range missing {
		if answered || d.decide[m.rule] {
			v.Failures = append(v.Failures, d.failure(m))
		}
	}
	if !answered {
		return nil
	}
	obligations, fields, err := d.readDuties(answers[3])
	if err != nil {
		return fmt.Errorf("package %s: %v", d.name(), err)
	}
	for _, f := range permits {
		v.Permits = append(v.Permits, authz.Ruling{Policy: d.refs[f.rule], Obligations: obligations, Fields: fields})
	}
	for _, f := range forbids {
		v.Forbids = append(v.Forbids, authz.Ruling{Policy: d.refs[f.rule], Obligations: obligations, Detail: f.detail, Reason: f.reason})
	}
	return nil
}

// finding is a rule that holds.
type finding struct {
	rule int
	said
}

// said is what a deny rule says: detail for operators, reason for the user.
type said struct{ detail, reason string }

// absence is a rule that could not be evaluated, and the member it lacks.
type absence struct {
	rule   int
	member any
}

func (d *decider) failure(m absence) authz.Failure {
	return authz.Failure{
		Policy: d.refs[m.rule],
		Code:   rampart.CodeError,
		Err:    fmt.Errorf("%v is absent: guard it, or read it with object.get", m.member),
	}
}

func (d *decider) missing(answer any) ([]absence, error) {
	list, ok := answer.([]any)
	if !ok {
		return nil, errShape
	}
	var out []absence
	for _, m := range list {
		pair, _ := m.([]any)
		if len(pair) != 2 {
			return nil, errShape
		}
		i, err := d.index(pair[0])
		if err != nil {
			return nil, err
		}
		seen := slices.ContainsFunc(out, func(a absence) bool { return a.rule == i && a.member == pair[1] })
		if !seen {
			out = append(out, absence{i, pair[1]})
		}
	}
	return out, nil
}

var errShape = errors.New("the policies gave an answer of the wrong shape")

// answer returns the rules behind one answer. Where rules have values of their
// own, only the first rule of the package can be named.
func (d *decider) answer(a any, plain bool, effect rampart.Effect) ([]finding, error) {
	list, ok := a.([]any)
	if !ok {
		return nil, errShape
	}
	if plain {
		return d.numbered(list)
	}
	if len(list) == 0 {
		return nil, nil
	}
	yes, err := holds(list[0], effect)
	if err != nil || !yes {
		return nil, err
	}
	for i, ref := range d.refs {
		if d.decide[i] && ref.Effect == effect {
			return []finding{{i, says(list[0])}}, nil
		}
	}
	return nil, errShape
}

// numbered reads rule numbers, each alone or with a list of what it says. A
// rule that holds several times is named once.
func (d *decider) numbered(list []any) ([]finding, error) {
	var found []finding
	for _, n := range list {
		var what said
		if pair, ok := n.([]any); ok && len(pair) == 2 {
			n = pair[0]
			if values, _ := pair[1].([]any); len(values) > 0 {
				what = says(values[0])
			}
		}
		i, err := d.index(n)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 || found[len(found)-1].rule != i { // sets are sorted
			found = append(found, finding{i, what})
		}
	}
	return found, nil
}

func (d *decider) index(n any) (int, error) {
	number, ok := n.(json.Number)
	if !ok {
		return 0, errShape
	}
	i, err := strconv.Atoi(string(number))
	if err != nil || i < 0 || i >= len(d.refs) {
		return 0, errors.New("an answer names no rule")
	}
	return i, nil
}

// holds reads the value of a rule: a permit is exactly true; a forbid is
// anything but false, an empty set and an empty object.
func holds(value any, effect rampart.Effect) (bool, error) {
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
