package problem

import (
	"fmt"
	"html"
	"net/http"
	"strings"

	"github.com/rampart-security/rampart"
)

// Sentence tells a person what went wrong: as much of an error as may leave the
// house, as a whole sentence or two.
func Sentence(err error) string {
	switch rampart.KindOf(err) {
	case rampart.Internal:
		return "Something broke on our side. Try again; if it stays, ask for help."
	case rampart.Unavailable:
		return "This is not possible right now. Try again in a minute."
	case rampart.NotFound:
		return "There is no such page."
	}
	text := Message(err)
	if text == "" {
		return "This is not possible right now."
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// ForPerson reports whether a browser's person reads the answer: a program says
// by its credential, or by what it accepts, that it is one.
func ForPerson(r *http.Request) bool {
	h := r.Header
	return strings.Contains(h.Get("Accept"), "text/html") && h.Get("Authorization") == "" && h.Get("X-Api-Key") == ""
}

// pagePolicy lets a page of WritePage load its style sheet and nothing else.
const pagePolicy = "default-src 'none'; style-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

// page takes the system's name, the same again, what went wrong, the reference
// and the name once more.
const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>This did not work – %s</title>
<link rel="stylesheet" href="/login.css">
</head>
<body class="narrow">
<main id="main">
<header class="sign"><p>%s</p></header>
<h1>This did not work</h1>
<p>%s</p>
<p class="hint">If you ask for help, tell this reference: <code>%s</code></p>
<p class="foot"><a href="/">Back to %s</a></p>
</main>
</body>
</html>
`

// WritePage answers as Write does, with the same status and hints, but in a page
// for a person. It names the system, runs no script and shows nothing that
// Sentence does not.
func WritePage(w http.ResponseWriter, err error, trace, system string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	status := Status(err)
	begin(h, status, detailsOf(err))
	w.WriteHeader(status)
	name := html.EscapeString(system)
	_, _ = fmt.Fprintf(w, page, name, name, html.EscapeString(Sentence(err)), html.EscapeString(trace), name) // the client may have gone
}
