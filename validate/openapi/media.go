package openapi

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/validate/strictform"
	"github.com/rampart-security/rampart/validate/strictjson"
)

// The words of x-rampart.opaque: bodies that nobody but the service reads. A
// media type that cannot be read is one of them by itself.
const (
	opaqueGraphQL = "graphql"
	opaqueGRPC    = "grpc"
	opaqueUpload  = "upload"
)

const (
	typeForm      = "application/x-www-form-urlencoded"
	typeMultipart = "multipart/form-data"
)

// media is one content type of an operation's body.
type media struct {
	kind   string // in lower case, without parameters
	opaque string // "" for one that is read
	schema *Schema
	shape  *shape
	fields map[string]*field // of a form; nil otherwise
}

// field is one field of a form.
type field struct {
	name  string
	list  bool     // may come several times
	types []string // of a text
	json  bool     // a part that is JSON itself
	file  bool
	kinds []string // content types that a file may have; nil: any
	max   int      // bytes of a file; 0: as many as the body
}

// File is an uploaded file in a Body's Doc.
type File struct {
	Name string // a plain name, no path
	Type string // media type; "" if none is given
	Data []byte
}

// Opaque is the Doc of a body that nobody reads: the word of flow.validate.opaque
// that lets it pass. Check does not judge it.
type Opaque string

// Body is a request's body as it was read.
type Body struct {
	Doc  any    // for Check and Values: JSON values, with *File for files; or Opaque; see ReadOptions.Judge
	Raw  []byte // what to forward: equal values give equal bytes, and one reading
	Type string // the Content-Type to forward
}

// ReadOptions say what Read lets pass.
type ReadOptions struct {
	Opaque []string // kinds of bodies that may pass unread: graphql, grpc, upload
	Loose  bool     // JSON by encoding/json, for a system that shows what strictness is worth

	// Judge says that the Doc is for Check of the same operation and for nobody else,
	// and that the body to forward may take the place of the one that was read. Most
	// bodies are then judged where they are read, and their Doc says no more than that.
	Judge bool
}

// Accepts judges a Content-Type before any body is read. The error has status
// 415.
func (op *Operation) Accepts(contentType string, opt ReadOptions) error {
	_, err := op.mediaOf(contentType, opt)
	return err
}

func (op *Operation) mediaOf(contentType string, opt ReadOptions) (*media, error) {
	m, wrong := op.findMedia(contentType)
	switch {
	case wrong != "":
		return nil, unsupportedMedia(wrong)
	case m.opaque != "" && !slices.Contains(opt.Opaque, m.opaque):
		return nil, unsupportedMedia("bodies of this kind are not validated, and this flow does not let them pass")
	}
	return m, nil
}

// jsonOnly stands for an operation without a body: what Check refuses must be
// read first.
var jsonOnly = media{kind: "application/json"}

func (op *Operation) findMedia(contentType string) (m *media, wrong string) {
	if contentType == "application/json" && len(op.media) == 1 && op.media[0].kind == contentType {
		return &op.media[0], ""
	}
	kind, params, err := mime.ParseMediaType(contentType)
	if len(op.media) == 0 && err == nil && kind == jsonOnly.kind {
		return &jsonOnly, ""
	}
	i := slices.IndexFunc(op.media, func(m media) bool { return m.kind == kind })
	if err != nil || i < 0 {
		return nil, "body must be " + op.kinds()
	}
	m = &op.media[i]
	if m.opaque == "" && kind != typeMultipart && !onlyUTF8(params) {
		return nil, "the content type may name the character set utf-8 and nothing else"
	}
	return m, ""
}

func onlyUTF8(params map[string]string) bool {
	charset, named := params["charset"]
	return len(params) == 0 || len(params) == 1 && named && strings.EqualFold(charset, "utf-8")
}

func (op *Operation) kinds() string {
	if len(op.media) == 0 {
		return jsonOnly.kind
	}
	var out []string
	for _, m := range op.media {
		out = append(out, m.kind)
	}
	return strings.Join(out, " or ")
}

func unsupportedMedia(msg string) error {
	return problem.With(rampart.Errorf(rampart.Invalid, "validate.openapi", "%s", msg), problem.Details{Status: http.StatusUnsupportedMediaType})
}

