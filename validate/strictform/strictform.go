// Package strictform decodes the bodies of HTML forms so that two readers
// cannot see two forms in them, and encodes them again so that what was checked
// is what is forwarded.
//
// application/x-www-form-urlencoded follows the URL standard (section 5.1) and
// multipart/form-data RFC 7578 with RFC 2046, section 5.1, both without what
// their parsers disagree about: pairs without an equals sign, semicolons, raw
// bytes beyond ASCII, preambles, folded or unknown part headers, extended file
// names. Every text is UTF-8.
package strictform

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// The bounds of a form. The size of the whole is the caller's to bound.
const (
	MaxFields = 1000 // pairs of a urlencoded form
	MaxParts  = 100  // of a multipart form
	MaxName   = 256  // bytes of a field's name or a file's

	maxPartHeader = 1024 // bytes of the header lines of one part
)

// Error says which rule a form breaks, and in which field; never its value.
type Error struct {
	Field string // "" when the form as a whole is at fault
	Rule  string
}

func (e *Error) Error() string { return "form: " + e.Rule }

// refuse wraps a broken rule for the caller.
func refuse(e *Error) error {
	at := ""
	if e.Field != "" {
		at = "/" + escape.Replace(e.Field)
	}
	return problem.With(&rampart.Error{Kind: rampart.Invalid, Control: "validate.openapi", Msg: "form cannot be read in one way", Err: e},
		problem.Details{Errors: []problem.Field{{Pointer: "/body" + at, Detail: e.Rule}}})
}

// escape writes a name as a token of a JSON pointer (RFC 6901, section 3).
var escape = strings.NewReplacer("~", "~0", "/", "~1")

// Field is one pair of a urlencoded form.
type Field struct{ Name, Value string }

// Decode reads an application/x-www-form-urlencoded body, in order. An error is
// a rampart.Error of kind Invalid, control validate.openapi, in a
// problem.Details; an *Error is in its chain.
func Decode(data []byte) ([]Field, error) {
	if len(data) == 0 {
		return nil, nil
	}
	if strings.Count(string(data), "&") >= MaxFields {
		return nil, refuse(&Error{Rule: fmt.Sprintf("more than %d fields", MaxFields)})
	}
	var out []Field
	for pair := range strings.SplitSeq(string(data), "&") {
		f, err := decodePair(pair)
		if err != nil {
			return nil, refuse(err)
		}
		out = append(out, f)
	}
	return out, nil
}

func decodePair(pair string) (f Field, err *Error) {
	name, value, ok := strings.Cut(pair, "=")
	if !ok {
		return f, &Error{Rule: "a pair without an equals sign"}
	}
	if f.Name, err = unescape(name, ""); err != nil {
		return f, err
	}
	if f.Name == "" || len(f.Name) > MaxName {
		return f, &Error{Rule: fmt.Sprintf("the name of a field must have 1 to %d bytes", MaxName)}
	}
	f.Value, err = unescape(value, f.Name)
	return f, err
}

// unescape decodes one half of a pair.
func unescape(s, field string) (string, *Error) {
	if !strings.ContainsFunc(s, func(r rune) bool { return !isPlain(r) }) {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			b = append(b, ' ')
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return "", &Error{field, "a percent sign without two hexadecimal digits"}
			}
			b = append(b, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		case c <= ' ' || c >= 0x7f || c == ';' || c == '#' || c == '"' || c == '<' || c == '>' || c == '\\':
			return "", &Error{field, "a byte that must be percent-encoded"}
		default:
			b = append(b, c)
		}
	}
	if text := string(b); isText(text) {
		return text, nil
	}
	return "", &Error{field, "not UTF-8, or the character zero"}
}

// isPlain are the characters that stand for themselves everywhere.
func isPlain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_' || r == '*'
}

func isText(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// Encode writes fields in the one spelling of the URL standard.
func Encode(fields []Field) []byte {
	var b []byte
	for i, f := range fields {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(appendEscaped(b, f.Name), '=')
		b = appendEscaped(b, f.Value)
	}
	return b
}

func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for _, c := range []byte(s) {
		switch {
		case isPlain(rune(c)):
			b = append(b, c)
		case c == ' ':
			b = append(b, '+')
		default:
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b
}
