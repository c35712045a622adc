package waf_test

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/rampart-security/rampart/network/waf"
)

// BenchmarkInspect is what one request costs when every rule sees everything. Compare
// cpu-ns/op: the clock counts what else the machine does.
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
			from := cpu()
			for b.Loop() {
				if v, err := e.Inspect(b.Context(), r); err != nil || v.Refuse {
					b.Fatal(v, err)
				}
			}
			b.ReportMetric(float64(cpu()-from)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkCompile is what the first request of a paranoia level pays, in time and in
// memory that stays.
func BenchmarkCompile(b *testing.B) {
	for level := 1; level <= 4; level++ {
		b.Run(fmt.Sprint("level ", level), func(b *testing.B) {
			b.ReportAllocs()
			var e *waf.Engine
			before := heap()
			for b.Loop() {
				if e != nil {
					e.Close()
				}
				var err error
				if e, err = waf.New(waf.Options{Paranoia: level}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(heap()-before)/(1<<20), "MiB-held")
			e.Close()
		})
	}
}

// cpu is what this process has used, in nanoseconds.
func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

// heap is what is held, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC() // pools give back what they hold in the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
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
