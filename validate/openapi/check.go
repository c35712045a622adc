package openapi

import (
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// Check judges a request that Route led to op. body is what strictjson decoded,
// or nil if the request has none; a body that is the JSON null counts as none.
// The error is a rampart.Error of kind Invalid, control validate.openapi, in a
// problem.Details with at most ten JSON pointers below /path, /query, /header
// and /body. Values are never repeated. Check changes nothing and is safe for
// concurrent use.
func (op *Operation) Check(path Params, query url.Values, header http.Header, body any) error {
	if body != nil && !isJSON(header.Get("Content-Type")) {
		return problem.With(rampart.Errorf(rampart.Invalid, "validate.openapi", "body must be application/json"),
			problem.Details{Status: http.StatusUnsupportedMediaType})
	}
	var f findings
	for i := range op.params {
		p := &op.params[i]
		f.param(p, p.pairs(path, query, header))
	}
	op.checkUndeclared(&f, query)
	op.checkBody(&f, body)
	return f.err("request does not match the API description")
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

// isJSON accepts application/json, in UTF-8 if it says so.
func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	kind, params, err := mime.ParseMediaType(contentType)
	charset, named := params["charset"]
	return err == nil && kind == "application/json" && (!named || strings.EqualFold(charset, "utf-8"))
}

// pairs returns the values that a request gives a parameter.
func (p *param) pairs(path Params, query url.Values, header http.Header) []string {
	switch p.in {
	case "query":
		return query[p.name]
	case "header":
		return header[p.name]
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
	v, ok := p.value(pairs)
	if !ok {
		f.report(at, "must be given once")
		return
	}
	f.judge(p.schema, at, v)
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

func (op *Operation) checkBody(f *findings, body any) {
	switch {
	case body == nil && op.BodyNeeded:
		f.report("/body", "is required")
	case body != nil && !op.Body:
		f.report("/body", "is not allowed")
	case body != nil:
		f.judge(op.body, "/body", body)
	}
}
