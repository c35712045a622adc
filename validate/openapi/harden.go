package openapi

import (
	"encoding/json"
	"regexp/syntax"
	"slices"
	"strings"
)

// The caps of what a schema leaves open.
const (
	defaultMaxLength = "4096" // characters of a string
	defaultMaxItems  = "1000" // elements of an array

)

// hardener closes the schemas of a document in place, before they are compiled:
//
//   - an object takes the declared properties and no others;
//   - a string has a maxLength, an array a maxItems and a number a range;
//   - a readOnly property may not be sent.
//
// An answer's objects are closed alike, so that no field leaks; it is not
// capped, and a writeOnly property may not be in it.
//
// Objects are closed where a value is described (a body, a property, an item),
// not where schemas are combined: a closed branch of an allOf would refuse the
// properties of the other branches. A combination is closed as a whole, by
// unevaluatedProperties, which sees through its branches and references.
// Whatever the author wrote stays: additionalProperties: true is a choice. So is
// x-rampart-open in a schema: true, or a list of properties, length, items and
// range, takes that hardening off this one schema. Choices and default caps are
// noted (see API.Notes).
type hardener struct {
	doc     *document
	defs    string          // pointer below which references may lead
	open    map[string]bool // references that take part in a combination
	answers bool            // answers are judged, not requests
	notes   map[string]Note // by pointer and text
	known   map[string]bool // keywords; see isKeyword
}

// Note tells what a reader of the document should know: a bound that it lacks
// and got, a schema that it leaves open, or a keyword that nobody knows.
type Note struct {
	Line    int    // 0 when the document is JSON
	Pointer string // of the schema
	Text    string
	Fix     string // what to write instead; "" for a default or a choice, which may stay
	Open    bool   // the document opens something
	Unknown bool   // a word in a schema says nothing
	Closed  bool   // no object passes there but {}; of none: the document got a default
}

// Notes lists what hardening of requests found, by place, and then the unknown
// keywords of answers.
func (a *API) Notes() []Note { return slices.Clone(a.notes) }

func (h *hardener) note(at, text string, open bool) { h.put(at, Note{Text: text, Open: open}) }

// put notes n at its place, once.
func (h *hardener) put(at string, n Note) {
	if h.notes == nil {
		h.notes = map[string]Note{}
	}
	n.Line, n.Pointer = h.doc.line(at), orRoot(at)
	h.notes[at+" "+n.Text] = n
}

func (h *hardener) sortedNotes() (out []Note) {
	for _, k := range sortedKeys(h.notes) {
		out = append(out, h.notes[k])
	}
	return out
}

// Keywords that hold subschemas, by what they apply to: the same value (all of
// them, in place) or a part of it.
var (
	inPlaceLists = []string{"allOf", "anyOf", "oneOf"}
	inPlaceMaps  = []string{"dependentSchemas"}
	inPlace      = []string{"then", "else"}
	partMaps     = []string{"properties", "patternProperties"}
	parts        = []string{"additionalProperties", "unevaluatedProperties", "items", "unevaluatedItems"}
	negative     = []string{"not", "if", "contains", "propertyNames"} // caps inside would turn into permissions
	unsupported  = []string{"$id", "$schema", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "nullable", "definitions"}
)

// survey notes which definitions are branches of a combination somewhere and so
// cannot be closed themselves. It must have seen every schema before schema runs.
// whole says that v alone describes a value.
func (h *hardener) survey(v any, at string, whole bool) error {
	m, ok := v.(map[string]any)
	if !ok {
		return nil // true, false, or an error that the compiler will report
	}
	if err := h.lint(m, at); err != nil {
		return err
	}
	h.spell(m, at)
	if ref, ok := m["$ref"].(string); ok && (!whole || !isPlainRef(m)) {
		h.open[ref] = true
	}
	return h.subschemas(m, at, h.survey)
}

// schema hardens v.
func (h *hardener) schema(v any, at string, whole bool) error {
	m, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	if err := h.subschemas(m, at, h.schema); err != nil {
		return err
	}
	h.drop(m)
	open, err := h.opened(m, at)
	if err != nil || isFixed(m) {
		return err
	}
	combined := isCombined(m)
	if !h.answers {
		h.bound(m, at, combined || !whole, open)
	}
	if whole && !open["properties"] {
		h.closeObject(m, at, combined)
	}
	if m["additionalProperties"] == any(true) || m["unevaluatedProperties"] == any(true) {
		h.note(at, "takes properties that are not declared", true)
	}
	return nil
}

// opened reads x-rampart-open.
func (h *hardener) opened(m map[string]any, at string) (map[string]bool, error) {
	v, ok := m[openKey]
	if !ok || v == any(false) {
		return nil, nil
	}
	all := []any{"properties", "length", "items", "range"}
	list, ok := v.([]any)
	if v == any(true) {
		list, ok = all, true
	}
	out := map[string]bool{}
	for _, word := range list {
		text, _ := word.(string)
		out[text] = true
		ok = ok && slices.Contains(all, word)
	}
	if !ok {
		return nil, h.doc.fail(join(at, openKey), "write true, or a list of properties, length, items and range")
	}
	h.note(at, "is open: "+strings.Join(sortedKeys(out), ", "), true)
	return out, nil
}

