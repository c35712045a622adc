package decisionlog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pdp"
)

// written counts the records that the kernel has: those that a killed process leaves.
func written(t *testing.T, l *Log) int {
	t.Helper()
	synctest.Wait()
	n := 0
	files, err := filepath.Glob(l.folder.path + "/*.log")
	must(t, err)
	for _, name := range files {
		text, err := os.ReadFile(name)
		must(t, err)
		n += bytes.Count(text, []byte("\n"))
	}
	return n
}

// TestTimes: a decision is written when it has waited for others, and made durable
// some time after, whether more come or not; whoever flushes does not wait.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, Options{State: state(t)})
		var flushes atomic.Int64
		l.out.fsync = func(f *os.File) error { flushes.Add(1); return f.Sync() }
		observe := func() { must(t, l.Observe(t.Context(), ask(1), answer(ask(1)))) }
		observe()
		time.Sleep(linger - time.Millisecond)
		if n := written(t, l); n != 0 {
			t.Errorf("%d records are written early", n)
		}
		time.Sleep(time.Millisecond)
		if n := written(t, l); n != 1 || flushes.Load() > 0 {
			t.Errorf("%d records are written, with %d flushes", n, flushes.Load())
		}
		for range 40 { // what goes on coming puts nothing off
			observe()
			time.Sleep(syncEvery / 10)
		}
		if n := flushes.Load(); n != 3 {
			t.Errorf("%d flushes while others came, want one each time that one is due", n)
		}
		time.Sleep(syncEvery)
		if n := written(t, l); n != 41 || flushes.Load() != 4 {
			t.Errorf("%d records are written, with %d flushes", n, flushes.Load())
		}
		began := time.Now()
		observe()
		must(t, l.Flush(t.Context()))
		if n := written(t, l); n != 42 || flushes.Load() != 5 || time.Since(began) > 0 {
			t.Errorf("%d records after %v, with %d flushes", n, time.Since(began), flushes.Load())
		}
		time.Sleep(4 * syncEvery)
		for range 600 {
			observe()
		}
		time.Sleep(linger)
		if n := written(t, l); n != 42+600 || flushes.Load() != 5 {
			t.Errorf("%d records of one batch are written, with %d flushes", n-42, flushes.Load())
		}
	})
}

// TestNoneIsForgotten: however decisions and flushes meet the writer, each decision
// is written within its time, though nobody wakes it for each.
func TestNoneIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, Options{State: state(t)})
		const askers, each = 8, 200
		for round := range 3 {
			var wg sync.WaitGroup
			for asker := range askers {
				wg.Go(func() {
					for n := range each {
						must(t, l.Observe(t.Context(), ask(n), answer(ask(n))))
						if n%7 == asker {
							time.Sleep(linger / time.Duration(asker+1))
						}
						if n%50 == 49 && asker == 1 {
							must(t, l.Flush(t.Context()))
						}
					}
				})
			}
			wg.Wait()
			time.Sleep(linger)
			if n, want := written(t, l), (round+1)*askers*each; n != want {
				t.Errorf("%d of %d records are written", n, want)
			}
		}
	})
}

// TestEnough: much in line waits for no others.
func TestEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, Options{State: state(t)})
		q := ask(1)
		q.Request.Context = map[string]any{"note": strings.Repeat("x", 40<<10)}
		began, n := time.Now(), 0
		for ; n < 5; n++ { // sealed, they are a third larger
			must(t, l.Observe(t.Context(), q, answer(q)))
		}
		if got := written(t, l); got != n || time.Since(began) > 0 {
			t.Errorf("%d of %d records are written after %v", got, n, time.Since(began))
		}
	})
}

// TestWanted: Each is called with what was wanted when it was observed, once it is
// on record, as it was then.
func TestWanted(t *testing.T) {
	var told []string
	wanted := false
	l := openLog(t, Options{State: state(t), Wanted: func() bool { return wanted }, Each: func(q pdp.Question, d rampart.Decision) {
		told = append(told, fmt.Sprint(q.ID, " ", d.ID, " ", q.Request.Resource.Attrs["owner"], " ", q.Request.Context["deep"]))
	}})
	for n := range 4 {
		wanted = n == 1 || n == 2
		q := ask(n)
		must(t, l.Observe(t.Context(), q, answer(q)))
		q.Request.Resource.Attrs["owner"], q.Request.Context["deep"].(map[string]any)["big"] = "changed", "changed"
	}
	must(t, l.Flush(t.Context()))
	must(t, l.Close()) // the writer is done with them
	want := []string{"D000001 D000001 user:ann map[big:1e+30 small:-0.25 yes:true]", "D000002 D000002 user:ann map[big:1e+30 small:-0.25 yes:true]"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
}

// TestUnbounded: what is out of all bounds is left out of the record, and the
// decision is on record.
func TestUnbounded(t *testing.T) {
	l := openLog(t, Options{State: state(t)})
	for name, row := range map[string]struct {
		value any
		kept  bool
	}{
		"deep":     {nested(maxNested - 1), true},
		"too deep": {nested(maxNested + 1), false},
		"too many": {make([]any, maxNodes), false},
		"a circle": {circle(), false},
	} {
		t.Run(name, func(t *testing.T) {
			q := ask(1)
			q.ID, q.Request.Context["what"] = name, row.value
			must(t, l.Observe(t.Context(), q, answer(q)))
			e, err := l.Find(t.Context(), name)
			must(t, err)
			if kept := e.Question.Request.Context["what"] != nil; kept != row.kept || (e.Question.Request.Resource.Attrs != nil) != row.kept {
				t.Errorf("attributes %v, context %v", e.Question.Request.Resource.Attrs, e.Question.Request.Context)
			}
			if q.Request.Context["what"] == nil {
				t.Error("the asker's question was changed")
			}
		})
	}
}

func nested(n int) any {
	var v any = "x"
	for range n {
		v = []any{v}
	}
	return v
}

func circle() any {
	m := map[string]any{}
	m["again"] = m
	return m
}
