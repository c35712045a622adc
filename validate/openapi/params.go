package openapi

import (
	"encoding/json"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/validate/strictjson"
)

// param is a compiled parameter.
type param struct {
	name, in  string // path, query, header or cookie
	required  bool
	explode   bool
	delimiter string // between the elements of a list, or the names and values of an object
	schema    *Schema
	types     []string            // of the value
	elements  []string            // types of an array's elements; nil if it is no array
	members   map[string][]string // types of an object's members; nil if it is none
	keys      []key               // the query's own parameters that an object is spread over
	fact      int                 // of the value, and of what no key has
}

// key is one parameter of the query that holds a member of an object.
type key struct {
	name, member string
	fact         int
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
		if name == "" || !slices.Contains([]string{"path", "query", "header", "cookie"}, in) {
			return nil, b.doc.fail(p.at, "parameter must have a name and be in path, query, header or cookie")
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
			for _, name := range p.names() {
				if op.query[name] {
					return b.doc.fail(v.at, "parameter %s stands in the query twice", name)
				}
				op.query[name] = true
			}
		case "header":
			op.header = append(op.header, p.name)
		case "cookie":
			op.cookies = append(op.cookies, p.name)
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
	if p.in == "cookie" && !isCookieName(p.name) {
		return p, b.doc.fail(v.at, "the cookie %s is not one that a service may read; rename it", p.name)
	}
	if p.in == "path" && !p.required {
		return p, b.doc.fail(v.at, "path parameter must be required; write required: true")
	}
	if _, ok := v.v["schema"]; !ok {
		return p, b.doc.fail(v.at, "schema is missing; a parameter without one cannot be checked")
	}
	var err error
	if p.schema, err = b.compiler.schema(v.at + "/schema"); err != nil {
		return p, err
	}
	p.types = typesOf(p.schema.compiled, 0)
	return p, b.setStyle(&p, v)
}

// setStyle reads how lists and objects are written (RFC 6570 and OpenAPI,
// section 4.8.12.3). A single value has one spelling in all of them.
func (b *builder) setStyle(p *param, v placed) error {
	if _, ok := v.v["content"]; ok {
		return b.doc.fail(v.at+"/content", "content is not supported in a parameter; use schema")
	}
	style, err := b.styleOf(p, v)
	if err != nil {
		return err
	}
	p.explode = style == "form" || style == "deepObject"
	if own, ok := v.v["explode"].(bool); ok {
		p.explode = own
	}
	p.delimiter = map[string]string{"spaceDelimited": " ", "pipeDelimited": "|"}[style]
	if p.delimiter == "" {
		p.delimiter = ","
	}
	switch {
	case slices.Contains(p.types, "array"):
		return b.setArray(p, v, style)
	case slices.Contains(p.types, "object"):
		return b.setObject(p, v, style)
	case style == "deepObject":
		return b.doc.fail(v.at+"/style", "style deepObject is for objects")
	}
	return nil
}

// stylesOf lists the styles of each place, the default first. Label and matrix
// put the value's text into the path in ways that few servers read.
func stylesOf(in string) []string {
	switch in {
	case "query":
		return []string{"form", "spaceDelimited", "pipeDelimited", "deepObject"}
	case "cookie":
		return []string{"form"}
	}
	return []string{"simple"}
}

func (b *builder) styleOf(p *param, v placed) (string, error) {
	known := stylesOf(p.in)
	style, given := v.v["style"]
	if !given {
		return known[0], nil
	}
	text, _ := style.(string)
	if !slices.Contains(known, text) {
		return "", b.doc.fail(v.at+"/style", "only style %s is supported in %s", strings.Join(known, ", "), p.in)
	}
	return text, nil
}

func (b *builder) setArray(p *param, v placed, style string) error {
	if style == "deepObject" {
		return b.doc.fail(v.at+"/style", "style deepObject is for objects")
	}
	if p.in == "cookie" && p.explode {
		return b.doc.fail(v.at+"/schema", "a list in a cookie needs explode: false; one cookie has one value")
	}
	p.elements = []string{"string"}
	if items := itemsOf(p.schema.compiled, 0); items != nil {
		p.elements = typesOf(items, 0)
	}
	if holds(p.elements) {
		return b.doc.fail(v.at+"/schema", "a list of lists or objects has no spelling in a parameter; use a body")
	}
	return nil
}

// setObject reads an object of single values whose members are all declared:
// any other name would be a parameter that nobody checks.
func (b *builder) setObject(p *param, v placed, style string) error {
	if p.in == "cookie" || style == "spaceDelimited" || style == "pipeDelimited" || style == "deepObject" && !p.explode {
		return b.doc.fail(v.at+"/schema", "an object has no one spelling here; use style deepObject in the query, or a body")
	}
	props := propertiesOf(p.schema.compiled, 0)
	if len(props) == 0 || !(judges{all: []*jsonschema.Schema{p.schema.compiled}}).isClosed() {
		return b.doc.fail(v.at+"/schema", "an object in a parameter must declare all its properties")
	}
	p.members = map[string][]string{}
	for _, name := range sortedKeys(props) {
		types := typesOf(props[name], 0)
		if holds(types) {
			return b.doc.fail(v.at+"/schema", "a member that is a list or an object has no spelling in a parameter; use a body")
		}
		p.members[name] = types
		switch {
		case style == "deepObject":
			p.keys = append(p.keys, key{name: p.name + "[" + name + "]", member: name})
		case style == "form" && p.explode:
			p.keys = append(p.keys, key{name: name, member: name})
		}
	}
	return nil
}

func holds(types []string) bool {
	return slices.Contains(types, "array") || slices.Contains(types, "object")
}

// names are those that a parameter has in the query.
func (p *param) names() []string {
	if p.keys == nil {
		return []string{p.name}
	}
	var out []string
	for _, k := range p.keys {
		out = append(out, k.name)
	}
	return out
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

// propertiesOf returns the members that a schema declares, through references.
func propertiesOf(s *jsonschema.Schema, hops int) map[string]*jsonschema.Schema {
	if len(s.Properties) == 0 && s.Ref != nil && hops < maxRefs {
		return propertiesOf(s.Ref, hops+1)
	}
	return s.Properties
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

// value decodes what a request gives a parameter. rule says how it is misspelt,
// "" if it is not.
func (p *param) value(pairs []string) (v any, rule string) {
	many := p.elements != nil && p.explode && p.in == "query"
	switch {
	case len(pairs) > 1 && !many:
		return nil, "must be given once"
	case slices.ContainsFunc(pairs, func(s string) bool { return !isText(s) }):
		return nil, "must be text in UTF-8"
	case many:
		return p.list(pairs), ""
	case p.elements != nil:
		return p.list(strings.Split(pairs[0], p.delimiter)), ""
	case p.members != nil:
		return p.object(strings.Split(pairs[0], p.delimiter))
	}
	return scalar(pairs[0], p.types), ""
}

func (p *param) list(texts []string) []any {
	list := make([]any, len(texts))
	for i, text := range texts {
		list[i] = scalar(text, p.elements)
	}
	return list
}

// object reads name=value,name=value, or name,value,name,value.
func (p *param) object(texts []string) (any, string) {
	if p.explode {
		var flat []string
		for _, text := range texts {
			name, value, ok := strings.Cut(text, "=")
			if !ok {
				return nil, "must be written as name=value"
			}
			flat = append(flat, name, value)
		}
		texts = flat
	}
	if len(texts)%2 != 0 {
		return nil, "must have a value for each name"
	}
	out := map[string]any{}
	for i := 0; i < len(texts); i += 2 {
		if _, twice := out[texts[i]]; twice {
			return nil, "must name each member once"
		}
		out[texts[i]] = scalar(texts[i+1], p.members[texts[i]])
	}
	return out, ""
}

// spread gathers an object from the query's own parameters; nil if there is
// none of it.
func (p *param) spread(query url.Values) (v map[string]any, rule string) {
	for _, k := range p.keys {
		pairs := query[k.name]
		switch {
		case len(pairs) == 0:
			continue
		case len(pairs) > 1:
			return nil, "must name each member once"
		case !isText(pairs[0]):
			return nil, "must be text in UTF-8"
		case v == nil:
			v = map[string]any{}
		}
		v[k.member] = scalar(pairs[0], p.members[k.member])
	}
	return v, ""
}

// isText reports whether a text can be a string of JSON: valid UTF-8. The
// character zero, which ends a text for many readers, is none either.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
