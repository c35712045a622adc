package openapi

import (
	"encoding/json"
	"regexp/syntax"
	"slices"
	"unicode"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// alphabet is a set of byte values.
type alphabet [4]uint64

func allBytes() alphabet { return alphabet{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)} }

func bytesOf(text string) (a alphabet) {
	for _, c := range []byte(text) {
		a.add(c)
	}
	return a
}

func (a *alphabet) add(c byte) { a[c/64] |= 1 << (c % 64) }

func (a *alphabet) has(c byte) bool { return a[c/64]&(1<<(c%64)) != 0 }

func (a alphabet) or(b alphabet) alphabet {
	return alphabet{a[0] | b[0], a[1] | b[1], a[2] | b[2], a[3] | b[3]}
}

func (a alphabet) and(b alphabet) alphabet {
	return alphabet{a[0] & b[0], a[1] & b[1], a[2] & b[2], a[3] & b[3]}
}

func (a alphabet) isASCII() bool { return a[2] == 0 && a[3] == 0 }

// addRunes adds the bytes of the UTF-8 of lo to hi. All characters beyond ASCII
// share one set of bytes here, those that are not even UTF-8 included.
func (a *alphabet) addRunes(lo, hi rune) {
	for r := lo; r <= hi && r < 0x80; r++ {
		a.add(byte(r))
	}
	if hi >= 0x80 {
		a[2], a[3] = ^uint64(0), ^uint64(0)
	}
}

const (
	numberBytes = "0123456789+-.eE"
	digitBytes  = "0123456789"
	hexBytes    = "0123456789abcdefABCDEF"
	letterBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	base64Bytes = letterBytes + digitBytes + "+/="
)

// facet is what is known of a value: which types it may have, and of which
// bytes a string may consist.
type facet struct {
	text    alphabet
	isText  bool
	isNum   bool
	isBool  bool
	isList  bool
	isObj   bool
	maxText int // bytes; 0: unknown
}

func anyFacet() facet {
	return facet{text: allBytes(), isText: true, isNum: true, isBool: true, isList: true, isObj: true}
}

func (f facet) isScalar() bool { return f.isText || f.isNum || f.isBool }

func (f facet) and(g facet) facet {
	out := facet{
		text: f.text.and(g.text), isText: f.isText && g.isText, isNum: f.isNum && g.isNum, isBool: f.isBool && g.isBool,
		isList: f.isList && g.isList, isObj: f.isObj && g.isObj, maxText: f.maxText,
	}
	if g.maxText > 0 && (f.maxText == 0 || g.maxText < f.maxText) {
		out.maxText = g.maxText
	}
	return out
}

func (f facet) or(g facet) facet {
	switch {
	case !f.isText:
		f.text, f.maxText = g.text, g.maxText
	case g.isText:
		f.text = f.text.or(g.text)
		if f.maxText == 0 || g.maxText == 0 {
			f.maxText = 0
		} else {
			f.maxText = max(f.maxText, g.maxText)
		}
	}
	f.isText, f.isNum, f.isBool = f.isText || g.isText, f.isNum || g.isNum, f.isBool || g.isBool
	f.isList, f.isObj = f.isList || g.isList, f.isObj || g.isObj
	return f
}

// bytes is the alphabet of all that the value can be, as text.
func (f facet) bytes() (a alphabet) {
	if f.isText {
		a = f.text
	}
	if f.isNum {
		a = a.or(bytesOf(numberBytes))
	}
	if f.isBool {
		a = a.or(bytesOf("truefalse"))
	}
	return a
}

// maxFactDepth bounds how deep schemas are read; below, nothing is known.
const maxFactDepth = 24

// facetOf reads what a schema says about a value itself. What it does not understand
// it leaves out, which makes the set larger, never smaller.
func facetOf(s *jsonschema.Schema, depth int) facet {
	f := anyFacet()
	if s == nil || depth > maxFactDepth {
		return f
	}
	if s.Bool != nil {
		if *s.Bool {
			return f
		}
		return facet{}
	}
	f = f.and(ownFacet(s))
	for _, sub := range conjuncts(s) {
		f = f.and(facetOf(sub, depth+1))
	}
	for _, group := range [][]*jsonschema.Schema{s.AnyOf, s.OneOf} {
		var either facet
		for _, sub := range group {
			either = either.or(facetOf(sub, depth+1))
		}
		if len(group) > 0 {
			f = f.and(either)
		}
	}
	return f
}

