// Package sanitize cleans text that people wrote, before it is stored.
package sanitize

import (
	"sync"

	"github.com/microcosm-cc/bluemonday"
)

// strict is built once; a policy is read-only from then on.
var strict = sync.OnceValue(bluemonday.StrictPolicy)

// Text removes every HTML element and comment from s, the content of script and
// style included, and escapes what is left, so that the result may be placed
// into an HTML element as it is. Text(Text(s)) is Text(s). It may be called
// concurrently.
func Text(s string) string { return strict().Sanitize(s) }
