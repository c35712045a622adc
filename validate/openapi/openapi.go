// Package openapi compiles an OpenAPI 3.0 or 3.1 document into a table of
// operations and judges requests and answers by it: what the document does not
// declare is refused.
//
// The document is hardened first (see hardener): objects are closed, strings,
// arrays and numbers are capped, formats are asserted. What this package cannot
// check is an error at load time that names line, JSON pointer and the way out,
// never a check left out. The document says three more things, in an extension
// of an operation:
//
//	x-rampart: { permission: "orders:read", tenant: path.org, opaque: graphql }
//
// permission is what layer 1 asks for; tenant is where the request names the
// organization it acts for, path.NAME or body.NAME; opaque says that its bodies
// are graphql, grpc or an upload, which nobody but the service reads.
// x-rampart-encoding: [gzip] lets bodies come compressed, and x-rampart-open in
// a schema takes hardening off it (see hardener).
package openapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// methods that an operation may have, as OpenAPI writes them. TRACE is none.
var methods = []string{"get", "put", "post", "delete", "options", "head", "patch"}

// API is a compiled document. It is read-only and safe for concurrent use.
type API struct {
	root       node
	operations []*Operation
	notes      []Note
}

// Operation is one method of one path.
type Operation struct {
	ID         string // operationId, or "METHOD PATH" without one
	Method     string // in upper case
	Path       string // template, for example /orders/{id}
	Permission string // "type:verb"
	Tenant     string // "path.NAME", "body.NAME" or ""
	Body       bool   // takes a body
	BodyNeeded bool   // and may not come without
	Gzip       bool   // which may be compressed so

	params  []param // path, query, header and cookie parameters
	query   map[string]bool
	header  []string // names of header parameters
	cookies []string // and of cookies
	media   []media
	facts   []Fact
	answers answers
}

// Compile compiles the document of the service called name, which the default
// permissions bear: NAME:read for GET and HEAD, create for POST, update for PUT
// and PATCH, delete for DELETE.
func Compile(name string, text []byte) (*API, error) {
	doc, err := parse(text)
	if err != nil {
		return nil, err
	}
	b := newBuilder(name, doc)
	if err := b.check(); err != nil {
		return nil, err
	}
	list, err := b.sources()
	if err != nil {
		return nil, err
	}
	if b.isOld() {
		if err := b.translate(list); err != nil {
			return nil, err
		}
	}
	out := newBuilder(name, &document{root: clone(doc.root).(map[string]any), lines: doc.lines})
	out.compiler.harden.answers = true
	if err := b.prepare(list); err != nil {
		return nil, err
	}
	api, err := b.build(list)
	if err != nil {
		return nil, err
	}
	if err := out.answer(api); err != nil {
		return nil, err
	}
	api.unknowns(&out.compiler.harden)
	return api, nil
}

func newBuilder(service string, doc *document) *builder {
	return &builder{service: service, doc: doc, compiler: newCompiler(doc, "/components/schemas"), fields: map[string]map[string]*field{}}
}

// Operations lists all operations, by path, then method.
func (a *API) Operations() []*Operation { return slices.Clone(a.operations) }

// Headers lists the header parameters, in canonical form. It must not be
// changed. A nil operation declares none.
func (op *Operation) Headers() []string {
	if op == nil {
		return nil
	}
	return op.header
}

// builder turns a document into an API.
type builder struct {
	service  string
	doc      *document
	compiler *compiler
	fields   map[string]map[string]*field // of forms, by where they stand
}

// source is an operation as it stands in the document.
type source struct {
	at, path, method string
	item             map[string]any // the path item
	op               map[string]any
}

func (b *builder) check() error {
	version, _ := b.doc.root["openapi"].(string)
	if !strings.HasPrefix(version, "3.1.") && !b.isOld() {
		return b.doc.fail("/openapi", `only OpenAPI 3.0 and 3.1 are supported; write openapi: "3.1.0"`)
	}
	if _, ok := b.doc.root["paths"].(map[string]any); !ok {
		return b.doc.fail("/paths", "paths are missing; declare what the service answers to")
	}
	return nil
}

