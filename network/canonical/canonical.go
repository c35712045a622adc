// Package canonical gives a request one reading. What it returns is what is
// routed, authorized, logged and forwarded; what has two readings is refused.
// Two parsers that disagree about a path are how access control is bypassed.
package canonical

import (
	"net/netip"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
)

// MaxPath bounds the length of a path and of a query, in bytes as received.
const MaxPath = 4096

// Path decodes an escaped path once and returns it, checking rawQuery as well.
// It refuses whatever another parser could read differently: doubly encoded
// text, dot segments, empty segments, backslashes, encoded slashes, ";", "?" and
// "#", control characters and invalid UTF-8. Path(Path(x)) is Path(x). Errors
// are of kind Invalid, control edge.route.
func Path(raw, rawQuery string) (string, error) {
	if len(raw) > MaxPath || len(rawQuery) > MaxPath {
		return "", refuse("path: too long")
	}
	if !strings.HasPrefix(raw, "/") {
		return "", refuse("path: must begin with a slash")
	}
	if hidesSlash(raw) {
		return "", refuse("path: encoded slash")
	}
	path, err := url.PathUnescape(raw)
	if err != nil {
		return "", refuse("path: bad percent encoding")
	}
	if err := checkText(path); err != nil {
		return "", err
	}
	if err := checkSegments(path); err != nil {
		return "", err
	}
	return path, checkQuery(rawQuery)
}

// hidesSlash reports whether raw holds %2f or %5c.
func hidesSlash(raw string) bool {
	for rest := raw; ; {
		at := strings.IndexByte(rest, '%')
		if at < 0 {
			return false
		}
		rest = rest[at+1:]
		if len(rest) >= 2 && (rest[0] == '2' && rest[1]|0x20 == 'f' || rest[0] == '5' && rest[1]|0x20 == 'c') {
			return true
		}
	}
}

// checkText looks at the characters of a decoded path. A percent sign is one
// too many: a second decoding would change the path.
func checkText(path string) error {
	if !utf8.ValidString(path) {
		return refuse("path: invalid UTF-8")
	}
	for _, r := range path {
		switch {
		case unicode.IsControl(r):
			return refuse("path: control character")
		case r == '%':
			return refuse("path: double encoding")
		case r == '\\':
			return refuse("path: backslash")
		case r == ';' || r == '?' || r == '#':
			return refuse("path: %q is not allowed", r)
		}
	}
	return nil
}

// checkSegments refuses what another parser would resolve (RFC 3986, section
// 5.2.4) or merge. A slash at the end is a path of its own.
func checkSegments(path string) error {
	for rest, more := path[1:], true; more; {
		var s string
		s, rest, more = strings.Cut(rest, "/")
		if s == "." || s == ".." {
			return refuse("path: dot segment")
		}
		if s == "" && more {
			return refuse("path: empty segment")
		}
	}
	return nil
}

// checkQuery refuses what net/url drops in silence: pairs with ";" or with a
// bad percent sign. The service behind might read them.
func checkQuery(raw string) error {
	if raw == "" {
		return nil
	}
	if strings.ContainsAny(raw, ";#") {
		return refuse("query: semicolon or fragment")
	}
	text, err := url.QueryUnescape(raw)
	if err != nil {
		return refuse("query: bad percent encoding")
	}
	if !utf8.ValidString(text) {
		return refuse("query: invalid UTF-8")
	}
	if strings.ContainsFunc(raw, unicode.IsControl) || strings.Contains(text, "\x00") {
		return refuse("query: control character")
	}
	return nil
}

// Host returns the canonical name of a Host header or :authority: lower case,
// the port and one trailing dot removed, an IPv6 literal without brackets. Only
// A-labels are accepted, which is what clients send for international names.
// Whether the host is one of ours is the caller's question.
func Host(raw string) (string, error) {
	name, port := raw, ""
	if i := strings.LastIndexByte(raw, ':'); i >= 0 && !strings.HasSuffix(raw, "]") {
		name, port = raw[:i], raw[i+1:]
		if !isPort(port) {
			return "", refuse("host: bad port")
		}
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		return literal(inner)
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(name) == 0 || len(name) > 253 {
		return "", refuse("host: missing or too long")
	}
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return "", refuse("host: bad name")
		}
	}
	return name, nil
}

func literal(inner string) (string, error) {
	text, ok := strings.CutSuffix(inner, "]")
	addr, err := netip.ParseAddr(text)
	if !ok || err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", refuse("host: bad address")
	}
	return addr.String(), nil
}

func isPort(s string) bool {
	if len(s) == 0 || len(s) > 5 || s[0] == '0' {
		return false
	}
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535
}

// isLabel is RFC 1123, section 2.1, in lower case.
func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

func refuse(format string, args ...any) error {
	return rampart.Errorf(rampart.Invalid, "edge.route", format, args...)
}
