package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// small makes a log of two segments and returns them by name.
func small(t testing.TB) (dir string, head Head, files map[string][]byte) {
	t.Helper()
	dir = t.TempDir()
	head = write(t, dir, 6, Options{MaxSegment: 2000})
	files = make(map[string][]byte)
	paths, err := filepath.Glob(filepath.Join(dir, "gateway_edge", "*.jsonl"))
	must(t, err)
	for _, p := range paths {
		data, err := os.ReadFile(p)
		must(t, err)
		files[p] = data
	}
	if len(files) != 2 {
		t.Fatalf("%d files", len(files))
	}
	return dir, head, files
}

// mutate tries change at every byte of every file and demands that the first
// problem points at the line in which the byte stands, or, where a newline
// went missing, at the one that it ended.
func mutate(t *testing.T, change func(b []byte, i int) []byte) {
	dir, head, files := small(t)
	for path, data := range files {
		for i := range data {
			must(t, os.WriteFile(path, change(bytes.Clone(data), i), 0o600))
			rep := verify(t, dir, map[string]Head{plane: head})
			if rep.OK() {
				t.Fatalf("%s byte %d: nothing found", filepath.Base(path), i)
			}
			p := rep.Problems[0]
			start := bytes.LastIndexByte(data[:i], '\n') + 1
			line := bytes.Count(data[:i], []byte("\n")) + 1
			atEdge := i == start && p.Line == line-1 // a byte put before a line's first may look like the end of the one before
			if p.Plane != plane || p.File != "gateway_edge/"+filepath.Base(path) || (p.Line != line || p.Offset != int64(start)) && !atEdge {
				t.Fatalf("%s byte %d of line %d at %d: found at %v", filepath.Base(path), i, line, start, p)
			}
		}
		must(t, os.WriteFile(path, data, 0o600))
	}
}

func TestVerifyFindsEveryFlippedByte(t *testing.T) {
	mutate(t, func(b []byte, i int) []byte { b[i] ^= 1; return b })
}

func TestVerifyFindsEveryChangeOfCase(t *testing.T) {
	dir, _, files := small(t)
	for path, data := range files {
		for i, c := range data {
			if c|0x20 < 'a' || c|0x20 > 'z' {
				continue
			}
			b := bytes.Clone(data)
			b[i] ^= 0x20
			must(t, os.WriteFile(path, b, 0o600))
			if verify(t, dir, nil).OK() {
				t.Fatalf("byte %d, %q", i, c)
			}
		}
		must(t, os.WriteFile(path, data, 0o600))
	}
}

func TestVerifyFindsEveryRemovedByte(t *testing.T) {
	mutate(t, func(b []byte, i int) []byte { return slices.Delete(b, i, i+1) })
}

func TestVerifyFindsEveryAddedByte(t *testing.T) {
	mutate(t, func(b []byte, i int) []byte { return slices.Insert(b, i, ' ') })
}

