package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
)

const plane = "gateway/edge"

func open(t testing.TB, dir string, opt Options) *Log {
	t.Helper()
	l, err := Open(dir, plane, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func login(n int) Event {
	return Event{Class: ClassAuthentication, Action: "session.login", Outcome: Allowed, Subject: fmt.Sprintf("user:%d", n)}
}

// write makes a log of n records and returns its head.
func write(t testing.TB, dir string, n int, opt Options) Head {
	t.Helper()
	l := open(t, dir, opt)
	for i := range n {
		must(t, l.Record(t.Context(), login(i)))
	}
	must(t, l.Close())
	seq, hash := l.Head()
	return Head{seq, hash}
}

func verify(t testing.TB, dir string, heads map[string]Head) Report {
	t.Helper()
	rep, err := VerifyDir(dir, heads)
	must(t, err)
	return rep
}

func events(t testing.TB, dir string) []Event {
	t.Helper()
	var out []Event
	must(t, Tail(t.Context(), dir, TailOptions{}, func(e Event, _ Pos) error { out = append(out, e); return nil }))
	return out
}

// The format is a promise to other readers: this test spells it out with no
// help from the package.
func TestFormat(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 3, 1, 12, 0, 0, 5, time.FixedZone("", 3600))
	l := open(t, dir, Options{Now: func() time.Time { return now }})
	ctx := rampart.WithTrace(t.Context(), "0af7651916cd43dd8448eb211c80319c")
	must(t, l.Record(ctx, Event{
		Class: ClassAuthzDeny, Action: "orders:read", Outcome: Refused, Control: "authz.domain", Flow: "gateway>orders", Layer: "domain",
		Code: "no_permit", Subject: "user:1", Actor: "spiffe://shop/gateway/edge", Resource: "order:7", Peer: "203.0.113.9:4711",
		Policies: []rampart.PolicyRef{{Engine: "cedar", ID: "p1", File: "orders.cedar", Line: 3}}, Detail: map[string]string{"reason": "<x>"},
	}))
	must(t, l.Record(t.Context(), login(2)))
	data, err := os.ReadFile(filepath.Join(dir, "gateway_edge", "000001.jsonl"))
	must(t, err)

	prev := strings.Repeat("0", 64)
	for i, line := range bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")) {
		var rec struct {
			Seq   uint64
			Prev  string
			Event json.RawMessage
			Hash  string
		}
		must(t, json.Unmarshal(line, &rec))
		raw, err := hex.DecodeString(rec.Prev)
		must(t, err)
		h := sha256.New()
		fmt.Fprintf(h, "rampart-audit-v1\n\x00\x00\x00\x00\x00\x00\x00%c%s%s", rune(i+1), raw, rec.Event)
		if rec.Seq != uint64(i+1) || rec.Prev != prev || rec.Hash != hex.EncodeToString(h.Sum(nil)) {
			t.Errorf("line %d is not in the format: %s", i+1, line)
		}
		prev = rec.Hash
	}

	var got map[string]any
	must(t, json.Unmarshal(bytes.SplitN(bytes.SplitN(data, []byte(`"event":`), 2)[1], []byte(`,"hash"`), 2)[0], &got))
	want := map[string]any{
		"time": "2026-03-01T11:00:00.000000005Z", "plane": plane, "class": "authz_deny", "action": "orders:read", "outcome": "refused",
		"control": "authz.domain", "flow": "gateway>orders", "layer": "domain", "code": "no_permit", "subject": "user:1",
		"actor": "spiffe://shop/gateway/edge", "resource": "order:7", "trace": "0af7651916cd43dd8448eb211c80319c", "peer": "203.0.113.9:4711",
		"policies": []any{map[string]any{"engine": "cedar", "id": "p1", "file": "orders.cedar", "line": 3.0, "effect": "deny"}},
		"detail":   map[string]any{"reason": "<x>"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestRecordRefusesWhatCannotBeSorted(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	for _, e := range []Event{
		{},
		{Class: "gossip", Action: "x", Outcome: Allowed},
		{Class: ClassAdmin, Action: "x"},
		{Class: ClassAdmin, Action: "x", Outcome: "maybe"},
		{Class: ClassAdmin, Outcome: Allowed},
	} {
		if err := l.Record(t.Context(), e); err == nil {
			t.Errorf("recorded %+v", e)
		}
	}
	for _, name := range []string{"", ".", "..", "a\x00", "a b"} {
		if _, err := Open(t.TempDir(), name, Options{}); err == nil {
			t.Errorf("plane %q accepted", name)
		}
	}
}

func TestReopenContinuesOverSegments(t *testing.T) {
	dir := t.TempDir()
	first := write(t, dir, 10, Options{MaxSegment: 2000})
	head := write(t, dir, 10, Options{MaxSegment: 2000})
	if first.Seq != 10 || head.Seq != 20 {
		t.Fatalf("heads %d and %d", first.Seq, head.Seq)
	}
	rep := verify(t, dir, map[string]Head{plane: head})
	if !rep.OK() || rep.Planes[0].Files < 3 || rep.Planes[0].Records != 20 || rep.Planes[0].Hash != hex.EncodeToString(head.Hash[:]) {
		t.Errorf("%+v", rep)
	}
	if rep := verify(t, dir, map[string]Head{plane: first}); !rep.OK() {
		t.Errorf("a log may be ahead of its reported head: %v", rep.Problems)
	}
}

func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Options{})
	if _, err := Open(dir, plane, Options{}); rampart.KindOf(err) != rampart.Conflict {
		t.Errorf("a second writer got %v", err)
	}
}

func TestConcurrentWriters(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{MaxSegment: 64 << 10})
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := range 20 {
				e := login(w*1000 + i)
				if i%2 == 1 {
					e.Class = ClassAuthzAllow
				}
				if err := l.Record(t.Context(), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, l.Close())
	seq, hash := l.Head()
	if rep := verify(t, dir, map[string]Head{plane: {seq, hash}}); !rep.OK() || seq != 64*20 {
		t.Errorf("seq %d, %v", seq, rep.Problems)
	}
	seen := make(map[string]bool)
	for _, e := range events(t, dir) {
		seen[e.Subject] = true
	}
	if len(seen) != 64*20 {
		t.Errorf("%d different events, want %d", len(seen), 64*20)
	}
	if err := l.Record(t.Context(), login(0)); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("after Close: %v", err)
	}
}

