package jws_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/internal/jws"
)

func rule(err error) string {
	if e, ok := errors.AsType[*jws.Error](err); ok {
		return e.Rule
	}
	return ""
}

func TestSplit(t *testing.T) {
	for _, tc := range []struct{ name, text, rule string }{
		{"three segments", "e30.e30.AA", ""},
		{"empty payload", "e30..AA", ""},
		{"too long", "e30.e30." + strings.Repeat("A", 64), "size"},
		{"two segments", "e30.e30", "segments"},
		{"four segments", "e30.e30.AA.AA", "segments"},
		{"five segments, a JWE", "a.b.c.d.e", "segments"},
		{"empty header", ".e30.AA", "segments"},
		{"empty signature", "e30.e30.", "segments"},
		{"empty", "", "segments"},
		{"padding", "e30.e30.AA==", "encoding"},
		{"newline", "e30.e30.A\nA", "encoding"},
		{"carriage return", "e30.e3\r0.AA", "encoding"},
		{"space", " e30.e30.AA", "encoding"},
		{"standard alphabet", "e30.e30.A+/A", "encoding"},
		{"bits set after the end", "e30.e30.AB", "encoding"},
		{"length that no bytes have", "e30.e30.A", "encoding"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := jws.Split(tc.text, 64)
			if got := rule(err); got != tc.rule || (err == nil) != (tc.rule == "") {
				t.Fatalf("rule %q, want %q (%v)", got, tc.rule, err)
			}
			if err == nil && !strings.HasPrefix(tc.text, c.Signed+".") {
				t.Errorf("signed part %q", c.Signed)
			}
		})
	}
}

func TestDecode(t *testing.T) {
	type doc struct {
		N int64  `json:"n"`
		S string `json:"s"`
	}
	for _, tc := range []struct{ name, in, rule string }{
		{"an object", `{"n":1,"s":"a"}`, ""},
		{"another letter case is another member", `{"N":1}`, "unknown"},
		{"unknown member", `{"x":1}`, "unknown"},
		{"duplicate", `{"n":1,"n":2}`, "dup"},
		{"duplicate by escape", `{"n":1,"\u006e":2}`, "dup"},
		{"trailing data", `{"n":1}{}`, "json"},
		{"array", `[1]`, "json"},
		{"null", `null`, "json"},
		{"nothing", ``, "json"},
		{"number as string", `{"n":"1"}`, "n"},
		{"fraction", `{"n":1.5}`, "n"},
		{"exponent", `{"n":1e3}`, "n"},
		{"beyond 64 bits", `{"n":99999999999999999999}`, "n"},
		{"not UTF-8", "{\"s\":\"\xff\"}", "encoding"},
		{"too deep", `{"x":[[[[]]]]}`, "depth"},
		{"brackets in a string are no depth", `{"s":"[[[[[[\"[[["}`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var d doc
			err := jws.Decode([]byte(tc.in), &d, 4, true)
			if got := rule(err); got != tc.rule || (err == nil) != (tc.rule == "") {
				t.Fatalf("rule %q, want %q (%v)", got, tc.rule, err)
			}
		})
	}
}

// FuzzSplit holds that a text has one spelling: what is accepted encodes back
// to itself.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"e30.e30.AA", "e30.e30.AB", "a.b.c", "...", "e30.e30.A\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := jws.Split(text, 1024)
		if err != nil {
			return
		}
		enc := base64.RawURLEncoding.EncodeToString
		if back := enc(c.Header) + "." + enc(c.Payload) + "." + enc(c.Signature); back != text {
			t.Fatalf("%q has another spelling %q", text, back)
		}
	})
}
