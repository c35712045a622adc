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

// rich is built once, as strict is.
var rich = sync.OnceValue(func() *bluemonday.Policy {
	p := bluemonday.NewPolicy()
	p.AllowElements("p", "br", "b", "strong", "i", "em", "u", "s", "code", "pre", "blockquote", "ul", "ol", "li", "h2", "h3", "h4")
	p.AllowAttrs("href").OnElements("a")
	p.AllowURLSchemes("https", "mailto")
	p.AllowRelativeURLs(false)
	p.RequireParseableURLs(true)
	p.RequireNoFollowOnLinks(true)
	p.RequireNoReferrerOnLinks(true)
	p.AddTargetBlankToFullyQualifiedLinks(true)
	return p
})

// Rich keeps of the HTML in s paragraphs, headings, lists, quotes, code, simple
// emphasis and links to https and mailto, and removes all else: attributes,
// styles, scripts, images and frames. The result may be placed into an HTML
// element as it is. Rich(Rich(s)) is Rich(s). It may be called concurrently.
func Rich(s string) string { return rich().Sanitize(s) }
