// Package strictjson decodes JSON so that two readers cannot see two documents
// in it, and encodes it again so that what was checked is what is forwarded.
//
// It is I-JSON (RFC 7493) and stricter: it refuses duplicate member names, names
// that differ only by case (encoding/json matches those case-insensitively, last
// one wins), invalid UTF-8, lone surrogates, a byte order mark, trailing data,
// deep nesting and numbers beyond a float64's range.
package strictjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// The bounds of Decode. A number longer than MaxNumber bytes has no use and
// makes exact arithmetic on it expensive.
const (
	MaxDepth  = 32     // containers inside each other
	MaxValues = 10_000 // members and elements in all
	MaxNumber = 64     // bytes of one number

	maxExponent = 308 // of a float64, decimal
)

// Limits bounds a document. A zero field takes the package's bound.
type Limits struct {
	Depth  int
	Values int
}

// Error says which rule a document breaks and where. Pointer may hold member
// names of the document, cut to a bounded length, but never values.
type Error struct {
	Pointer string // RFC 6901
	Offset  int    // bytes from the start
	Rule    string
}

func (e *Error) Error() string { return fmt.Sprintf("%s at byte %d", e.Rule, e.Offset) }

// Decode parses one JSON text into map[string]any, []any, string, json.Number
// (its text unchanged), bool or nil. An error is a rampart.Error of kind
// Invalid, control validate.json, inside a problem.Details; an *Error is in its
// chain, and its pointers begin at the text's root. Size is the caller's to bound.
func Decode(data []byte) (any, error) { return Limits{}.Decode(data) }

// DecodeBody is Decode for the body of an HTTP request: what it tells the caller
// stands below /body, as all that is told of a body.
func DecodeBody(data []byte) (any, error) {
	v, err := Limits{}.Decode(data)
	if d, ok := errors.AsType[*problem.Details](err); ok {
		for i := range d.Errors {
			d.Errors[i].Pointer = "/body" + d.Errors[i].Pointer // made for this call alone
		}
	}
	return v, err
}

// Decode is the package's Decode within other bounds.
func (l Limits) Decode(data []byte) (any, error) {
	d := decoder{data: string(data), depth: l.Depth, values: l.Values, path: make([]step, 0, 4)} // most texts are no deeper
	if d.depth == 0 {
		d.depth = MaxDepth
	}
	if d.values == 0 {
		d.values = MaxValues
	}
	v, err := d.document()
	if err != nil {
		return nil, refuse(err)
	}
	return v, nil
}

func refuse(err *Error) error {
	return problem.With(
		&rampart.Error{Kind: rampart.Invalid, Control: "validate.json", Msg: "json: " + err.Error(), Err: err},
		problem.Details{Errors: []problem.Field{{Pointer: err.Pointer, Detail: err.Rule}}})
}

// decoder reads a text of which names, strings and numbers of the result are parts:
// one piece of memory for all of them, which lives as long as the longest of them.
type decoder struct {
	data   string
	pos    int
	depth  int // containers still allowed
	values int // values still allowed
	path   []step
}

// step is one token of the pointer to the value in hand.
type step struct {
	name  string
	index int // of an array; inObject: name counts
}

const inObject = -1

func (d *decoder) document() (any, *Error) {
	if d.word("\ufeff") {
		d.pos = 0
		return nil, d.fail("byte order mark")
	}
	d.space()
	v, err := d.value()
	if err != nil {
		return nil, err
	}
	d.space()
	if d.pos != len(d.data) {
		return nil, d.fail("data after the document")
	}
	return v, nil
}

func (d *decoder) value() (any, *Error) {
	d.values--
	if d.values < 0 {
		return nil, d.fail("too many values")
	}
	switch c := d.peek(); {
	case c == '{' || c == '[':
		return d.container(c)
	case c == '"':
		return d.text()
	case c == '-' || isDigit(c):
		return d.number()
	case d.word("true"):
		return true, nil
	case d.word("false"):
		return false, nil
	case d.word("null"):
		return nil, nil
	}
	return nil, d.fail("no JSON value")
}

func (d *decoder) container(bracket byte) (v any, err *Error) {
	if d.depth == 0 {
		return nil, d.fail("nested too deeply")
	}
	d.depth--
	d.pos++
	if bracket == '{' {
		v, err = d.object()
	} else {
		v, err = d.array()
	}
	d.depth++
	return v, err
}