// A client that hangs up must not erase its trace.
func TestCancelledRequestIsRecorded(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Record(ctx, login(1)); err != nil && rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("got %v", err)
	}
	must(t, l.Close())
	if got := events(t, dir); len(got) != 1 {
		t.Errorf("%d events", len(got))
	}
}

func TestLongEventsAreCutAndHashed(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	long := strings.Repeat("\x01", 1<<20)
	e := login(1)
	e.Detail = map[string]string{"path": long, "short": "kept"}
	must(t, l.Record(t.Context(), e))
	e.Resource, e.Subject = long, long
	e.Detail = map[string]string{}
	for i := range 1000 {
		e.Detail[fmt.Sprint(i)] = strings.Repeat("x", 200)
	}
	e.Policies = make([]rampart.PolicyRef, 10_000)
	must(t, l.Record(t.Context(), e))
	must(t, l.Close())
	if rep := verify(t, dir, nil); !rep.OK() {
		t.Fatal(rep.Problems)
	}
	got := events(t, dir)
	mark := fmt.Sprintf("[%d bytes, sha256 %x]", len(long), sha256.Sum256([]byte(long)))
	if d := got[0].Detail; !strings.HasSuffix(d["path"], mark) || d["short"] != "kept" || len(d["path"]) > 400 {
		t.Errorf("detail %.500q", d)
	}
	if !strings.HasSuffix(got[1].Resource, mark) || got[1].Detail["cut"] == "" || got[1].Policies != nil {
		t.Errorf("%.500v", got[1])
	}
}

func TestFloodOfEqualDenialsIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		deny := func(port int, subject string) {
			must(t, l.Record(t.Context(), Event{
				Class: ClassLimit, Action: "request", Outcome: Refused, Control: "limit.ip", Subject: subject,
				Peer: fmt.Sprintf("203.0.113.9:%d", port), Detail: map[string]string{"k": "v"},
			}))
		}
		for i := range 1000 {
			deny(i+1, "")
		}
		deny(1, "user:other")
		time.Sleep(2 * floodWindow)
		for i := range 5 {
			deny(i+1, "")
		}
		must(t, l.Close())
		got := events(t, dir)
		if len(got) != floodFree+1+1+5 {
			t.Fatalf("%d events", len(got))
		}
		var counts []string
		for _, e := range got {
			if c, ok := e.Detail["count"]; ok {
				counts = append(counts, c+" "+e.Control+" "+e.Detail["k"])
			}
		}
		if d := cmp.Diff([]string{"980 limit.ip v"}, counts); d != "" {
			t.Error(d)
		}
	})
}

