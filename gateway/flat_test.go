package gateway

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/heapfloor"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/ratelimit/ring"
	"github.com/rampart-security/rampart/validate/openapi"
)

// BenchmarkRoutes is the whole edge, but for the hop, where the document declares
// more and more besides.
func BenchmarkRoutes(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := newBench(b)
			s.declare(n)
			s.flat(b, func(*http.Request) {})
		})
	}
}

// declare adds n operations to the shop's document.
func (s *bench) declare(n int) {
	tg := s.target("shop")
	text, ok := s.gw.table.Load().sys.Resource(tg.svc.OpenAPI)
	if !ok {
		s.t.Fatal("no document")
	}
	var more strings.Builder
	more.WriteString("paths:\n")
	for i := range n {
		fmt.Fprintf(&more, "  /more%d/{id}:\n    get: { operationId: more%d, x-rampart: { permission: 'orders:read' }, parameters: [{ name: id, in: path, required: true, schema: { type: string, maxLength: 16 } }], responses: { '200': { description: ok } } }\n", i, i)
	}
	api, err := openapi.Compile(tg.name, []byte(strings.Replace(string(text), "paths:\n", more.String(), 1)))
	must(s.t, err)
	if len(api.Operations()) < n {
		s.t.Fatalf("%d operations", len(api.Operations()))
	}
	tg.api = api
}

func (s *bench) target(name string) *target {
	for _, tg := range s.gw.table.Load().targets {
		if tg.name == name {
			return tg
		}
	}
	s.t.Fatalf("no service %s", name)
	return nil
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLimiterKeys is the whole edge, but for the hop, where the limiters
// remember more and more, and each request comes from some address among them.
func BenchmarkLimiterKeys(b *testing.B) {
	for _, n := range []uint32{1, 1_000_000} {
		b.Run(strconv.Itoa(int(n)), func(b *testing.B) {
			s := newBench(b)
			t := s.gw.table.Load()
			t.ip, t.user = remembering(n), remembering(n)
			for i := range t.entries {
				t.entries[i].users = t.user
			}
			t.stages = s.gw.stages(t)
			s.flat(b, func(r *http.Request) { r.RemoteAddr = address(rand.Uint32N(n)).String() + ":4711" })
		})
	}
}

func address(i uint32) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 11<<24+i)
	return netip.AddrFrom4(a)
}

// remembering is a limiter that has n addresses on its mind.
func remembering(n uint32) ratelimit.Limiter {
	r := ring.New(1<<30, time.Minute, ring.Options{Keys: 1 << 21})
	for i := range n {
		r.Allow(ratelimit.IPKey(address(i)), 1)
	}
	return r
}

// flat reports the processor's time beside the clock's: others may share the
// machine, and the ratio of two figures is what counts.
func (s *bench) flat(b *testing.B, change func(*http.Request)) {
	defer heapfloor.Keep(128<<20, os.LookupEnv)() // as the process has it
	s.warm()
	b.ReportAllocs()
	began := processorTime(b)
	defer func() { b.ReportMetric(float64(processorTime(b)-began)/float64(b.N), "cpu-ns/op") }()
	for b.Loop() {
		s.refill()
		r := s.fresh(s.basic)
		change(r)
		must(b, s.edgeOnly(r))
	}
}