// Read decodes a body strictly, as its Content-Type says. raw may have at most
// the size that the caller bounds, and must not be empty. The errors are
// rampart.Errors of kind Invalid: of control validate.json or validate.openapi,
// with JSON pointers below /body; status 415 for a content type that the
// operation does not take.
func (op *Operation) Read(contentType string, raw []byte, opt ReadOptions) (Body, error) {
	m, err := op.mediaOf(contentType, opt)
	switch {
	case err != nil:
		return Body{}, err
	case m.opaque != "":
		return Body{Doc: Opaque(m.opaque), Raw: raw, Type: contentType}, nil
	case m.kind == typeForm:
		return m.readForm(raw)
	case m.kind == typeMultipart:
		return m.readMultipart(contentType, raw)
	}
	return m.readJSON(raw, opt)
}

func (m *media) readJSON(raw []byte, opt ReadOptions) (Body, error) {
	if opt.Loose {
		var v any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			return Body{}, rampart.Errorf(rampart.Invalid, "validate.json", "json: no JSON value")
		}
		return Body{Doc: v, Raw: raw, Type: m.kind}, nil
	}
	if opt.Judge {
		if b, ok := m.recognized(raw); ok {
			return b, nil
		}
	}
	v, err := strictjson.DecodeBody(raw)
	if err != nil {
		return Body{}, err
	}
	raw, err = strictjson.Encode(v)
	return Body{Doc: v, Raw: raw, Type: m.kind}, err
}

func (m *media) readForm(raw []byte) (Body, error) {
	fields, err := strictform.Decode(raw)
	if err != nil {
		return Body{}, err
	}
	var f findings
	doc := map[string]any{}
	for _, pair := range fields {
		if spec := m.field(&f, pair.Name); spec != nil {
			f.put(doc, spec, scalar(pair.Value, spec.types))
		}
	}
	return Body{Doc: doc, Raw: strictform.Encode(fields), Type: m.kind}, f.err(mismatch)
}

func (m *media) readMultipart(contentType string, raw []byte) (Body, error) {
	parts, err := strictform.DecodeMultipart(contentType, raw)
	if err != nil {
		return Body{}, err
	}
	var f findings
	doc := map[string]any{}
	for i := range parts {
		spec := m.field(&f, parts[i].Name)
		if spec == nil {
			continue
		}
		if v, rule := spec.read(&parts[i]); rule != "" {
			f.report(join("/body", spec.name), rule)
		} else {
			f.put(doc, spec, v)
		}
	}
	if err := f.err(mismatch); err != nil {
		return Body{}, err
	}
	kind, body := strictform.EncodeMultipart(parts)
	return Body{Doc: doc, Raw: body, Type: kind}, nil
}

func (m *media) field(f *findings, name string) *field {
	spec := m.fields[name]
	if spec == nil {
		f.report(join("/body", name), "is not allowed")
	}
	return spec
}

// put adds a value to a form's document.
func (f *findings) put(doc map[string]any, spec *field, v any) {
	old, given := doc[spec.name]
	switch {
	case spec.list:
		list, _ := old.([]any)
		doc[spec.name] = append(list, v)
	case given:
		f.report(join("/body", spec.name), "must be given once")
	default:
		doc[spec.name] = v
	}
}

// read returns the value of a part, or the rule that it breaks.
func (s *field) read(p *strictform.Part) (v any, rule string) {
	switch {
	case s.file:
		return s.readFile(p)
	case p.IsFile:
		return nil, "must not be a file"
	case s.json:
		return s.readJSON(p)
	case p.Type != "" && p.Type != "text/plain":
		return nil, "must be plain text"
	case !isText(string(p.Data)):
		return nil, "must be text in UTF-8"
	}
	return scalar(string(p.Data), s.types), ""
}

func (s *field) readJSON(p *strictform.Part) (any, string) {
	if p.Type != "application/json" {
		return nil, "must be a part of type application/json"
	}
	v, err := strictjson.Decode(p.Data)
	if err != nil {
		return nil, "must be JSON with one reading"
	}
	if p.Data, err = strictjson.Encode(v); err != nil {
		return nil, "must be JSON with one reading"
	}
	return v, ""
}

func (s *field) readFile(p *strictform.Part) (any, string) {
	switch {
	case !p.IsFile:
		return nil, "must be a file"
	case s.max > 0 && len(p.Data) > s.max:
		return nil, "is a larger file than is allowed"
	case s.kinds != nil && !slices.ContainsFunc(s.kinds, func(k string) bool { return covers(k, p.Type) }):
		return nil, "must be a file of type " + strings.Join(s.kinds, " or ")
	}
	return &File{Name: p.Filename, Type: p.Type, Data: p.Data}, ""
}

// covers reports whether a media range (type/subtype, or type/*) includes kind.
func covers(pattern, kind string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(kind, prefix)
	}
	return pattern == kind
}
