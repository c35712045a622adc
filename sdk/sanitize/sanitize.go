// Package sanitize cleans text that people typed before it is stored.
package sanitize

import "github.com/rampart-security/rampart/validate/sanitize"

// Text removes all HTML from s, the content of scripts and styles included, and
// escapes what is left: the result is safe inside an HTML element, and may be
// up to five times as long as s. Text(Text(s)) is Text(s).
func Text(s string) string { return sanitize.Text(s) }
