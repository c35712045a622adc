// Package sanitize cleans text that people typed before it is stored.
package sanitize

import "github.com/rampart-security/rampart/validate/sanitize"

// Text removes all HTML from s, the content of scripts and styles included, and
// escapes what is left: the result is safe inside an HTML element, and may be
// up to five times as long as s. Text(Text(s)) is Text(s).
func Text(s string) string { return sanitize.Text(s) }

// HTML is text with simple markup that is clean: paragraphs, headings, lists,
// quotes, code, emphasis, and links to https and mailto, without anything that
// runs or loads. Decoding one cleans it, so that a field of this type in a
// request's struct is safe to store and to place inside an HTML element. The
// zero value is empty.
type HTML struct{ text string }

// Rich returns s, cleaned.
func Rich(s string) HTML { return HTML{sanitize.Rich(s)} }

// String returns the markup.
func (h HTML) String() string { return h.text }

// MarshalText writes the markup (encoding.TextMarshaler, for JSON).
func (h HTML) MarshalText() ([]byte, error) { return []byte(h.text), nil }

// UnmarshalText cleans what a caller sent. It returns no error.
func (h *HTML) UnmarshalText(text []byte) error {
	*h = Rich(string(text))
	return nil
}
