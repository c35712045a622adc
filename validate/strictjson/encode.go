package strictjson

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Encode writes a value that Decode yields as JSON without white space, members
// sorted by name, numbers as they were. Equal values give equal bytes. A value
// of another type, or a string that is not UTF-8, is an error.
func Encode(v any) ([]byte, error) {
	return appendValue(make([]byte, 0, 256), v)
}

func appendValue(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case string:
		return appendString(b, v)
	case json.Number:
		return append(b, v...), nil
	case []any:
		return appendArray(b, v)
	case map[string]any:
		return appendObject(b, v)
	}
	return nil, fmt.Errorf("json: cannot encode a %T", v)
}

func appendArray(b []byte, array []any) ([]byte, error) {
	b = append(b, '[')
	var err error
	for i, v := range array {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendValue(b, v); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendObject(b []byte, obj map[string]any) ([]byte, error) {
	b = append(b, '{')
	var few [16]string // names of most objects, on the stack
	names := few[:0]
	for name := range obj {
		names = append(names, name)
	}
	slices.Sort(names)
	var err error
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendString(b, name); err != nil {
			return nil, err
		}
		b = append(b, ':')
		if b, err = appendValue(b, obj[name]); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// appendString escapes what RFC 8259, section 7, demands and nothing more.
func appendString(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("json: a string is not UTF-8")
	}
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0 // of what is not yet written
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(append(b, s[from:i]...), '\\', c)
			from = i + 1
		case c < ' ':
			b = append(append(b, s[from:i]...), '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			from = i + 1
		}
	}
	return append(append(b, s[from:]...), '"'), nil
}
