package guide

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/rampart-security/rampart/network/waf"
)

// flattened is what Coraza makes of a body, with the parser that it uses.
func flattened(s string) (out [][2]string, valid bool) {
	if !gjson.Valid(s) {
		return nil, false
	}
	var walk func(v gjson.Result, name string)
	walk = func(v gjson.Result, name string) {
		elements := 0
		v.ForEach(func(key, item gjson.Result) bool {
			at := name + "." + key.Str
			if key.Type != gjson.String {
				at = name + "." + strconv.Itoa(int(key.Num))
				elements++
			}
			switch item.Type {
			case gjson.JSON:
				walk(item, at)
			case gjson.String:
				out = append(out, [2]string{at, item.Str})
			case gjson.Null:
				out = append(out, [2]string{at, ""})
			default:
				out = append(out, [2]string{at, item.Raw})
			}
			return true
		})
		if elements > 0 {
			out = append(out, [2]string{name, strconv.Itoa(elements)})
		}
	}
	walk(gjson.Parse(s), "json")
	return out, true
}

func (f *flat) all() (out [][2]string) {
	for _, l := range f.leaves {
		out = append(out, [2]string{string(f.names[l.from:l.to]), l.value})
	}
	return out
}

var bodies = []string{
	`{"a":1,"b":[1,2,{"c":null}],"d":{"e":"x","f":true,"g":false}}`, ` { "a" : [ ] , "b" : { } , "" : "" } `, `[[],[[1]],{}]`, `[]`, `{}`,
	`{"a\"b":"c\\d\u0041\ud83d\ude00","\u0000":"\n"}`, `{"a":1,"a":2,"a.b":3}`, `[-0,0.5,1e9,-1.25E-3,10]`, "[1,\n\t2\r]",
	`{"a":"]}","b":"{[,:"}`, `{"é":"ü"}`, "{\"a\":\"\xff\"}",
	"", " ", `1`, `"a"`, `true`, `{"a":1`, `{"a":1,}`, `[1,]`, `{,}`, `[,1]`, `{"a" 1}`, `{"a":}`, `{a:1}`, `[01]`, `[1.]`, `[.5]`, `[-]`, `[1e]`, `[+1]`, `[nul]`, `[truex]`,
	`{"a":1}x`, `{"a":1} {}`, "[\"a\nb\"]", `["\x"]`, `["\u12"]`, `["a`, `["a\`, `[1 2]`, `{"a":1 "b":2}`, `[1],`, `{"a":1]`, `[1}`, "[\x00]", "\ufeff{}", `[1,,2]`, `{"a"::1}`, `[:1]`,
}

// FuzzFlat: a body that the guide reads is one that gjson reads, and the names and
// values are the same, in the same order.
func FuzzFlat(f *testing.F) {
	for _, s := range bodies {
		f.Add(s)
	}
	var w flat
	f.Fuzz(func(t *testing.T, s string) {
		if !w.read(s) {
			return
		}
		want, valid := flattened(s)
		if !valid {
			t.Fatalf("%q is read, and is no JSON", s)
		}
		if d := cmp.Diff(want, w.all()); d != "" {
			t.Errorf("%q (-gjson +guide):\n%s", s, d)
		}
	})
}

// TestFlat: what is JSON, and an object or an array, is read. Otherwise FuzzFlat
// would prove nothing.
func TestFlat(t *testing.T) {
	var w flat
	for _, s := range bodies {
		_, valid := flattened(s)
		if v := gjson.Parse(s); w.read(s) != (valid && (v.IsObject() || v.IsArray())) {
			t.Errorf("%q is read: %t", s, !valid)
		}
	}
	for name, row := range map[string]struct {
		s    string
		want bool
	}{
		"as deep as may be": {strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth), true},
		"one deeper":        {strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1), false},
		"as many as may be": {`{"a":"` + strings.Repeat("x", flatBytes) + `","b":[1` + strings.Repeat(",1", maxArguments-3) + "]}", true},
		"one more":          {`{"a":"` + strings.Repeat("x", flatBytes) + `","b":[1` + strings.Repeat(",1", maxArguments-2) + "]}", false},
		"names that grow":   {strings.Repeat(`{"`+strings.Repeat("n", 200)+`":`, 50) + "[" + strings.Repeat("1,", 99) + "1]" + strings.Repeat("}", 50), false},
	} {
		if got := w.read(row.s); got != row.want {
			t.Errorf("%s: read %t, want %t", name, got, row.want)
		}
	}
}

// TestRememberedApart: what is remembered of one request says nothing of another
// that only looks like it. Each row is asked after the requests before it were
// found clean.
func TestRememberedApart(t *testing.T) {
	_, g := guides[3]()
	known := []*waf.Request{typed(), typed(), typed(), typed()}
	known[1].Method, known[1].Body, known[1].BodyKind = "GET", nil, waf.NoBody
	delete(known[1].Header, "Content-Type")
	known[1].Header["Content-Length"] = []string{"0"}
	known[2].Body = []byte(`{"a":"b","cd":[1,2]}`)
	delete(known[3].Header, "Content-Length")
	known[3].Header["Transfer-Encoding"] = []string{"chunked"}
	for name, row := range map[string]struct {
		like   int
		change func(r *waf.Request)
		clean  bool
	}{
		"the same":                      {0, func(*waf.Request) {}, true},
		"another length":                {0, func(r *waf.Request) { r.Header["Content-Length"] = []string{"7"} }, true},
		"a length that is none":         {0, func(r *waf.Request) { r.Header["Content-Length"] = []string{"7, 7"} }, false},
		"a length where no body is":     {1, func(r *waf.Request) { r.Header["Content-Length"] = []string{"7"} }, false},
		"neither length nor chunks":     {0, func(r *waf.Request) { delete(r.Header, "Content-Length") }, false},
		"both length and chunks":        {0, func(r *waf.Request) { r.Header["Transfer-Encoding"] = []string{"chunked"} }, false},
		"chunks of another method":      {3, func(r *waf.Request) { r.Method = "GET" }, false},
		"no host":                       {0, func(r *waf.Request) { r.Host = "" }, false},
		"an address as host":            {0, func(r *waf.Request) { r.Host = "192.0.2.1\x00" }, false},
		"an empty accept":               {0, func(r *waf.Request) { r.Header["Accept"] = []string{""} }, false},
		"an attack in a field":          {0, func(r *waf.Request) { r.Header["Accept-Language"] = []string{"<script>alert(1)</script>"} }, false},
		"an attack in a field not head": {0, func(r *waf.Request) { r.Header["X-Note"] = []string{"<script>alert(1)</script>"} }, false},
		"a head in another spelling":    {0, func(r *waf.Request) { r.Header["user-agent"] = []string{"curl/8.0"} }, false},
		"a field twice":                 {0, func(r *waf.Request) { r.Header["Content-Type"] = []string{"application/json", "application/json"} }, false},
		"an attack in a value":          {2, func(r *waf.Request) { r.Body = []byte(`{"a":"b","cd":[1,"<script>alert(1)</script>"]}`) }, false},
		"an attack in a short value":    {2, func(r *waf.Request) { r.Body = []byte(`{"a":"<a b>","cd":[1,2]}`) }, false},
		"an attack in a name":           {2, func(r *waf.Request) { r.Body = []byte(`{"a":"b","<script>alert(1)</script>":[1,2]}`) }, false},
		"two names in one":              {2, func(r *waf.Request) { r.Body = []byte(`{"a\u0007json.cd":1}`) }, false},
		"a name of the body in the query": {2, func(r *waf.Request) {
			r.Target += "?json.a=1"
		}, false},
		"a name of the body in the path": {2, func(r *waf.Request) { r.Path = []waf.Arg{{Name: "json.a", Value: "1"}} }, false},
		"another name in the path":       {2, func(r *waf.Request) { r.Path = []waf.Arg{{Name: "path.a", Value: "1"}} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			for i, r := range known {
				if !g.Clean(r) {
					t.Fatalf("request %d is not clean: the row tests nothing", i)
				}
			}
			r := *known[row.like]
			r.Header = r.Header.Clone()
			row.change(&r)
			for range 2 {
				if got := g.Clean(&r); got != row.clean {
					t.Errorf("clean: %t, want %t", got, row.clean)
				}
			}
		})
	}
}

// TestShorts: a short value is remembered as it is, and no other with it.
func TestShorts(t *testing.T) {
	var h shorts
	for _, s := range []string{"", "\x00", "\x00\x00", "a", "a\x00", "1234567", "12345678"} {
		if h.has(s) {
			t.Errorf("%q is known before it was added", s)
		}
		h.add(s)
		if h.has(s) != (len(s) <= maxShort) {
			t.Errorf("%q: known %t", s, h.has(s))
		}
	}
}
