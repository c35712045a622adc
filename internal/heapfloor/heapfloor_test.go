package heapfloor

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

const mib = 1 << 20

// env is an environment.
type env map[string]string

func (e env) lookup(name string) (string, bool) { v, ok := e[name]; return v, ok }

// usually has the runtime's own percentage in force, and gives it back.
func usually(t *testing.T) {
	before := debug.SetGCPercent(usual)
	t.Cleanup(func() { debug.SetGCPercent(before) })
}

// inForce is the percentage in force.
func inForce() int {
	p := debug.SetGCPercent(usual)
	debug.SetGCPercent(p)
	return p
}

var kept any // by the tests, so that it is in use

// collections counts those that so much garbage costs.
func collections(bytes int) uint32 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range bytes / 1024 {
		kept = make([]byte, 1024)
	}
	kept = nil
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

// TestFewer: a small heap is left alone until it is as large as the floor.
func TestFewer(t *testing.T) {
	usually(t)
	before := collections(128 * mib)
	stop := Keep(32*mib, env{}.lookup)
	during := collections(128 * mib)
	stop()
	after := collections(128 * mib)
	if before < 10 || during > 6 || after < 10 {
		t.Errorf("128 MiB of garbage cost %d collections, with a floor of 32 MiB %d, and %d when it was gone", before, during, after)
	}
}

// TestOperatorDecides: who has set the collector keeps what he has set.
func TestOperatorDecides(t *testing.T) {
	for name, row := range map[string]struct {
		env     env
		floor   uint64
		changed bool
	}{
		"nothing is set":    {nil, 64 * mib, true},
		"GOGC":              {env{"GOGC": "100"}, 64 * mib, false},
		"GOGC, off":         {env{"GOGC": "off"}, 64 * mib, false},
		"GOMEMLIMIT":        {env{"GOMEMLIMIT": "64MiB"}, 64 * mib, false},
		"both empty":        {env{"GOGC": "", "GOMEMLIMIT": ""}, 64 * mib, true},
		"there is no floor": {nil, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			usually(t)
			stop := Keep(row.floor, row.env.lookup)
			if p := inForce(); (p != usual) != row.changed {
				t.Errorf("the percentage is %d", p)
			}
			stop()
			if p := inForce(); p != usual {
				t.Errorf("stopped, the percentage is %d", p)
			}
		})
	}
}

// TestGrows: what is in use counts as soon as a collection has found it, so that a
// large heap is not let grow as a small one is; and a small one is again.
func TestGrows(t *testing.T) {
	usually(t)
	defer Keep(64*mib, env{}.lookup)()
	kept = make([]byte, 48*mib)
	if !collectUntil(func(p int) bool { return p == usual }) {
		t.Errorf("with 48 MiB in use the percentage is %d", inForce())
	}
	kept = nil
	if !collectUntil(func(p int) bool { return p > 2*usual }) {
		t.Errorf("with nothing in use the percentage is %d", inForce())
	}
}

func collectUntil(ok func(percent int) bool) bool {
	for range 200 {
		runtime.GC()
		if ok(inForce()) {
			return true
		}
	}
	return false
}

func TestPercent(t *testing.T) {
	for name, row := range map[string]struct {
		floor, live, roots uint64
		want               int
	}{
		"a gateway":                        {128 * mib, 20 * mib, 0, 540},
		"with stacks":                      {128 * mib, 20 * mib, 7 * mib, 400},
		"half of the floor":                {128 * mib, 64 * mib, 0, 100},
		"nearly half":                      {128 * mib, 63 * mib, 20 * mib, 100},
		"more than the floor":              {128 * mib, 900 * mib, mib, 100},
		"nothing yet":                      {128 * mib, 0, 0, 3200}, // 4 MiB times 32
		"little":                           {128 * mib, mib, 0, 3200},
		"less than the runtime's own":      {mib, 0, 0, 100},
		"a floor beyond all that there is": {math.MaxUint64 / 200, 0, 0, math.MaxInt32},
	} {
		t.Run(name, func(t *testing.T) {
			if got := percent(row.floor, use{row.live, row.roots}); got != row.want {
				t.Errorf("got %d, want %d", got, row.want)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	const none = math.MaxUint64
	for name, row := range map[string]struct {
		files map[string]string
		want  uint64
	}{
		"no groups":             {nil, none},
		"a container":           {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "134217728\n"}, 128 * mib},
		"no limit":              {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, none},
		"a unit of the system":  {map[string]string{"proc/self/cgroup": "0::/system.slice/rampart.service\n", "sys/fs/cgroup/system.slice/rampart.service/memory.max": "1048576\n", "sys/fs/cgroup/system.slice/memory.max": "max\n"}, mib},
		"the slice allows less": {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "2097152\n", "sys/fs/cgroup/a/memory.max": "1048576\n"}, mib},
		"version 1 beside":      {map[string]string{"proc/self/cgroup": "4:memory:/x\n0::/y\n", "sys/fs/cgroup/x/memory.max": "1\n", "sys/fs/cgroup/y/memory.max": "1048576\n"}, mib},
		"a way out":             {map[string]string{"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/x/memory.max": "1048576\n"}, mib},
		"no number":             {map[string]string{"sys/fs/cgroup/memory.max": "-5\n"}, none},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := fstest.MapFS{}
			for file, text := range row.files {
				fsys[file] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := limit(fsys); got != row.want {
				t.Errorf("got %d, want %d", got, row.want)
			}
		})
	}
}
