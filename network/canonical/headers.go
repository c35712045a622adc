package canonical

import (
	"net/http"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// Headers refuses requests whose head has two readings, or that a gateway has no
// business with: unknown methods, protocols other than HTTP/1.1 and HTTP/2, an
// absolute request target, Upgrade, names with "_" (CGI maps "-" to it), repeated
// fields that hold one value, bytes outside ASCII, an encoded body, and a body
// where none belongs. It reads the head only, and r must be as net/http made it.
// Errors carry control edge.route or, for the body's encoding, validate.json.
func Headers(r *http.Request) error {
	for _, check := range []func(*http.Request) error{checkMethod, checkTarget, checkFields, checkBody} {
		if err := check(r); err != nil {
			return err
		}
	}
	return nil
}

func checkMethod(r *http.Request) error {
	allowed := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
	if slices.Contains(allowed, r.Method) {
		return nil
	}
	return problem.With(refuse("method not allowed"), problem.Details{Status: http.StatusMethodNotAllowed, Allow: allowed})
}

// checkTarget also refuses HTTP/1.0: net/http serves it, and ignores its
// Transfer-Encoding, so that a body can become a second request.
func checkTarget(r *http.Request) error {
	if r.ProtoMajor != 2 && (r.ProtoMajor != 1 || r.ProtoMinor != 1) {
		return refuse("only HTTP/1.1 and HTTP/2 are spoken here")
	}
	if r.URL.IsAbs() || r.URL.Host != "" || r.URL.Opaque != "" {
		return refuse("request target must be a path")
	}
	return nil
}

// repeatable are the fields that may come twice: list syntax, RFC 9110, section
// 5.3, in use by clients and proxies. Deny by default: a field that this table
// does not know holds one value.
func repeatable(name string) bool {
	switch name {
	case "Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Cache-Control", "Connection",
		"Forwarded", "If-Match", "If-None-Match", "Link", "Pragma", "Prefer", "Te", "Tracestate", "Via",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
		return true
	}
	return false
}

func checkFields(r *http.Request) error {
	for name, values := range r.Header {
		if strings.ContainsAny(name, "_") {
			return refuse("header: name with an underscore")
		}
		if len(values) > 1 && !repeatable(name) {
			return refuse("header: %s given twice", name)
		}
		if name == "Upgrade" || name == "Http2-Settings" {
			return refuse("header: no other protocol is spoken here")
		}
		// Browsers fill these two with what they like; nothing is decided by them.
		if name == "User-Agent" || name == "Referer" {
			continue
		}
		if slices.ContainsFunc(values, notASCII) {
			return refuse("header: %s holds bytes outside ASCII", name)
		}
	}
	return nil
}

func notASCII(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

func checkBody(r *http.Request) error {
	if len(r.Trailer) > 0 {
		return refuse("trailers are not accepted")
	}
	bodyless := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if bodyless && (r.ContentLength != 0 || len(r.TransferEncoding) > 0) {
		return refuse("%s takes no body", r.Method)
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return problem.With(rampart.Errorf(rampart.Invalid, "validate.json", "body must not be encoded"),
			problem.Details{Status: http.StatusUnsupportedMediaType})
	}
	return nil
}
