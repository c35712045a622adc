package openapi

import (
	"fmt"
	"strings"

	"github.com/rampart-security/rampart/internal/nearest"
)

// keywords are what a schema may say: the vocabularies of JSON Schema 2020-12, and
// what OpenAPI 3.0 and 3.1 add to them. Some of them are refused elsewhere, with the
// way out.
const keywords = `
$schema $id $ref $anchor $dynamicRef $dynamicAnchor $recursiveRef $vocabulary $comment $defs definitions
prefixItems items contains additionalProperties properties patternProperties dependentSchemas propertyNames if then else allOf anyOf oneOf not
unevaluatedItems unevaluatedProperties
type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern maxItems minItems uniqueItems
maxContains minContains maxProperties minProperties required dependentRequired
format contentEncoding contentMediaType contentSchema
title description default deprecated readOnly writeOnly examples summary
nullable discriminator xml externalDocs example`

// spell notes the keywords of m, and of the schemas that it negates or tests by,
// which nobody knows: JSON Schema bears them in silence, and so a slip of the pen
// would take its rule away. It is no error, since documents carry what other tools
// read.
func (h *hardener) spell(m map[string]any, at string) {
	known := strings.Fields(keywords)
	for _, k := range sorted(m) {
		if !h.isKeyword(k) && !strings.HasPrefix(k, "x-") {
			h.misspelt(join(at, k), k, known)
		}
	}
	for _, k := range negative {
		_ = h.spellBelow(m[k], join(at, k), false) // has no error to return
	}
}

// spellBelow is a visit of schemas that survey does not come to.
func (h *hardener) spellBelow(v any, at string, _ bool) error {
	m, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	h.spell(m, at)
	return h.subschemas(m, at, h.spellBelow)
}

func (h *hardener) isKeyword(k string) bool {
	if h.known == nil {
		h.known = map[string]bool{}
		for word := range strings.FieldsSeq(keywords) {
			h.known[word] = true
		}
	}
	return h.known[k]
}

func (h *hardener) misspelt(at, keyword string, known []string) {
	fix := "remove it, or write it with x- before it"
	if near, ok := nearest.To(keyword, known); ok {
		fix = fmt.Sprintf("did you mean %q?", near)
	}
	h.put(at, Note{Text: "is no keyword of a schema, and checks nothing", Fix: fix, Unknown: true})
}

// unknowns adds to the notes those on keywords that only answers' schemas have.
func (a *API) unknowns(answers *hardener) {
	seen := map[Note]bool{}
	for _, n := range a.notes {
		seen[n] = true
	}
	for _, n := range answers.sortedNotes() {
		if n.Unknown && !seen[n] {
			a.notes = append(a.notes, n)
		}
	}
}