const openKey = "x-rampart-open"

// definitions applies schema to the definitions, each closed unless it is a
// branch of something.
func (h *hardener) definitions(v any) error {
	defs, _ := v.(map[string]any)
	for _, name := range sorted(defs) {
		at := join(h.defs, name)
		if err := h.schema(defs[name], at, !h.open["#"+at]); err != nil {
			return err
		}
	}
	return nil
}

func (h *hardener) lint(m map[string]any, at string) error {
	for _, k := range unsupported {
		if _, ok := m[k]; ok {
			return h.doc.fail(join(at, k), "%s is not supported; %s", k, instead(k))
		}
	}
	if v, ok := m["$ref"]; ok && !h.leads(v) {
		return h.doc.fail(join(at, "$ref"), "reference leads nowhere; write #%s/NAME of this document", h.defs)
	}
	if f, ok := m["format"].(string); ok && !isKnownFormat(f) {
		return h.doc.fail(join(at, "format"), "format %q would not be checked; use a pattern", f)
	}
	for _, k := range negative {
		if hasRef(m[k]) {
			return h.doc.fail(join(at, k), "a reference inside %s is not supported; write the schema out", k)
		}
	}
	return nil
}

// leads reports whether a reference names a definition. Others would reach
// schemas that nobody hardened.
func (h *hardener) leads(v any) bool {
	ref, _ := v.(string)
	name, ok := strings.CutPrefix(ref, "#"+h.defs+"/")
	_, found := h.doc.lookup(ref)
	return ok && found && !strings.Contains(name, "/")
}

func instead(keyword string) string {
	switch keyword {
	case "nullable":
		return `write type: [string, "null"]`
	case "definitions":
		return "use $defs or components/schemas"
	}
	return "use $ref to #/components/schemas/NAME"
}

// hasRef looks for a $ref key anywhere below v. A property of that name counts
// too: nobody needs one inside a negation.
func hasRef(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for k, sub := range v {
			if k == "$ref" || hasRef(sub) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, hasRef)
	}
	return false
}

// visit is survey or schema.
type visit func(v any, at string, whole bool) error

func (h *hardener) subschemas(m map[string]any, at string, fn visit) error {
	for _, k := range inPlace {
		if err := fn(m[k], join(at, k), false); err != nil {
			return err
		}
	}
	for _, k := range parts {
		if err := fn(m[k], join(at, k), true); err != nil {
			return err
		}
	}
	for _, k := range inPlaceLists {
		if err := list(m[k], join(at, k), false, fn); err != nil {
			return err
		}
	}
	for _, k := range inPlaceMaps {
		if err := each(m[k], join(at, k), false, fn); err != nil {
			return err
		}
	}
	for _, k := range partMaps {
		if err := each(m[k], join(at, k), true, fn); err != nil {
			return err
		}
	}
	return list(m["prefixItems"], join(at, "prefixItems"), true, fn)
}

func list(v any, at string, whole bool, fn visit) error {
	subs, _ := v.([]any)
	for i, sub := range subs {
		if err := fn(sub, atIndex(at, i), whole); err != nil {
			return err
		}
	}
	return nil
}

// each visits a map of schemas in order: the first error is always the same.
func each(v any, at string, whole bool, fn visit) error {
	m, _ := v.(map[string]any)
	for _, k := range sorted(m) {
		if err := fn(m[k], join(at, k), whole); err != nil {
			return err
		}
	}
	return nil
}

// drop makes properties that only the other side sets impossible, and so not
// required either: readOnly ones in requests, writeOnly ones in answers.
func (h *hardener) drop(m map[string]any) {
	props, _ := m["properties"].(map[string]any)
	required, _ := m["required"].([]any)
	for name, sub := range props {
		if !h.isOthers(sub) {
			continue
		}
		props[name] = false
		required = slices.DeleteFunc(slices.Clone(required), func(v any) bool { return v == any(name) })
	}
	if required != nil {
		m["required"] = required
	}
}

// isOthers looks at a property and, through one reference, at its schema.
func (h *hardener) isOthers(v any) bool {
	word := "readOnly"
	if h.answers {
		word = "writeOnly"
	}
	m, _ := v.(map[string]any)
	if m[word] == true {
		return true
	}
	ref, _ := m["$ref"].(string)
	target, _ := h.doc.lookup(ref)
	t, _ := target.(map[string]any)
	return t[word] == true
}

// isFixed reports whether the values themselves are listed.
func isFixed(m map[string]any) bool {
	_, isEnum := m["enum"]
	_, isConst := m["const"]
	return isEnum || isConst
}

