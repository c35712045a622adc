package decisionlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/statedir"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func state(t testing.TB) *statedir.Dir {
	t.Helper()
	s, err := statedir.Open(t.TempDir()+"/state", statedir.Options{Create: true})
	must(t, err)
	return s
}

func openLog(t testing.TB, opt Options) *Log {
	t.Helper()
	opt.Plane = "sidecar/orders"
	l, err := Open(opt)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func schema() *authz.Schema {
	return &authz.Schema{Types: map[string]authz.Type{"order": {Attrs: map[string]authz.Attr{
		"owner": {Kind: authz.KindString}, "count": {Kind: authz.KindLong}, "weight": {Kind: authz.KindDecimal},
		"card": {Kind: authz.KindString, Class: rampart.ClassConfidential}, "name": {Kind: authz.KindString, PII: true},
	}}}}
}

func ask(n int) pdp.Question {
	return pdp.Question{
		ID: fmt.Sprintf("D%06d", n), At: time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC), Layer: rampart.LayerDomain,
		Principal: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Roles: []string{"viewer"}, Scope: []string{}},
		Request: &authz.Request{
			Layer: rampart.LayerDomain, Action: "orders:read", Relations: map[string]bool{"owner": true}, Supported: []string{},
			Resource: rampart.Resource{Type: "order", ID: "17", Attrs: map[string]any{
				"owner": "user:ann", "count": int64(9007199254740993), "weight": float64(3), "card": "4111-1111", "name": "Ann Archer", "undeclared": []any{int64(1), 2.5, "secret-list"},
			}},
			Context: map[string]any{"now": int64(1772366400), "ip": "203.0.113.7", "deep": map[string]any{"big": 1e30, "small": -0.25, "yes": true}},
		},
		Revision: rampart.Revision{Policy: 7, Relations: 3},
	}
}

func answer(q pdp.Question) rampart.Decision {
	return rampart.Decision{ID: q.ID, Effect: rampart.Allow, Layer: q.Layer, Policies: []rampart.PolicyRef{{Engine: "cedar", ID: "owner", File: "orders.cedar", Line: 3, Effect: rampart.Allow}}, Revision: q.Revision}
}

// TestRecord: what comes back is what went in, to the type of each number; what
// is classified is nowhere in the file.
func TestRecord(t *testing.T) {
	s := state(t)
	l := openLog(t, Options{State: s, Settings: func() Settings { return Settings{Schema: schema()} }})
	q := ask(1)
	must(t, l.Observe(t.Context(), q, answer(q)))
	q.Request.Resource.Attrs["owner"] = "changed by the asker afterwards"
	got, err := l.Find(t.Context(), q.ID)
	must(t, err)
	want := ask(1)
	if diff := cmp.Diff(want, got.Question); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(answer(want), got.Decision); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"attrs.card", "attrs.name", "attrs.undeclared", "context.deep", "context.ip"}, got.Hidden); diff != "" {
		t.Error(diff)
	}
	name := s.Path("decisions", "sidecar_orders", segmentName(1))
	text, err := os.ReadFile(name)
	must(t, err)
	for _, secret := range []string{"4111", "Archer", "secret-list", "203.0.113.7"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("%q lies open in the log", secret)
		}
	}
	if !bytes.Contains(text, []byte("user:ann")) {
		t.Error("a plain value does not")
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := l.Find(t.Context(), "D999999"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown id: %v", err)
	}
	must(t, os.WriteFile(s.Path("decisions", "sidecar_orders", "key"), bytes.Repeat([]byte("k"), keySize), 0o600))
	folder, err := OpenFolder(s.Path("decisions", "sidecar_orders"))
	must(t, err)
	if _, err := folder.Find(want.ID); err == nil {
		t.Error("another key opened the sealed values")
	}
}

