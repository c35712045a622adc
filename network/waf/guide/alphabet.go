package guide

import (
	"regexp/syntax"
	"unicode"
)

// high stands for every rune beyond ASCII: an alphabet has all or none of them.
const high = rune(0x80)

// alphabet is a set of runes. The zero alphabet is empty: only the empty
// string is over it.
type alphabet struct {
	ascii [2]uint64
	wide  bool
}

// runes is the alphabet of the characters of s.
func runes(s string) alphabet {
	var a alphabet
	for _, r := range s {
		a = a.with(r)
	}
	return a
}

func everything() alphabet {
	return alphabet{[2]uint64{^uint64(0), ^uint64(0)}, true}
}

// span holds lo to hi, both included.
func span(lo, hi rune) alphabet {
	var a alphabet
	for r := max(lo, 0); r <= min(hi, 0x7f); r++ {
		a.ascii[r>>6] |= 1 << (r & 63)
	}
	a.wide = hi >= high
	return a
}

func (a alphabet) with(r rune) alphabet { return a.or(span(r, r)) }

func (a alphabet) or(b alphabet) alphabet {
	return alphabet{[2]uint64{a.ascii[0] | b.ascii[0], a.ascii[1] | b.ascii[1]}, a.wide || b.wide}
}

func (a alphabet) itself() alphabet { return a }

func (a alphabet) has(r rune) bool { return a.meets(span(r, r)) }

func (a alphabet) meets(b alphabet) bool {
	return a.ascii[0]&b.ascii[0]|a.ascii[1]&b.ascii[1] != 0 || a.wide && b.wide
}

func (a alphabet) within(b alphabet) bool { return a.or(b) == b }

// lower is what strings.ToLower can make of strings over a. Some runes beyond
// ASCII have lower cases within it: the Kelvin sign and the dotted I.
func (a alphabet) lower() alphabet {
	out := a
	for r := 'A'; r <= 'Z'; r++ {
		if a.has(r) {
			out = out.with(r + 'a' - 'A')
		}
	}
	if a.wide {
		out = out.or(runes("ki"))
	}
	return out
}

// String writes the printable characters, ranges shortened, and names the rest.
func (a alphabet) String() string {
	if a == everything() {
		return "anything"
	}
	out, control := []rune{}, false
	for r := rune(0); r < high; r++ {
		if !a.has(r) {
			continue
		}
		if r < ' ' || r == 0x7f {
			control = true
			continue
		}
		last := r
		for last+1 < 0x7f && a.has(last+1) && unicode.IsLetter(last+1) == unicode.IsLetter(r) && unicode.IsDigit(last+1) == unicode.IsDigit(r) {
			last++
		}
		if last-r < 3 || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			out = append(out, r)
			continue
		}
		out = append(out, r, '-', last)
		r = last
	}
	text := string(out)
	if control {
		text += " and control characters"
	}
	if a.wide {
		text += " and beyond ASCII"
	}
	return text
}

// alphabetOf is the alphabet of one value.
func alphabetOf(s string) alphabet {
	var lo, hi uint64
	wide := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < 64:
			lo |= 1 << c
		case c < 128:
			hi |= 1 << (c & 63)
		default:
			wide = true
		}
	}
	return alphabet{[2]uint64{lo, hi}, wide}
}

// Letters and digits count in groups, so that values of one kind, such as
// UUIDs, share one alphabet and what was proved of it.
const (
	digitBits = 0x3ff << '0'
	lowerHex  = 0x7e << 32 // a-f
	lowerRest = 0x7fffff8 << 32 &^ lowerHex
	upperHex  = 0x7e
	upperRest = 0x7fffff8 &^ upperHex
)

// coarse widens a to whole groups: proofs for it hold for a.
func (a alphabet) coarse() alphabet {
	if a.ascii[0]&digitBits != 0 {
		a.ascii[0] |= digitBits
	}
	for _, group := range [...]uint64{lowerHex, lowerRest, upperHex, upperRest} {
		if a.ascii[1]&group != 0 {
			a.ascii[1] |= group
		}
	}
	return a
}

// canMatch reports whether re might match some string over a. False is proved:
// every way through re needs a character outside a. Assertions and repetitions
// count as met, which can only answer true too often.
func canMatch(re *syntax.Regexp, a alphabet) bool {
	switch re.Op {
	case syntax.OpNoMatch:
		return false
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			if !a.meets(folded(r, re.Flags)) {
				return false
			}
		}
		return true
	case syntax.OpCharClass:
		return a.meets(classAlphabet(re.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return a != alphabet{}
	case syntax.OpCapture, syntax.OpPlus:
		return canMatch(re.Sub[0], a)
	case syntax.OpRepeat:
		return re.Min == 0 || canMatch(re.Sub[0], a)
	case syntax.OpConcat:
		return !anyOf(re.Sub, func(s *syntax.Regexp) bool { return !canMatch(s, a) })
	case syntax.OpAlternate:
		return anyOf(re.Sub, func(s *syntax.Regexp) bool { return canMatch(s, a) })
	}
	return true
}

func anyOf(subs []*syntax.Regexp, ok func(*syntax.Regexp) bool) bool {
	for _, s := range subs {
		if ok(s) {
			return true
		}
	}
	return false
}

// folded holds r, and its other cases where the expression ignores case.
func folded(r rune, flags syntax.Flags) alphabet {
	a := span(r, r)
	if flags&syntax.FoldCase != 0 {
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			a = a.with(f)
		}
	}
	return a
}

func classAlphabet(pairs []rune) alphabet {
	var a alphabet
	for i := 0; i+1 < len(pairs); i += 2 {
		a = a.or(span(pairs[i], pairs[i+1]))
	}
	return a
}
