package openapi

import (
	"encoding/json"
	"net/textproto"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/validate/strictjson"
)

// param is a compiled parameter.
type param struct {
	name, in string // path, query or header
	required bool
	explode  bool // query arrays: one pair per element, else one list with commas
	schema   *Schema
	types    []string // of the value
	elements []string // types of an array's elements; nil if it is no array
	fact     int
}

// placed is an object of the document and where it stands.
type placed struct {
	v  map[string]any
	at string
}

// parameters lists what applies to an operation: its own, and those of its path
// that it does not override.
func (b *builder) parameters(s source) ([]placed, error) {
	own, err := b.placedIn(s.op["parameters"], s.at+"/parameters")
	if err != nil {
		return nil, err
	}
	itemAt := s.at[:strings.LastIndexByte(s.at, '/')]
	shared, err := b.placedIn(s.item["parameters"], itemAt+"/parameters")
	if err != nil {
		return nil, err
	}
	for _, p := range shared {
		same := func(o placed) bool { return o.v["name"] == p.v["name"] && o.v["in"] == p.v["in"] }
		if !slices.ContainsFunc(own, same) {
			own = append(own, p)
		}
	}
	return own, nil
}

func (b *builder) placedIn(v any, at string) ([]placed, error) {
	list, _ := v.([]any)
	out := make([]placed, 0, len(list))
	for i, item := range list {
		p := placed{v: b.deref(item), at: b.place(item, atIndex(at, i))}
		if p.v == nil {
			return nil, b.doc.fail(atIndex(at, i), "parameter is missing; the reference leads nowhere")
		}
		name, _ := p.v["name"].(string)
		in, _ := p.v["in"].(string)
		if name == "" || !slices.Contains([]string{"path", "query", "header"}, in) {
			return nil, b.doc.fail(p.at, "parameter must have a name and be in path, query or header")
		}
		out = append(out, p)
	}
	return out, nil
}

func (b *builder) setParameters(op *Operation, s source) error {
	list, err := b.parameters(s)
	if err != nil {
		return err
	}
	for _, v := range list {
		p, err := b.parameter(v)
		if err != nil {
			return err
		}
		if p.ignored() {
			continue
		}
		twice := func(o param) bool { return o.in == p.in && o.name == p.name }
		if slices.ContainsFunc(op.params, twice) {
			return b.doc.fail(v.at, "parameter %s is declared twice", p.name)
		}
		op.params = append(op.params, p)
		switch p.in {
		case "query":
			op.query[p.name] = true
		case "header":
			op.header = append(op.header, p.name)
		}
	}
	return b.checkTemplate(op, s)
}

// ignored are the headers that other parts of a document describe (OpenAPI 3.1,
// section 4.8.12.2).
func (p *param) ignored() bool {
	return p.in == "header" && slices.Contains([]string{"Accept", "Content-Type", "Authorization"}, p.name)
}

func (b *builder) parameter(v placed) (param, error) {
	p := param{name: v.v["name"].(string), in: v.v["in"].(string), required: v.v["required"] == true}
	if p.in == "header" {
		p.name = textproto.CanonicalMIMEHeaderKey(p.name)
	}
	if p.in == "header" && !p.ignored() && !relay.Declarable(p.name) {
		return p, b.doc.fail(v.at, "no service gets the header %s from its callers; remove the parameter", p.name)
	}
	if p.in == "path" && !p.required {
		return p, b.doc.fail(v.at, "path parameter must be required; write required: true")
	}
	if _, ok := v.v["schema"]; !ok {
		return p, b.doc.fail(v.at, "schema is missing; a parameter without one cannot be checked")
	}
	if err := b.checkStyle(&p, v); err != nil {
		return p, err
	}
	var err error
	if p.schema, err = b.compiler.schema(v.at + "/schema"); err != nil {
		return p, err
	}
	p.types = typesOf(p.schema.compiled, 0)
	if slices.Contains(p.types, "object") {
		return p, b.doc.fail(v.at+"/schema", "object parameters are not supported; use a body")
	}
	if slices.Contains(p.types, "array") {
		if p.in != "query" {
			return p, b.doc.fail(v.at+"/schema", "array parameters are supported in the query only")
		}
		p.elements = []string{"string"}
		if items := itemsOf(p.schema.compiled, 0); items != nil {
			p.elements = typesOf(items, 0)
		}
	}
	return p, nil
}

