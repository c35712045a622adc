package guide

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

// Limits of what is kept as the literals of an expression.
const (
	maxLiterals = 96
	maxLiteral  = 24
)

// literals returns words, in lower case, of which every match of re holds at
// least one, ASCII case aside; nil if there are none. A text with runes that
// fold to ASCII letters must not be judged by them.
func literals(re *syntax.Regexp) []string {
	i := literalsOf(re)
	set := better(i.exact, i.need)
	if weight(set) <= 2 {
		return nil // nothing, or a lone letter or space: most texts have it
	}
	return set
}

// info is what is known of the matches of a part: all of them if exact is not
// nil; or that each holds a word of need.
type info struct{ exact, need []string }

func literalsOf(re *syntax.Regexp) info {
	switch re.Op {
	case syntax.OpLiteral:
		return info{exact: []string{strings.ToLower(string(re.Rune))}}.ascii()
	case syntax.OpCharClass:
		return classInfo(re.Rune)
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText,
		syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return info{exact: []string{""}}
	case syntax.OpCapture:
		return literalsOf(re.Sub[0])
	case syntax.OpPlus:
		i := literalsOf(re.Sub[0])
		return info{need: better(i.exact, i.need)}
	case syntax.OpRepeat:
		return repeatInfo(re)
	case syntax.OpQuest:
		return questInfo(literalsOf(re.Sub[0]))
	case syntax.OpConcat:
		return concatInfo(re.Sub)
	case syntax.OpAlternate:
		return alternateInfo(re.Sub)
	}
	return info{}
}

// ascii forgets words that lower-casing may have taken beyond ASCII.
func (i info) ascii() info {
	if slices.ContainsFunc(i.exact, func(s string) bool { return !isASCII(s) }) {
		return info{}
	}
	return i
}

func classInfo(pairs []rune) info {
	var set []string
	for p := 0; p+1 < len(pairs); p += 2 {
		if pairs[p+1]-pairs[p] > 16 || len(set) > 16 {
			return info{}
		}
		for r := pairs[p]; r <= pairs[p+1]; r++ {
			if !foldsToASCII(r) { // a text with it is not judged
				set = append(set, string(unicode.ToLower(r)))
			}
		}
	}
	return info{exact: distinct(set)}.ascii()
}

func repeatInfo(re *syntax.Regexp) info {
	if re.Min == 0 {
		return info{}
	}
	one := literalsOf(re.Sub[0])
	if re.Min != re.Max || re.Min > 8 {
		return info{need: better(one.exact, one.need)}
	}
	exact := []string{""}
	for range re.Min {
		if exact = product(exact, one.exact); exact == nil {
			break
		}
	}
	return info{exact: exact, need: better(one.exact, one.need)}
}

func questInfo(i info) info {
	if i.exact == nil || len(i.exact) >= maxLiterals {
		return info{}
	}
	return info{exact: distinct(append([]string{""}, i.exact...))}
}

// concatInfo joins runs of exact words. A part that is not exact, or a product
// that grows too large, ends a run; the best run is a need.
func concatInfo(subs []*syntax.Regexp) info {
	run, need, whole := []string{""}, []string(nil), true
	for _, s := range subs {
		i := literalsOf(s)
		need = better(need, i.need)
		if p := product(run, i.exact); p != nil {
			run = p
			continue
		}
		need, whole = better(need, run), false
		if run = i.exact; run == nil {
			run = []string{""}
		}
	}
	if whole {
		return info{exact: run, need: need}
	}
	return info{need: better(need, run)}
}

// product is every word of a before every word of b; nil if that is too much
// or b is not known.
func product(a, b []string) []string {
	if b == nil || len(a)*len(b) > maxLiterals {
		return nil
	}
	out := make([]string, 0, len(a)*len(b))
	for _, x := range a {
		for _, y := range b {
			if len(x)+len(y) > maxLiteral {
				return nil
			}
			out = append(out, x+y)
		}
	}
	return distinct(out)
}

func alternateInfo(subs []*syntax.Regexp) info {
	out := info{exact: []string{}, need: []string{}}
	for _, s := range subs {
		i := literalsOf(s)
		out.need = union(out.need, better(i.exact, i.need))
		out.exact = union(out.exact, i.exact)
	}
	return out
}

// union is nil, nothing known, if either is, or if it grows too large.
func union(a, b []string) []string {
	if a == nil || b == nil || len(a)+len(b) > 4*maxLiterals {
		return nil
	}
	return distinct(append(slices.Clone(a), b...))
}

// better is the set that fewer texts hold: whose shortest word is longer, or
// which is smaller.
func better(a, b []string) []string {
	wa, wb := weight(a), weight(b)
	if wa > wb || wa == wb && len(a) < len(b) && wa > 0 {
		return a
	}
	return b
}

// weight ranks a set by its shortest word; zero is of no use. Letters and
// spaces are common in text, so they weigh less than signs.
func weight(set []string) int {
	least := 0
	for i, s := range set {
		w := 0
		for _, c := range s {
			w += 2
			if !unicode.IsLetter(c) && !unicode.IsDigit(c) && !unicode.IsSpace(c) {
				w += 3
			}
		}
		if i == 0 || w < least {
			least = w
		}
	}
	return least
}

func distinct(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}
