package audit

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestCompany: what nobody waits for shares writes and flushes, and is written in
// time, and flushed in time; whoever waits is not kept waiting by it, and it is
// before him in the log. The head is of what was flushed.
func TestCompany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		flushes := 0
		l.segment.sync = func(f *os.File) error { flushes++; return f.Sync() }
		passing := Event{Class: ClassAuthzAllow, Action: "GET /", Outcome: Allowed}
		for range 100 {
			must(t, l.Record(t.Context(), passing))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(company)
		synctest.Wait()
		if n := len(events(t, dir)); n != 100 || flushes > 0 {
			t.Errorf("%d of 100 records are written, with %d flushes", n, flushes)
		}
		if seq, _ := l.Head(); seq != 0 {
			t.Errorf("the head is %d, and nothing was flushed", seq)
		}
		time.Sleep(syncEvery)
		if seq, _ := l.Head(); seq != 100 || flushes != 1 {
			t.Errorf("%d of 100 records are durable, by %d flushes", seq, flushes)
		}
		must(t, l.Record(t.Context(), passing))
		began := time.Now()
		must(t, l.Record(t.Context(), login(1)))
		if seq, _ := l.Head(); seq != 102 || time.Since(began) > 0 {
			t.Errorf("%d records are durable after %v", seq, time.Since(began))
		}
		for range 2 { // the second time there is nothing to wait for
			must(t, l.Record(t.Context(), passing))
			must(t, l.Flush(t.Context()))
			must(t, l.Flush(t.Context()))
		}
		if seq, _ := l.Head(); seq != 104 || time.Since(began) > 0 {
			t.Errorf("flushed: %d records are durable after %v", seq, time.Since(began))
		}
		must(t, l.Record(t.Context(), passing))
		time.Sleep(2 * company)
		began = time.Now()
		must(t, l.Flush(t.Context())) // it is written, and not flushed yet
		if seq, _ := l.Head(); seq != 105 || time.Since(began) > 0 {
			t.Errorf("flushed: %d records are durable after %v", seq, time.Since(began))
		}
	})
}

// TestEnough: a batch that is large waits for no company; what comes behind it does.
func TestEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		large := Event{Class: ClassAuthzAllow, Action: strings.Repeat("a", maxEvent/2), Outcome: Allowed}
		began, n := time.Now(), 0
		for ; n < enough/(maxEvent/2); n++ {
			must(t, l.Record(t.Context(), large))
		}
		synctest.Wait()
		if got := len(events(t, dir)); got != n || time.Since(began) > 0 {
			t.Errorf("%d of %d records are written after %v", got, n, time.Since(began))
		}
		must(t, l.Record(t.Context(), large))
		synctest.Wait()
		if got := len(events(t, dir)); got != n {
			t.Errorf("%d records are written, and the last of them waits for others", got-n)
		}
		time.Sleep(company)
		synctest.Wait()
		if got := len(events(t, dir)); got != n+1 {
			t.Errorf("%d of %d records are written", got, n+1)
		}
	})
}
