package waf_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/network/waf"
)

// An attack is found each time, whatever names it shares with harmless values.
// Coraza alone finds it in nine of ten, or in one of two.
func TestNamesThatMeet(t *testing.T) {
	e := engine(t, waf.Options{})
	const attack, coded = "${jndi:ldap://x}", "%24%7Bjndi:ldap://x%7D"
	with := func(kind, name string, values ...string) *waf.Request {
		h := http.Header{"Content-Length": {"9"}, "User-Agent": {"x"}, "Accept": {"*/*"}}
		if kind != "" {
			h["Content-Type"] = []string{kind}
		}
		if name != "" {
			h[name] = values
		}
		return &waf.Request{Method: "POST", Target: "/x", Host: "h", Header: h}
	}
	body := func(kind waf.BodyKind, text string) *waf.Request {
		r := with(map[waf.BodyKind]string{waf.JSONBody: "application/json", waf.FormBody: "application/x-www-form-urlencoded"}[kind], "")
		r.Body, r.BodyKind = []byte(text), kind
		return r
	}
	query := with("", "")
	query.Target = "/x?=a&=" + coded + "&b=1&c=2&d=3"

	for name, r := range map[string]*waf.Request{
		"a field of a form twice":           body(waf.FormBody, "b=1&c=2&d=3&a=x&a="+coded),
		"in two cases":                      body(waf.FormBody, "b=1&c=2&d=3&A=x&a="+coded),
		"without a name":                    body(waf.FormBody, "b=1&c=2&d=3&=x&="+coded),
		"a member with a dot and one below": body(waf.JSONBody, `{"a":{"b":"x"},"a.b":"`+attack+`","c":1,"d":2,"e":3}`),
		"a member twice":                    body(waf.JSONBody, `{"a":"`+attack+`","c":1,"d":2,"e":3,"a":"x"}`),
		"the length of a list":              body(waf.JSONBody, `{"a":{"b":[1,2]},"a.b":"`+attack+`","c":1,"d":2,"e":3}`),
		"parameters without a name":         query,
		"a header field twice":              with("", "X-Note", "a", attack),
		"a cookie twice":                    with("", "Cookie", "c=1; d=2; e=3; c="+attack),
		"cookies without a name":            with("", "Cookie", "=1; d=2; e=3; ="+attack),
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 30 {
				if v, err := e.Inspect(t.Context(), r); err != nil || !has(v, 944150) {
					t.Fatalf("look %d found %v (%v), want rule 944150", i+1, v.Findings, err)
				}
			}
		})
	}
}

func TestRepeatedCookies(t *testing.T) {
	for field, want := range map[string][]string{
		"":                  nil,
		"a=1; b=2":          nil,
		"a=1; A=2":          nil, // Coraza keeps these apart
		"a=1;a=2 ; b=3":     {"a=1", "a=2"},
		"a =1; \x7fa\t= 2;": {"a\t= 2", "a =1"},
		"a=1;;; =;":         nil, // nothing that anybody reads
		"=1; =2":            {"=1", "=2"},
	} {
		got := waf.RepeatedCookies(field)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", field, d)
		}
	}
}
