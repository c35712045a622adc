package guide

import (
	"bytes"
	"context"
	"fmt"
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

// BenchmarkClean: values that come again, identifiers and free text that are
// always new, and what the guide adds to a request that goes to the engine.
func BenchmarkClean(b *testing.B) {
	_, g := fixture()
	attack := typed()
	note("1' or '1'='1' -- see <b>there</b>")(attack)
	for _, row := range []struct {
		name, fresh string // what is new each time begins with fresh
		r           *waf.Request
	}{
		{"edge", "", edge()}, {"edge-new", "3f0c1c1a", edge()}, {"edge-text", "", edgeText()}, {"edge-text-new", "next door", edgeText()},
		{"typed", "", typed()}, {"typed-new", "0f8fad5b", typed()}, {"attack", "", attack}, {"text", "", text()},
		{"text-20", "00000000", textOf(20)}, {"text-200", "00000000", textOf(200)}, {"text-2000", "00000000", textOf(2000)},
	} {
		at := bytes.Index(row.r.Body, []byte(row.fresh))
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			from := cpu()
			for n := 0; b.Loop(); n++ {
				for i := range row.fresh {
					row.r.Body[at+i] = "0123456789abcdef"[n>>(4*i)&15]
				}
				if g.Clean(row.r) != (row.name != "attack") {
					b.Fatal("the guide takes it for something else")
				}
			}
			b.ReportMetric(float64(cpu()-from)/float64(b.N), "cpu-ns/op")
		})
	}
}

// textOf is a request with a text of n bytes, which begins with a number.
func textOf(n int) *waf.Request {
	s := "00000000"
	for i := 0; len(s) < n; i++ {
		s += " " + prose[i%4]
	}
	r := typed()
	note(s[:n])(r)
	return r
}

func text() *waf.Request {
	r := typed()
	r.Body = []byte(`{"amount":1250,"currency":"EUR","to":"7c9e6679-7425-40de-944b-e07fc1f90ae7","note":"Dear Ms Miller, this is the second half of what we agreed on in March, for the garden, the fence and the gate. It's a little more than last year's, as you said. Please let me know when it has come. Yours, John"}`)
	return r
}

// edge is what a browser asks of a gateway, as it is shown to the rules (package
// test/system has the same body).
func edge() *waf.Request {
	const body = `{"amount":1299,"currency":"EUR","due":"2026-11-29T12:00:00Z","express":true,"items":[{"quantity":2,"sku":"MUG-1"},{"quantity":1,"sku":"TEE-4"}],"method":"card","order_id":"3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11"}`
	return &waf.Request{Client: netip.MustParseAddr("127.0.0.1"), Method: "POST", Target: "/orders", Host: "guided", Route: "POST /orders",
		Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {"211"}, "Accept": {"application/json"}, "Accept-Language": {"en"},
			"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"}},
		BodyKind: waf.JSONBody, Body: []byte(body)}
}

// edgeText is the same with a field for text.
func edgeText() *waf.Request {
	r := edge()
	r.Body = []byte(`{"amount":1299,"note":"Please leave the parcel with Mrs. O'Neill next door, she is at home until five, and ring twice. Thank you very much for the quick help last week!","order_id":"3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11"}`)
	r.Header["Content-Length"] = []string{"219"}
	return r
}

func typed() *waf.Request {
	return &waf.Request{Client: netip.MustParseAddr("192.0.2.1"), Method: "POST", Target: "/v1/payments", Host: "api.example.com",
		Header:   http.Header{"Content-Type": {"application/json"}, "Content-Length": {"120"}, "User-Agent": {"curl/8.0"}, "Accept": {"*/*"}, "Idempotency-Key": {"0f8fad5b-d9cb-469f-a165-70867728950e"}},
		BodyKind: waf.JSONBody,
		Body:     []byte(`{"amount":1250,"currency":"EUR","from":"0f8fad5b-d9cb-469f-a165-70867728950e","to":"7c9e6679-7425-40de-944b-e07fc1f90ae7"}`)}
}

// BenchmarkBeside compares one request through the engine alone with the same
// through guide and, where that is in doubt, the engine. Compare cpu-ns/op: the
// clock counts what else the machine does.
func BenchmarkBeside(b *testing.B) {
	e, g := fixture()
	attack := typed()
	note("1' or '1'='1' -- see <b>there</b>")(attack)
	for name, r := range map[string]*waf.Request{"typed": typed(), "text": text(), "attack": attack} {
		for _, guided := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/guided=%t", name, guided), func(b *testing.B) {
				b.ReportAllocs()
				from := cpu()
				for b.Loop() {
					if guided && g.Clean(r) {
						continue
					}
					if _, err := e.Inspect(context.Background(), r); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cpu()-from)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// BenchmarkNew is what a reload of the rules costs.
func BenchmarkNew(b *testing.B) {
	e, _ := fixture()
	for b.Loop() {
		if _, err := New(e.Rules()); err != nil {
			b.Fatal(err)
		}
	}
}
