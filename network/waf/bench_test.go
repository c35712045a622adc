package waf_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/network/waf"
)

// BenchmarkInspect is what one request costs when every rule sees everything.
func BenchmarkInspect(b *testing.B) {
	typed := `{"amount":1250,"currency":"EUR","payee":"8f14e45f-ceea-467f-9b2e-2c1f6a7d8e90","due":"2026-11-29","reference":"INV-2026-00417","priority":3,"instant":true,"account":"DE89370400440532013000","channel":"web"}`
	text := strings.Replace(typed, `"INV-2026-00417"`, `"Thank you for the dinner on Friday, Anna - see you soon, and greetings to everybody"`, 1)
	long := `{"note":"` + strings.Repeat("An ordinary sentence about the weather of today. ", 84)[:4096] + `"}`
	for name, r := range map[string]*waf.Request{
		"GET":             request("GET", ""),
		"POST typed 200B": request("POST", typed),
		"POST free text":  request("POST", text),
		"POST 4KB string": request("POST", long),
	} {
		b.Run(name, func(b *testing.B) {
			e, err := waf.New(waf.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			b.ReportAllocs()
			for b.Loop() {
				if v, err := e.Inspect(b.Context(), r); err != nil || v.Refuse {
					b.Fatal(v, err)
				}
			}
		})
	}
}

// BenchmarkCompile is what the first request of a paranoia level pays.
func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		e, err := waf.New(waf.Options{})
		if err != nil {
			b.Fatal(err)
		}
		e.Close()
	}
}

func request(method, body string) *waf.Request {
	r := &waf.Request{
		Method: method, Target: "/payments/8f14e45f-ceea-467f-9b2e-2c1f6a7d8e90", Host: "api.example.com",
		Header: http.Header{
			"User-Agent": {"payments-client/2.4 (linux; amd64)"}, "Accept": {"application/json"}, "Accept-Encoding": {"gzip"},
			"Idempotency-Key": {"6f1ed002ab5595859014ebf0951522d9"},
		},
	}
	if body != "" {
		r.Body, r.BodyKind = []byte(body), waf.JSONBody
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Content-Length", "200")
	}
	return r
}
