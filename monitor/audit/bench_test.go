package audit

import (
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rampart-security/rampart"
)

func denial() Event {
	return Event{
		Class: ClassAuthzDeny, Action: "GET /api/orders/{id}", Outcome: Refused, Control: "authz.domain", Flow: "gateway>orders",
		Layer: "domain", Code: "no_permit", Actor: "spiffe://shop.internal/gateway/edge", Resource: "order:0190d1e5-7e9a-7cc1-a2d3-0f0f0f0f0f0f",
		Trace: "0af7651916cd43dd8448eb211c80319c",
		Policies: []rampart.PolicyRef{
			{Engine: "cedar", ID: "owner-reads-own-order", File: "policies/orders.cedar", Line: 12},
		},
		Detail: map[string]string{"reason": "no permit for this order", "user_agent": "Mozilla/5.0 (X11; Linux x86_64)"},
	}
}

// BenchmarkRecordSync64 measures 64 callers that wait for the disk.
func BenchmarkRecordSync64(b *testing.B) {
	l := open(b, b.TempDir(), Options{})
	e := denial()
	e.Outcome = Failed // not a refusal: no counting of equal ones
	b.SetParallelism(max(1, 64/runtime.GOMAXPROCS(0)))
	b.ReportAllocs()
	start := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Record(b.Context(), e); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "records/s")
}

// BenchmarkRecordAsync measures what an allowed request pays.
func BenchmarkRecordAsync(b *testing.B) {
	l := open(b, b.TempDir(), Options{})
	e := denial()
	e.Outcome, e.Class = Allowed, ClassAuthzAllow
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Record(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAllowed measures all that an allowed request costs at 3000 of them a
// second, the committer, its system calls and its wake-ups included: CPU time of
// the process, since most of the time it sleeps.
func BenchmarkAllowed(b *testing.B) {
	l := open(b, b.TempDir(), Options{})
	e := denial()
	e.Outcome, e.Class = Allowed, ClassAuthzAllow
	b.ReportAllocs()
	before := cpu(b)
	for n := 1; b.Loop(); n++ {
		must(b, l.Record(b.Context(), e))
		if n%30 == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	must(b, l.Close())
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkBatch measures what the committer does for events for which nobody waits:
// as many as come in 10 and in 50 ms at 2600 a second.
func BenchmarkBatch(b *testing.B) {
	for _, n := range []int{26, 130} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			l := open(b, b.TempDir(), Options{})
			must(b, l.Close()) // the committer is this benchmark
			must(b, l.recover())
			e := denial()
			e.Outcome, e.Class = Allowed, ClassAuthzAllow
			event, err := new(text).encode(e)
			must(b, err)
			all := new(batch)
			for range n {
				all.add(event)
			}
			b.ReportAllocs()
			before := cpu(b)
			for b.Loop() {
				must(b, l.commit(all, false))
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N*n), "cpu-ns/event")
		})
	}
}

// cpu is the time that the process has had of the processors.
func cpu(b *testing.B) int64 {
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkVerify measures the reading side.
func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	l := open(b, dir, Options{})
	e := denial()
	e.Outcome, e.Class = Allowed, ClassAuthzAllow
	for range 10_000 {
		must(b, l.Record(b.Context(), e))
	}
	must(b, l.Close())
	b.ReportAllocs()
	for b.Loop() {
		if rep := verify(b, dir, nil); !rep.OK() {
			b.Fatal(rep.Problems)
		}
	}
	b.ReportMetric(10_000*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
