package waf

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Exclusion takes rules off one field of one operation until a date.
//
// An excluded rule is judged on the request as it would be with a harmless
// value in the field; every other rule on the request as it is. So the rule
// cannot refuse for what the field holds, wherever the field shows up (a query
// parameter is in the target, too), and whatever else it finds still counts,
// as does all that other rules find, in this field and elsewhere. The second
// look costs as much as the first, and is taken only at requests in which an
// excluded rule matched.
type Exclusion struct {
	Route string // "METHOD /path", as Request.Route
	Field string // "body:/pointer" (JSON, or a form's /name), "query:NAME", "path:NAME", "header:NAME" or "cookie:NAME"; * in a pointer is any member or item
	Rules []int
	Until time.Time // zero: for good
}

// harmless is what no rule of any level matches.
const harmless = "a"

// exclusion is one Exclusion, taken apart.
type exclusion struct {
	field string
	part  string   // body, query, path, header or cookie
	name  string   // within the part, but for body
	at    []string // within the body
	rules []int
	until time.Time
}

func (x exclusion) active(now time.Time) bool { return x.until.IsZero() || now.Before(x.until) }

func parseExclusions(list []Exclusion) (map[string][]exclusion, error) {
	out := map[string][]exclusion{}
	for _, x := range list {
		part, name, ok := strings.Cut(x.Field, ":")
		if !ok || x.Route == "" || len(x.Rules) == 0 || !slices.Contains([]string{"body", "query", "path", "header", "cookie"}, part) {
			return nil, fmt.Errorf("waf: exclusion of %v from %q on %q: want rules, a route and a field such as body:/note or query:q", x.Rules, x.Field, x.Route)
		}
		e := exclusion{field: x.Field, part: part, name: name, rules: x.Rules, until: x.Until}
		if part == "body" {
			e.at = tokens(name)
		}
		out[x.Route] = append(out[x.Route], e)
	}
	return out, nil
}

// tokens splits a JSON pointer (RFC 6901, section 3).
func tokens(pointer string) []string {
	if pointer == "" {
		return nil
	}
	list := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, t := range list {
		list[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(t)
	}
	return list
}

// without judges excluded rules again. What cannot be rewritten is judged as it
// is: an exclusion that does not work refuses.
func (e *Engine) without(ctx context.Context, c *compiled, r *Request, found []Finding) ([]Finding, error) {
	list, now := e.exclude[r.Route], e.opt.Now()
	if len(list) == 0 || len(found) == 0 {
		return found, nil
	}
	looks := map[string][]Finding{} // by the fields that were made harmless
	var out []Finding
	for _, f := range found {
		fields := fieldsOf(list, f.Rule, now)
		if len(fields) == 0 {
			out = append(out, f)
			continue
		}
		key := keyOf(fields)
		if _, ok := looks[key]; !ok {
			again, err := c.run(ctx, r.with(fields))
			if err != nil {
				return nil, err
			}
			looks[key] = again
		}
		out = append(out, only(looks[key], f.Rule)...)
	}
	return out, nil
}

// fieldsOf lists the fields that rule is off for.
func fieldsOf(list []exclusion, rule int, now time.Time) []exclusion {
	var out []exclusion
	for _, x := range list {
		if x.active(now) && slices.Contains(x.rules, rule) {
			out = append(out, x)
		}
	}
	return out
}

func keyOf(fields []exclusion) string {
	var names []string
	for _, x := range fields {
		names = append(names, x.field)
	}
	return strings.Join(names, "\n")
}

func only(found []Finding, rule int) []Finding {
	return slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return f.Rule != rule })
}

// with is r with something harmless in the fields.
func (r *Request) with(fields []exclusion) *Request {
	out := *r
	out.Header = maps.Clone(r.Header)
	if out.Header == nil {
		out.Header = http.Header{}
	}
	out.Path = slices.Clone(r.Path)
	for _, x := range fields {
		out.calm(x)
	}
	return &out
}

// calm puts something harmless into one field.
func (r *Request) calm(x exclusion) {
	switch x.part {
	case "query":
		path, query, _ := strings.Cut(r.Target, "?")
		r.Target = strings.TrimSuffix(path+"?"+calmPairs(query, x.name), "?")
	case "path":
		r.calmPath(x.name)
	case "header":
		r.Header[http.CanonicalHeaderKey(x.name)] = []string{harmless} // a rule about its absence is excluded, too
	case "cookie":
		r.calmCookie(x.name)
	case "body":
		r.calmBody(x.at)
	}
}

// calmPairs does so in a query or a form.
func calmPairs(query, name string) string {
	pairs := strings.Split(query, "&")
	for i, p := range pairs {
		raw, _, _ := strings.Cut(p, "=")
		if plain, err := url.QueryUnescape(raw); err == nil && plain == name {
			pairs[i] = raw + "=" + harmless
		}
	}
	return strings.Join(pairs, "&")
}

// calmPath finds the parameter's segment by the route's template. The target
// may have a mount in front, so the two are laid side by side from their ends.
func (r *Request) calmPath(name string) {
	_, template, _ := strings.Cut(r.Route, " ")
	path, query, has := strings.Cut(r.Target, "?")
	want, have := strings.Split(template, "/"), strings.Split(path, "/")
	for i := 1; i <= min(len(want), len(have)); i++ {
		if strings.Contains(want[len(want)-i], "{"+name+"}") {
			have[len(have)-i] = harmless
		}
	}
	r.Target = strings.Join(have, "/")
	if has {
		r.Target += "?" + query
	}
	for i, p := range r.Path {
		if p.Name == PathPrefix+name {
			r.Path[i].Value = harmless
		}
	}
}

func (r *Request) calmCookie(name string) {
	var lines []string
	for _, line := range r.Header["Cookie"] {
		pairs := strings.Split(line, ";")
		for i, p := range pairs {
			if have, _, _ := strings.Cut(strings.TrimSpace(p), "="); have == name {
				pairs[i] = " " + name + "=" + harmless
			}
		}
		lines = append(lines, strings.TrimSpace(strings.Join(pairs, ";")))
	}
	if lines != nil {
		r.Header["Cookie"] = lines
	}
}

// calmBody knows JSON and encoded forms. A multipart body stays as it is.
func (r *Request) calmBody(at []string) {
	switch {
	case r.BodyKind == FormBody && len(at) == 1:
		r.Body = []byte(calmPairs(string(r.Body), at[0]))
	case r.BodyKind == JSONBody:
		r.Body = calmJSON(r.Body, at)
	}
}

func calmJSON(body []byte, at []string) []byte {
	var doc any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if d.Decode(&doc) != nil {
		return body
	}
	out, err := json.Marshal(calmValue(doc, at))
	if err != nil {
		return body
	}
	return out
}

// calmValue replaces what at points to, with all that is below.
func calmValue(v any, at []string) any {
	if len(at) == 0 {
		return harmless
	}
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			if at[0] == "*" || at[0] == name {
				v[name] = calmValue(member, at[1:])
			}
		}
	case []any:
		for i, item := range v {
			if at[0] == "*" || at[0] == strconv.Itoa(i) {
				v[i] = calmValue(item, at[1:])
			}
		}
	}
	return v
}
