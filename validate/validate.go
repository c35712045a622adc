// Package validate answers "Is this well formed, at this trust boundary?". It
// holds the contract; the leaves hold the parsers: strictjson and strictform turn
// bytes into values, openapi judges values, sanitize cleans text for storage.
package validate

// Validator judges one decoded JSON value, of the types that strictjson yields:
// map[string]any, []any, string, json.Number, bool and nil.
//
// Validate returns nil when v matches. Otherwise it returns a rampart.Error of
// kind Invalid inside a problem.Details that lists JSON pointers and rules,
// never values. It neither keeps nor changes v, and is safe for concurrent use.
type Validator interface {
	Validate(v any) error
}
