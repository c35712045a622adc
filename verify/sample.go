package verify

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp/syntax"
	"strings"
)

// sample makes a value that fits the schema, with random parts where there is
// room for them. It knows what our own documents and most others use; a schema
// it cannot serve is an error, never a wrong value.
func (s schema) sample(depth int) (any, error) {
	if depth > maxSchemaDepth {
		return nil, errors.New("the schema is too deep")
	}
	if v, ok := s["const"]; ok {
		return v, nil
	}
	if list, ok := s["enum"].([]any); ok && len(list) > 0 {
		return list[0], nil
	}
	switch s.typ() {
	case "object":
		return s.sampleObject(depth)
	case "array":
		return s.sampleArray(depth)
	case "string":
		return s.sampleString()
	case "integer", "number":
		return s.sampleNumber(), nil
	case "boolean":
		return true, nil
	}
	if len(s.properties()) > 0 {
		return s.sampleObject(depth)
	}
	return nil, fmt.Errorf("no value can be made up for type %v", s["type"])
}

func (s schema) sampleObject(depth int) (any, error) {
	out := map[string]any{}
	props := s.properties()
	for _, name := range s.required() {
		v, err := props[name].sample(depth + 1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = v
	}
	return out, nil
}

func (s schema) sampleArray(depth int) (any, error) {
	out := []any{}
	items, _ := s["items"].(schema)
	for range int(s.bound("minItems", 0)) {
		v, err := items.sample(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (s schema) sampleNumber() any {
	n := s.bound("minimum", s.bound("exclusiveMinimum", 0)+1)
	if s.typ() == "integer" {
		return int64(math.Ceil(n))
	}
	return n
}

// bound reads a numeric keyword.
func (s schema) bound(keyword string, fallback float64) float64 {
	switch v := s[keyword].(type) {
	case int:
		return float64(v)
	case float64:
		return v
	}
	return fallback
}

func (s schema) sampleString() (any, error) {
	if p, ok := s["pattern"].(string); ok {
		return fromPattern(p)
	}
	switch s["format"] {
	case "email":
		return "verify-" + randomID(4) + "@example.com", nil
	case "date-time":
		return "2026-01-02T03:04:05Z", nil
	case "date":
		return "2026-01-02", nil
	case "uuid":
		h := randomID(16)
		return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-8" + h[17:20] + "-" + h[20:], nil
	case nil:
	default:
		return nil, fmt.Errorf("format %v is not known", s["format"])
	}
	v := "verify-" + randomID(4)
	if long := int(s.bound("maxLength", 64)); len(v) > long {
		v = v[:long]
	}
	for len(v) < int(s.bound("minLength", 0)) {
		v += "x"
	}
	return v, nil
}

// fromPattern makes a text that matches a regular expression.
func fromPattern(pattern string) (string, error) {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := generate(&out, re.Simplify()); err != nil {
		return "", err
	}
	return out.String(), nil
}

func generate(out *strings.Builder, re *syntax.Regexp) error {
	switch re.Op {
	case syntax.OpLiteral:
		out.WriteString(string(re.Rune))
	case syntax.OpCharClass:
		out.WriteRune(pick(re.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		out.WriteByte('a')
	case syntax.OpCapture, syntax.OpPlus:
		return generate(out, re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if err := generate(out, sub); err != nil {
				return err
			}
		}
	case syntax.OpAlternate:
		return generate(out, re.Sub[0])
	case syntax.OpRepeat:
		for range re.Min {
			if err := generate(out, re.Sub[0]); err != nil {
				return err
			}
		}
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText, syntax.OpStar, syntax.OpQuest:
	default:
		return fmt.Errorf("pattern %s: %v is not supported", re, re.Op)
	}
	return nil
}

// pick takes a random rune of a class, which is a list of ranges.
func pick(ranges []rune) rune {
	total := int64(0)
	for i := 0; i+1 < len(ranges); i += 2 {
		total += int64(ranges[i+1]-ranges[i]) + 1
	}
	if total == 0 {
		return 'a'
	}
	n, err := rand.Int(rand.Reader, big.NewInt(total))
	if err != nil {
		return ranges[0]
	}
	at := n.Int64()
	for i := 0; i+1 < len(ranges); i += 2 {
		size := int64(ranges[i+1]-ranges[i]) + 1
		if at < size {
			return ranges[i] + rune(at)
		}
		at -= size
	}
	return ranges[0]
}