// checkStyle accepts the default style of each place (RFC 6570 simple and form
// expansion); the others have readings that differ between servers.
func (b *builder) checkStyle(p *param, v placed) error {
	defaults := map[string]string{"path": "simple", "header": "simple", "query": "form"}
	if style, ok := v.v["style"]; ok && style != any(defaults[p.in]) {
		return b.doc.fail(v.at+"/style", "only style %s is supported in %s; remove style", defaults[p.in], p.in)
	}
	if _, ok := v.v["content"]; ok {
		return b.doc.fail(v.at+"/content", "content is not supported in a parameter; use schema")
	}
	p.explode = p.in == "query" && v.v["explode"] != any(false)
	return nil
}

// checkTemplate compares the names in the path with the declared parameters.
func (b *builder) checkTemplate(op *Operation, s source) error {
	var names []string
	at := join("/paths", s.path)
	if !strings.HasPrefix(s.path, "/") {
		return b.doc.fail(at, "path must begin with a slash")
	}
	for segment := range strings.SplitSeq(s.path[1:], "/") {
		switch {
		case isTemplate(segment):
			names = append(names, segment[1:len(segment)-1])
		case strings.ContainsAny(segment, "{}"):
			return b.doc.fail(at, "a parameter must be a whole segment; write /{name}/")
		}
	}
	for _, name := range names {
		declared := func(p param) bool { return p.in == "path" && p.name == name }
		if !slices.ContainsFunc(op.params, declared) {
			return b.doc.fail(s.at, "path parameter %s is not declared; add it to parameters", name)
		}
	}
	for _, p := range op.params {
		if p.in == "path" && !slices.Contains(names, p.name) {
			return b.doc.fail(s.at, "parameter %s is not in the path %s", p.name, s.path)
		}
	}
	return nil
}

func isTemplate(segment string) bool {
	return len(segment) > 2 && segment[0] == '{' && segment[len(segment)-1] == '}' && !strings.ContainsAny(segment[1:len(segment)-1], "{}")
}

// maxRefs bounds how far types are looked for through references, which may run
// in circles.
const maxRefs = 16

// typesOf returns the types that a schema declares, through references. None
// means text.
func typesOf(s *jsonschema.Schema, hops int) []string {
	if s.Types != nil && !s.Types.IsEmpty() {
		return s.Types.ToStrings()
	}
	if s.Ref != nil && hops < maxRefs {
		return typesOf(s.Ref, hops+1)
	}
	return []string{"string"}
}

func itemsOf(s *jsonschema.Schema, hops int) *jsonschema.Schema {
	if s.Items2020 == nil && s.Ref != nil && hops < maxRefs {
		return itemsOf(s.Ref, hops+1)
	}
	return s.Items2020
}

// declares reports whether a schema has a property of that name, here or in the
// schemas that judge the same value.
func declares(s *jsonschema.Schema, name string, hops int) bool {
	if s == nil || hops > maxRefs {
		return false
	}
	if _, ok := s.Properties[name]; ok || declares(s.Ref, name, hops+1) {
		return true
	}
	for _, sub := range slices.Concat(s.AllOf, s.AnyOf, s.OneOf) {
		if declares(sub, name, hops+1) {
			return true
		}
	}
	return false
}

// scalar reads text as the first of types that it can be. Text that is none of
// them stays text, and the schema refuses it.
func scalar(text string, types []string) any {
	for _, t := range types {
		switch t {
		case "integer", "number":
			if v, err := strictjson.Decode([]byte(text)); err == nil {
				if n, ok := v.(json.Number); ok && n.String() == text {
					return n
				}
			}
		case "boolean":
			if text == "true" || text == "false" {
				return text == "true"
			}
		}
	}
	return text
}

// value decodes a query parameter's pairs. ok is false when a parameter that
// holds one value comes twice.
func (p *param) value(pairs []string) (v any, ok bool) {
	if p.elements == nil {
		return scalar(pairs[0], p.types), len(pairs) == 1
	}
	if !p.explode {
		if len(pairs) > 1 {
			return nil, false
		}
		pairs = strings.Split(pairs[0], ",")
	}
	list := make([]any, len(pairs))
	for i, text := range pairs {
		list[i] = scalar(text, p.elements)
	}
	return list, true
}
