package guide

import (
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"testing"

	"github.com/rampart-security/rampart/network/waf"
)

var fixture = sync.OnceValues(func() (*waf.Engine, *Guide) {
	e, err := waf.New(waf.Options{})
	if err != nil {
		panic(err)
	}
	g, err := New(e.Rules())
	if err != nil {
		panic(err)
	}
	return e, g
})

func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkClean(b *testing.B) {
	_, g := fixture()
	for name, r := range map[string]*waf.Request{"typed": typed(), "text": text()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			from := cpu()
			for b.Loop() {
				if !g.Clean(r) {
					b.Fatal("not clean")
				}
			}
			b.ReportMetric(float64(cpu()-from)/float64(b.N), "cpu-ns/op")
		})
	}
}

func text() *waf.Request {
	r := typed()
	r.Body = []byte(`{"amount":1250,"currency":"EUR","to":"7c9e6679-7425-40de-944b-e07fc1f90ae7","note":"Dear Ms Miller, this is the second half of what we agreed on in March, for the garden, the fence and the gate. It's a little more than last year's, as you said. Please let me know when it has come. Yours, John"}`)
	return r
}
func typed() *waf.Request {
	return &waf.Request{Client: netip.MustParseAddr("192.0.2.1"), Method: "POST", Target: "/v1/payments", Host: "api.example.com",
		Header:   http.Header{"Content-Type": {"application/json"}, "Content-Length": {"120"}, "User-Agent": {"curl/8.0"}, "Accept": {"*/*"}, "Idempotency-Key": {"0f8fad5b-d9cb-469f-a165-70867728950e"}},
		BodyKind: waf.JSONBody,
		Body:     []byte(`{"amount":1250,"currency":"EUR","from":"0f8fad5b-d9cb-469f-a165-70867728950e","to":"7c9e6679-7425-40de-944b-e07fc1f90ae7"}`)}
}
