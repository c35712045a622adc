package guide

import (
	"bufio"
	"fmt"
	"io/fs"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/corazawaf/libinjection-go"
)

// operator is one @operator with its argument, negation included.
type operator struct {
	// possible reports whether it might match some value over a.
	possible func(a alphabet) bool
	// matches reports whether it matches s; sure is false if the guide cannot
	// tell. budget bounds the work as dfa.match says.
	matches func(s string, budget *int) (matched, sure bool)
	// gate holds words, one of which each matching value has; nil is none.
	// words alone are the operator itself where only is true.
	gate []string
	only bool
	// wordless is the automaton of an expression that has no gate; nil with one,
	// and where it is negated or one of bytes.
	wordless *dfa
	// folds: runes that fold to ASCII letters would pass the gate unseen.
	folds bool
}

// compile makes the operator of l. The argument has its macros replaced.
func compile(l *link, arg string, data fs.FS) (operator, error) {
	switch l.Op {
	case "rx":
		return compileRx(arg, l.Neg)
	case "pm":
		return pm(strings.Split(strings.ToLower(arg), " "), l.Neg), nil
	case "pmfromfile", "pmf":
		list, err := wordFile(data, arg)
		return pm(list, l.Neg), err
	case "validatebyterange":
		return byteRange(arg, l.Neg)
	}
	fn, err := plain(l.Op, arg)
	o := always(fn, l.Neg)
	if l.Op == "detectxss" && !l.Neg {
		o.possible = xssPossible
	}
	if l.Op == "detectsqli" && !l.Neg {
		o.possible = sqliPossible
	}
	return o, err
}

// sqliPossible: to libinjection a row of digits is one number, however long, and a
// lone number is no injection.
func sqliPossible(a alphabet) bool { return !a.within(span('0', '9')) }

// xssPossible: libinjection finds a tag, a comment, a document type, or the
// value of a dangerous attribute. The first three begin with <. A value that
// follows an attribute's name follows its =.
func xssPossible(a alphabet) bool { return a.meets(runes("<=")) }

// plain are operators that look at the value as a whole.
func plain(op, arg string) (func(string) bool, error) {
	n, _ := strconv.Atoi(arg) // as Coraza does: what is no number is zero
	value := func(s string) int { v, _ := strconv.Atoi(s); return v }
	switch op {
	case "detectsqli": // libinjection, as the engine
		return func(s string) bool { hit, _ := libinjection.IsSQLi(s); return hit }, nil
	case "detectxss":
		return libinjection.IsXSS, nil
	case "streq":
		return func(s string) bool { return s == arg }, nil
	case "contains":
		return func(s string) bool { return strings.Contains(s, arg) }, nil
	case "within":
		return func(s string) bool { return strings.Contains(arg, s) }, nil
	case "beginswith":
		return func(s string) bool { return strings.HasPrefix(s, arg) }, nil
	case "endswith":
		return func(s string) bool { return strings.HasSuffix(s, arg) }, nil
	case "eq":
		return func(s string) bool { return value(s) == n }, nil
	case "gt":
		return func(s string) bool { return value(s) > n }, nil
	case "ge":
		return func(s string) bool { return value(s) >= n }, nil
	case "lt":
		return func(s string) bool { return value(s) < n }, nil
	case "le":
		return func(s string) bool { return value(s) <= n }, nil
	case "unconditionalmatch":
		return func(string) bool { return true }, nil
	}
	return nil, fmt.Errorf("operator @%s is not known to the guide", op)
}

// always is an operator of which no alphabet proves anything.
func always(fn func(string) bool, neg bool) operator {
	return operator{
		possible: func(alphabet) bool { return true },
		matches:  func(s string, _ *int) (bool, bool) { return fn(s) != neg, true },
	}
}

