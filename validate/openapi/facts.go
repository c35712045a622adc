package openapi

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/rampart-security/rampart/validate/strictform"
)

// Fact is what a document proves of one value that a request may carry: a value
// that Check lets pass holds no byte outside the alphabet. It is what a
// signature cannot match against, found before any request comes.
type Fact struct {
	Where    string    // path, query, header, cookie, body, or file: the content of an uploaded file
	Name     string    // of the parameter; in a body the JSON pointer, with * for an index or an undeclared name and ** for any depth
	Alphabet [4]uint64 // bit b%64 of word b/64: a value may hold the byte b; numbers as JSON writes them
	Max      int       // bytes of the longest value; 0: no bound is known
	Free     bool      // any byte may stand in it
}

// Facts lists what is known of the operation's values, parameters first. The
// order is that of the indices that Values tells. It must not be changed.
func (op *Operation) Facts() []Fact { return op.facts }

// Values calls yield for each text, number and boolean that a request carries,
// with the index of its fact, until yield returns false. The request must have
// passed Check with the same arguments; nothing is parsed again but the cookies.
// Undeclared names of members count as values: the caller chose them.
func (op *Operation) Values(path Params, query url.Values, header http.Header, body any, yield func(fact int, value string) bool) {
	for i := range op.params {
		if !op.params[i].values(path, query, header, yield) {
			return
		}
	}
	op.bodyValues(header, body, yield)
}

// shape is what a document says about the values below one place of a body. The
// indices of facts are -1 where no such value can stand.
type shape struct {
	fact  int               // of a scalar here
	names int               // of an undeclared member name
	free  bool              // all below has the same fact
	props map[string]*shape // declared members
	other *shape            // undeclared ones; nil: there are none
	items *shape            // elements; nil: there are none

	file, content int // of a file's name and content, where one can stand
}

func (s *shape) walk(v any, yield func(int, string) bool) bool {
	if s == nil {
		return true // cannot stand in a request that was checked
	}
	switch v := v.(type) {
	case string:
		return s.fact < 0 || yield(s.fact, v)
	case json.Number:
		return s.fact < 0 || yield(s.fact, v.String())
	case bool:
		if v {
			return s.fact < 0 || yield(s.fact, "true")
		}
		return s.fact < 0 || yield(s.fact, "false")
	case *File:
		return yield(s.file, v.Name) && yield(s.content, string(v.Data))
	case []any:
		for _, e := range v {
			if !s.element().walk(e, yield) {
				return false
			}
		}
	case map[string]any:
		return s.members(v, yield)
	}
	return true
}

func (s *shape) element() *shape {
	if s.free {
		return s
	}
	return s.items
}

func (s *shape) members(m map[string]any, yield func(int, string) bool) bool {
	for name, v := range m {
		next, ok := s.props[name]
		if !ok {
			if next = s.other; s.free {
				next = s
			}
			if s.names >= 0 && !yield(s.names, name) {
				return false
			}
		}
		if !next.walk(v, yield) {
			return false
		}
	}
	return true
}

// learn derives the facts of an operation whose parameters and body are
// compiled.
func (op *Operation) learn() {
	b := &shaper{}
	for i := range op.params {
		op.params[i].learn(b)
	}
	for i := range op.media {
		m := &op.media[i]
		if m.schema == nil {
			continue
		}
		m.shape = b.shape(judges{all: []*jsonschema.Schema{m.schema.compiled}}, "")
		for _, name := range sortedKeys(m.fields) {
			if f := m.fields[name]; f.file {
				m.shape.props[name] = b.file(f)
			}
		}
	}
	op.facts = b.facts
}

// file is the shape of uploads: what the file's name may be is known, of its
// content nothing.
func (b *shaper) file(f *field) *shape {
	name := facet{text: allBytes(), isText: true, maxText: strictform.MaxName}
	for _, c := range []byte(strictform.FilenameExcludes) {
		name.text[c/64] &^= 1 << (c % 64)
	}
	name.text[0] &^= 1<<32 - 1 // control characters
	name.text[1] &^= 1 << 63
	s := &shape{fact: -1, names: -1}
	s.file = b.fact("body", join("", f.name)+"/filename", name)
	s.content = b.fact("file", join("", f.name), facet{text: allBytes(), isText: true, maxText: f.max})
	if f.list {
		return &shape{fact: -1, names: -1, items: s}
	}
	return s
}

func (p *param) learn(b *shaper) {
	for i := range p.keys {
		k := &p.keys[i]
		k.fact = b.fact(p.in, k.name, facetOf(propertiesOf(p.schema.compiled, 0)[k.member], 0))
	}
	if p.keys == nil {
		p.fact = b.fact(p.in, p.name, p.facet())
	}
}

// facet is what is known of a parameter's text: a list holds what its elements
// hold, and what stands between them; an object its names, too.
func (p *param) facet() facet {
	switch {
	case p.elements != nil:
		f := facetOf(itemsOf(p.schema.compiled, 0), 0)
		if p.explode && p.in == "query" {
			return f
		}
		return f.or(facet{text: bytesOf(p.delimiter), isText: true}).unbounded()
	case p.members != nil:
		f := facet{text: bytesOf(",="), isText: true}
		for name, s := range propertiesOf(p.schema.compiled, 0) {
			f = f.or(facetOf(s, 0)).or(facet{text: bytesOf(name), isText: true})
		}
		return f.unbounded()
	}
	return facetOf(p.schema.compiled, 0)
}

func (f facet) unbounded() facet {
	f.maxText = 0
	return f
}

func (p *param) values(path Params, query url.Values, header http.Header, yield func(int, string) bool) bool {
	for _, k := range p.keys {
		for _, text := range query[k.name] {
			if !yield(k.fact, text) {
				return false
			}
		}
	}
	if p.keys != nil {
		return true
	}
	for _, text := range p.pairs(path, query, header) {
		if !yield(p.fact, text) {
			return false
		}
	}
	return true
}

func (op *Operation) bodyValues(header http.Header, body any, yield func(int, string) bool) {
	if body == nil {
		return
	}
	if m, _ := op.findMedia(header.Get("Content-Type")); m != nil {
		m.shape.walk(body, yield)
	}
}