// sources lists the operations in order.
func (b *builder) sources() ([]source, error) {
	var out []source
	paths, _ := b.doc.root["paths"].(map[string]any)
	for _, path := range sorted(paths) {
		at := join("/paths", path)
		item, ok := paths[path].(map[string]any)
		if !ok {
			return nil, b.doc.fail(at, "path item must be an object")
		}
		if _, ok := item["$ref"]; ok {
			return nil, b.doc.fail(at, "a referenced path item is not supported; write it out")
		}
		if _, ok := item["trace"]; ok {
			return nil, b.doc.fail(at+"/trace", "TRACE is never served; remove it")
		}
		for _, method := range methods {
			v, ok := item[method]
			if !ok {
				continue
			}
			op, ok := v.(map[string]any)
			if !ok {
				return nil, b.doc.fail(join(at, method), "operation must be an object")
			}
			out = append(out, source{at: join(at, method), path: path, method: strings.ToUpper(method), item: item, op: op})
		}
	}
	return out, nil
}

func (b *builder) isOld() bool {
	version, _ := b.doc.root["openapi"].(string)
	return strings.HasPrefix(version, "3.0.")
}

// translate brings a document of 3.0 to 3.1.
func (b *builder) translate(list []source) error {
	fn := func(v any, _ string, _ bool) error { translate(v); return nil }
	if err := each(b.schemas(), "", false, fn); err != nil {
		return err
	}
	if err := b.entries(list, fn); err != nil {
		return err
	}
	return b.entriesOut(list, fn)
}

func (b *builder) schemas() any {
	components, _ := b.doc.root["components"].(map[string]any)
	return components["schemas"]
}

// prepare closes every schema that a request can meet.
func (b *builder) prepare(list []source) error {
	if err := b.forms(list); err != nil {
		return err
	}
	return b.harden(func(fn visit) error { return b.entries(list, fn) })
}

// answer closes every schema that an answer can meet, in a copy of the document
// of its own, and adds the answers to the operations.
func (b *builder) answer(api *API) error {
	list, err := b.sources()
	if err != nil {
		return err
	}
	if err := b.harden(func(fn visit) error { return b.entriesOut(list, fn) }); err != nil {
		return err
	}
	problems, err := CompileSchema("problem", []byte(problemSchema))
	if err != nil {
		return err
	}
	for i, s := range list {
		if err := b.setAnswers(api.operations[i], s, problems); err != nil {
			return err
		}
	}
	return nil
}

// harden surveys, then hardens, the definitions and what entries visits.
func (b *builder) harden(entries func(visit) error) error {
	h := &b.compiler.harden
	if err := each(b.schemas(), h.defs, false, h.survey); err != nil {
		return err
	}
	if err := entries(h.survey); err != nil {
		return err
	}
	if err := h.definitions(b.schemas()); err != nil {
		return err
	}
	if err := entries(h.schema); err != nil {
		return err
	}
	return b.compiler.add()
}

