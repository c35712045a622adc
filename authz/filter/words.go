package filter

import (
	"fmt"
	"slices"
	"strings"
)

// maxWords bounds what Text says, in bytes.
const maxWords = 400

// Text says f for people to read, in at most 400 bytes: "owner is user:ben and
// in acme". What a row must have for a condition to be asked at all goes
// without saying, so that Text is no substitute for SQL.
func (f Filter) Text() string {
	if f.keep != some {
		return map[bool]string{true: "all", false: "none"}[f.IsAll()]
	}
	text, _ := say(f.cond)
	if len(text) <= maxWords {
		return text
	}
	return strings.ToValidUTF8(text[:maxWords-4], "") + " ..."
}

// say returns a condition in words, and whether it must stand in brackets
// beside others.
func say(e Expr) (text string, loose bool) {
	switch e := e.(type) {
	case Total:
		return say(e.X)
	case And:
		return sayChain(e, true)
	case Or:
		return sayChain(e, false)
	case Not:
		return sayNot(e.X)
	case Const:
		return map[bool]string{true: "always", false: "never"}[bool(e)], false
	case Has:
		return e.Attr + " is known", false
	case Bool:
		return sayOperand(e.X), false
	case Cmp:
		return sayCmp(e, false), false
	case In:
		return sayIn(e, ""), false
	case Text:
		return sayOperand(e.X) + " " + map[TextOp]string{Prefix: "begins with", Suffix: "ends with", Contains: "contains"}[e.Op] + " " + sayOperand(e.Part), false
	case Rel:
		return "who asks is its " + e.Name, false
	}
	return "never", false
}

// sayChain says each part once.
func sayChain(e Expr, and bool) (string, bool) {
	parts := flat(nil, e, and)
	var said []string
	for _, part := range parts {
		if has, ok := part.(Has); ok && and && slices.ContainsFunc(parts, func(p Expr) bool { return mentions(p, has.Attr, maxSaid) }) {
			continue // goes without saying
		}
		text, loose := say(part)
		if loose {
			text = "(" + text + ")"
		}
		if !slices.Contains(said, text) {
			said = append(said, text)
		}
		if len(said) == maxSaid {
			break // longer than Text may be, whatever comes
		}
	}
	word := map[bool]string{true: " and ", false: " or "}[and]
	if len(said) == 1 {
		return said[0], strings.Contains(said[0], " or ") || strings.Contains(said[0], " and ")
	}
	return strings.Join(said, word), true
}

// maxSaid bounds the parts of one chain that are looked at.
const maxSaid = 256

// flat lists the parts of a chain, also of those that Total parts.
func flat(list []Expr, e Expr, and bool) []Expr {
	for _, part := range chain(nil, e, and) {
		if total, ok := part.(Total); ok {
			list = flat(list, total.X, and)
			continue
		}
		list = append(list, part)
	}
	return list
}

func sayNot(x Expr) (string, bool) {
	switch x := x.(type) {
	case Total:
		return sayNot(x.X)
	case Not:
		return say(x.X)
	case Cmp:
		return sayCmp(x, true), false
	case In:
		return sayIn(x, "not "), false
	case Has:
		if x.Attr == "tenant" {
			return "in no organization", false
		}
		return x.Attr + " is unknown", false
	case Rel:
		return "who asks is not its " + x.Name, false
	}
	text, loose := say(x)
	if loose {
		text = "(" + text + ")"
	}
	return "not " + text, false
}

func sayCmp(e Cmp, not bool) string {
	if _, known := e.L.(Lit); known {
		e = Cmp{flip(e.Op), e.R, e.L}
	}
	if not {
		e.Op = complement(e.Op)
	}
	l, r := sayOperand(e.L), sayOperand(e.R)
	switch {
	case e.Op == Eq && l == "tenant":
		return "in " + r
	case e.Op == Ne && l == "tenant":
		return "not in " + r
	case e.Op == Eq:
		return l + " is " + r
	case e.Op == Ne:
		return l + " is not " + r
	}
	return l + " " + string(e.Op) + " " + r
}

func sayIn(e In, not string) string {
	if _, known := e.List.(Lit); !known {
		return sayOperand(e.List) + map[bool]string{true: " has no ", false: " has "}[not != ""] + sayOperand(e.X)
	}
	x := sayOperand(e.X)
	if x == "tenant" {
		return not + "in " + sayOperand(e.List)
	}
	return x + " is " + not + "one of " + sayOperand(e.List)
}

func sayOperand(o Operand) string {
	switch o := o.(type) {
	case Attr:
		return o.Name
	case Subject:
		return "the subject's " + o.Name
	case Lit:
		return sayLiteral(o.Value)
	}
	return "?"
}

func sayLiteral(v any) string {
	switch v := v.(type) {
	case string:
		if v == "" || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == ',' || r == '(' || r == ')' || r == 0x7f }) {
			return fmt.Sprintf("%q", v)
		}
		return v
	case []any:
		words := make([]string, min(len(v), 5))
		for i := range words {
			words[i] = sayLiteral(v[i])
		}
		if more := len(v) - len(words); more > 0 {
			return fmt.Sprintf("%s and %d more", strings.Join(words, ", "), more)
		}
		return strings.Join(words, ", ")
	}
	return fmt.Sprint(v)
}

// mentions reports whether e reads the attribute; it looks at the first left
// parts.
func mentions(e Expr, attr string, left int) bool {
	if left == 0 {
		return false
	}
	switch e := e.(type) {
	case And:
		return mentions(e.L, attr, left-1) || mentions(e.R, attr, left-1)
	case Or:
		return mentions(e.L, attr, left-1) || mentions(e.R, attr, left-1)
	case Not:
		return mentions(e.X, attr, left-1)
	case Total:
		return mentions(e.X, attr, left-1)
	}
	return slices.ContainsFunc(operands(e), func(o Operand) bool { a, ok := o.(Attr); return ok && a.Name == attr })
}