// conjuncts are the schemas that judge whatever s judges.
func conjuncts(s *jsonschema.Schema) []*jsonschema.Schema {
	out := slices.Clone(s.AllOf)
	if s.Ref != nil {
		out = append(out, s.Ref)
	}
	return out
}

func ownFacet(s *jsonschema.Schema) facet {
	f := anyFacet()
	if s.Types != nil && !s.Types.IsEmpty() {
		types := s.Types.ToStrings()
		f.isText = slices.Contains(types, "string")
		f.isBool = slices.Contains(types, "boolean")
		f.isNum = slices.Contains(types, "number") || slices.Contains(types, "integer")
		f.isList = slices.Contains(types, "array")
		f.isObj = slices.Contains(types, "object")
	}
	if s.Const != nil {
		f = f.and(facetOfValues([]any{*s.Const}))
	}
	if s.Enum != nil {
		f = f.and(facetOfValues(s.Enum.Values))
	}
	if s.Format != nil {
		if text, ok := formatBytes(s.Format.Name); ok {
			f.text = f.text.and(bytesOf(text))
		}
	}
	if s.Pattern != nil {
		f.text = f.text.and(patternBytes(s.Pattern.String()))
	}
	if s.MaxLength != nil {
		width := 4 // bytes of a character of UTF-8
		if f.text.isASCII() {
			width = 1
		}
		longest := anyFacet()
		longest.maxText = *s.MaxLength * width
		f = f.and(longest)
	}
	return f
}

func facetOfValues(values []any) (f facet) {
	for _, v := range values {
		switch v := v.(type) {
		case string:
			f = f.or(facet{text: bytesOf(v), isText: true, maxText: len(v)})
		case json.Number, float64, int:
			f.isNum = true
		case bool:
			f.isBool = true
		case []any:
			f.isList = true
		case map[string]any:
			f.isObj = true
		case nil:
		default: // of no type that a document has
			return anyFacet()
		}
	}
	return f
}

// formatBytes returns the bytes that text of a format can hold, where its
// checker keeps to them (see formats).
func formatBytes(name string) (string, bool) {
	switch name {
	case "uuid":
		return hexBytes + "-", true
	case "date":
		return digitBytes + "-", true
	case "date-time", "time":
		return digitBytes + "-:.+TtZz ", true
	case "duration":
		return digitBytes + "PYMWDTHS", true
	case "ipv4":
		return digitBytes + ".", true
	case "ipv6":
		return hexBytes + ":.", true
	case "hostname":
		return letterBytes + digitBytes + "-.", true
	case "email":
		return letterBytes + digitBytes + "!#$%&'*+-/=?^_`{|}~.@", true
	case "byte":
		return base64Bytes, true
	}
	return "", false
}

// patternBytes returns the bytes of texts that match a pattern. Only one that
// is anchored at both ends says anything about all of the text.
func patternBytes(pattern string) alphabet {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil || !spans(re) {
		return allBytes()
	}
	var a alphabet
	if !collect(re, &a) {
		return allBytes()
	}
	return a
}

// spans reports whether every match of re begins where the text begins and ends
// where it ends.
func spans(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpConcat:
		first, last := re.Sub[0], re.Sub[len(re.Sub)-1]
		return len(re.Sub) > 1 && first.Op == syntax.OpBeginText && last.Op == syntax.OpEndText || len(re.Sub) == 1 && spans(first)
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !spans(sub) })
	case syntax.OpCapture:
		return spans(re.Sub[0])
	}
	return false
}

// collect adds all bytes that re consumes. It returns false for what it does
// not know.
func collect(re *syntax.Regexp, a *alphabet) bool {
	switch re.Op {
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			a.addRunes(r, r)
			for next := unicode.SimpleFold(r); re.Flags&syntax.FoldCase != 0 && next != r; next = unicode.SimpleFold(next) {
				a.addRunes(next, next)
			}
		}
	case syntax.OpCharClass:
		for i := 0; i+1 < len(re.Rune); i += 2 {
			a.addRunes(re.Rune[i], re.Rune[i+1])
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		*a = allBytes()
	case syntax.OpEmptyMatch, syntax.OpNoMatch, syntax.OpBeginText, syntax.OpEndText, syntax.OpBeginLine, syntax.OpEndLine,
		syntax.OpWordBoundary, syntax.OpNoWordBoundary,
		syntax.OpCapture, syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat, syntax.OpConcat, syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !collect(sub, a) })
	default:
		return false
	}
	return true
}
