package openapi

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/validate/strictjson"
)

// letters writes an alphabet as text, ASCII only, and + when there is more.
func letters(f Fact) string {
	if f.Free {
		return "anything"
	}
	var b strings.Builder
	for c := range 128 {
		if f.Alphabet[c/64]&(1<<(c%64)) != 0 {
			b.WriteByte(byte(c))
		}
	}
	if f.Alphabet[2]|f.Alphabet[3] != 0 {
		b.WriteString("…")
	}
	return b.String()
}

func TestFacts(t *testing.T) {
	const number = "+-.0123456789Ee"
	for name, tc := range map[string]struct {
		schema string
		want   map[string]string // place -> bytes
	}{
		"a number":             {"{ type: integer }", map[string]string{"": number}},
		"a flag":               {"{ type: boolean }", map[string]string{"": "aeflrstu"}},
		"a choice":             {"{ enum: [ab, bc] }", map[string]string{"": "abc"}},
		"text":                 {"{ type: string }", map[string]string{"": "anything"}},
		"a class":              {"{ type: string, pattern: '^[a-c]{1,9}$' }", map[string]string{"": "abc"}},
		"parts":                {"{ type: string, pattern: '^(x|y)_[0-1]+$' }", map[string]string{"": "01_xy"}},
		"either case":          {"{ type: string, pattern: '(?i)^k$' }", map[string]string{"": "Kk…"}},
		"an open end":          {"{ type: string, pattern: '^[a-c]+' }", map[string]string{"": "anything"}},
		"one open alternative": {"{ type: string, pattern: '^a$|b' }", map[string]string{"": "anything"}},
		"all but one": {"{ type: string, pattern: '^[^<]*$' }", map[string]string{"": string(func() (b []byte) {
			for c := range 128 {
				if c != '<' {
					b = append(b, byte(c))
				}
			}
			return
		}()) + "…"}},
		"two forms":       {"{ oneOf: [{ enum: [a] }, { enum: [b] }] }", map[string]string{"": "ab"}},
		"both":            {"{ allOf: [{ type: string, pattern: '^[a-f]+$' }, { pattern: '^[d-z]+$' }] }", map[string]string{"": "def"}},
		"text or number":  {"{ type: [string, integer], pattern: '^[x]$' }", map[string]string{"": number + "x"}},
		"members":         {"{ type: object, properties: { a: { enum: [x] }, b: { type: array, items: { enum: [y] } } } }", map[string]string{"/a": "x", "/b/*": "y"}},
		"an open object":  {"{ type: object, additionalProperties: true, properties: { a: { enum: [x] } } }", map[string]string{"/a": "x", "/*~": "anything", "/*/**": "anything"}},
		"a map":           {"{ type: object, additionalProperties: { enum: [x] }, propertyNames: { pattern: '^[k]+$' } }", map[string]string{"/*": "x", "/*~": "k"}},
		"a combination":   {"{ allOf: [{ type: object, properties: { a: { enum: [x] } } }, { type: object, properties: { a: { enum: [x, y] }, b: { enum: [z] } } }] }", map[string]string{"/a": "x", "/b": "z"}},
		"one of two":      {"{ oneOf: [{ type: object, properties: { a: { enum: [x] } } }, { type: object, properties: { a: { enum: [y] } } }] }", map[string]string{"/a": "xy"}},
		"an open branch":  {"{ anyOf: [{ type: object, properties: { a: { enum: [x] } } }, { type: object, additionalProperties: true }] }", map[string]string{"/a/**": "anything", "/*~": "anything", "/*/**": "anything"}},
		"anything at all": {"{}", map[string]string{"": "anything", "/*/**": "anything"}},
		"a fixed list":    {"{ type: array, prefixItems: [{ enum: [x] }], items: { enum: [y] } }", map[string]string{"/*": "xy"}},
		"an open list":    {"{ type: array }", map[string]string{"/*/**": "anything"}},
	} {
		t.Run(name, func(t *testing.T) {
			api, err := Compile("svc", []byte(with("/a", body(tc.schema))))
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, f := range api.Operations()[0].Facts() {
				got[f.Name] = letters(f)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestFactsHold: no value of a request that passes holds a byte that its fact
// rules out, and every value is told.
func TestFactsHold(t *testing.T) {
	api := shop(t)
	for request, text := range map[string]string{
		"GET /items?limit=5&tag=a&tag=b&id=1,2&sold=true&since=2026-01-02T03:04:05Z": "",
		"POST /items":            "{" + item + `,"stock":1,"size":{"w":1},"tags":["a"],"kind":"mug","released":"2026-01-02"}`,
		"POST /orgs/acme/orders": `{"items":[{"sku":"MUG","quantity":2}],"note":null,"meta":{"any":{"thing":[1,"<x>"]}}}`,
		"POST /payments":         `{"amount":1,"org":"acme","method":{"iban":"x"}}`,
		"POST /nodes/1/x":        `{"children":[{"children":[{"name":"leaf","children":[]}]}]}`,
	} {
		if n := hold(t, api, request, text); n == 0 {
			t.Errorf("%s: no value is told", request)
		}
	}
}

// hold checks the facts of one request and returns how many values it has.
func hold(t testing.TB, api *API, request, text string) int {
	method, target, _ := strings.Cut(request, " ")
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return 0
	}
	op, params, err := api.Route(method, u.Path)
	if err != nil {
		return 0
	}
	doc, _ := strictjson.Decode([]byte(text))
	header := http.Header{"Content-Type": {"application/json"}}
	if op.Check(params, u.Query(), header, doc) != nil {
		return 0
	}
	n := 0
	op.Values(params, u.Query(), header, doc, func(i int, v string) bool {
		f := op.Facts()[i]
		n++
		if f.Max > 0 && len(v) > f.Max {
			t.Errorf("%s %s %q: %d bytes, the fact says %d", request, f.Name, v, len(v), f.Max)
		}
		for _, c := range []byte(v) {
			if f.Alphabet[c/64]&(1<<(c%64)) == 0 {
				t.Errorf("%s %s %s %q: byte %q is not in the alphabet", request, f.Where, f.Name, v, c)
			}
		}
		return true
	})
	return n
}

func FuzzFacts(f *testing.F) {
	api := shop(f)
	f.Add("GET /items?limit=5&tag=a&since=2026-01-02T03:04:05Z", "")
	f.Add("POST /items", "{"+item+"}")
	f.Add("POST /orgs/acme/orders", `{"items":[{"sku":"MUG","quantity":2}],"meta":{"any":{"thing":[1,"<x>"]}}}`)
	f.Fuzz(func(t *testing.T, request, text string) { hold(t, api, request, text) })
}
