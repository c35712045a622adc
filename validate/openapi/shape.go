package openapi

import (
	"slices"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// maxFacts bounds the facts of an operation; what comes after them is free.
const maxFacts = 2048

// shaper derives shapes from compiled schemas and collects their facts.
type shaper struct {
	facts []Fact
	stack []*jsonschema.Schema // being read: a schema inside itself has no end
}

// fact adds one and returns its index.
func (b *shaper) fact(where, name string, f facet) int {
	v := Fact{Where: where, Name: name, Alphabet: [4]uint64(f.bytes()), Max: f.maxText, Free: f.isText && f.text == allBytes()}
	if f.isText && v.Max > 0 && f.isNum {
		v.Max = max(v.Max, 64) // of a number, see strictjson
	}
	if !f.isText {
		v.Max = 64
	}
	b.facts = append(b.facts, v)
	return len(b.facts) - 1
}

// free returns a shape of which nothing is known.
func (b *shaper) free(at string) *shape {
	if len(b.facts) > maxFacts {
		return &shape{fact: len(b.facts) - 1, names: len(b.facts) - 1, free: true}
	}
	i := b.fact("body", at+"/**", anyFacet())
	return &shape{fact: i, names: i, free: true}
}

// judges are the schemas that a value must match: each of all, and, where all
// is empty, at least one of some. More schemas may be in some than can matter.
type judges struct {
	all, some []*jsonschema.Schema
}

// shape reads what judges say of the value at a place.
func (b *shaper) shape(j judges, at string) *shape {
	if len(j.all)+len(j.some) == 0 || len(b.facts) > maxFacts || len(b.stack) > maxFactDepth || b.inside(j) {
		return b.free(at)
	}
	b.stack = append(b.stack, slices.Concat(j.all, j.some)...)
	defer func(n int) { b.stack = b.stack[:n] }(len(b.stack) - len(j.all) - len(j.some))
	s := &shape{fact: -1, names: -1}
	f, whole := j.facet(), j.expand()
	if f.isScalar() {
		s.fact = b.fact("body", at, f)
	}
	if f.isObj {
		b.objects(s, whole, j.isClosed(), at)
	}
	if f.isList {
		s.items = b.shape(whole.elements(), at+"/*")
	}
	return s
}

func (b *shaper) inside(j judges) bool {
	return slices.ContainsFunc(slices.Concat(j.all, j.some), func(s *jsonschema.Schema) bool { return slices.Contains(b.stack, s) })
}

func (j judges) facet() facet {
	if len(j.all) == 0 {
		var f facet
		for _, s := range j.some {
			f = f.or(facetOf(s, 0))
		}
		return f
	}
	f := anyFacet()
	for _, s := range j.all {
		f = f.and(facetOf(s, 0))
	}
	return f
}

// expand adds the schemas that judge the same value: to all those that always
// do, to some those that may.
func (j judges) expand() judges {
	out := judges{all: slices.Clone(j.all), some: slices.Clone(j.some)}
	for i := 0; i < len(out.all); i++ {
		out.all = appendNew(out.all, conjuncts(out.all[i]))
		out.some = appendNew(out.some, perhaps(out.all[i]))
	}
	for i := 0; i < len(out.some); i++ {
		out.some = appendNew(out.some, conjuncts(out.some[i]))
		out.some = appendNew(out.some, perhaps(out.some[i]))
	}
	return out
}

// appendNew bounds the work: schemas may refer to each other in circles.
func appendNew(list, more []*jsonschema.Schema) []*jsonschema.Schema {
	for _, s := range more {
		if s != nil && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func perhaps(s *jsonschema.Schema) []*jsonschema.Schema {
	out := slices.Concat(s.AnyOf, s.OneOf, []*jsonschema.Schema{s.If, s.Then, s.Else})
	for _, name := range sortedKeys(s.DependentSchemas) {
		out = append(out, s.DependentSchemas[name])
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// isClosed reports whether an object takes declared members only.
func (j judges) isClosed() bool {
	closed := func(s *jsonschema.Schema) bool { return closes(s, 0) }
	if len(j.all) > 0 {
		return slices.ContainsFunc(j.all, closed)
	}
	return !slices.ContainsFunc(j.some, func(s *jsonschema.Schema) bool { return !closed(s) })
}

func closes(s *jsonschema.Schema, depth int) bool {
	if s == nil || depth > maxFactDepth {
		return false
	}
	if s.Bool != nil {
		return !*s.Bool
	}
	if s.AdditionalProperties == any(false) || s.UnevaluatedProperties != nil && s.UnevaluatedProperties.Bool != nil && !*s.UnevaluatedProperties.Bool {
		return true
	}
	return slices.ContainsFunc(conjuncts(s), func(sub *jsonschema.Schema) bool { return closes(sub, depth+1) })
}

// opens reports whether s itself accepts members that it does not name.
func opens(s *jsonschema.Schema) bool {
	if s.Bool != nil {
		return *s.Bool
	}
	u := s.UnevaluatedProperties
	return s.AdditionalProperties != nil && s.AdditionalProperties != any(false) || len(s.PatternProperties) > 0 || u != nil && (u.Bool == nil || *u.Bool)
}

// objects fills the members of s.
func (b *shaper) objects(s *shape, whole judges, closed bool, at string) {
	every := slices.Concat(whole.all, whole.some)
	open := !closed || slices.ContainsFunc(every, opens)
	names := map[string]bool{}
	for _, sub := range every {
		for name := range sub.Properties {
			names[name] = true
		}
	}
	for _, name := range sortedKeys(names) {
		j := whole.member(name)
		if len(j.all) == 0 && open {
			j = judges{}
		}
		if s.props == nil {
			s.props = map[string]*shape{}
		}
		s.props[name] = b.shape(j, join(at, name))
	}
	if open {
		s.names = b.fact("body", at+"/*~", whole.nameFacet())
		s.other = b.shape(whole.undeclared(), at+"/*")
	}
}

// member collects what judges say of a declared member.
func (j judges) member(name string) (out judges) {
	for _, s := range j.all {
		if p := s.Properties[name]; p != nil {
			out.all = appendNew(out.all, []*jsonschema.Schema{p})
		}
	}
	if len(out.all) > 0 {
		return out
	}
	for _, s := range j.some {
		if p := s.Properties[name]; p != nil {
			out.some = appendNew(out.some, []*jsonschema.Schema{p})
		}
	}
	return out
}

// undeclared collects what is sure of members without a declaration: a map's
// schema, unless patterns could take its place.
func (j judges) undeclared() (out judges) {
	for _, s := range j.all {
		sub, ok := s.AdditionalProperties.(*jsonschema.Schema)
		if ok && len(s.PatternProperties) == 0 {
			out.all = append(out.all, sub)
		}
	}
	return out
}

func (j judges) nameFacet() facet {
	f := facet{text: allBytes(), isText: true}
	for _, s := range j.all {
		if s.PropertyNames != nil {
			f = f.and(facetOf(s.PropertyNames, 0))
		}
	}
	return f
}

// elements collects what judges say of an array's elements.
func (j judges) elements() (out judges) {
	for _, s := range j.all {
		if s.Items2020 != nil && len(s.PrefixItems) == 0 {
			out.all = append(out.all, s.Items2020)
		}
	}
	if len(out.all) > 0 {
		return out
	}
	for _, s := range j.all {
		if s.Items2020 != nil { // with prefixItems: either judges
			out.some = append(slices.Clone(s.PrefixItems), s.Items2020)
			return out
		}
	}
	return out // elements that only some branch describes: nothing is sure
}
