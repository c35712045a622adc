package canonical

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// methods are those that a declared operation can have.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// Headers refuses requests whose head has two readings, or that a gateway has no
// business with: unknown methods, protocols other than HTTP/1.1 and HTTP/2,
// fields that Connection takes back, a request target that is not the plain text of a path, Upgrade, names with "_"
// (CGI maps "-" to it), repeated fields that hold one value, bytes outside ASCII,
// a Host beside another :authority, an announced length that is not that of the
// body, trailers and an encoded body. It reads the head only, and r must be as
// net/http made it. What HTTP/1 bytes alone tell is package framing's to judge.
// Errors carry control edge.route or, for the body's encoding, validate.json.
func Headers(r *http.Request) error {
	for _, check := range [...]func(*http.Request) error{checkMethod, checkTarget, checkFields, checkConnection, checkAuthority, checkBody} {
		if err := check(r); err != nil {
			return err
		}
	}
	return nil
}

func checkMethod(r *http.Request) error {
	if slices.Contains(methods, r.Method) && r.URL.Path != "*" {
		return nil
	}
	return problem.With(refuse("method not allowed"), problem.Details{Status: http.StatusMethodNotAllowed, Allow: methods})
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
	// net/url reads what is no URI, and writes it anew in another spelling.
	for i := range len(r.RequestURI) {
		if c := r.RequestURI[i]; c <= ' ' || c >= 0x7f || c == '#' || c == '\\' {
			return refuse("request target holds bytes that no URI has")
		}
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
		if strings.IndexByte(name, '_') >= 0 {
			return refuse("header: name with an underscore")
		}
		if len(values) > 1 && !repeatable(name) {
			return refuse("header: %s given twice", name)
		}
		if name == "Upgrade" || name == "Http2-Settings" {
			return refuse("header: no other protocol is spoken here")
		}
		if name == "Expect" && !strings.EqualFold(values[0], "100-continue") {
			return problem.With(refuse("header: the only expectation is 100-continue"), problem.Details{Status: http.StatusExpectationFailed})
		}
		if slices.ContainsFunc(values, isPadded) {
			return refuse("header: %s holds spaces around its value", name)
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

// checkConnection refuses a field that Connection names as one that ends here (RFC
// 9110 section 7.6.1): the stages would judge it, and the service never see it. A
// body, for one, would be judged by a Content-Type and arrive without.
func checkConnection(r *http.Request) error {
	for _, line := range r.Header["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			name := http.CanonicalHeaderKey(strings.Trim(token, " \t"))
			if _, there := r.Header[name]; there && name != "Te" && name != "Keep-Alive" {
				return refuse("header: Connection takes %s back", name)
			}
		}
	}
	return nil
}

// isPadded reports what HTTP/1 trims and HTTP/2 forbids (RFC 9113 section 8.2.1).
func isPadded(s string) bool {
	return s != "" && (s[0] == ' ' || s[0] == '\t' || s[len(s)-1] == ' ' || s[len(s)-1] == '\t')
}

func notASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return true
		}
	}
	return false
}

// checkAuthority refuses a second host: in HTTP/2 net/http lets a Host field
// stand beside :authority, and a service may read either (RFC 9113 section 8.3.1).
func checkAuthority(r *http.Request) error {
	if host, ok := r.Header["Host"]; ok && (len(host) != 1 || host[0] != r.Host) {
		return refuse("header: Host is not the authority of the request")
	}
	return nil
}

func checkBody(r *http.Request) error {
	if len(r.Trailer) > 0 {
		return refuse("trailers are not accepted")
	}
	// In HTTP/2 net/http takes a length that is no number for 0.
	if v, ok := r.Header["Content-Length"]; ok && (len(v) != 1 || !isNumber(v[0], r.ContentLength)) {
		return refuse("header: Content-Length is not the length of the body")
	}
	if e := r.Header["Content-Encoding"]; len(e) > 0 && e[0] != "" && e[0] != "identity" {
		return problem.With(rampart.Errorf(rampart.Invalid, "validate.json", "body must not be encoded"),
			problem.Details{Status: http.StatusUnsupportedMediaType})
	}
	return nil
}

// isNumber reports whether text is n as strconv writes it.
func isNumber(text string, n int64) bool {
	var buf [20]byte
	return text == string(strconv.AppendInt(buf[:0], n, 10))
}

// Body refuses a body on the methods for which RFC 9110 gives it no meaning
// (sections 9.3.1, 9.3.2, 9.3.5 and 9.3.7), unless the operation declares one:
// some servers read it, and others take it for the next request. The error
// carries control edge.route.
func Body(r *http.Request, declared bool) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions:
		if !declared && (r.ContentLength != 0 || len(r.TransferEncoding) > 0) {
			return refuse("%s takes no body", r.Method)
		}
	}
	return nil
}

// Hosts are the names that a plane answers to.
type Hosts struct{ names map[string]bool }

// NewHosts returns the hosts of these names, in canonical form. Without names
// they are those of a development machine: localhost, and loopback addresses.
func NewHosts(names []string) Hosts {
	h := Hosts{make(map[string]bool, len(names))}
	for _, n := range names {
		h.names[n] = true
	}
	return h
}

// Check refuses a request for another host with 421 (RFC 9110 section 15.5.20):
// what is decided by name, here or behind, must be decided about one of ours.
// A Host that is no host[:port] is refused as such. The port is not compared,
// since what is in front may have another. The error carries control edge.route.
func (h Hosts) Check(r *http.Request) error {
	name, err := Host(r.Host)
	if err != nil || h.has(name) {
		return err
	}
	return problem.With(refuse("host: not served here"), problem.Details{Status: http.StatusMisdirectedRequest})
}

func (h Hosts) has(name string) bool {
	if len(h.names) > 0 {
		return h.names[name]
	}
	if name == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback()
}
