package cedar

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

var errSets = errors.New("a comparison of whole sets; ask for members with contains")

// equal translates ==, which is false between two kinds.
func (t *translator) equal(x, y term) (term, error) {
	if x.known != nil {
		x, y = y, x // at most y is known
	}
	switch {
	case x.entity != "":
		return t.equalEntity(x, y)
	case y.entity != "":
		return t.never(x), nil
	case x.elems != nil || y.elems != nil:
		return term{}, errSets
	case x.cond != nil || y.cond != nil:
		return t.iff(x, y), nil
	case y.operand != nil:
		return t.equalOperands(x, y)
	}
	return t.equalKnown(x, y)
}

func (t *translator) equalEntity(x, y term) (term, error) {
	if y.entity != "" {
		return condition(filter.Const(x.entity == y.entity)), nil
	}
	if y.known == nil {
		return t.never(y), nil
	}
	v, _ := t.force(y)
	uid, ok := v.(cedar.EntityUID)
	if !ok {
		return condition(filter.Const(false)), nil
	}
	c, err := t.isEntity(x, uid)
	return condition(c), err
}

// iff compares conditions: both sides are looked at.
func (t *translator) iff(x, y term) term {
	if !t.isBool(x) || !t.isBool(y) {
		return t.never(x, y)
	}
	a, b := t.asCond(x), t.asCond(y)
	return condition(or(and(a, b), and(not(a), not(b))))
}

func (t *translator) equalOperands(x, y term) (term, error) {
	switch {
	case x.kind != y.kind:
		return t.never(x, y), nil
	case x.kind == authz.KindStrings:
		return term{}, errSets
	}
	return condition(filter.Cmp{Op: filter.Eq, L: x.operand, R: y.operand}), nil
}

func (t *translator) equalKnown(x, y term) (term, error) {
	v, _ := t.force(y)
	if _, isSet := v.(cedar.Set); isSet && x.kind == authz.KindStrings {
		return term{}, errSets
	}
	lit, kind, ok := literal(v)
	switch {
	case kind == authz.KindDecimal && !ok:
		return term{}, fmt.Errorf("%s has too many digits for a filter", v)
	case !ok || kind != x.kind:
		return t.never(x), nil
	}
	return condition(filter.Cmp{Op: filter.Eq, L: x.operand, R: lit}), nil
}

// order translates a comparison of two longs, or of two decimals; all else fails.
func (t *translator) order(op filter.Op, kind authz.AttrKind, list []term) (term, error) {
	var sides [2]filter.Operand
	for i, x := range list {
		var err error
		if sides[i], err = t.number(x, kind); err != nil {
			return term{}, err
		}
		if sides[i] == nil {
			return undefined, nil
		}
	}
	return condition(filter.Cmp{Op: op, L: sides[0], R: sides[1]}), nil
}

// number returns x as an operand of the given kind, or nil.
func (t *translator) number(x term, kind authz.AttrKind) (filter.Operand, error) {
	if x.known == nil {
		if x.kind != kind {
			return nil, nil
		}
		return x.operand, nil
	}
	v, _ := t.force(x)
	lit, got, ok := literal(v)
	switch {
	case got != kind:
		return nil, nil
	case !ok:
		return nil, fmt.Errorf("%s has too many digits for a filter", v)
	}
	return lit, nil
}

// call translates functions and methods of extension types.
func (t *translator) call(n ast.NodeTypeExtensionCall, list []term) (term, error) {
	op := map[types.Path]filter.Op{
		"lessThan": filter.Lt, "lessThanOrEqual": filter.Le,
		"greaterThan": filter.Gt, "greaterThanOrEqual": filter.Ge,
	}[n.Name]
	if op == "" || len(list) != 2 {
		return term{}, fmt.Errorf("%s of what is unknown", n.Name)
	}
	return t.order(op, authz.KindDecimal, list)
}

// like translates patterns with one open end, or two.
func (t *translator) like(x term, p types.Pattern) (term, error) {
	if x.operand == nil || x.kind != authz.KindString {
		return undefined, nil
	}
	words, ok := wordsOf(p)
	if !ok || len(words) > 3 {
		return term{}, errors.New("a pattern other than \"a*\", \"*a\" or \"*a*\"")
	}
	look := func(op filter.TextOp, part string) (term, error) {
		return condition(filter.Text{Op: op, X: x.operand, Part: filter.Lit{Value: part}}), nil
	}
	switch {
	case len(words) == 1:
		return condition(filter.Cmp{Op: filter.Eq, L: x.operand, R: filter.Lit{Value: words[0]}}), nil
	case strings.Join(words, "") == "":
		return condition(need(x.operand)), nil
	case len(words) == 2 && words[1] == "":
		return look(filter.Prefix, words[0])
	case len(words) == 2 && words[0] == "":
		return look(filter.Suffix, words[1])
	case len(words) == 3 && words[0] == "" && words[2] == "":
		return look(filter.Contains, words[1])
	}
	return term{}, errors.New("a pattern other than \"a*\", \"*a\" or \"*a*\"")
}

