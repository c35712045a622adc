package audit

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// disk is what a machine has of a log when it loses power: of each segment what was
// flushed, and behind that anything.
type disk struct {
	folder  string
	flushed map[string]int64 // bytes, by name of segment
}

// flush stands for fsync.
func (d *disk) flush(f *os.File) error {
	info, err := f.Stat()
	if err == nil {
		d.flushed[filepath.Base(f.Name())] = info.Size()
	}
	return err
}

// after returns the audit folder that is found after the loss of power; spoil gets
// what was not flushed of the newest segment, and returns what there is of it.
func (d *disk) after(t *testing.T, mark []byte, spoil func([]byte) []byte) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "gateway_edge"), 0o700))
	list, err := segments(d.folder)
	must(t, err)
	for _, n := range list {
		data, err := os.ReadFile(filepath.Join(d.folder, segmentName(n)))
		must(t, err)
		kept := d.flushed[segmentName(n)]
		if n < len(list) && kept != int64(len(data)) {
			t.Fatalf("segment %d of %d was left with %d of %d bytes flushed", n, len(list), kept, len(data))
		}
		data = append(data[:kept:kept], spoil(bytes.Clone(data[kept:]))...)
		must(t, os.WriteFile(filepath.Join(dir, "gateway_edge", segmentName(n)), data, 0o600))
	}
	if mark != nil {
		must(t, os.WriteFile(filepath.Join(dir, "gateway_edge", markName), mark, 0o600))
	}
	return dir
}

// zeroed is b with some of its sectors never written.
func zeroed(b []byte) []byte {
	for at := 0; at < len(b); at += 512 {
		if rand.IntN(3) == 0 {
			clear(b[at:min(at+512, len(b))])
		}
	}
	return b
}

// firstGone is b without its beginning: what comes behind is sound.
func firstGone(b []byte) []byte {
	clear(b[:min(1024, len(b))])
	return b
}

// TestPowerFailure: whatever the disk has of what was not flushed, the log starts
// again, all that was waited for is there, and the head that was reported is too.
func TestPowerFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{MaxSegment: 20_000})
		d := &disk{folder: filepath.Join(dir, "gateway_edge"), flushed: map[string]int64{}}
		l.segment.sync = d.flush
		waited, early := 0, []byte(nil)
		for i := range 300 {
			e := login(i)
			if i%70 != 0 {
				e.Class = ClassAPIRead
			} else {
				waited++
			}
			must(t, l.Record(t.Context(), e))
			time.Sleep(time.Millisecond)
			if i == 200 {
				early = markOf(t, d.folder)
			}
		}
		time.Sleep(company)
		synctest.Wait()
		seq, hash := l.Head()
		reported, now := Head{seq, hash}, markOf(t, d.folder)
		for name, spoil := range map[string]func([]byte) []byte{
			"all is there":               func(b []byte) []byte { return b },
			"nothing of it":              func([]byte) []byte { return nil },
			"half of it":                 func(b []byte) []byte { return b[:len(b)/2] },
			"only zeros":                 func(b []byte) []byte { return make([]byte, len(b)) },
			"the first sectors are gone": firstGone,
			"some sectors are gone":      zeroed,
		} {
			for when, mark := range map[string][]byte{"the mark is new": now, "the mark is old": early} {
				dir := d.after(t, mark, spoil)
				head := write(t, dir, 1, Options{})
				if rep := verify(t, dir, map[string]Head{plane: reported}); !rep.OK() || head.Seq <= seq {
					t.Errorf("%s, %s: head %d after %d: %v", name, when, head.Seq, seq, rep.Problems)
				}
				there := 0
				for _, e := range events(t, dir) {
					if e.Class == ClassAuthentication {
						there++
					}
				}
				if there != waited+1 {
					t.Errorf("%s, %s: %d of %d events that were waited for", name, when, there-1, waited)
				}
			}
		}
		if seq < 250 || seq == 300 {
			t.Errorf("the head was %d: the test tests nothing", seq)
		}
	})
}

func markOf(t *testing.T, folder string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder, markName))
	must(t, err)
	return b
}

