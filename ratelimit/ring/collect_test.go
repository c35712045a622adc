package ring

import (
	"runtime"
	"strconv"
	"testing"
	"time"
)

// BenchmarkCollect is what a million remembered keys cost each run of the
// collector, which every request pays for by what it allocates.
func BenchmarkCollect(b *testing.B) {
	r := New(1<<30, time.Minute, Options{Keys: 1 << 21})
	for i := range 1_000_000 {
		r.Allow("user:"+strconv.Itoa(i), 1)
	}
	for b.Loop() {
		runtime.GC()
	}
	r.Allow("user:1", 1)
}