// wordsOf returns what stands between the wildcards of a pattern: "a*" is "a"
// and "". A pattern shows its parts as JSON only.
func wordsOf(p types.Pattern) ([]string, bool) {
	b, err := p.MarshalJSON()
	if err != nil {
		return nil, false
	}
	var parts []any
	if json.Unmarshal(b, &parts) != nil {
		return nil, false
	}
	words := []string{""}
	for _, part := range parts {
		literal, ok := part.(map[string]any)
		if !ok {
			words = append(words, "")
			continue
		}
		text, _ := literal["Literal"].(string)
		words[len(words)-1] += text
	}
	return words, true
}

// contains translates set.contains(x).
func (t *translator) contains(set, x term) (term, error) {
	switch {
	case set.elems != nil:
		return t.writtenOut(set, x)
	case set.known != nil:
		v, _ := t.force(set)
		known, ok := v.(cedar.Set)
		if !ok {
			return undefined, nil
		}
		return t.memberOf(known, x)
	case set.kind != authz.KindStrings:
		return undefined, nil
	}
	o, err := t.text(x)
	if o == nil || err != nil {
		return t.never(set, x), err
	}
	return condition(filter.In{X: o, List: set.operand}), nil
}

// text returns x as an operand that is a string, or nil.
func (t *translator) text(x term) (filter.Operand, error) { return t.number(x, authz.KindString) }

// memberOf says that x, which is unknown, is a member of a known set.
func (t *translator) memberOf(set cedar.Set, x term) (term, error) {
	if x.entity != "" {
		uids := slices.DeleteFunc(inOrder(set), func(v cedar.Value) bool {
			_, ok := v.(cedar.EntityUID)
			return !ok
		})
		return t.among(x, cedar.NewSet(uids...))
	}
	if x.operand == nil || x.kind == authz.KindStrings {
		return term{}, errors.New("membership of a condition or of a set")
	}
	var members []any
	for _, e := range inOrder(set) {
		lit, kind, ok := literal(e)
		if kind == authz.KindDecimal && !ok {
			return term{}, fmt.Errorf("%s has too many digits for a filter", e)
		}
		if kind == x.kind {
			members = append(members, lit.Value)
		}
	}
	if members == nil {
		return t.never(x), nil
	}
	return condition(filter.In{X: x.operand, List: filter.Lit{Value: members}}), nil
}

// writtenOut says that x is one of [a, b, ...], all of which are evaluated.
func (t *translator) writtenOut(set, x term) (term, error) {
	var any filter.Expr = filter.Const(false)
	for _, e := range set.elems {
		var same term
		var err error
		if e.known != nil && x.known != nil {
			l, _ := t.force(e)
			r, _ := t.force(x)
			same = condition(filter.Const(l.Equal(r)))
		} else if same, err = t.equal(e, x); err != nil {
			return term{}, err
		}
		any = or(any, same.cond)
	}
	return condition(all(t.defined(set), t.defined(x), any)), nil
}

func (t *translator) containsAny(x, y term) (term, error) {
	if x.known != nil {
		x, y = y, x
	}
	list, c, err := t.eachOf(x, y)
	if list == nil || err != nil {
		return c, err
	}
	var any filter.Expr = filter.Const(false)
	for _, e := range list {
		any = or(any, e)
	}
	return condition(and(need(x.operand), any)), nil
}

func (t *translator) containsAll(x, y term) (term, error) {
	if x.known != nil {
		return term{}, errors.New("whether a set has no other members")
	}
	list, c, err := t.eachOf(x, y)
	if list == nil || err != nil {
		return c, err
	}
	return condition(and(need(x.operand), all(list...))), nil
}

// eachOf says of each member of the known set y that it is in the list x. A
// nil result means that the returned term or error is all there is to say.
func (t *translator) eachOf(x, y term) ([]filter.Expr, term, error) {
	if x.elems != nil || y.elems != nil || y.operand != nil && y.kind == authz.KindStrings {
		return nil, term{}, errSets
	}
	if x.kind != authz.KindStrings || y.known == nil {
		return nil, undefined, nil
	}
	v, _ := t.force(y)
	set, ok := v.(cedar.Set)
	if !ok {
		return nil, undefined, nil
	}
	list := []filter.Expr{}
	for _, e := range inOrder(set) {
		s, ok := e.(cedar.String)
		if !ok {
			list = append(list, filter.Const(false))
			continue
		}
		list = append(list, filter.In{X: filter.Lit{Value: string(s)}, List: x.operand})
	}
	return list, term{}, nil
}

// inOrder returns the members of a set, the same way each time: a filter is
// compared and cached by its text.
func inOrder(set cedar.Set) []cedar.Value {
	list := set.Slice()
	slices.SortFunc(list, func(a, b cedar.Value) int { return strings.Compare(a.String(), b.String()) })
	return list
}
