package gateway

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
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
			s.flat(b)
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

// BenchmarkLimiterKeys is the edge where the limiters remember one key and where they
// remember a million, and each request is of some key among them: from one address of
// many, and of one user of many in all and of the flow. Without the hop, and with it
// and the service's end of it, which is in this process. Others may share the machine,
// so both take turns, and what is told is the median turn of each; an operation is a
// turn of both.
func BenchmarkLimiterKeys(b *testing.B) {
	b.Run("edge", func(b *testing.B) { s := newBench(b); s.turns(b, s.edgeOnly) })
	b.Run("edge_and_hop", func(b *testing.B) { s := newBench(b); s.turns(b, s.edgeAndHop) })
}

func (s *bench) turns(b *testing.B, do func(*http.Request) error) {
	defer heapfloor.Keep(128<<20, os.LookupEnv)() // as the process has it
	s.warm()
	one, million := manyKeys(1), manyKeys(1_000_000)
	touch(4 << 10)
	var few, many []time.Duration
	for b.Loop() {
		few = append(few, s.turn(b, one, do))
		many = append(many, s.turn(b, million, do))
	}
	slices.Sort(few)
	slices.Sort(many)
	x, y := float64(few[len(few)/2]), float64(many[len(many)/2])
	b.ReportMetric(x, "1-key-cpu-ns")
	b.ReportMetric(y, "million-keys-cpu-ns")
	b.ReportMetric(y/x, "ratio")
}

// turn returns what one of 500 requests takes of the processor.
func (s *bench) turn(b *testing.B, k keys, do func(*http.Request) error) time.Duration {
	const requests = 500
	s.remember(k)
	began := processorTime(b)
	for range requests {
		s.refill()
		r := s.fresh(s.basic)
		r.RemoteAddr = address(rand.Uint32N(k.n)).String() + ":4711"
		must(b, do(r))
	}
	return (processorTime(b) - began) / requests
}

// keys are limiters that remember n keys each.
type keys struct {
	n               uint32
	ip, user, users ratelimit.Limiter
}

// manyKeys makes them: each has keys of its own.
func manyKeys(n uint32) keys {
	return keys{n, remembering(n), someone{remembering(n), n}, someone{remembering(n), n}}
}

// remember puts limiters in force.
func (s *bench) remember(k keys) {
	t := s.gw.table.Load()
	t.ip, t.user = k.ip, k.user
	for i := range t.entries {
		t.entries[i].users = k.users
	}
	t.stages = s.gw.stages(t)
}

// someone asks a limiter that remembers n keys for one of them, whoever it is about:
// a million users would be a million tokens, and the benchmark one of those.
type someone struct {
	ratelimit.Limiter
	n uint32
}

func (l someone) Allow(_ string, cost int) ratelimit.Verdict {
	return l.Limiter.Allow(ratelimit.IPKey(address(rand.Uint32N(l.n))), cost)
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
func (s *bench) flat(b *testing.B) {
	defer heapfloor.Keep(128<<20, os.LookupEnv)() // as the process has it
	s.warm()
	touch(4 << 10)
	b.ReportAllocs()
	began := processorTime(b)
	defer func() { b.ReportMetric(float64(processorTime(b)-began)/float64(b.N), "cpu-ns/op") }()
	for b.Loop() {
		s.refill()
		must(b, s.edgeOnly(s.fresh(s.basic)))
	}
}

// touch has the heap filled and collected, twice, so that every page of it was in use
// before. The kernel makes a page when it is touched first, which a process pays for
// once in its life: a request that meets new pages alone takes twice as long. A heap
// that holds a million keys is twice as large when it is collected first, so a
// benchmark of a second saw new pages for all of that second, with one key for half
// of it, and told a difference which is none of the keys'.
func touch(size int) {
	for end := collections() + 2; collections() < end; {
		for range 256 {
			runtime.KeepAlive(make([]byte, size)) // a size that the compiler does not know is on the heap
		}
	}
}

func collections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumGC
}