// TestCrash: a record that a crash cut off goes, those before it stay, and the
// log goes on behind them.
func TestCrash(t *testing.T) {
	s := state(t)
	l := openLog(t, Options{State: s})
	for n := range 5 {
		must(t, l.Observe(t.Context(), ask(n), answer(ask(n))))
	}
	must(t, l.Close())
	name := s.Path("decisions", "sidecar_orders", segmentName(1))
	text, err := os.ReadFile(name)
	must(t, err)
	must(t, os.WriteFile(name, text[:len(text)-40], 0o600))
	l = openLog(t, Options{State: s})
	must(t, l.Observe(t.Context(), ask(9), answer(ask(9))))
	got, err := l.Last(t.Context(), 10)
	must(t, err)
	if ids := idsOf(got); ids != "D000009 D000003 D000002 D000001 D000000" {
		t.Errorf("got %s", ids)
	}
	if got, err := l.Last(t.Context(), 2); err != nil || idsOf(got) != "D000009 D000003" {
		t.Errorf("the last two: %s %v", idsOf(got), err)
	}
	if l.Oldest() != 7 {
		t.Errorf("oldest version %d", l.Oldest())
	}
}

func idsOf(list []Entry) string {
	var ids []string
	for _, e := range list {
		ids = append(ids, e.Question.ID)
	}
	return strings.Join(ids, " ")
}

// TestDamage: a record that was changed is found out, and the others are read.
func TestDamage(t *testing.T) {
	s := state(t)
	l := openLog(t, Options{State: s})
	for n := range 3 {
		must(t, l.Observe(t.Context(), ask(n), answer(ask(n))))
	}
	must(t, l.Flush(t.Context()))
	name := s.Path("decisions", "sidecar_orders", segmentName(1))
	text, err := os.ReadFile(name)
	must(t, err)
	lines := bytes.SplitAfter(text, []byte("\n"))
	lines[1] = bytes.Replace(lines[1], []byte(`"effect":"allow"`), []byte(`"effect":"deny"`), 1)
	must(t, os.WriteFile(name, bytes.Join(lines, nil), 0o600))
	if _, err := l.Find(t.Context(), "D000001"); !errors.Is(err, errRecord) || !strings.Contains(err.Error(), ":2: ") {
		t.Errorf("the changed one: %v", err)
	}
	if _, err := l.Find(t.Context(), "D000002"); err != nil {
		t.Errorf("another: %v", err)
	}
	if _, err := l.Last(t.Context(), 3); !errors.Is(err, errRecord) {
		t.Errorf("all of them: %v", err)
	}
}

// TestFull: when the disk takes nothing, Observe fails and says so; nothing is
// dropped, and what waits is written when it can be.
func TestFull(t *testing.T) {
	s := state(t)
	for name, deny := range map[string]bool{"deny at once": true, "wait first": false} {
		t.Run(name, func(t *testing.T) {
			l := newLog(Options{State: s, Settings: func() Settings { return Settings{Deny: deny} }, Now: time.Now}, 1) // nobody writes
			l.encoders.New = func() any { return newEncoder(bytes.Repeat([]byte("k"), keySize)) }
			must(t, l.Observe(t.Context(), ask(1), answer(ask(1))))
			full := func() {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer cancel()
				err := l.Observe(ctx, ask(2), answer(ask(2)))
				if !errors.Is(err, ErrFull) || errors.Is(err, context.DeadlineExceeded) == deny {
					t.Errorf("got %v", err)
				}
			}
			full()
			l.most = 1000
			must(t, l.Observe(t.Context(), ask(2), answer(ask(2))))
			l.next.text = make([]byte, inLineBytes) // of large ones there is room for fewer
			full()
		})
	}
}

