package openapi

import (
	"encoding/json"
	"math"
	"math/big"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// recognizer knows most documents that are valid under a schema. It never says
// what is wrong: a document that it does not know goes to the library, whose
// verdict and findings count. So an error here, other than in saying yes, costs
// time and no more; and a yes is held against the library by tests over the
// JSON-Schema-Test-Suite and by a fuzz test. It is read-only and safe for
// concurrent use.
type recognizer struct {
	never bool // says more than is understood here
	any   bool // the schema true
	types kinds
	among []any // enum or const; nil: any value
	all   []*recognizer
	check func(any) error   // a format
	sure  func(string) bool // texts that check takes, at sight; nil: none

	properties  map[string]*recognizer
	required    []string
	more        *recognizer // of properties that have no schema of their own
	least, most int         // properties

	items              *recognizer
	minItems, maxItems int
	unique             bool

	minLength, maxLength int
	pattern              *pattern

	limits []limit // of a number
}

// kinds are types of JSON as a set; the empty set allows all.
type kinds uint8

const (
	kindNull kinds = 1 << iota
	kindBool
	kindNumber
	kindInteger
	kindString
	kindArray
	kindObject
)

var kindNames = map[string]kinds{
	"null": kindNull, "boolean": kindBool, "number": kindNumber, "integer": kindInteger,
	"string": kindString, "array": kindArray, "object": kindObject,
}

// maxNesting bounds the schemas that judge one inside the other. References that
// lead back to themselves with the same value end there; the library refuses them.
const maxNesting = 64

// recognizers are those of one document: schemas may hold each other.
type recognizers map[*jsonschema.Schema]*recognizer

// of returns what recognizes s; everything where there is no schema.
func (all recognizers) of(s *jsonschema.Schema) *recognizer {
	if s == nil {
		return &recognizer{any: true}
	}
	if r := all[s]; r != nil {
		return r
	}
	r := &recognizer{}
	all[s] = r
	switch {
	case s.Bool != nil:
		r.any, r.never = *s.Bool, !*s.Bool
	case s.DraftVersion != 2020 || hasMore(s):
		r.never = true
	default:
		r.values(s)
		r.texts(s)
		r.numbers(s)
		all.parts(r, s)
	}
	return r
}

// hasMore reports whether s has keywords that are left to the library. Those that
// judge, and that neither this nor the code below names, would be overlooked: a
// test holds the list against the fields of jsonschema.Schema.
func hasMore(s *jsonschema.Schema) bool {
	return s.RecursiveRef != nil || s.DynamicRef != nil || s.Not != nil || len(s.AnyOf)+len(s.OneOf) > 0 ||
		s.If != nil || s.Then != nil || s.Else != nil ||
		s.PropertyNames != nil || len(s.PatternProperties)+len(s.Dependencies)+len(s.DependentRequired)+len(s.DependentSchemas) > 0 ||
		s.UnevaluatedProperties != nil || s.UnevaluatedItems != nil ||
		s.Contains != nil || s.MinContains != nil || s.MaxContains != nil || s.Items != nil || s.AdditionalItems != nil || len(s.PrefixItems) > 0 ||
		s.ContentEncoding != nil || s.ContentMediaType != nil || s.ContentSchema != nil || len(s.Extensions) > 0
}

// values reads the keywords about all types.
func (r *recognizer) values(s *jsonschema.Schema) {
	if s.Types != nil {
		for _, name := range s.Types.ToStrings() {
			r.types |= kindNames[name]
		}
	}
	switch {
	case s.Const != nil && s.Enum != nil:
		r.never = true
	case s.Const != nil:
		r.among = []any{*s.Const}
	case s.Enum != nil:
		r.among = append([]any{}, s.Enum.Values...)
	}
	if f := s.Format; f != nil && f.Name != rangeFormat { // see numbers
		r.check, r.sure = quick(f), atSight(f)
	}
}

func (r *recognizer) texts(s *jsonschema.Schema) {
	r.minLength, r.maxLength = bound(s.MinLength, 0), bound(s.MaxLength, math.MaxInt)
	if s.Pattern != nil {
		r.pattern = newPattern(s.Pattern)
	}
}

func (r *recognizer) numbers(s *jsonschema.Schema) {
	if s.Format != nil && s.Format.Name == rangeFormat {
		r.limits = []limit{{atLeast, exact{n: -maxRange}}, {atMost, exact{n: maxRange}}}
	}
	for rule, at := range map[comparison]*big.Rat{atLeast: s.Minimum, atMost: s.Maximum, moreThan: s.ExclusiveMinimum, lessThan: s.ExclusiveMaximum, multipleOf: s.MultipleOf} {
		if at == nil {
			continue
		}
		places, _ := at.FloatPrec()
		d, ok := newExact(at.FloatString(places))
		if same := new(big.Rat).SetFrac64(d.n, tens[d.places]); !ok || same.Cmp(at) != 0 {
			r.never = true
		}
		r.limits = append(r.limits, limit{rule, d})
	}
}

func (all recognizers) parts(r *recognizer, s *jsonschema.Schema) {
	if s.Ref != nil {
		r.all = append(r.all, all.of(s.Ref))
	}
	for _, sub := range s.AllOf {
		r.all = append(r.all, all.of(sub))
	}
	r.minItems, r.maxItems, r.unique = bound(s.MinItems, 0), bound(s.MaxItems, math.MaxInt), s.UniqueItems
	r.items = all.of(s.Items2020)
	r.least, r.most, r.required = bound(s.MinProperties, 0), bound(s.MaxProperties, math.MaxInt), s.Required
	r.properties = make(map[string]*recognizer, len(s.Properties))
	for name, sub := range s.Properties {
		r.properties[name] = all.of(sub)
	}
	switch more := s.AdditionalProperties.(type) {
	case *jsonschema.Schema:
		r.more = all.of(more)
	case bool:
		r.more = &recognizer{any: more, never: !more}
	default:
		r.more = all.of(nil)
	}
}

func bound(n *int, otherwise int) int {
	if n == nil {
		return otherwise
	}
	return *n
}

// knows reports whether v is valid for sure.
func (r *recognizer) knows(v any) bool { return r.in(v, maxNesting) }

func (r *recognizer) in(v any, depth int) bool {
	if r.any {
		return true
	}
	if r.never || depth == 0 {
		return false
	}
	if r.among != nil && !isAmong(v, r.among) {
		return false
	}
	for _, sub := range r.all {
		if !sub.in(v, depth-1) {
			return false
		}
	}
	if r.check != nil && r.check(v) != nil {
		return false
	}
	switch v := v.(type) {
	case string:
		return r.takes(kindString) && r.text(v)
	case json.Number:
		return r.number(string(v))
	case map[string]any:
		return r.takes(kindObject) && r.object(v, depth)
	case []any:
		return r.takes(kindArray) && r.array(v, depth)
	case bool:
		return r.takes(kindBool)
	case nil:
		return r.takes(kindNull)
	}
	return false
}

func (r *recognizer) takes(k kinds) bool { return r.types == 0 || r.types&k != 0 }

// isAmong compares what == compares: text, numbers of one spelling, true, false
// and null.
func isAmong(v any, list []any) bool {
	switch v.(type) {
	case string, json.Number, bool, nil:
		for _, item := range list {
			if v == item {
				return true
			}
		}
	}
	return false
}

func (r *recognizer) text(s string) bool {
	if len(s) < r.minLength || len(s) > r.maxLength || r.minLength > 1 { // or the characters must be counted
		if n := utf8.RuneCountInString(s); n < r.minLength || n > r.maxLength {
			return false
		}
	}
	return r.pattern == nil || r.pattern.matches(s)
}

func (r *recognizer) number(s string) bool {
	d, ok := newExact(s)
	if !ok || !r.takes(kindNumber) && !(r.takes(kindInteger) && d.isWhole()) {
		return false
	}
	for _, l := range r.limits {
		if !l.allows(d) {
			return false
		}
	}
	return true
}

func (r *recognizer) object(v map[string]any, depth int) bool {
	if len(v) < r.least || len(v) > r.most {
		return false
	}
	for _, name := range r.required {
		if _, ok := v[name]; !ok {
			return false
		}
	}
	for name, member := range v {
		sub, ok := r.properties[name]
		if !ok {
			sub = r.more
		}
		if !sub.in(member, depth-1) {
			return false
		}
	}
	return true
}

func (r *recognizer) array(v []any, depth int) bool {
	if len(v) < r.minItems || len(v) > r.maxItems || r.unique && len(v) > 1 {
		return false
	}
	for _, item := range v {
		if !r.items.in(item, depth-1) {
			return false
		}
	}
	return true
}