// entries visits the schemas of all parameters and bodies.
func (b *builder) entries(list []source, fn visit) error {
	for _, s := range list {
		params, err := b.parameters(s)
		if err != nil {
			return err
		}
		for _, p := range params {
			if err := fn(p.v["schema"], p.at+"/schema", true); err != nil {
				return err
			}
		}
		contents, err := b.contents(s)
		if err != nil {
			return err
		}
		for _, c := range contents {
			if c.opaque != "" {
				continue
			}
			if err := fn(c.v["schema"], c.at+"/schema", true); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *builder) build(list []source) (*API, error) {
	api := &API{notes: b.compiler.harden.sortedNotes()}
	ids := map[string]bool{}
	for _, s := range list {
		op, err := b.operation(s)
		if err != nil {
			return nil, err
		}
		if ids[op.ID] {
			return nil, b.doc.fail(s.at+"/operationId", "operationId %q is used twice; give each operation its own", op.ID)
		}
		ids[op.ID] = true
		if msg := api.root.insert(op); msg != "" {
			return nil, b.doc.fail(s.at, "%s", msg)
		}
		api.operations = append(api.operations, op)
	}
	return api, b.unambiguous(api.operations)
}

// unambiguous refuses two templates of which neither is the more exact one for
// a path that both match, such as /a/{x}/c and /a/b/{y} for /a/b/c: gateway and
// service could choose differently.
func (b *builder) unambiguous(ops []*Operation) error {
	for i, x := range ops {
		for _, y := range ops[:i] {
			if x.Path != y.Path && crossed(strings.Split(x.Path, "/"), strings.Split(y.Path, "/")) {
				return b.doc.fail(join("/paths", x.Path), "%s and %s match the same path; make one of them differ in a fixed segment", y.Path, x.Path)
			}
		}
	}
	return nil
}

func crossed(x, y []string) bool {
	if len(x) != len(y) {
		return false
	}
	xMore, yMore := false, false
	for i := range x {
		xVar, yVar := isTemplate(x[i]), isTemplate(y[i])
		switch {
		case !xVar && !yVar && x[i] != y[i]:
			return false
		case !xVar && yVar:
			xMore = true
		case xVar && !yVar:
			yMore = true
		}
	}
	return xMore == yMore
}

func (b *builder) operation(s source) (*Operation, error) {
	op := &Operation{Method: s.method, Path: s.path, ID: s.method + " " + s.path, query: map[string]bool{}}
	if id, ok := s.op["operationId"].(string); ok && id != "" {
		op.ID = id
	}
	if err := b.setParameters(op, s); err != nil {
		return nil, err
	}
	if err := b.setBody(op, s); err != nil {
		return nil, err
	}
	op.learn()
	return op, b.setExtension(op, s)
}

// deref follows one reference. It returns nil when there is no object.
func (b *builder) deref(v any) map[string]any {
	m, _ := v.(map[string]any)
	if ref, ok := m["$ref"].(string); ok {
		target, _ := b.doc.lookup(ref)
		m, _ = target.(map[string]any)
	}
	return m
}

// place returns where the object that v is or refers to stands.
func (b *builder) place(v any, at string) string {
	m, _ := v.(map[string]any)
	if ref, ok := m["$ref"].(string); ok {
		return strings.TrimPrefix(ref, "#")
	}
	return at
}

// setExtension reads x-rampart, strictly: a misspelt key would be a permission
// that nobody asks for.
func (b *builder) setExtension(op *Operation, s source) error {
	at := s.at + "/x-rampart"
	op.Permission = b.service + ":" + Verb(s.method)
	if enc, ok := s.op["x-rampart-encoding"]; ok {
		if list, _ := enc.([]any); len(list) != 1 || list[0] != any("gzip") {
			return b.doc.fail(s.at+"/x-rampart-encoding", "write [gzip], or nothing for bodies that are not compressed")
		}
		op.Gzip = true
	}
	v, ok := s.op["x-rampart"]
	if !ok {
		return nil
	}
	ext, ok := v.(map[string]any)
	if !ok {
		return b.doc.fail(at, "must be an object with permission, tenant and opaque")
	}
	for _, k := range sorted(ext) {
		text, ok := ext[k].(string)
		switch {
		case !ok:
			return b.doc.fail(join(at, k), "must be text")
		case k == "permission" && isPermission(text):
			op.Permission = text
		case k == "permission":
			return b.doc.fail(join(at, k), `permission must be "type:verb", for example %s:%s`, b.service, Verb(s.method))
		case k == "tenant" && op.names(text):
			op.Tenant = text
		case k == "tenant":
			return b.doc.fail(join(at, k), "tenant must be path.NAME of a path parameter or body.NAME of a declared property of the body")
		case k == "opaque" && slices.Contains([]string{opaqueGraphQL, opaqueGRPC, opaqueUpload}, text): // see contents
		case k == "opaque":
			return b.doc.fail(join(at, k), "write graphql, grpc or upload")
		default:
			return b.doc.fail(join(at, k), "unknown key; write permission, tenant or opaque")
		}
	}
	return nil
}

// Verb is what a permission says of a method where no document names another: read,
// create, update or delete.
func Verb(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut, http.MethodPatch:
		return "update"
	case http.MethodDelete:
		return "delete"
	}
	return "read"
}

func isPermission(s string) bool {
	kind, verb, ok := strings.Cut(s, ":")
	return ok && isWord(kind) && isWord(verb)
}

func isWord(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '-' && c != '_') {
			return false
		}
	}
	return s != ""
}

// names reports whether where leads to something this operation declares.
func (op *Operation) names(where string) bool {
	part, name, _ := strings.Cut(where, ".")
	switch part {
	case "path":
		return slices.ContainsFunc(op.params, func(p param) bool { return p.in == "path" && p.name == name })
	case "body":
		lacks := func(m media) bool { return m.schema == nil || !declares(m.schema.compiled, name, 0) }
		return len(op.media) > 0 && !slices.ContainsFunc(op.media, lacks)
	}
	return false
}

// atIndex appends an index to a JSON pointer.
func atIndex(pointer string, i int) string { return pointer + "/" + strconv.Itoa(i) }
