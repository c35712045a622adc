package waf

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// speller says where in a request a rule matched, as Exclusion.Field would have it.
// What no exclusion reaches keeps the name that the engine gives it.
type speller struct {
	r      *Request
	doc    any // the body, once asked for
	parsed bool
	query  url.Values
	steps  int // that pointerTo may still take
}

// field names a variable of the engine and the key in it. It holds no space, and so
// nothing that a client could write between two fields.
func (s *speller) field(variable, key string) string {
	name, ok := s.named(variable, key)
	if !ok {
		if name = variable; key != "" {
			name += ":" + key
		}
	}
	clean := strings.Map(func(c rune) rune {
		if unicode.IsSpace(c) || !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, name)
	return strings.ToValidUTF8(clean[:min(len(clean), maxName)], "")
}

func (s *speller) named(variable, key string) (string, bool) {
	switch variable {
	case "REQUEST_HEADERS":
		return "header:" + http.CanonicalHeaderKey(key), key != ""
	case "REQUEST_COOKIES":
		return "cookie:" + key, key != ""
	case "ARGS", "ARGS_GET", "ARGS_POST", "ARGS_PATH":
		return s.argument(key)
	}
	return "", false
}

// argument finds out what the rules know by one name only.
func (s *speller) argument(key string) (string, bool) {
	if slices.ContainsFunc(s.r.Path, func(a Arg) bool { return a.Name == key }) {
		return "path:" + strings.TrimPrefix(key, PathPrefix), true
	}
	if s.query == nil {
		_, raw, _ := strings.Cut(s.r.Target, "?")
		s.query, _ = url.ParseQuery(raw) // of a part that is not well-formed, what is
	}
	switch rest, isJSON := strings.CutPrefix(key, "json."); {
	case s.query.Has(key):
		return "query:" + key, true
	case s.r.BodyKind == FormBody:
		return "body:/" + escapeToken(key), true
	case s.r.BodyKind == JSONBody && isJSON:
		s.steps = maxSteps
		at, ok := s.pointerTo(s.body(), rest)
		return "body:" + at, ok
	}
	return "", false
}

func (s *speller) body() any {
	if !s.parsed {
		d := json.NewDecoder(bytes.NewReader(s.r.Body))
		d.UseNumber()
		_ = d.Decode(&s.doc) // nil then, in which nothing is found
		s.parsed = true
	}
	return s.doc
}

// maxSteps bounds how long pointerTo looks: members whose names begin alike can be
// made to lead nowhere in ever so many ways.
const maxSteps = 256

// pointerTo is the JSON pointer of what the engine calls by its members' names with
// dots between them. A name may hold dots itself, so the document says which it is.
func (s *speller) pointerTo(v any, dotted string) (string, bool) {
	if s.steps--; s.steps < 0 {
		return "", false
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range candidates(v, dotted) {
			if at, ok := s.below(v[name], dotted[len(name):]); ok {
				return "/" + escapeToken(name) + at, true
			}
		}
	case []any:
		word, _, _ := strings.Cut(dotted, ".")
		if i, err := strconv.Atoi(word); err == nil && i >= 0 && i < len(v) {
			at, ok := s.below(v[i], dotted[len(word):])
			return "/" + word + at, ok
		}
	}
	return "", false
}

// candidates are the members that dotted may begin with.
func candidates(m map[string]any, dotted string) (names []string) {
	for i, c := range dotted + "." {
		if c != '.' {
			continue
		}
		if _, ok := m[dotted[:i]]; ok {
			names = append(names, dotted[:i])
		}
	}
	return names
}

func (s *speller) below(v any, rest string) (string, bool) {
	if rest == "" {
		return "", true
	}
	return s.pointerTo(v, rest[1:])
}

func escapeToken(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}
