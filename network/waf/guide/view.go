package guide

import (
	"iter"
	"net/url"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart/network/waf"
)

// view is a request as the engine reads it: from its target, header, path
// parameters and body. The arguments that the stage parsed are not used, so
// that no difference between two parsers can hide a value.
type view struct {
	*waf.Request
	proto      string
	bodyLength string
	media      string // of the body, as the engine has the rules see it
}

// read reports whether the guide can say anything of r at all: it has no body
// or one that the rules see as JSON or as a form, and its header is as
// net/http leaves it.
func (v *view) read(r *waf.Request) bool {
	v.Request, v.proto, v.bodyLength, v.media = r, r.Proto, "0", ""
	if v.proto == "" {
		v.proto = "HTTP/1.1"
	}
	if len(r.Body) > maxBody || len(r.Target) > maxTarget || len(r.Files) > 0 {
		return false
	}
	if r.BodyKind == waf.FormBody && len(r.Body) > 0 {
		v.bodyLength = strconv.Itoa(len(r.Body))
	}
	return v.body() && len(r.Header) <= 100 && (r.Host != "" || len(r.Header["Host"]) == 0)
}

// body makes sure that the rules parse the body as the guide does: the engine
// goes by the first Content-Type and spells it as the kind of body demands.
func (v *view) body() bool {
	types := v.Header["Content-Type"]
	if len(types) == 1 {
		v.media = types[0]
	}
	if len(v.Body) == 0 {
		return len(types) <= 1
	}
	prefix := ""
	switch v.BodyKind {
	case waf.JSONBody:
		prefix = "application/json"
	case waf.FormBody:
		prefix = "application/x-www-form-urlencoded"
	default:
		return false
	}
	if len(types) == 1 && !strings.HasPrefix(strings.ToLower(v.media), prefix) {
		v.media = prefix
	}
	return len(types) == 1
}

// headerValues are the values of a name in canonical spelling, as the engine
// hands them over.
func (v *view) headerValues(name string) (host string, rest []string) {
	if name == "Host" {
		host = v.Host
	}
	rest = v.Header[name]
	if name == "Content-Type" && len(rest) == 1 && v.media != rest[0] {
		rest = []string{v.media}
	}
	return host, rest
}

// shape appends what a target of a structural rule holds.
func (v *view) shape(t *target, out []string) []string {
	switch t.Var {
	case "REQUEST_METHOD":
		return append(out, count(t, 1, v.Method))
	case "REQUEST_PROTOCOL":
		return append(out, count(t, 1, v.proto))
	case "REQUEST_BODY_LENGTH":
		return append(out, count(t, 1, v.bodyLength))
	case "REQUEST_HEADERS":
		return v.headerShape(t, out)
	}
	return out
}

func count(t *target, n int, value string) string {
	if t.Count {
		return strconv.Itoa(n)
	}
	return value
}

func (v *view) headerShape(t *target, out []string) []string {
	host, rest := v.headerValues(t.canonical)
	if t.Count {
		n := len(rest)
		if host != "" {
			n++
		}
		return append(out, strconv.Itoa(n))
	}
	if host != "" {
		out = append(out, host)
	}
	return append(out, rest...)
}

// targetParts splits a target as Coraza does.
func targetParts(t string) (uri, path, query string, ok bool) {
	if !strings.HasPrefix(t, "/") || strings.HasPrefix(t, "//") || strings.Contains(t, "#") || !printable(t) {
		return "", "", "", false
	}
	path, query, _ = strings.Cut(t, "?")
	if isPlain(path) {
		return t, path, query, true
	}
	u, err := url.ParseRequestURI(t)
	if err != nil {
		return "", "", "", false
	}
	return u.String(), u.Path, u.RawQuery, true
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// isPlain is for paths that no URL encoder would spell otherwise.
func isPlain(path string) bool {
	for i := range len(path) {
		c := path[i]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if c != '/' && c != '-' && c != '.' && c != '_' && c != '~' && (c < '0' || c > '9') {
				return false
			}
		}
	}
	return true
}

func basename(path string) string {
	if i := strings.LastIndexAny(path, `/\`); i >= 0 && i+1 < len(path) {
		return path[i+1:]
	}
	return path
}

// pairs yields the arguments of a query or a form as Coraza splits them: at &
// and the first =, decoded where that is possible and else left.
func pairs(s string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for part := range strings.SplitSeq(s, "&") {
			if part == "" {
				continue
			}
			name, val, _ := strings.Cut(part, "=")
			if !yield(unescape(name), unescape(val)) {
				return
			}
		}
	}
}

func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			out = append(out, ' ')
		case s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		default:
			out = append(out, s[i])
		}
	}
	return string(out)
}

// cookies yields the pairs of a Cookie header as Coraza splits them.
func cookies(s string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for part := range strings.SplitSeq(trimControl(s), ";") {
			name, val, _ := strings.Cut(trimControl(part), "=")
			name, val = trimControl(name), trimControl(val)
			if (name != "" || val != "") && !yield(name, val) {
				return
			}
		}
	}
}

func trimControl(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}
