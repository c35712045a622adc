package openapi

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const mismatch = "request does not match the API description"

// Check judges a request that Route led to op. body is the Doc that Read gave
// for the same Content-Type, or what strictjson decoded, or nil if the request
// has none; a body that is the JSON null counts as none. Of the cookies only the
// declared ones are judged: no other reaches the service (see Cookie).
// The error is a rampart.Error of kind Invalid, control validate.openapi, in a
// problem.Details with at most ten JSON pointers below /path, /query, /header
// and /body. Values are never repeated. Check changes nothing and is safe for
// concurrent use.
func (op *Operation) Check(path Params, query url.Values, header http.Header, body any) error {
	kind := ""
	if v := header["Content-Type"]; len(v) > 0 {
		kind = v[0]
	}
	if body != nil {
		if m, wrong := op.findMedia(kind); wrong != "" {
			return unsupportedMedia(wrong)
		} else if _, unread := body.(Opaque); unread != (m.opaque != "") {
			return unsupportedMedia("the body was not read as its content type says")
		} else if c, judged := body.(checked); judged && c.by != m {
			return unsupportedMedia("the body was not read as its content type says")
		}
	}
	var f findings
	for i := range op.params {
		p := &op.params[i]
		if p.keys != nil {
			f.spread(p, query)
			continue
		}
		f.param(p, p.pairs(path, query, header))
	}
	op.checkUndeclared(&f, query)
	op.checkBody(&f, kind, body)
	return f.err(mismatch)
}

// TenantOf returns the organization that a request names where the document
// says (Tenant), or "".
func (op *Operation) TenantOf(path Params, body any) string {
	part, name, _ := strings.Cut(op.Tenant, ".")
	if part == "path" {
		return path[name]
	}
	m, _ := body.(map[string]any)
	text, _ := m[name].(string)
	return text
}

// pairs returns the values that a request gives a parameter.
func (p *param) pairs(path Params, query url.Values, header http.Header) []string {
	switch p.in {
	case "query":
		return query[p.name]
	case "header":
		return header[p.name]
	case "cookie":
		return cookieValues(header, p.name)
	}
	if text, ok := path[p.name]; ok {
		return []string{text}
	}
	return nil
}

func (f *findings) param(p *param, pairs []string) {
	at := join("/"+p.in, p.name)
	if len(pairs) == 0 {
		if p.required {
			f.report(at, "is required")
		}
		return
	}
	v, rule := p.value(pairs)
	if rule != "" {
		f.report(at, rule)
		return
	}
	f.judge(p.schema, at, v)
}

// spread judges an object that stands in several parameters of the query.
func (f *findings) spread(p *param, query url.Values) {
	at := join("/query", p.name)
	v, rule := p.spread(query)
	switch {
	case rule != "":
		f.report(at, rule)
	case v != nil:
		f.judge(p.schema, at, v)
	case p.required:
		f.report(at, "is required")
	}
}

// checkUndeclared refuses query parameters that the document does not know: what
// the service reads of them nobody has checked.
func (op *Operation) checkUndeclared(f *findings, query url.Values) {
	var unknown []string
	for name := range query {
		if !op.query[name] {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		f.report(join("/query", name), "is not allowed")
	}
}

func (op *Operation) checkBody(f *findings, contentType string, body any) {
	switch {
	case body == nil && op.BodyNeeded:
		f.report("/body", "is required")
	case body == nil:
	case !op.Body:
		f.report("/body", "is not allowed")
	default:
		if _, judged := body.(checked); judged {
			return // by the schema of this very content type
		}
		if m, _ := op.findMedia(contentType); m.opaque == "" {
			f.judge(m.schema, "/body", body)
		}
	}
}

// cookieValues returns all values that a request gives a cookie.
func cookieValues(header http.Header, name string) (out []string) {
	for _, line := range header["Cookie"] {
		list, err := http.ParseCookie(line)
		if err != nil {
			return []string{"", ""} // given otherwise than once: refused
		}
		for _, c := range list {
			if c.Name == name {
				out = append(out, c.Value)
			}
		}
	}
	return out
}

// Cookie returns the value of a Cookie header with the cookies that op declares
// and no other, for a request that passed Check; "" for none. A nil operation
// declares none.
func (op *Operation) Cookie(header http.Header) string {
	if op == nil || len(op.cookies) == 0 {
		return ""
	}
	var out []string
	for _, name := range op.cookies {
		for _, v := range cookieValues(header, name) {
			out = append(out, name+"="+v)
		}
	}
	return strings.Join(out, "; ")
}

// Dropped lists the names of the cookies that op does not declare, at most 32,
// sorted: they end here.
func (op *Operation) Dropped(header http.Header) []string {
	var out []string
	for _, line := range header["Cookie"] {
		list, _ := http.ParseCookie(line)
		for _, c := range list {
			if len(out) < 32 && !slices.Contains(op.cookies, c.Name) && !slices.Contains(out, c.Name) {
				out = append(out, cut(c.Name))
			}
		}
	}
	slices.Sort(out)
	return out
}

// isCookieName accepts a token that is none of our own cookies.
func isCookieName(name string) bool {
	odd := func(r rune) bool { return !isHost(r) && r != '_' && r != '.' }
	return !strings.ContainsFunc(name, odd) && !strings.HasPrefix(strings.ToLower(name), "__host-rampart")
}
