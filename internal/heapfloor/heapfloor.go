// Package heapfloor answers "When is a collection worth its price?" Go collects
// garbage when the heap has doubled. A plane keeps little, some 20 MiB, and throws
// away as much in half a second under load; each collection looks through all that
// is kept, and slows down whoever allocates meanwhile. Below a floor this package
// lets the heap grow.
package heapfloor

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	usual    = 100     // percent: the runtime's own, to collect when the heap has doubled
	leastMem = 4 << 20 // the runtime collects no smaller heap at 100 percent, and in proportion
	share    = 4       // of the memory that a container may have: the floor is a fourth at most
)

// Keep has garbage collected when the heap is twice what is in use, as always, but
// not before it is floor bytes. Of a container's memory (control groups, version 2)
// the floor is a fourth at most. It does nothing when floor is 0, and when the
// operator has decided: with GOGC or GOMEMLIMIT in the environment, which lookup
// reads as os.LookupEnv does.
//
// What is in use is looked at after each collection, so the heap of a plane that
// comes to keep much is twice that soon after, and not the multiple that suited a
// small one. The setting is the whole process's; stop ends it.
func Keep(floor uint64, lookup func(name string) (string, bool)) (stop func()) {
	floor = min(floor, limit(os.DirFS("/"))/share)
	if floor == 0 || decided(lookup) {
		return func() {}
	}
	k := &keeper{floor: floor, percent: usual}
	k.adapt()
	return k.stop
}

// decided reports whether the operator has said how much memory to take. An empty
// variable is none, as to the runtime.
func decided(lookup func(string) (string, bool)) bool {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if v, ok := lookup(name); ok && v != "" {
			return true
		}
	}
	return false
}

// keeper sets the percentage of the runtime.
type keeper struct {
	floor uint64

	mu      sync.Mutex
	percent int // in force
	ended   bool
}

// adapt is called once by Keep and then after each collection.
func (k *keeper) adapt() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return
	}
	if p := percent(k.floor, inUse()); far(p, k.percent) {
		debug.SetGCPercent(p)
		k.percent = p
	}
	// The next collection finds this and nobody who needs it.
	runtime.AddCleanup(new(sentinel), (*keeper).adapt, k)
}

// sentinel has a pointer, so that it does not share its memory with other small
// objects, which would keep it.
type sentinel struct{ _ *sentinel }

func (k *keeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	debug.SetGCPercent(usual)
}

// far reports whether p is worth stopping the world for, some ten microseconds.
func far(p, now int) bool { return p > now+now/8 || p < now-now/8 }

// use is what the last collection found.
type use struct {
	live  uint64 // bytes of objects in use
	roots uint64 // of stacks and variables: the percentage is of them too
}

func inUse() use {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(s)
	return use{s[0].Value.Uint64(), s[1].Value.Uint64() + s[2].Value.Uint64()}
}

// percent is the percentage with which the next collection comes at floor, or at
// twice what is in use if that is more.
func percent(floor uint64, u use) int {
	if u.live >= floor/2 {
		return usual
	}
	p := 100 * (floor - u.live) / max(1, u.live+u.roots)
	// The least heap that is collected grows with the percentage.
	return int(max(usual, min(p, 100*floor/leastMem, math.MaxInt32)))
}
