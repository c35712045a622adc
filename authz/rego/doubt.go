package rego

import (
	"context"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
)

// said returns what the rules that permit or forbid leave.
func (d *decider) said(ctx context.Context, q open, effect rampart.Effect) ([]rest, error) {
	name, set, plain := denyRule, denied, d.plainDeny
	if effect == rampart.Allow {
		name, set, plain = allowRule, allowed, d.plainAllow
	}
	if plain {
		return d.left(ctx, q, set)
	}
	if own := companion + name; d.added[own] {
		return d.left(ctx, q, own)
	}
	return nil, &filter.Untranslatable{
		Policy: d.refs[d.numbers[d.rules[name][0]]],
		What:   "rules of " + name + " with values of their own may contradict each other",
	}
}

// say adds companions for filters where rules have values of their own. It can
// do so where no two of them can contradict each other, which would be an error
// that denies: when all say true, or there is just one.
func (d *decider) say(name string) {
	rules := d.rules[name]
	lone := len(rules) == 1 && rules[0].Else == nil && !rules[0].Default
	if !lone && slices.ContainsFunc(rules, func(r *ast.Rule) bool { return !saysTrue(r) }) {
		return
	}
	if slices.ContainsFunc(rules, func(r *ast.Rule) bool { return len(r.Head.Ref()) > 1 }) {
		return
	}
	for _, r := range rules {
		for link := r; link != nil; link = link.Else {
			body, ok := sayBody(link, name)
			if !ok {
				return // only a lone rule can fail here
			}
			d.derive(r.Module, r, companion+name, ast.InternedTerm(d.numbers[r]), body)
		}
	}
}

// saysTrue reports whether every branch of r says true.
func saysTrue(r *ast.Rule) bool {
	for link := r; link != nil; link = link.Else {
		if link.Default || link.Head.Value == nil || !ast.Boolean(true).Equal(link.Head.Value.Value) {
			return false
		}
	}
	return true
}

// sayBody is the body of r and that its value says yes. It is false for a value
// of which that is not known.
func sayBody(r *ast.Rule, name string) (ast.Body, bool) {
	body := r.Body.Copy()
	if r.Head.Value == nil || ast.Boolean(true).Equal(r.Head.Value.Value) {
		return body, true
	}
	switch r.Head.Value.Value.(type) {
	case ast.String, ast.Number:
		return body, name == denyRule
	}
	if !isBoolean(r.Head.Value) {
		return nil, false
	}
	body.Append(ast.Equality.Expr(r.Head.Value.Copy(), ast.InternedTerm(true)))
	return body, true
}

// isBoolean reports whether t is a comparison or the like, or a relation.
func isBoolean(t *ast.Term) bool {
	switch v := t.Value.(type) {
	case ast.Boolean:
		return true
	case ast.Ref:
		return v.HasPrefix(ast.InputRootRef) && len(v) == 3 && v[1].Equal(ast.InternedTerm("relation"))
	case ast.Call:
		_, compares := comparison(v[0].String())
		_, looks := look(v[0].String())
		return compares || looks || v[0].String() == ast.Member.Name
	}
	return false
}

// doubter finds rules that may end in an error for some rows only: a rule with
// two values at once. Partial evaluation would take either for granted.
type doubter struct {
	c    *ast.Compiler
	seen map[*ast.Rule]string
}

// rule returns what is doubtful about r or what it calls, or "".
func (w *doubter) rule(r *ast.Rule) string {
	if what, ok := w.seen[r]; ok {
		return what
	}
	w.seen[r] = ""
	what := ""
	ast.WalkRefs(r, func(ref ast.Ref) bool {
		if what == "" && ref.HasPrefix(ast.DefaultRootRef) {
			what = w.group(ref)
		}
		return false
	})
	w.seen[r] = what
	return what
}

func (w *doubter) group(ref ast.Ref) string {
	rules := w.c.GetRulesDynamic(ref)
	if conflicts(rules) {
		first := slices.MinFunc(rules, func(a, b *ast.Rule) int { return a.Location.Compare(b.Location) })
		return fmt.Sprintf("%s (%s) may have two values at once, which is an error", ref.GroundPrefix(), first.Location)
	}
	for _, r := range rules {
		if what := w.rule(r); what != "" {
			return what
		}
	}
	return ""
}

// conflicts reports whether rules of one name may disagree. An else cannot: it
// is asked only when what stands above is undefined.
func conflicts(rules []*ast.Rule) bool {
	var single []*ast.Rule
	for _, r := range rules {
		if !r.Default && r.Head.RuleKind() == ast.SingleValue {
			single = append(single, r)
		}
	}
	for i, r := range single {
		if manyValued(r) {
			return true
		}
		for _, other := range single[:i] {
			if !agree(r, other) && !apart(r, other) {
				return true
			}
		}
	}
	return false
}

// manyValued reports whether one body may give two values.
func manyValued(r *ast.Rule) bool {
	for link := r; link != nil; link = link.Else {
		if link.Head.Value.IsGround() && link.Head.Ref().IsGround() {
			continue
		}
		many := !link.Head.Ref().IsGround()
		ast.WalkRefs(link.Body, func(ref ast.Ref) bool {
			many = many || !ref.IsGround() || ref.Equal(ast.WalkBuiltin.Ref())
			return false
		})
		if many {
			return true
		}
	}
	return false
}

// agree reports whether two rules can only have one and the same value.
func agree(a, b *ast.Rule) bool {
	return a.Else == nil && b.Else == nil && a.Head.Value.IsGround() && a.Head.Value.Equal(b.Head.Value)
}

// apart reports whether no call fits both rules.
func apart(a, b *ast.Rule) bool {
	if !a.Head.Ref().Equal(b.Head.Ref()) && a.Head.Ref().IsGround() && b.Head.Ref().IsGround() {
		return true
	}
	for i, arg := range a.Head.Args {
		if i < len(b.Head.Args) && arg.IsGround() && b.Head.Args[i].IsGround() && !arg.Equal(b.Head.Args[i]) {
			return true
		}
	}
	return false
}

// doubts finds what is doubtful about each rule that has a number.
func (d *decider) doubts(c *ast.Compiler, modules map[string]*ast.Module, w *doubter) {
	for name, m := range modules {
		for i, r := range m.Rules {
			if n, ok := d.numbers[r]; ok {
				d.doubtful[n] = w.rule(c.Modules[name].Rules[i])
			}
		}
	}
}
