package decisionlog

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
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
		must(t, l.Observe(t.Context(), ask(1), answer(ask(1))))
		time.Sleep(linger - time.Millisecond)
		if n := written(t, l); n != 0 {
			t.Errorf("%d records are written early", n)
		}
		time.Sleep(time.Millisecond)
		if n := written(t, l); n != 1 || !l.out.dirty {
			t.Errorf("%d records are written, not durable: %v", n, l.out.dirty)
		}
		durable := 0
		for n := range 600 { // what goes on coming puts nothing off
			if n%20 == 0 {
				must(t, l.Observe(t.Context(), ask(1), answer(ask(1))))
			}
			time.Sleep(time.Millisecond)
			if synctest.Wait(); !l.out.dirty {
				durable++
			}
		}
		if durable == 0 {
			t.Error("none is durable while others come")
		}
		time.Sleep(linger + syncEvery)
		if n := written(t, l); n != 31 || l.out.dirty {
			t.Errorf("%d records are written, not durable: %v", n, l.out.dirty)
		}
		began := time.Now()
		must(t, l.Observe(t.Context(), ask(2), answer(ask(2))))
		must(t, l.Flush(t.Context()))
		if n := written(t, l); n != 32 || l.out.dirty || time.Since(began) > 0 {
			t.Errorf("%d records after %v, not durable: %v", n, time.Since(began), l.out.dirty)
		}
		for range perBatch + 100 {
			must(t, l.Observe(t.Context(), ask(3), answer(ask(3))))
		}
		time.Sleep(linger)
		if n := written(t, l); n != 32+perBatch+100 {
			t.Errorf("%d records of more than one batch are written", n-32)
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