// TestFloodNamesWhatWasTried: an attacker who walks the house in one second is
// counted, and the doors that he tried are named.
func TestFloodNamesWhatWasTried(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	try := func(resource string) {
		must(t, l.Record(t.Context(), Event{Class: ClassAuthzDeny, Action: "orders:read", Outcome: Refused, Control: "authz.domain", Subject: "user:eve", Resource: resource}))
	}
	for range floodFree {
		try("order:known")
	}
	for i := range floodNamed + 5 {
		try(fmt.Sprintf("order:%02d", i))
		try(fmt.Sprintf("order:%02d", i))
	}
	try(strings.Repeat("x", 1000))
	must(t, l.Close())
	got := events(t, dir)
	want := map[string]string{"count": fmt.Sprint(2*(floodNamed+5) + 1), "refused.more": "and 11 more"}
	for i := range floodNamed {
		want[fmt.Sprintf("refused.%02d", i+1)] = fmt.Sprintf("orders:read order:%02d", i)
	}
	if d := cmp.Diff(want, got[len(got)-1].Detail); d != "" {
		t.Error(d)
	}
}

func TestFloodIsFlushedByClose(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	for range floodFree + 3 {
		must(t, l.Record(t.Context(), Event{Class: ClassAuthzDeny, Action: "x", Outcome: Refused}))
	}
	must(t, l.Close())
	got := events(t, dir)
	if last := got[len(got)-1]; last.Detail["count"] != "3" {
		t.Errorf("last event %+v", last)
	}
}

var errDisk = errors.New("input/output error")

func TestFailedFsync(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	now, broken := time.Now(), false
	l := open(t, dir, Options{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	syncs := make(map[*os.File]int)
	l.segment.sync = func(f *os.File) error {
		mu.Lock()
		defer mu.Unlock()
		if syncs[f] > 0 {
			t.Error("a descriptor was used after its fsync failed")
		}
		if broken {
			syncs[f]++
			return errDisk
		}
		return f.Sync()
	}
	set := func(b bool, d time.Duration) { mu.Lock(); defer mu.Unlock(); broken = b; now = now.Add(d) }

	must(t, l.Record(t.Context(), login(1)))
	set(true, 0)
	err := l.Record(t.Context(), login(2))
	if rampart.KindOf(err) != rampart.Unavailable || !errors.Is(err, errDisk) {
		t.Fatalf("the batch must fail: %v", err)
	}
	set(false, 0)
	for _, class := range []string{ClassMoney, ClassAuthzAllow} {
		if err := l.Record(t.Context(), Event{Class: class, Action: "x", Outcome: Allowed}); rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("%s right after a failure: %v", class, err)
		}
	}
	set(true, retryAfter)
	if err := l.Record(t.Context(), login(3)); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("while the disk is broken: %v", err)
	}
	set(false, retryAfter)
	must(t, l.Record(t.Context(), login(4)))
	must(t, l.Close())

	seq, hash := l.Head()
	if rep := verify(t, dir, map[string]Head{plane: {seq, hash}}); !rep.OK() || rep.Planes[0].Files != 2 {
		t.Errorf("%+v", rep)
	}
	var got []string
	for _, e := range events(t, dir) {
		got = append(got, e.Action+" "+e.Subject)
	}
	if d := cmp.Diff([]string{"session.login user:1", "audit.gap ", "session.login user:4"}, got); d != "" {
		t.Errorf("a failed record must not appear later: %s", d)
	}
	write(t, dir, 1, Options{})
}