func (d *decoder) array() (any, *Error) {
	out := []any{}
	d.space()
	if d.skip(']') {
		return out, nil
	}
	d.path = append(d.path, step{})
	out = make([]any, 0, 4)
	for {
		d.path[len(d.path)-1].index = len(out)
		d.space()
		v, err := d.value()
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		d.space()
		if d.skip(']') {
			d.path = d.path[:len(d.path)-1]
			return out, nil
		}
		if !d.skip(',') {
			return nil, d.fail("comma or closing bracket missing")
		}
	}
}

func (d *decoder) object() (any, *Error) {
	out := map[string]any{}
	d.space()
	if d.skip('}') {
		return out, nil
	}
	var names folded
	d.path = append(d.path, step{index: inObject})
	for {
		d.space()
		if err := d.member(out, &names); err != nil {
			return nil, err
		}
		d.space()
		if d.skip('}') {
			d.path = d.path[:len(d.path)-1]
			return out, nil
		}
		if !d.skip(',') {
			return nil, d.fail("comma or closing brace missing")
		}
	}
}

func (d *decoder) member(out map[string]any, names *folded) *Error {
	if d.peek() != '"' {
		d.path = d.path[:len(d.path)-1] // the object is at fault, no member yet
		return d.fail("member name missing")
	}
	start := d.pos
	name, err := d.text()
	if err != nil {
		return err
	}
	d.path[len(d.path)-1].name = name
	if rule := names.clash(out, name); rule != "" {
		d.pos = start
		return d.fail(rule)
	}
	d.space()
	if !d.skip(':') {
		return d.fail("colon missing")
	}
	d.space()
	out[name], err = d.value()
	return err
}

// number follows RFC 8259, section 6, and keeps the text: a decimal amount must
// not pass through binary floating point.
func (d *decoder) number() (any, *Error) {
	text, err := d.digitsOf()
	if err != nil {
		return nil, err
	}
	return json.Number(text), nil
}

// digitsOf returns the text of a number.
func (d *decoder) digitsOf() (string, *Error) {
	start := d.pos
	d.skip('-')
	if !d.skip('0') && !d.digits() {
		return "", d.fail("digit missing")
	}
	if d.skip('.') && !d.digits() {
		return "", d.fail("digit missing")
	}
	exponent := ""
	if d.skip('e') || d.skip('E') {
		if !d.skip('-') {
			d.skip('+')
		}
		from := d.pos
		if !d.digits() {
			return "", d.fail("digit missing")
		}
		exponent = d.data[from:d.pos]
	}
	text := d.data[start:d.pos]
	if !inRange(text, exponent) {
		d.pos = start
		return "", d.fail("number out of range")
	}
	return text, nil
}

// inRange bounds the exponent in both directions: 1e-999999 is a zero to
// encoding/json but megabytes of digits to exact arithmetic. Without one, no number
// of that length is out of range.
func inRange(text, exponent string) bool {
	if len(text) > MaxNumber {
		return false
	}
	if exponent == "" {
		return true
	}
	n, err := strconv.Atoi(exponent)
	if err != nil || n > maxExponent {
		return false
	}
	_, err = strconv.ParseFloat(text, 64)
	return err == nil
}

func (d *decoder) digits() bool {
	start := d.pos
	for isDigit(d.peek()) {
		d.pos++
	}
	return d.pos > start
}

func (d *decoder) space() {
	for d.pos < len(d.data) {
		switch d.data[d.pos] {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return
		}
	}
}

// peek returns the next byte, or 0 at the end; 0 begins no token.
func (d *decoder) peek() byte {
	if d.pos < len(d.data) {
		return d.data[d.pos]
	}
	return 0
}

func (d *decoder) skip(c byte) bool {
	if d.peek() != c {
		return false
	}
	d.pos++
	return true
}

func (d *decoder) word(w string) bool {
	end := d.pos + len(w)
	if end > len(d.data) || d.data[d.pos:end] != w {
		return false
	}
	d.pos = end
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// fail reports rule at the place in hand.
func (d *decoder) fail(rule string) *Error {
	return &Error{Pointer: pointer(d.path), Offset: d.pos, Rule: rule}
}

// maxPointer bounds what an error repeats of member names.
const maxPointer = 256

func pointer(path []step) string {
	var b strings.Builder
	for _, s := range path {
		b.WriteByte('/')
		if s.index != inObject {
			b.WriteString(strconv.Itoa(s.index))
			continue
		}
		b.WriteString(escape.Replace(s.name))
		if b.Len() > maxPointer {
			return strings.ToValidUTF8(b.String()[:maxPointer], "")
		}
	}
	return b.String()
}