// isPlainRef reports whether m is a reference and nothing else that judges.
func isPlainRef(m map[string]any) bool {
	if _, ok := m["$ref"]; !ok {
		return false
	}
	for k := range m {
		if !slices.Contains([]string{"$ref", "title", "description", "summary", "example", "examples", "default", "deprecated", "readOnly", "writeOnly", "$comment", openKey}, k) {
			return false
		}
	}
	return true
}

// isCombined reports whether other schemas judge the same value.
func isCombined(m map[string]any) bool {
	for _, k := range slices.Concat([]string{"$ref", "if"}, inPlaceLists, inPlaceMaps) {
		if _, ok := m[k]; ok {
			return true
		}
	}
	return false
}

// bound caps strings, arrays and numbers. A schema without a type bounds
// whatever the value may be, unless other schemas say more about it.
func (h *hardener) bound(m map[string]any, at string, combined bool, open map[string]bool) {
	_, typed := m["type"]
	if mayBe(m, "string", combined) && !open["length"] {
		if setDefault(m, "maxLength", json.Number(defaultMaxLength)) && typed && !isShort(m) {
			h.note(at, "has no maxLength; at most "+defaultMaxLength+" characters pass", false)
		}
	}
	if mayBe(m, "array", combined) && !open["items"] {
		if setDefault(m, "maxItems", json.Number(defaultMaxItems)) && typed {
			h.note(at, "has no maxItems; at most "+defaultMaxItems+" pass", false)
		}
	}
	if (mayBe(m, "integer", combined) || mayBe(m, "number", combined)) && !open["range"] {
		h.boundNumber(m, at, typed)
	}
}

// boundNumber gives a number the ends of its range that it lacks. A format of so
// many bits is a range.
func (h *hardener) boundNumber(m map[string]any, at string, typed bool) {
	if f := m["format"]; f == any("int32") || f == any("int64") {
		return
	}
	if m["format"] == any("float") || m["format"] == any("double") {
		delete(m, "format") // says nothing that is checked
	}
	missing := false
	for _, bound := range []string{"minimum", "maximum"} {
		if _, ok := m["exclusive"+strings.ToUpper(bound[:1])+bound[1:]]; !ok && m[bound] == nil {
			missing = true
		}
	}
	if missing {
		setDefault(m, "format", rangeFormat)
	}
	if missing && typed {
		h.note(at, "has no minimum or no maximum; 53 bits pass", false)
	}
}

// isShort reports whether what a string may be bounds its length anyhow.
func isShort(m map[string]any) bool {
	switch m["format"] {
	case "uuid", "date", "date-time", "time", "ipv4", "ipv6", "email", "hostname":
		return true
	}
	pattern, _ := m["pattern"].(string)
	re, err := syntax.Parse(pattern, syntax.Perl)
	return err == nil && spans(re) && isFinite(re)
}

func isFinite(re *syntax.Regexp) bool {
	if re.Op == syntax.OpStar || re.Op == syntax.OpPlus || re.Op == syntax.OpRepeat && re.Max < 0 {
		return false
	}
	return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !isFinite(sub) })
}

func (h *hardener) closeObject(m map[string]any, at string, combined bool) {
	_, additional := m["additionalProperties"]
	_, unevaluated := m["unevaluatedProperties"]
	ref, _ := m["$ref"].(string)
	switch {
	case additional || unevaluated:
	case isPlainRef(m) && !h.open[ref]: // the definition is closed itself
	case combined:
		m["unevaluatedProperties"] = false
	case mayBe(m, "object", false):
		m["additionalProperties"] = false
		h.noteClosed(m, at)
	}
}

// noteClosed tells of a schema whose type is object and that declares no property:
// closed, it takes nothing, which its author hardly means. One that says
// maxProperties: 0 means it.
func (h *hardener) noteClosed(m map[string]any, at string) {
	_, typed := m["type"]
	named, _ := m["properties"].(map[string]any)
	formed, _ := m["patternProperties"].(map[string]any)
	if h.answers || !typed || len(named)+len(formed) > 0 || m["maxProperties"] == any(json.Number("0")) {
		return
	}
	h.put(at, Note{Text: "declares no properties, so no object but {} passes", Fix: "declare its properties, or write additionalProperties: true to take any", Closed: true})
}

// mayBe reports whether m declares type t, or declares no type and none is
// declared elsewhere.
func mayBe(m map[string]any, t string, combined bool) bool {
	switch declared := m["type"].(type) {
	case string:
		return declared == t
	case []any:
		return slices.Contains(declared, any(t))
	}
	return !combined
}

// setDefault reports whether k was missing.
func setDefault(m map[string]any, k string, v any) bool {
	if _, ok := m[k]; ok {
		return false
	}
	m[k] = v
	return true
}

// sorted returns the keys of m in order.
func sorted(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, strings.Compare)
	return keys
}