func TestSegmentTouchedBySomeoneElse(t *testing.T) {
	tests := map[string]func(path string) error{
		"removed":   os.Remove,
		"truncated": func(p string) error { return os.Truncate(p, 10) },
		"replaced": func(p string) error {
			data, err := os.ReadFile(p)
			return errors.Join(err, os.Remove(p), os.WriteFile(p, data, 0o600))
		},
		"appended": func(p string) error {
			f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x\n")
			return errors.Join(err, f.Close())
		},
	}
	for name, touch := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			now := time.Now()
			l := open(t, dir, Options{Now: func() time.Time { now = now.Add(time.Hour); return now }})
			must(t, l.Record(t.Context(), login(1)))
			must(t, touch(filepath.Join(dir, "gateway_edge", segmentName(1))))
			for range 3 {
				if err := l.Record(t.Context(), login(2)); rampart.KindOf(err) != rampart.Unavailable {
					t.Errorf("got %v", err)
				}
			}
			if err := l.Close(); !errors.Is(err, errTampered) {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

func TestRecovery(t *testing.T) {
	intact := t.TempDir()
	write(t, intact, 5, Options{})
	data, err := os.ReadFile(filepath.Join(intact, "gateway_edge", segmentName(1)))
	must(t, err)
	lines := bytes.SplitAfter(data, []byte("\n"))[:5]
	bad := func(i int) []byte { b := bytes.Clone(lines[i]); b[200] ^= 1; return b }
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	tests := []struct {
		name string
		data []byte
		seq  uint64 // head after recovery, the note of the cut included
		want string // or this error
	}{
		{"nothing", nil, 0, ""},
		{"intact", data, 5, ""},
		{"no newline", data[:len(data)-1], 5, ""},
		{"half a line", data[:len(data)-100], 5, ""},
		{"a bad hash at the end", join(lines[0], lines[1], lines[2], lines[3], bad(4)), 5, ""},
		{"zeros at the end", join(data, make([]byte, 5000)), 6, ""},
		{"an endless line at the end", join(data, bytes.Repeat([]byte("x"), 3*maxLine)), 6, ""},
		{"garbage lines at the end", join(data, []byte("x\ny\n{}")), 6, ""},
		{"a bad record before good ones", join(lines[0], lines[1], bad(2), lines[3], lines[4]), 0, "000001.jsonl line 3 byte "},
		{"a long line before good ones", join(lines[0], bytes.Repeat([]byte("x"), 2*maxLine), []byte("\n"), lines[1]), 0, "000001.jsonl line 2 byte "},
		{"a missing record", join(lines[0], lines[2]), 0, "000001.jsonl line 2 byte "},
		{"a missing first record", join(lines[1], lines[2]), 0, "000001.jsonl line 1 byte 0"},
		{"a record twice", join(lines[0], lines[0]), 0, "line 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Mkdir(filepath.Join(dir, "gateway_edge"), 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "gateway_edge", segmentName(1)), tt.data, 0o600))
			l, err := Open(dir, plane, Options{})
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want an error with %q", err, tt.want)
				}
				return
			}
			must(t, err)
			seq, _ := l.Head()
			if seq != tt.seq {
				t.Errorf("head %d, want %d", seq, tt.seq)
			}
			must(t, l.Record(t.Context(), login(9)))
			must(t, l.Close())
			if rep := verify(t, dir, nil); !rep.OK() {
				t.Error(rep.Problems)
			}
		})
	}
}

func TestRecoveryLooksAtTheFolder(t *testing.T) {
	tests := map[string]func(folder string) error{
		"first segment missing":  func(f string) error { return os.Remove(f + "/000001.jsonl") },
		"middle segment missing": func(f string) error { return os.Remove(f + "/000002.jsonl") },
		"odd name":               func(f string) error { return os.WriteFile(f+"/0000009.jsonl", nil, 0o600) },
		"link not file":          func(f string) error { return os.Symlink("000001.jsonl", f+"/000099.jsonl") },
		"older segment torn": func(f string) error {
			list, err := segments(f)
			return errors.Join(err, os.Truncate(fmt.Sprintf("%s/%06d.jsonl", f, len(list)-1), 700))
		},
		"log of another plane": func(f string) error { return os.Rename(f, filepath.Dir(f)+"/other") },
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, 20, Options{MaxSegment: 2000})
			must(t, damage(filepath.Join(dir, "gateway_edge")))
			who := plane
			if name == "log of another plane" {
				who = "other"
			}
			if l, err := Open(dir, who, Options{}); err == nil {
				l.Close()
				t.Error("opened")
			}
			if rep := verify(t, dir, nil); rep.OK() {
				t.Error("VerifyDir found nothing")
			}
		})
	}
}

func TestRotationLeftAnEmptySegment(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, 3, Options{})
	must(t, os.WriteFile(filepath.Join(dir, "gateway_edge", segmentName(2)), nil, 0o600))
	if head := write(t, dir, 1, Options{}); head.Seq != 4 {
		t.Errorf("head %d", head.Seq)
	}
	if rep := verify(t, dir, nil); !rep.OK() {
		t.Error(rep.Problems)
	}
}
