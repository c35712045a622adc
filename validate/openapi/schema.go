package openapi

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// docURL is where a document stands for the compiler. It is never fetched.
const docURL = "schema:///document"

// Schema is a compiled JSON Schema (2020-12), hardened like those of an OpenAPI
// document. It is a validate.Validator.
type Schema struct {
	compiled *jsonschema.Schema
	known    *recognizer // of compiled; nil knows nothing
}

// CompileSchema compiles a stand-alone JSON Schema, in YAML or JSON, for example
// of a message. The errors name file, line and JSON pointer.
func CompileSchema(file string, text []byte) (*Schema, error) {
	s, err := compileSchema(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

func compileSchema(text []byte) (*Schema, error) {
	doc, err := parse(text)
	if err != nil {
		return nil, err
	}
	delete(doc.root, "$schema") // one dialect is spoken; a document may name it
	delete(doc.root, "$id")     // and bear a name, which nothing here refers to
	c := newCompiler(doc, "/$defs")
	h := &c.harden
	defs := doc.root["$defs"]
	if err := each(defs, h.defs, false, h.survey); err != nil {
		return nil, err
	}
	if err := h.survey(doc.root, "", true); err != nil {
		return nil, err
	}
	if err := h.definitions(defs); err != nil {
		return nil, err
	}
	if err := h.schema(doc.root, "", true); err != nil {
		return nil, err
	}
	if err := c.add(); err != nil {
		return nil, err
	}
	return c.schema("")
}

// Validate judges a value of the types that strictjson yields. The error is a
// rampart.Error of kind Invalid, control validate.openapi, in a problem.Details
// with JSON pointers from the root of v.
func (s *Schema) Validate(v any) error {
	var f findings
	f.judge(s, "", v)
	return f.err("value does not match its schema")
}

// compiler compiles schemas of one document by their JSON pointers, so that a
// $ref means what it says wherever it stands.
type compiler struct {
	doc    *document
	lib    *jsonschema.Compiler
	harden hardener
	known  recognizers
}

// newLibrary returns the library's compiler with our formats.
func newLibrary(asserted bool) *jsonschema.Compiler {
	lib := jsonschema.NewCompiler()
	lib.DefaultDraft(jsonschema.Draft2020)
	if asserted {
		lib.AssertFormat()
	}
	lib.UseLoader(jsonschema.SchemeURLLoader{}) // loads nothing, from nowhere
	for _, f := range formats() {
		lib.RegisterFormat(f)
	}
	return lib
}

// newCompiler returns a compiler of doc, whose definitions stand below defs.
func newCompiler(doc *document, defs string) *compiler {
	return &compiler{doc: doc, lib: newLibrary(true), harden: hardener{doc: doc, defs: defs, open: map[string]bool{}}, known: recognizers{}}
}

// add hands the hardened document to the library; then schema may be called.
func (c *compiler) add() error {
	if err := c.lib.AddResource(docURL, c.doc.root); err != nil {
		return fmt.Errorf("document: %v", err)
	}
	return nil
}

// schema compiles the schema at pointer at.
func (c *compiler) schema(at string) (*Schema, error) {
	compiled, err := c.lib.Compile(docURL + "#" + fragment(at))
	if err != nil {
		where, rule := locate(at, err)
		return nil, c.doc.fail(where, "not a JSON Schema: %s", rule)
	}
	return &Schema{compiled: compiled, known: c.known.of(compiled)}, nil
}

// fragment writes a JSON pointer as a URI fragment.
func fragment(pointer string) string {
	var b strings.Builder
	for _, c := range []byte(pointer) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~/$", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

// locate finds the place and the rule of a compile error.
func locate(at string, err error) (where, rule string) {
	bad, ok := errors.AsType[*jsonschema.SchemaValidationError](err)
	if !ok {
		return at, err.Error()
	}
	v, ok := errors.AsType[*jsonschema.ValidationError](bad.Err)
	if !ok {
		return at, bad.Err.Error()
	}
	var f findings
	f.add(at, v)
	if len(f.fields) == 0 {
		return at, "unknown reason"
	}
	return f.fields[0].Pointer, f.fields[0].Detail
}

// maxFindings bounds what one refusal lists.
const maxFindings = 10

// findings collects what is wrong, without the values.
type findings struct {
	fields []problem.Field
}

// judge validates v, found at pointer base of the request. What is not recognized
// as valid is the library's to judge.
func (f *findings) judge(s *Schema, base string, v any) {
	if s.known != nil && s.known.knows(v) {
		return
	}
	err := s.compiled.Validate(v)
	if err == nil {
		return
	}
	e, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		f.report(base, "does not match the schema")
		return
	}
	f.add(base, e)
}

// report notes one finding, once, and none beyond the bound.
func (f *findings) report(pointer, detail string) {
	field := problem.Field{Pointer: cut(pointer), Detail: detail}
	if len(f.fields) < maxFindings && !slices.Contains(f.fields, field) {
		f.fields = append(f.fields, field)
	}
}

// cut bounds a pointer, which may hold names that the caller made up.
func cut(pointer string) string {
	const bound = 256
	if len(pointer) <= bound {
		return pointer
	}
	return strings.ToValidUTF8(pointer[:bound], "")
}

// err returns nil if nothing was found.
func (f *findings) err(msg string) error {
	if len(f.fields) == 0 {
		return nil
	}
	slices.SortStableFunc(f.fields, func(a, b problem.Field) int { return strings.Compare(a.Pointer, b.Pointer) })
	return problem.With(rampart.Errorf(rampart.Invalid, "validate.openapi", "%s", msg), problem.Details{Errors: f.fields})
}

// add walks the tree of a validation error down to the rules that were broken.
// Of several allowed forms none of which matches, only that is told: the rules
// of each form would contradict each other.
func (f *findings) add(base string, e *jsonschema.ValidationError) {
	at := base
	for _, token := range e.InstanceLocation {
		at = join(at, token)
	}
	switch k := e.ErrorKind.(type) {
	case *kind.AnyOf, *kind.OneOf:
		f.report(at, "must match one of the allowed forms")
	case *kind.Required:
		f.missing(at, k.Missing)
	case *kind.DependentRequired:
		f.missing(at, k.Missing)
	case *kind.AdditionalProperties:
		slices.Sort(k.Properties)
		for _, name := range k.Properties {
			f.report(join(at, name), "is not allowed")
		}
	default:
		if len(e.Causes) == 0 {
			f.report(at, rule(e.ErrorKind))
		}
		for _, cause := range e.Causes {
			if !isAftermath(cause, e.Causes) {
				f.add(base, cause)
			}
		}
	}
}

// isAftermath reports whether e says no more than that a combination failed:
// where a branch fails, nothing that it judged counts as evaluated.
func isAftermath(e *jsonschema.ValidationError, all []*jsonschema.ValidationError) bool {
	judged := func(o *jsonschema.ValidationError) bool { return !isUnevaluated(o) }
	return isUnevaluated(e) && slices.ContainsFunc(all, judged)
}

func isUnevaluated(e *jsonschema.ValidationError) bool {
	return strings.HasSuffix(e.SchemaURL, "/unevaluatedProperties")
}

func (f *findings) missing(at string, names []string) {
	for _, name := range names {
		f.report(join(at, name), "is required")
	}
}

// rule states a broken rule in our words: the library's hold the value.
func rule(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.FalseSchema:
		return "is not allowed"
	case *kind.Type:
		return "must be of type " + strings.Join(k.Want, " or ")
	case *kind.Enum, *kind.Const:
		return "is not an allowed value"
	case *kind.Format:
		if k.Want == rangeFormat {
			return "must be no further from zero than 9007199254740991"
		}
		return "must be a valid " + k.Want
	case *kind.Pattern:
		return "must match its pattern"
	case *kind.MinLength:
		return fmt.Sprintf("must have at least %d characters", k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("must have at most %d characters", k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("must have at least %d items", k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("must have at most %d items", k.Want)
	case *kind.UniqueItems:
		return "must not repeat an item"
	case *kind.MinProperties:
		return fmt.Sprintf("must have at least %d properties", k.Want)
	case *kind.MaxProperties:
		return fmt.Sprintf("must have at most %d properties", k.Want)
	case *kind.Minimum:
		return "must be at least " + decimal(k.Want)
	case *kind.Maximum:
		return "must be at most " + decimal(k.Want)
	case *kind.ExclusiveMinimum:
		return "must be more than " + decimal(k.Want)
	case *kind.ExclusiveMaximum:
		return "must be less than " + decimal(k.Want)
	case *kind.MultipleOf:
		return "must be a multiple of " + decimal(k.Want)
	}
	return "does not match the schema"
}

func decimal(r *big.Rat) string {
	f, _ := r.Float64()
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// Plain says how CompilePlain reads a schema.
type Plain struct {
	Load    func(url string) (any, error) // documents that it refers to; nil knows none
	Formats bool                          // format is asserted, not a mere annotation
}

// CompilePlain compiles a stand-alone JSON Schema as it is, without hardening:
// what it leaves open stays open, and its dialect is the one that it names, or
// 2020-12. It is for tools and tests: at a trust boundary use CompileSchema.
func CompilePlain(schema any, opt Plain) (*Schema, error) {
	lib := newLibrary(opt.Formats)
	if opt.Load != nil {
		lib.UseLoader(loader(opt.Load))
	}
	if err := lib.AddResource(docURL, schema); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	compiled, err := lib.Compile(docURL)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return &Schema{compiled: compiled, known: recognizers{}.of(compiled)}, nil
}

type loader func(url string) (any, error)

func (l loader) Load(url string) (any, error) { return l(url) }
