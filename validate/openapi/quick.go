package openapi

import (
	"math"
	"regexp/syntax"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// quick is the check of a format, which takes the common spellings of the common
// formats at sight and asks the library about all else.
func quick(f *jsonschema.Format) func(any) error {
	sure := atSight(f)
	if sure == nil {
		return f.Validate
	}
	return func(v any) error {
		if s, ok := v.(string); ok && sure(s) {
			return nil
		}
		return f.Validate(v)
	}
}

// atSight returns what knows common spellings of a common format; nil: nothing.
func atSight(f *jsonschema.Format) func(string) bool {
	switch f.Name {
	case "uuid":
		return isPlainUUID
	case "date":
		return isPlainDate
	case "date-time":
		return isPlainTime
	}
	return nil
}

// looksLike compares s with a form: 0 stands for any digit, x for any of
// hexadecimal, and what else there is for itself.
func looksLike(s, form string) bool {
	if len(s) != len(form) {
		return false
	}
	for i := range len(form) {
		ok := s[i] == form[i]
		switch form[i] {
		case '0':
			ok = isDigit(s[i])
		case 'x':
			ok = isDigit(s[i]) || s[i]|0x20 >= 'a' && s[i]|0x20 <= 'f'
		}
		if !ok {
			return false
		}
	}
	return true
}

func isPlainUUID(s string) bool { return looksLike(s, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") }

// isPlainDate leaves the ends of the months to those who know which has how many days.
func isPlainDate(s string) bool {
	if !looksLike(s, "0000-00-00") {
		return false
	}
	month, day := s[5:7], s[8:]
	return month >= "01" && month <= "12" && day >= "01" && (day <= "28" || day <= "30" && month != "02")
}

// isPlainTime takes times of RFC 3339 in UTC, with fractions or without.
func isPlainTime(s string) bool {
	const whole = len("0000-00-00T00:00:00")
	if len(s) <= whole || s[len(s)-1] != 'Z' || !isPlainDate(s[:10]) {
		return false
	}
	clock, rest := s[10:whole], s[whole:len(s)-1]
	if rest != "" && (rest[0] != '.' || len(rest) == 1 || strings.Trim(rest[1:], "0123456789") != "") {
		return false
	}
	return looksLike(clock, "T00:00:00") && clock[1:3] <= "23" && clock[4:6] <= "59" && clock[7:] <= "59"
}

// pattern is an expression. Most in documents are a row of characters, each of
// some kind and so many times: that the text is such a row shows that it matches.
// What it shows not, the expression decides.
type pattern struct {
	whole jsonschema.Regexp
	row   []several // nil: not of that form
}

// several are least to most characters of ASCII.
type several struct {
	of          alphabet
	least, most int
}

func newPattern(re jsonschema.Regexp) *pattern {
	p := &pattern{whole: re}
	tree, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil || tree.Op != syntax.OpConcat || !spans(tree) || len(tree.Sub) < 3 {
		return p
	}
	p.row = rowOf(tree.Sub[1 : len(tree.Sub)-1]...)
	return p
}

// rowOf returns the row that list stands for, one after the other; nil if it is
// none.
func rowOf(list ...*syntax.Regexp) (row []several) {
	for _, re := range list {
		var more []several
		switch re.Op {
		case syntax.OpLiteral:
			more = literalRow(re)
		case syntax.OpCharClass:
			more = []several{{asciiOf(re), 1, 1}}
		case syntax.OpCapture, syntax.OpConcat:
			more = rowOf(re.Sub...)
		case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
			more = repeated(re)
		}
		if more == nil {
			return nil
		}
		row = append(row, more...)
	}
	return row
}

func literalRow(re *syntax.Regexp) (row []several) {
	for _, r := range re.Rune {
		one := &syntax.Regexp{Op: syntax.OpLiteral, Flags: re.Flags, Rune: []rune{r}}
		row = append(row, several{asciiOf(one), 1, 1})
	}
	return row
}

// asciiOf are the characters of ASCII that re, a literal or a class, matches.
func asciiOf(re *syntax.Regexp) (a alphabet) {
	collect(re, &a)
	return alphabet{a[0], a[1]}
}

// repeated takes one character many times: a group has more than one way to go on.
func repeated(re *syntax.Regexp) []several {
	row := rowOf(re.Sub[0])
	if len(row) != 1 || row[0].least != 1 || row[0].most != 1 {
		return nil
	}
	switch re.Op {
	case syntax.OpStar:
		row[0].least, row[0].most = 0, math.MaxInt
	case syntax.OpPlus:
		row[0].most = math.MaxInt
	case syntax.OpQuest:
		row[0].least = 0
	default:
		if row[0].least, row[0].most = re.Min, re.Max; re.Max < 0 {
			row[0].most = math.MaxInt
		}
	}
	return row
}

func (p *pattern) matches(s string) bool { return p.isRow(s) || p.whole.MatchString(s) }

// isRow takes as many as it can of each: if that fits, it is a match.
func (p *pattern) isRow(s string) bool {
	if p.row == nil {
		return false
	}
	for i := range p.row {
		c, n := &p.row[i], 0
		for n < len(s) && n < c.most && c.of.has(s[n]) {
			n++
		}
		if n < c.least {
			return false
		}
		s = s[n:]
	}
	return s == ""
}