// compileRx compiles @rx. Coraza may put (?s) or (?sm) before an expression;
// with m it matches more, so the guide reads it with m, and without where the
// operator is negated: in doubt it matches too often, never too rarely. An
// expression about bytes beyond ASCII is one of single bytes in Coraza, which
// then adds no s either.
func compileRx(arg string, neg bool) (operator, error) {
	prefix := "(?sm)"
	if neg {
		prefix = "(?s)"
	}
	latin := singleBytes(arg)
	if neg && latin {
		return operator{}, fmt.Errorf("a negated expression about bytes is not known to the guide")
	}
	re, err := syntax.Parse(prefix+arg, syntax.Perl)
	if err != nil {
		return operator{}, err
	}
	re = re.Simplify()
	d := newDFA(re, latin)
	if d == nil {
		return operator{}, fmt.Errorf("the expression is too large for the guide, or tells runes beyond ASCII apart")
	}
	return rxOperator(re, d, neg), nil
}

// singleBytes reports whether Coraza takes an expression for one of bytes: read
// with its hexadecimal escapes as bytes, it is not UTF-8.
func singleBytes(arg string) bool {
	out := make([]byte, 0, len(arg))
	for i := 0; i < len(arg); i++ {
		code, n := hexByte(arg[i:])
		if n == 0 {
			code, n = arg[i], 1
		}
		out = append(out, code)
		i += n - 1
	}
	return !utf8.Valid(out)
}

// hexByte reads \xHH or \x{HH at the beginning of s, and the length of it all.
func hexByte(s string) (code byte, n int) {
	digits, ok := strings.CutPrefix(s, `\x`)
	if !ok || len(digits) < 2 {
		return 0, 0
	}
	n = len(`\xHH`)
	if end := strings.IndexByte(digits, '}'); digits[0] == '{' && end > 0 {
		digits, n = digits[1:], len(`\x`)+end+1
	}
	if len(digits) < 2 || !isHex(digits[0]) || !isHex(digits[1]) {
		return 0, 0
	}
	return unhex(digits[0])<<4 | unhex(digits[1]), n
}

func rxOperator(re *syntax.Regexp, d *dfa, neg bool) operator {
	if neg {
		return operator{
			possible: func(alphabet) bool { return true }, // cannot match would be always fires
			matches: func(s string, budget *int) (bool, bool) {
				m, sure := d.match(s, budget)
				return !m, sure
			},
		}
	}
	o := operator{
		possible: func(a alphabet) bool { return canMatch(re, a) },
		matches:  d.match,
		gate:     literals(re),
		folds:    true,
	}
	if o.gate == nil && !d.latin {
		o.wordless = d
	}
	return o
}

func pm(list []string, neg bool) operator {
	if neg || slices.Contains(list, "") {
		return always(func(s string) bool {
			s = strings.ToLower(s)
			return slices.ContainsFunc(list, func(w string) bool { return strings.Contains(s, w) })
		}, neg)
	}
	alphabets := map[alphabet]bool{}
	for _, w := range list {
		alphabets[alphabetOf(w)] = true
	}
	return operator{
		possible: func(a alphabet) bool {
			a = a.lower()
			for need := range alphabets {
				if need.within(a) {
					return true
				}
			}
			return false
		},
		gate: list,
		only: true,
	}
}

func wordFile(data fs.FS, name string) ([]string, error) {
	f, err := data.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if l := strings.TrimSpace(lines.Text()); l != "" && l[0] != '#' {
			list = append(list, strings.ToLower(l))
		}
	}
	return list, lines.Err()
}

func byteRange(arg string, neg bool) (operator, error) {
	var ok [256]bool
	for part := range strings.SplitSeq(arg, ",") {
		lo, hi, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			hi = lo
		}
		from, err1 := strconv.ParseUint(lo, 10, 8)
		to, err2 := strconv.ParseUint(hi, 10, 8)
		if err1 != nil || err2 != nil {
			return operator{}, fmt.Errorf("byte range %q", part)
		}
		for b := from; b <= to; b++ {
			ok[b] = true
		}
	}
	bad := func(s string) bool {
		for i := range len(s) {
			if !ok[s[i]] {
				return true
			}
		}
		return false
	}
	o := always(bad, neg)
	if !neg {
		o.possible = func(a alphabet) bool { return a.meets(outside(ok)) }
	}
	return o, nil
}

// outside is the alphabet of the bytes that are not ok.
func outside(ok [256]bool) alphabet {
	var a alphabet
	for b, good := range ok {
		if !good {
			a = a.with(rune(min(b, int(high))))
		}
	}
	return a
}
