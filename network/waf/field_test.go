package waf_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/network/waf"
)

const sqlTest = "1' or '1'='1"

// TestFields: a finding names its field as an exclusion does, so that the two can be
// laid side by side; taking the rule off that field takes the finding away.
func TestFields(t *testing.T) {
	pool := &waf.Pool{}
	t.Cleanup(pool.Close)
	inspect := func(t *testing.T, o waf.Options, r *waf.Request) waf.Verdict {
		e, err := pool.Engine(o)
		if err != nil {
			t.Fatal(err)
		}
		v, err := e.Inspect(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for name, tc := range map[string]struct {
		r    waf.Request
		want string
	}{
		"a member":                {waf.Request{Body: []byte(`{"Text":"` + sqlTest + `"}`), BodyKind: waf.JSONBody}, "body:/Text"},
		"a member of an item":     {waf.Request{Body: []byte(`{"a":["x",{"b":"` + sqlTest + `"}]}`), BodyKind: waf.JSONBody}, "body:/a/1/b"},
		"a name with dots":        {waf.Request{Body: []byte(`{"a":{"x":1},"a.b":{"c/d":"` + sqlTest + `"}}`), BodyKind: waf.JSONBody}, "body:/a.b/c~1d"},
		"a field of a form":       {waf.Request{Body: []byte("note=" + url.QueryEscape(sqlTest)), BodyKind: waf.FormBody}, "body:/note"},
		"a parameter":             {waf.Request{Target: "/notes?q=" + url.QueryEscape(sqlTest)}, "query:q"},
		"one beside a form":       {waf.Request{Target: "/notes?q=" + url.QueryEscape(sqlTest), Body: []byte("note=x"), BodyKind: waf.FormBody}, "query:q"},
		"a parameter of the path": {waf.Request{Path: []waf.Arg{{Name: "path.id", Value: sqlTest}}}, "path:id"},
		"a header":                {waf.Request{Header: http.Header{"Referer": {sqlTest}}}, "header:Referer"},
		"a cookie":                {waf.Request{Header: http.Header{"Cookie": {"theme=" + sqlTest}}}, "cookie:theme"},
	} {
		t.Run(name, func(t *testing.T) {
			r := inspectable(tc.r)
			v := inspect(t, waf.Options{}, r)
			if v.Threshold != 5 {
				t.Errorf("threshold %d", v.Threshold)
			}
			i := slices.IndexFunc(v.Findings, func(f waf.Finding) bool { return slices.Contains(f.Fields, tc.want) })
			if i < 0 {
				t.Fatalf("no finding in %s: %+v", tc.want, v.Findings)
			}
			rule := v.Findings[i].Rule
			v = inspect(t, waf.Options{Exclude: []waf.Exclusion{{Route: r.Route, Field: tc.want, Rules: []int{rule}}}}, r)
			if slices.ContainsFunc(v.Findings, func(f waf.Finding) bool { return f.Rule == rule }) {
				t.Errorf("rule %d is off %s, and still: %+v", rule, tc.want, v.Findings)
			}
		})
	}
}

// TestFieldsAreBounded: names are the client's. They are no way to fill a record, to
// write a second field into it, or to have us look for ever.
func TestFieldsAreBounded(t *testing.T) {
	e := engine(t, waf.Options{})
	deep := strings.Repeat(`{"a.a":1,"a":`, 60) + `"x"` + strings.Repeat("}", 60)
	for name, body := range map[string]string{
		"a long name":            `{"` + strings.Repeat("a", 500) + `":"` + sqlTest + `"}`,
		"a name with spaces":     `{"a; 942100 in body:/b":"` + sqlTest + `"}`,
		"names that lead astray": `{"a":` + deep + `,"` + strings.Repeat("a.", 60) + `b":"` + sqlTest + `"}`,
	} {
		r := inspectable(waf.Request{Body: []byte(body), BodyKind: waf.JSONBody})
		v, err := e.Inspect(t.Context(), r)
		if err != nil || len(v.Findings) == 0 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
		for _, f := range v.Findings {
			for _, at := range f.Fields {
				if len(at) > 96 || strings.ContainsAny(at, " \n") {
					t.Errorf("%s: field %q", name, at)
				}
			}
		}
	}
}

func inspectable(r waf.Request) *waf.Request {
	r.Method, r.Host, r.Route = "POST", "notes", "POST /notes/{id}"
	if r.Target == "" {
		r.Target = "/notes/1"
	}
	h := http.Header{"User-Agent": {"x"}, "Accept": {"*/*"}, "Content-Length": {"9"}}
	for name, v := range r.Header {
		h[name] = v
	}
	switch r.BodyKind {
	case waf.JSONBody:
		h.Set("Content-Type", "application/json")
	case waf.FormBody:
		h.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.Header = h
	return &r
}
