package waf_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/rampart-security/rampart/network/waf"
)

// attack is what rules 942100 (SQL) and 941100 (scripts) match.
const (
	sql    = "1' or 1=1 -- x"
	script = "<script>alert(1)</script>"
)

func TestExclusion(t *testing.T) {
	pool := &waf.Pool{}
	t.Cleanup(pool.Close)
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	const route = "POST /notes/{id}"
	post := func(kind waf.BodyKind, body string) *waf.Request {
		types := map[waf.BodyKind]string{waf.JSONBody: "application/json", waf.FormBody: "application/x-www-form-urlencoded"}
		return &waf.Request{
			Method: "POST", Target: "/notes/7", Host: "h", Route: route, Body: []byte(body), BodyKind: kind,
			Header: http.Header{"Content-Type": {types[kind]}, "Content-Length": {"9"}, "User-Agent": {"x"}, "Accept": {"*/*"}},
		}
	}
	at := func(target string) *waf.Request {
		r := post(waf.JSONBody, `{"note":"x"}`)
		r.Target = target
		return r
	}
	head := func(name, value string) *waf.Request {
		r := post(waf.JSONBody, `{"note":"x"}`)
		r.Header.Set(name, value)
		return r
	}
	other := post(waf.JSONBody, `{"note":"`+sql+`"}`)
	other.Route = "POST /notes"
	path := at("/api/notes/1'%20or%201=1%20--%20x")
	path.Path = []waf.Arg{{Name: waf.PathPrefix + "id", Value: sql}}

	for name, tt := range map[string]struct {
		field  string
		r      *waf.Request
		refuse bool
	}{
		"the field of the body":                     {"body:/note", post(waf.JSONBody, `{"note":"`+sql+`"}`), false},
		"a field below":                             {"body:/a/b", post(waf.JSONBody, `{"a":{"b":"`+sql+`"}}`), false},
		"a field in each item":                      {"body:/a/*/b", post(waf.JSONBody, `{"a":[{"b":"x"},{"b":"`+sql+`"}]}`), false},
		"a field of a form":                         {"body:/note", post(waf.FormBody, "note=1%27+or+1%3D1+--+x"), false},
		"a query parameter":                         {"query:q", at("/notes/7?q=1'%20or%201=1%20--%20x"), false},
		"a path parameter below a mount":            {"path:id", path, false},
		"a header":                                  {"header:Referer", head("Referer", sql), false},
		"a cookie":                                  {"cookie:c", head("Cookie", "a=b; c="+sql), false},
		"the same rule in another field":            {"body:/note", post(waf.JSONBody, `{"note":"`+sql+`","title":"`+sql+`"}`), true},
		"another rule in the field":                 {"body:/note", post(waf.JSONBody, `{"note":"`+sql+script+`"}`), true},
		"a member spelled as the path of the field": {"body:/a/b", post(waf.JSONBody, `{"a":{"b":"x"},"a.b":"`+sql+`"}`), true},
		"a query parameter named as the form's":     {"body:/q", func() *waf.Request { r := at("/notes/7?q=1'%20or%201=1%20--%20x"); r.Body = nil; return r }(), true},
		"another cookie":                            {"cookie:c", head("Cookie", "a="+sql+"; c=b"), true},
		"another operation":                         {"body:/note", other, true},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := pool.Engine(waf.Options{Now: func() time.Time { return now }, Exclude: []waf.Exclusion{
				{Route: route, Field: tt.field, Rules: []int{942100}, Until: now.Add(time.Hour)},
			}})
			if err != nil {
				t.Fatal(err)
			}
			before := fmt.Sprint(*tt.r)
			v, err := e.Inspect(t.Context(), tt.r)
			if err != nil || v.Refuse != tt.refuse {
				t.Errorf("refused %t with %v (%v), want %t", v.Refuse, v.Findings, err, tt.refuse)
			}
			if after := fmt.Sprint(*tt.r); after != before {
				t.Errorf("the request was changed from %s to %s", before, after)
			}
			over, _ := pool.Engine(waf.Options{Now: func() time.Time { return now }, Exclude: []waf.Exclusion{
				{Route: route, Field: tt.field, Rules: []int{942100}, Until: now},
			}})
			if v, err := over.Inspect(t.Context(), tt.r); err != nil || !v.Refuse {
				t.Errorf("with an exclusion that is over: %+v %v, want a refusal", v, err)
			}
		})
	}
}

// What is put into an excluded field may itself match nothing, at any level.
func TestHarmless(t *testing.T) {
	e, err := waf.New(waf.Options{Paranoia: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for name, value := range map[string]string{"harmless": "a", "harmful": sql} {
		t.Run(name, func(t *testing.T) {
			v, err := e.Inspect(t.Context(), &waf.Request{
				Method: "POST", Target: "/notes/a?q=a", Host: "h", Header: http.Header{
					"Content-Type": {"application/json"}, "User-Agent": {"a"}, "Accept": {"*/*"}, "Cookie": {"c=a"}, "Content-Length": {"9"},
				},
				Body: []byte(`{"note":"` + value + `"}`), BodyKind: waf.JSONBody, Path: []waf.Arg{{Name: waf.PathPrefix + "id", Value: "a"}},
			})
			if err != nil || (len(v.Findings) > 0) != (name == "harmful") {
				t.Errorf("found %v, %v", v.Findings, err)
			}
		})
	}
}

func TestBadExclusion(t *testing.T) {
	for name, x := range map[string]waf.Exclusion{
		"no rule":  {Route: "GET /", Field: "query:q"},
		"no route": {Field: "query:q", Rules: []int{942100}},
		"no field": {Route: "GET /", Rules: []int{942100}},
		"no part":  {Route: "GET /", Field: "q", Rules: []int{942100}},
		"no such":  {Route: "GET /", Field: "uri:q", Rules: []int{942100}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := waf.New(waf.Options{Exclude: []waf.Exclusion{x}}); err == nil {
				t.Error("taken")
			}
		})
	}
}

// FuzzExclusion: a field is made harmless in whatever is sent, and what the
// caller holds is left alone.
func FuzzExclusion(f *testing.F) {
	e, err := waf.New(waf.Options{Exclude: []waf.Exclusion{
		{Route: "POST /{id}", Field: "body:/a/*", Rules: []int{942100}}, {Route: "POST /{id}", Field: "query:q", Rules: []int{942100}},
		{Route: "POST /{id}", Field: "path:id", Rules: []int{942100}}, {Route: "POST /{id}", Field: "cookie:c", Rules: []int{942100}},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(e.Close)
	f.Add("/1?q="+sql, "c="+sql, []byte(`{"a":["`+sql+`"]}`), uint8(waf.JSONBody))
	f.Add("/?&=&q=%zz;", "c;;c=", []byte("a=%&a"), uint8(waf.FormBody))
	f.Add("", "=", []byte(`{"a":`), uint8(waf.JSONBody))
	f.Fuzz(func(t *testing.T, target, cookie string, body []byte, kind uint8) {
		if len(body)+len(target)+len(cookie) > 4096 {
			t.Skip("a long input makes the fuzzer slow and shows nothing more")
		}
		r := &waf.Request{Method: "POST", Target: target, Route: "POST /{id}", Body: body, BodyKind: waf.BodyKind(kind), Header: http.Header{"Cookie": {cookie}}}
		before := fmt.Sprint(*r)
		if _, err := e.Inspect(t.Context(), r); err != nil {
			t.Error(err)
		}
		if after := fmt.Sprint(*r); after != before {
			t.Errorf("the request was changed from %s to %s", before, after)
		}
	})
}
