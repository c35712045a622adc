// Package trace carries one trace id from the edge to every plane that a
// request touches, as W3C Trace Context (level 1) writes it.
package trace

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"
)

// Header is the canonical name of the header that carries the id.
const Header = "Traceparent"

// Of returns the trace id in h, 32 hex digits, or a new random one when h has
// none that is well formed: what is not hex digits never reaches a log.
func Of(h http.Header) string {
	p := ""
	if v := h[Header]; len(v) > 0 {
		p = v[0]
	}
	if len(p) == 55 && p[2] == '-' && p[35] == '-' && p[52] == '-' && isID(p[3:35]) {
		return p[3:35]
	}
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Parent returns the header's value for an id, or "" for what is no id.
func Parent(id string) string {
	if !isID(id) {
		return ""
	}
	return "00-" + id + "-" + id[:16] + "-01"
}

// isID reports whether s is a trace id: lower-case hex, not all zero.
func isID(s string) bool {
	if len(s) != 32 || strings.Trim(s, "0") == "" {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