func TestVerifyAgainstHeads(t *testing.T) {
	dir, head, files := small(t)
	last := filepath.Join(dir, "gateway_edge", segmentName(2))
	other := head
	other.Hash[0] ^= 1
	cutLast := files[last][:bytes.LastIndexByte(files[last][:len(files[last])-1], '\n')+1]
	tests := []struct {
		name  string
		touch func() error
		heads map[string]Head
		want  []Rule
	}{
		{"intact", func() error { return nil }, map[string]Head{plane: head}, nil},
		{"last record cut, no head", func() error { return os.WriteFile(last, cutLast, 0o600) }, nil, nil},
		{"last record cut", func() error { return os.WriteFile(last, cutLast, 0o600) }, map[string]Head{plane: head}, []Rule{RuleCut}},
		{"last file gone", func() error { return os.Remove(last) }, map[string]Head{plane: head}, []Rule{RuleCut}},
		{"rewritten", func() error { return nil }, map[string]Head{plane: other}, []Rule{RuleRewritten}},
		{"another plane's log gone", func() error { return nil }, map[string]Head{plane: head, "sidecar/orders": head}, []Rule{RuleCut}},
		{"a plane that never wrote", func() error { return nil }, map[string]Head{plane: head, "sidecar/orders": {}}, nil},
		{"folder gone", func() error { return os.RemoveAll(dir) }, map[string]Head{plane: head}, []Rule{RuleCut}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			must(t, os.WriteFile(last, files[last], 0o600))
			must(t, tt.touch())
			var got []Rule
			for _, p := range verify(t, dir, tt.heads).Problems {
				got = append(got, p.Rule)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// One changed byte is one problem, not one per record that follows.
func TestVerifyGoesOn(t *testing.T) {
	dir, head, files := small(t)
	path := filepath.Join(dir, "gateway_edge", segmentName(1))
	b := bytes.Clone(files[path])
	at := bytes.Index(b, []byte("user:1"))
	b[at] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
	rep := verify(t, dir, map[string]Head{plane: head})
	if len(rep.Problems) != 1 || rep.Problems[0].Rule != RuleHash || rep.Problems[0].Seq != 2 || rep.Problems[0].Line != 2 {
		t.Errorf("%v", rep.Problems)
	}
	if !strings.Contains(rep.Problems[0].String(), "gateway/edge: gateway_edge/000001.jsonl line 2, byte ") {
		t.Error(rep.Problems[0])
	}
}

func TestVerifyWhileRunning(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{MaxSegment: 256 << 10})
	done := make(chan error)
	go func() {
		defer close(done)
		e := login(0)
		e.Class, e.Detail = ClassAuthzAllow, map[string]string{"x": strings.Repeat("x", 2000)}
		for range 1000 {
			if err := l.Record(t.Context(), e); err != nil {
				done <- err
			}
		}
	}()
	for running := true; running; {
		select {
		case err := <-done:
			must(t, err)
			running = false
		default:
		}
		seq, hash := l.Head()
		if rep := verify(t, dir, map[string]Head{plane: {seq, hash}}); !rep.OK() {
			t.Fatal(rep.Problems)
		}
	}
}

func TestTailMergesPlanesByTime(t *testing.T) {
	dir := t.TempDir()
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := start
	var logs []*Log
	for _, p := range []string{"gateway/edge", "sidecar/orders", "sidecar/payments"} {
		l, err := Open(dir, p, Options{Now: func() time.Time { return now }, MaxSegment: 1000})
		must(t, err)
		logs = append(logs, l)
	}
	for i := range 30 {
		now = start.Add(time.Duration(i) * time.Minute)
		must(t, logs[i*i%3].Record(t.Context(), login(i)))
	}
	for _, l := range logs {
		must(t, l.Close())
	}
	tests := []struct {
		name string
		opt  TailOptions
		want func(i int) bool
	}{
		{"all", TailOptions{}, func(int) bool { return true }},
		{"since", TailOptions{Since: start.Add(20 * time.Minute)}, func(i int) bool { return i >= 20 }},
		{"filter", TailOptions{Filter: func(e Event) bool { return e.Plane == "gateway/edge" }}, func(i int) bool { return i*i%3 == 0 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got, want []string
			must(t, Tail(t.Context(), dir, tt.opt, func(e Event, p Pos) error {
				got = append(got, e.Subject)
				data, err := os.ReadFile(filepath.Join(dir, p.File))
				must(t, err)
				line := bytes.Split(data, []byte("\n"))[p.Line-1]
				if !bytes.HasPrefix(data[p.Offset:], fmt.Appendf(nil, `{"seq":%d,`, p.Seq)) || !bytes.Contains(line, []byte(`"`+e.Subject+`"`)) {
					t.Errorf("position %+v is wrong", p)
				}
				return nil
			}))
			for i := range 30 {
				if tt.want(i) {
					want = append(want, fmt.Sprintf("user:%d", i))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v\nwant %v", got, want)
			}
		})
	}
	stop := errors.New("enough")
	if err := Tail(t.Context(), dir, TailOptions{}, func(Event, Pos) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

func TestTailFollows(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const n = 50
	l := open(t, dir, Options{MaxSegment: 1000})
	must(t, l.Record(ctx, login(0)))
	next := 0
	err := Tail(ctx, dir, TailOptions{Follow: true}, func(e Event, _ Pos) error {
		if e.Subject != fmt.Sprintf("user:%d", next) {
			t.Errorf("got %s, want user:%d", e.Subject, next)
		}
		next++
		if next == n {
			cancel()
			return nil
		}
		return l.Record(ctx, login(next))
	})
	if err != nil || next != n {
		t.Errorf("%d events, %v", next, err)
	}
}

func TestTailWaitsForTheRestOfALine(t *testing.T) {
	dir, _, files := small(t)
	path := filepath.Join(dir, "gateway_edge", segmentName(2))
	full := files[path]
	must(t, os.WriteFile(path, full[:len(full)-50], 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n := 0
	must(t, Tail(ctx, dir, TailOptions{Follow: true}, func(Event, Pos) error {
		n++
		switch n {
		case 5:
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			defer f.Close()
			_, err = f.Write(full[len(full)-50:])
			must(t, err)
		case 6:
			cancel()
		}
		return nil
	}))
	if n != 6 {
		t.Errorf("%d events", n)
	}
}

func TestTailStopsAtAForgery(t *testing.T) {
	dir, _, files := small(t)
	path := filepath.Join(dir, "gateway_edge", segmentName(1))
	must(t, os.WriteFile(path, bytes.Replace(files[path], []byte("user:1"), []byte("user:9"), 1), 0o600))
	err := Tail(t.Context(), dir, TailOptions{}, func(e Event, _ Pos) error {
		if e.Subject == "user:9" {
			t.Error("a forged event was handed out")
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "000001.jsonl line 2") {
		t.Errorf("got %v", err)
	}
}

// FuzzReader: whatever the bytes, reading ends, positions are true, and a
// record that is accepted has one spelling only.
func FuzzReader(f *testing.F) {
	_, _, files := small(f)
	for _, data := range files {
		f.Add(data)
		f.Add(data[:len(data)-9])
	}
	f.Add([]byte("\n\n"))
	f.Add([]byte(`{"seq":1,"prev":"` + strings.Repeat("0", 64) + `","event":{},"hash":"` + strings.Repeat("0", 64) + `"}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := newLineReader(bytes.NewReader(data))
		for {
			r, err := lines.readRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			if lines.next <= lines.offset || lines.next > int64(len(data)) {
				t.Fatalf("position %d to %d of %d", lines.offset, lines.next, len(data))
			}
			if err == nil {
				if got := r.appendTo(nil); !bytes.Equal(got, data[lines.offset:lines.next]) {
					t.Fatalf("accepted %q, which is spelled %q", data[lines.offset:lines.next], got)
				}
			} else if !isBroken(err) {
				t.Fatal(err)
			}
		}
		if lines.next != int64(len(data)) {
			t.Fatalf("stopped at %d of %d", lines.next, len(data))
		}
	})
}
