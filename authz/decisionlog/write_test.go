package decisionlog

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
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
		for range perBatch + 100 {
			observe()
		}
		time.Sleep(linger)
		if n := written(t, l); n != 42+perBatch+100 || flushes.Load() != 5 {
			t.Errorf("%d records of more than one batch are written, with %d flushes", n-42, flushes.Load())
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