// TestDiskFails: while the folder is gone every decision is refused; nothing
// that was accepted is lost when it is back.
func TestDiskFails(t *testing.T) {
	s := state(t)
	l := openLog(t, Options{State: s})
	folder := s.Path("decisions", "sidecar_orders")
	must(t, os.Rename(folder, folder+"-gone"))
	must(t, l.Observe(t.Context(), ask(1), answer(ask(1))))
	until(t, func() bool { return l.Observe(t.Context(), ask(2), answer(ask(2))) != nil })
	must(t, os.Rename(folder+"-gone", folder))
	until(t, func() bool { return l.Observe(t.Context(), ask(3), answer(ask(3))) == nil })
	if _, err := l.Find(t.Context(), "D000001"); err != nil {
		t.Error(err)
	}
	must(t, l.Close())
	if err := l.Observe(t.Context(), ask(4), answer(ask(4))); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func until(t *testing.T, done func() bool) {
	t.Helper()
	for range 1000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it never happened")
}

// TestSweep: what is old goes, and what is too much; the newest stays.
func TestSweep(t *testing.T) {
	s := segments{folder: t.TempDir()}
	for range 4 {
		must(t, s.rotate())
		_, err := s.file.Write(make([]byte, 100))
		must(t, err)
	}
	long := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(s.folder+"/"+segmentName(1), long, long))
	cut, last, err := s.sweep(time.Now().Add(-time.Minute), 250)
	list, _ := s.list()
	if err != nil || cut != 1 || time.Since(last) > time.Minute || fmt.Sprint(list) != "[3 4]" {
		t.Errorf("cut %d, left %v, %v", cut, list, err)
	}
	if _, _, err = s.sweep(time.Now().Add(time.Hour), 0); err != nil {
		t.Error(err)
	}
	if list, _ := s.list(); fmt.Sprint(list) != "[4]" {
		t.Errorf("left %v", list)
	}
}

func lineOf(t testing.TB, q pdp.Question, d rampart.Decision, schema *authz.Schema, key []byte) []byte {
	t.Helper()
	e := newEncoder(key)
	must(t, e.record(&q, &d, schema))
	return e.buf
}

// FuzzParseRecord: whatever stands in a file, reading it neither panics nor
// believes what has no hash.
func FuzzParseRecord(f *testing.F) {
	seal := &sealer{key: bytes.Repeat([]byte("k"), keySize)}
	q := ask(1)
	line := lineOf(f, q, answer(q), schema(), seal.key)
	f.Add(line[:len(line)-1])
	f.Add([]byte(strings.Repeat("0", hexSize) + " {}"))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseRecord(line, seal)
		if err != nil {
			return
		}
		if e.Question.Request == nil {
			return
		}
		again := lineOf(t, e.Question, e.Decision, nil, seal.key)
		if _, err := parseRecord(bytes.TrimSuffix(again, []byte("\n")), seal); err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkObserve is what a decision pays for being on record, the writing in
// the background included; asking is what whoever asks pays of it.
func BenchmarkObserve(b *testing.B) {
	route := pdp.Question{ID: "D1", At: time.Now(), Layer: rampart.LayerGateway, Route: pdp.Route{Permission: "orders:read"},
		Principal: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Roles: []string{"customer"}, Organizations: []string{"acme"}, Session: "s1"}, Revision: rampart.Revision{Policy: 7}}
	settings := Settings{Schema: schema()}
	for name, q := range map[string]pdp.Question{"gateway": route, "domain": ask(1)} {
		d := answer(q)
		for part, every := range map[string]int{"all": 0, "asking": inLine / 8} {
			b.Run(name+"/"+part, func(b *testing.B) {
				l := openLog(b, Options{State: state(b), Settings: func() Settings { return settings }})
				b.ReportAllocs()
				for n := 1; b.Loop(); n++ {
					if err := l.Observe(b.Context(), q, d); err != nil {
						b.Fatal(err)
					}
					if every > 0 && n%every == 0 {
						b.StopTimer()
						must(b, l.Flush(b.Context()))
						b.StartTimer()
					}
				}
				must(b, l.Close())
			})
		}
	}
}

// BenchmarkPaced measures all that a decision costs at 3000 of them a second, the
// writer, its system calls and its wake-ups included: CPU time of the process,
// since most of the time it sleeps.
func BenchmarkPaced(b *testing.B) {
	q := pdp.Question{ID: "D1", At: time.Now(), Layer: rampart.LayerGateway, Route: pdp.Route{Permission: "orders:read", Flow: "gateway>orders"},
		Principal: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Roles: []string{"customer"}, Organizations: []string{"acme"}, Session: "s1"}, Revision: rampart.Revision{Policy: 7}}
	d, l := answer(q), openLog(b, Options{State: state(b)})
	b.ReportAllocs()
	before := cpu(b)
	for n := 1; b.Loop(); n++ {
		must(b, l.Observe(b.Context(), q, d))
		if n%30 == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	must(b, l.Close())
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpu is the time that the process has had of the processors.
func cpu(b *testing.B) int64 {
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return u.Utime.Nano() + u.Stime.Nano()
}
