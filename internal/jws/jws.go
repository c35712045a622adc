// Package jws takes compact JWS text (RFC 7515 section 3.1) and its JSON
// apart, without any of the leniency of general libraries: bounded size and
// depth, canonical base64url, one JSON object with no duplicate names and
// nothing after it. It checks no signature and gives no meaning to claims.
package jws

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The rules that this package enforces. A member of the wrong type is named by
// the member itself, such as "exp".
const (
	RuleSize      = "size"     // longer than the caller's bound
	RuleSegments  = "segments" // not three segments, or no header or signature
	RuleEncoding  = "encoding" // not canonical unpadded base64url, or not UTF-8
	RuleDepth     = "depth"    // nested deeper than the caller's bound
	RuleDuplicate = "dup"      // a name twice in one object
	RuleUnknown   = "unknown"  // a member that the document may not have
	RuleJSON      = "json"     // not exactly one JSON object
)

// Error says which rule the text broke.
type Error struct {
	Rule string
	Msg  string
}

func (e *Error) Error() string { return e.Msg }

// Compact is a JWS taken apart. Nothing in it has been verified.
type Compact struct {
	Signed    string // header and payload as received: what the signature covers
	Header    []byte // decoded
	Payload   []byte // decoded
	Signature []byte // decoded
}

// Split takes text of at most limit bytes apart. The payload may be empty, as
// RFC 7515 has it; Decode refuses that. The error is an *Error.
func Split(text string, limit int) (Compact, error) {
	if len(text) > limit {
		return Compact{}, &Error{RuleSize, fmt.Sprintf("longer than %d bytes", limit)}
	}
	header, rest, _ := strings.Cut(text, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	if header == "" || signature == "" || strings.Contains(signature, ".") {
		return Compact{}, &Error{RuleSegments, "must have three segments, header and signature not empty"}
	}
	// Go's decoder skips CR and LF even in strict mode, so that one token would
	// have many spellings; look at every byte first.
	if strings.ContainsFunc(text, outsideAlphabet) {
		return Compact{}, &Error{RuleEncoding, "holds a byte outside the base64url alphabet"}
	}
	c := Compact{Signed: text[:len(header)+1+len(payload)]}
	for _, part := range []struct {
		text string
		into *[]byte
	}{{header, &c.Header}, {payload, &c.Payload}, {signature, &c.Signature}} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part.text)
		if err != nil {
			return Compact{}, &Error{RuleEncoding, "is not canonical base64url"}
		}
		*part.into = b
	}
	return c, nil
}

func outsideAlphabet(r rune) bool {
	switch {
	case 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '-', r == '_', r == '.':
		return false
	}
	return true
}

// Decode reads exactly one JSON object into the struct dst points to. Names
// are case-sensitive; nesting beyond depth is refused before parsing. Unknown
// members are skipped unless closed is set. The error is an *Error.
//
// JSON null leaves a field at its zero value, so a caller must check that what
// it requires is not zero.
func Decode(data []byte, dst any, depth int, closed bool) error {
	if !utf8.Valid(data) {
		return &Error{RuleEncoding, "is not UTF-8"}
	}
	if tooDeep(data, depth) {
		return &Error{RuleDepth, fmt.Sprintf("is nested deeper than %d", depth)}
	}
	if jsontext.Value(data).Kind() != '{' {
		return &Error{RuleJSON, "is not a JSON object"}
	}
	err := json.Unmarshal(data, dst, json.RejectUnknownMembers(closed))
	if err == nil {
		return nil
	}
	return decodeError(err)
}

func decodeError(err error) *Error {
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return &Error{RuleDuplicate, "has a duplicate member"}
	}
	semantic, ok := errors.AsType[*json.SemanticError](err)
	if !ok {
		return &Error{RuleJSON, "is not exactly one JSON object"}
	}
	if errors.Is(err, json.ErrUnknownName) {
		return &Error{RuleUnknown, "has an unknown member"}
	}
	for name := range semantic.JSONPointer.Tokens() {
		return &Error{name, fmt.Sprintf("member %.32q has the wrong type", name)}
	}
	return &Error{RuleJSON, "is not a JSON object"}
}

// tooDeep counts brackets outside strings. It runs before the parser, whose
// own bound of 10,000 levels is no bound for a token.
func tooDeep(data []byte, limit int) bool {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > limit {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
