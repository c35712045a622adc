package openapi

import (
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// content is one media type object of the document, and where it stands.
type content struct {
	placed
	kind   string
	opaque string
}

func (c content) isForm() bool {
	return c.opaque == "" && (c.kind == typeForm || c.kind == typeMultipart)
}

// contents lists the media types of a request body, by name.
func (b *builder) contents(s source) ([]content, error) {
	v, ok := s.op["requestBody"]
	if !ok {
		return nil, nil
	}
	at := s.at + "/requestBody"
	if s.method == http.MethodGet || s.method == http.MethodHead || s.method == http.MethodOptions {
		return nil, b.doc.fail(at, "%s takes no body; remove it or use POST", s.method)
	}
	at = b.place(v, at)
	m, _ := b.deref(v)["content"].(map[string]any)
	if len(m) == 0 {
		return nil, b.doc.fail(at, "content is missing; declare which media type the body has")
	}
	var out []content
	for _, name := range sorted(m) {
		c, err := b.content(s, m[name], name, join(at+"/content", name))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o content) bool { return o.kind == c.kind }) {
			return nil, b.doc.fail(c.at, "%s is declared twice", c.kind)
		}
		out = append(out, c)
	}
	return out, nil
}

func (b *builder) content(s source, v any, name, at string) (content, error) {
	c := content{placed: placed{at: at}}
	var ok bool
	if c.v, ok = v.(map[string]any); !ok {
		return c, b.doc.fail(at, "media type must be an object")
	}
	kind, params, err := mime.ParseMediaType(name)
	if err != nil || strings.Contains(kind, "*") || !onlyUTF8(params) {
		return c, b.doc.fail(at, "write one media type, in UTF-8, without wildcards")
	}
	c.kind = kind
	ext, _ := s.op["x-rampart"].(map[string]any)
	word, _ := ext["opaque"].(string)
	if c.opaque = opaqueOf(kind, word); c.opaque != "" {
		return c, nil
	}
	if _, ok := c.v["schema"]; !ok {
		return c, b.doc.fail(at, "schema is missing; declare what the body holds")
	}
	return c, nil
}

// opaqueOf names the kind of a body that is not read, "" for one that is. word
// is what the operation says of itself.
func opaqueOf(kind, word string) string {
	switch {
	case word != "":
		return word
	case isJSONType(kind) || kind == typeForm || kind == typeMultipart:
		return ""
	case kind == "application/grpc" || strings.HasPrefix(kind, "application/grpc+") || strings.HasPrefix(kind, "application/grpc-"):
		return opaqueGRPC
	case kind == "application/graphql":
		return opaqueGraphQL
	}
	return opaqueUpload
}

func isJSONType(kind string) bool {
	return kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json")
}

// forms prepares the schemas of forms, once each: they are written out where
// they stand, and files, which no JSON Schema describes, are taken out of them.
func (b *builder) forms(list []source) error {
	for _, s := range list {
		contents, err := b.contents(s)
		if err != nil {
			return err
		}
		for _, c := range contents {
			if _, done := b.fields[c.at]; done || !c.isForm() {
				continue
			}
			if b.fields[c.at], err = b.form(c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *builder) form(c content) (map[string]*field, error) {
	at := c.at + "/schema"
	schema, _ := clone(b.deref(c.v["schema"])).(map[string]any)
	c.v["schema"] = schema
	props, _ := schema["properties"].(map[string]any)
	if schema["type"] != any("object") || props == nil || isCombined(schema) {
		return nil, b.doc.fail(at, "a form must have a schema of type object with properties, and no combination; each property is a field")
	}
	encoding, _ := c.v["encoding"].(map[string]any)
	out := map[string]*field{}
	for _, name := range sorted(props) {
		f, err := b.formField(c, name, props)
		if err != nil {
			return nil, err
		}
		if enc, ok := encoding[name].(map[string]any); ok {
			if err := b.encoding(f, enc, join(c.at+"/encoding", name)); err != nil {
				return nil, err
			}
		}
		out[name] = f
	}
	return out, nil
}

func (b *builder) formField(c content, name string, props map[string]any) (*field, error) {
	at := join(c.at+"/schema/properties", name)
	f := &field{name: name}
	if name == "" || len(name) > 256 || strings.ContainsAny(name, "\"\\\r\n") {
		return nil, b.doc.fail(at, "a field's name must have 1 to 256 characters, without quotes")
	}
	one := b.deref(props[name])
	if f.list = one["type"] == any("array"); f.list {
		one = b.deref(one["items"])
	}
	f.json = one["type"] == any("object") || one["type"] == any("array") || isCombined(one)
	f.file = one["format"] == any("binary") || one["contentMediaType"] != nil && one["contentEncoding"] == nil
	switch {
	case f.json && c.kind == typeForm:
		return nil, b.doc.fail(at, "objects and lists of lists are not supported in this kind of form; use JSON or multipart/form-data")
	case f.file && c.kind == typeForm:
		return nil, b.doc.fail(at, "a file needs multipart/form-data")
	case f.file:
		f.max = number(one["maxLength"])
		props[name] = withoutFiles(props[name], f.list, b)
	}
	return f, nil
}

// withoutFiles leaves of a file's schema how many there may be.
func withoutFiles(v any, list bool, b *builder) any {
	if !list {
		return true
	}
	out := map[string]any{"type": "array", "items": true}
	for _, k := range []string{"minItems", "maxItems"} {
		if n, ok := b.deref(v)[k]; ok {
			out[k] = n
		}
	}
	return out
}

func number(v any) int {
	n, _ := v.(json.Number)
	i, _ := strconv.Atoi(n.String())
	return max(i, 0)
}

// encoding reads what the document says of a part: for a file its content types.
func (b *builder) encoding(f *field, enc map[string]any, at string) error {
	for _, k := range sorted(enc) {
		text, ok := enc[k].(string)
		switch {
		case k != "contentType" || !ok || !f.file:
			return b.doc.fail(join(at, k), "only contentType of a file is supported here; remove it")
		default:
			for kind := range strings.SplitSeq(text, ",") {
				f.kinds = append(f.kinds, strings.ToLower(strings.TrimSpace(kind)))
			}
		}
	}
	return nil
}

// setBody compiles the media types of a body.
func (b *builder) setBody(op *Operation, s source) error {
	contents, err := b.contents(s)
	if err != nil {
		return err
	}
	op.Body = len(contents) > 0
	op.BodyNeeded = b.deref(s.op["requestBody"])["required"] == true
	for _, c := range contents {
		m := media{kind: c.kind, opaque: c.opaque}
		if c.opaque == "" {
			if m.schema, err = b.compiler.schema(c.at + "/schema"); err != nil {
				return err
			}
			m.fields = b.fields[c.at]
			m.typeFields()
		}
		op.media = append(op.media, m)
	}
	return nil
}

func (m *media) typeFields() {
	for name, f := range m.fields {
		s := m.schema.compiled.Properties[name]
		if s == nil || f.file || f.json {
			continue
		}
		if f.list {
			s = itemsOf(s, 0)
		}
		if s != nil {
			f.types = typesOf(s, 0)
		}
	}
}