// TestNoPowerFailure: a hole with sound records behind it is a crash only behind
// what was made durable; everything else keeps the plane from starting.
func TestNoPowerFailure(t *testing.T) {
	from := t.TempDir()
	write(t, from, 8, Options{})
	folder := filepath.Join(from, "gateway_edge")
	data, err := os.ReadFile(filepath.Join(folder, segmentName(1)))
	must(t, err)
	lines := bytes.SplitAfter(data, []byte("\n"))[:8]
	if want := fmt.Sprintf(markFormat, 1, len(data)); string(markOf(t, folder)) != want {
		t.Fatalf("the mark is %q, want %q", markOf(t, folder), want)
	}
	at := func(n int) int { return len(bytes.Join(lines[:n], nil)) }
	clear(data[at(5)+10 : at(5)+20]) // of the sixth record
	for name, row := range map[string]struct {
		mark   string
		starts bool
	}{
		"behind the mark":            {fmt.Sprintf(markFormat, 1, at(5)), true},
		"behind an older mark":       {fmt.Sprintf(markFormat, 1, at(2)), true},
		"in a record that is marked": {fmt.Sprintf(markFormat, 1, at(6)), false},
		"before the mark":            {fmt.Sprintf(markFormat, 1, at(8)), false},
		"before a later segment":     {fmt.Sprintf(markFormat, 2, 0), false},
		"no mark":                    {"", false},
		"a mark that is cut":         {fmt.Sprintf(markFormat, 1, at(5))[:20], false},
		"a mark with more":           {fmt.Sprintf(markFormat, 1, at(5)) + "x", false},
		"a mark in another spelling": {fmt.Sprintf("%06d %020s\n", 1, fmt.Sprintf("+%d", at(5))), false},
		"a negative mark":            {fmt.Sprintf(markFormat, 1, -5), false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Mkdir(filepath.Join(dir, "gateway_edge"), 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "gateway_edge", segmentName(1)), data, 0o600))
			if row.mark != "" {
				must(t, os.WriteFile(filepath.Join(dir, "gateway_edge", markName), []byte(row.mark), 0o600))
			}
			l, err := Open(dir, plane, Options{})
			if (err == nil) != row.starts || err != nil && !strings.Contains(err.Error(), "000001.jsonl line 6 byte ") {
				t.Errorf("got %v", err)
			}
			if err == nil {
				must(t, l.Close())
				if seq, _ := l.Head(); seq != 6 || events(t, dir)[5].Action != "audit.cut" {
					t.Errorf("the head is %d, want the note of the cut behind 5", seq)
				}
			}
		})
	}
}

// TestLateFlushFails: when what was written cannot be made durable, the log says how
// many events that nobody waited for are lost, and goes on from the head that it
// has reported.
func TestLateFlushFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		must(t, l.Record(t.Context(), login(1)))
		seq, hash := l.Head()
		broken := true
		l.segment.sync = func(f *os.File) error {
			if broken {
				return errDisk
			}
			return f.Sync()
		}
		passing := Event{Class: ClassAPIRead, Action: "GET /", Outcome: Allowed}
		for range 5 {
			must(t, l.Record(t.Context(), passing))
			time.Sleep(syncEvery / 6) // in several writes
		}
		time.Sleep(syncEvery)
		synctest.Wait()
		if err := l.Record(t.Context(), passing); !errors.Is(err, errDisk) {
			t.Errorf("the flush has failed, and: %v", err)
		}
		if err := l.Flush(t.Context()); !errors.Is(err, errDisk) {
			t.Errorf("Flush: %v", err)
		}
		broken = false
		time.Sleep(retryAfter)
		must(t, l.Record(t.Context(), passing))
		time.Sleep(company)
		synctest.Wait()
		if now, _ := l.Head(); now != 3 {
			t.Errorf("the head is %d: after a failure nothing is well before it is durable", now)
		}
		must(t, l.Close())
		got := events(t, dir)
		if len(got) != 3 || got[1].Action != "audit.gap" || got[1].Detail["lost"] != "5" || got[1].Detail["after"] != "1" {
			t.Errorf("%+v", got)
		}
		if rep := verify(t, dir, map[string]Head{plane: {seq, hash}}); !rep.OK() {
			t.Error(rep.Problems)
		}
	})
}

// TestRemovedBetweenFlushes: of a file that is gone the next flush tells, though
// nobody waited for what was written to it.
func TestRemovedBetweenFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		passing := Event{Class: ClassAPIRead, Action: "GET /", Outcome: Allowed}
		must(t, l.Record(t.Context(), passing))
		time.Sleep(2 * company)
		must(t, os.Remove(filepath.Join(dir, "gateway_edge", segmentName(1))))
		time.Sleep(syncEvery)
		synctest.Wait()
		if err := l.Record(t.Context(), passing); !errors.Is(err, errTampered) {
			t.Errorf("got %v", err)
		}
		if err := l.Close(); !errors.Is(err, errTampered) {
			t.Errorf("Close: %v", err)
		}
	})
}
