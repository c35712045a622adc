package openapi

import "slices"

// translate turns the schemas of an OpenAPI 3.0 document into those of 3.1,
// which are JSON Schema 2020-12, in place:
//
//   - nullable: true adds the type "null" (3.0.3 gives it no meaning without a
//     type, and an enum lists null itself);
//   - exclusiveMinimum: true makes of minimum an exclusive one, and likewise
//     for the maximum;
//   - what stands beside a $ref does not count.
//
// It may see the same schema twice, through a reference to a parameter or body.
func translate(v any) {
	m, ok := v.(map[string]any)
	if !ok {
		return
	}
	if ref, ok := m["$ref"]; ok {
		clear(m)
		m["$ref"] = ref
		return
	}
	translateNull(m)
	translateBound(m, "minimum", "exclusiveMinimum")
	translateBound(m, "maximum", "exclusiveMaximum")
	for _, k := range slices.Concat(parts, inPlace, negative) {
		translate(m[k])
	}
	for _, k := range inPlaceLists {
		list, _ := m[k].([]any)
		for _, sub := range list {
			translate(sub)
		}
	}
	for _, k := range slices.Concat(partMaps, inPlaceMaps) {
		subs, _ := m[k].(map[string]any)
		for _, sub := range subs {
			translate(sub)
		}
	}
}

func translateNull(m map[string]any) {
	nullable := m["nullable"]
	if _, ok := nullable.(bool); !ok {
		return // not there, or an error that the lint reports
	}
	delete(m, "nullable")
	if t, ok := m["type"].(string); ok && nullable == true {
		m["type"] = []any{t, "null"}
	}
}

func translateBound(m map[string]any, bound, exclusive string) {
	is, ok := m[exclusive].(bool)
	if !ok {
		return
	}
	delete(m, exclusive)
	if limit, ok := m[bound]; ok && is {
		m[exclusive] = limit
		delete(m, bound)
	}
}

// clone copies a document's values.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = clone(e)
		}
		return out
	}
	return v
}
