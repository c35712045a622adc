package sidecar

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/attest"
)

// TestForgets: what is to be forgotten counts as forgotten when every process
// that asks has come back for more.
func TestForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newForgets(time.Now, time.Time{})
		ask := func(after uint64) agent.ForgetAnswer {
			a, err := f.wait(t.Context(), after, nil)
			if err != nil {
				t.Error(err)
			}
			return a
		}
		want := func(what string, id uint64) {
			t.Helper()
			synctest.Wait()
			if got := f.carriedOut(); got != id {
				t.Errorf("%s: carried out up to %d, want %d", what, got, id)
			}
		}
		f.add(wire.Forget{ID: 7, Secrets: []string{"store:db"}})
		want("nobody asks", 7)
		first := ask(0)
		if !first.All {
			t.Errorf("the first answer is %+v, want everything", first)
		}
		answers := make(chan agent.ForgetAnswer, 2)
		for range cap(answers) {
			go func() { answers <- ask(first.ID) }()
		}
		synctest.Wait()
		f.add(wire.Forget{ID: 8, Secrets: []string{"store:db"}, DEKs: []wire.DEKTarget{{Item: "payment", Tenant: "acme"}}})
		a, b := <-answers, <-answers
		if d := cmp.Diff(a, b); d != "" || !slices.Equal(a.Secrets, []string{"store:db"}) || len(a.DEKs) != 1 || a.All {
			t.Errorf("told %+v: %s", a, d)
		}
		want("both are away with it", 7)
		go poll(t.Context(), f)
		want("one has come back", 7)
		time.Sleep(keysLast)
		want("the other is silent, and its keys are good", 7)
		time.Sleep(time.Second)
		want("what the other kept has ended", 8)
		if late := ask(3); !late.All || late.ID != a.ID {
			t.Errorf("one from before this process was told %+v", late)
		}
		if ahead := ask(a.ID + 99); !ahead.All {
			t.Errorf("one of a sidecar whose clock was ahead was told %+v", ahead)
		}
		synctest.Wait()
	})
}

// TestForgottenByNobody: what a process may keep whom nobody hears counts as
// forgotten when it has ended by itself, or when the process has.
func TestForgottenByNobody(t *testing.T) {
	shred := wire.Forget{ID: 9, DEKs: []wire.DEKTarget{{Item: "payment", Tenant: "acme"}}}
	for name, row := range map[string]struct {
		unknown time.Duration // of what a sidecar before this one gave out
		before  func(ctx context.Context, f *forgets)
		early   time.Duration // then it is not done
		late    time.Duration // then it is
	}{
		"nobody was ever here":             {late: 0},
		"the sidecar was started anew":     {unknown: 4 * time.Minute, early: 4*time.Minute - time.Second, late: 4 * time.Minute},
		"one hung up":                      {before: hungUp, early: keysLast, late: keysLast + time.Second},
		"one hung up just within the time": {before: func(ctx context.Context, f *forgets) { hungUp(ctx, f); time.Sleep(keysLast) }, early: keysLast, late: keysLast + time.Second},
		"one hung up long ago":             {before: func(ctx context.Context, f *forgets) { hungUp(ctx, f); time.Sleep(keysLast + time.Second) }, late: 0},
		"one hung up and is back":          {before: func(ctx context.Context, f *forgets) { hungUp(ctx, f); go poll(ctx, f) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newForgets(time.Now, time.Now().Add(row.unknown))
				if row.before != nil {
					row.before(t.Context(), f)
				}
				synctest.Wait()
				f.add(shred)
				synctest.Wait()
				time.Sleep(row.early)
				if got := f.carriedOut(); row.early > 0 && got != 0 {
					t.Errorf("%v later it counts as done", row.early)
				}
				time.Sleep(row.late - row.early)
				if got := f.carriedOut(); got != shred.ID {
					t.Errorf("%v later it does not count as done", row.late)
				}
			})
		})
	}
}

// hungUp asks and does not wait for the answer.
func hungUp(ctx context.Context, f *forgets) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	f.wait(ctx, f.last, nil)
}

// poll asks as the SDK does.
func poll(ctx context.Context, f *forgets) {
	for after := f.last; ctx.Err() == nil; {
		if a, err := f.wait(ctx, after, nil); err == nil {
			after = a.ID
		}
	}
}

// TestForgetsTellProcessesApart: one that comes back does not stand for another,
// and one that has ended holds nobody up.
func TestForgetsTellProcessesApart(t *testing.T) {
	now := time.Now()
	f := newForgets(func() time.Time { return now }, time.Time{})
	first := f.last
	f.add(wire.Forget{ID: 1, Secrets: []string{"a"}})
	f.add(wire.Forget{ID: 2, Secrets: []string{"b"}})
	ask := func(after uint64, p *attest.Peer) {
		t.Helper()
		_, leave, err := f.enter(after, p)
		must(t, err)
		leave(true)
	}
	one, end := process(t)
	ask(first, one)   // knows of neither
	ask(first+1, nil) // of one
	ask(first+2, nil) // and is back
	if got := f.carriedOut(); got != 0 {
		t.Errorf("the first is away, and up to %d counts as done", got)
	}
	end()
	if got := f.carriedOut(); got != 2 {
		t.Errorf("the first has ended, and up to %d counts as done", got)
	}
}

// process is one that connects to us, and how to end it.
func process(t *testing.T) (p *attest.Peer, end func()) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	must(t, err)
	defer l.Close()
	cmd := exec.Command("python3", "-c", "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()", l.Addr().String())
	stdin, err := cmd.StdinPipe()
	must(t, err)
	if err := cmd.Start(); err != nil {
		t.Skipf("no python3 to be another process: %v", err)
	}
	end = sync.OnceFunc(func() { stdin.Close(); cmd.Wait() })
	t.Cleanup(end)
	conn, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	p, err = attest.PeerOf(conn.(*net.UnixConn))
	must(t, err)
	return p, end
}

// TestKeysOut: a sidecar that is started anew knows that keys were given out.
func TestKeysOut(t *testing.T) {
	state, err := statedir.Open(filepath.Join(t.TempDir(), "state"), statedir.Options{Create: true})
	must(t, err)
	now := time.Now().Truncate(time.Second)
	fresh := func() *keysOut {
		return &keysOut{state: state, file: "handed/shop", now: func() time.Time { return now }}
	}
	k := fresh()
	if at := k.until(); !at.IsZero() {
		t.Errorf("none was given out, and the last ends %v", at)
	}
	must(t, k.note())
	now = now.Add(noteKeys - time.Second)
	must(t, k.note()) // not written
	if at := fresh().until(); at.Before(now.Add(keysLast)) {
		t.Errorf("the last ends %v, before it does", at)
	}
	for name, text := range map[string]string{"half a note": "2026-", "of the future": now.Add(time.Hour).Format(time.RFC3339)} {
		must(t, state.WriteFile("handed/shop", []byte(text), 0o600))
		if at := fresh().until(); !at.Equal(now.Add(noteKeys + keysLast)) {
			t.Errorf("%s: the last ends %v", name, at)
		}
	}
	must(t, os.RemoveAll(state.Path("handed")))
	must(t, os.WriteFile(state.Path("handed"), nil, 0o600))
	if err := fresh().note(); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("a note that cannot be written: %v", err)
	}
}

// TestForgetsAreBounded: calls that wait, names of one answer, what is remembered.
func TestForgetsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newForgets(time.Now, time.Time{})
		ctx, cancel := context.WithCancel(t.Context())
		for range maxWaiters {
			go f.wait(ctx, f.last, nil)
		}
		synctest.Wait()
		if _, err := f.wait(t.Context(), f.last, nil); rampart.KindOf(err) != rampart.Limited {
			t.Errorf("one call too many: %v", err)
		}
		cancel()
		synctest.Wait()
		if len(f.waiting) != 0 || len(f.away) != maxWaiters {
			t.Errorf("%d wait and %d are away after all hung up", len(f.waiting), len(f.away))
		}
		for range 2 * maxAway {
			if _, err := f.wait(t.Context(), 0, nil); err != nil {
				t.Fatal(err)
			}
		}
		if f.add(wire.Forget{ID: 1}); len(f.away) != maxAway || f.carriedOut() != 0 {
			t.Errorf("%d are remembered, and those that are not count as done: %d", len(f.away), f.carriedOut())
		}
		from := f.last
		for range maxForgets + 1 {
			f.add(wire.Forget{Secrets: []string{"a"}})
		}
		for after, all := range map[uint64]bool{from: true, from + 2: true, f.last - 2: false} {
			if a, err := f.wait(t.Context(), after, nil); err != nil || a.All != all {
				t.Errorf("after %d of %d: %+v %v, want everything: %v", after-from, f.last-from, a.All, err, all)
			}
		}
	})
}

func TestInUse(t *testing.T) {
	now := time.Now()
	u := newInUse(func() time.Time { return now })
	want := func(what string, version int) {
		t.Helper()
		if got := u.oldest([]string{"store:db"})["store:db"]; got != version {
			t.Errorf("%s: oldest is %d, want %d", what, got, version)
		}
	}
	want("the service may have been there before this process", 0)
	u.fetched("store:db", 1)
	u.gave("store:db", 1)
	want("it fetched one", 1)
	must(t, u.report(agent.SecretsInUse{Process: "p", Versions: map[string]int{"store:db": 1}}))
	must(t, u.report(agent.SecretsInUse{Process: "q", Versions: map[string]int{"store:db": 1}}))
	u.forget([]string{"store:db"})
	u.fetched("store:db", 2)
	u.gave("store:db", 2)
	must(t, u.report(agent.SecretsInUse{Process: "p", Versions: map[string]int{"store:db": 2}}))
	want("one process still uses the old one", 1)
	now = now.Add(reportLasts + time.Second)
	must(t, u.report(agent.SecretsInUse{Process: "p", Versions: map[string]int{"store:db": 2}}))
	want("that process is gone", 2)
	if !u.mayRefuse("store:db") || u.mayRefuse("store:db") {
		t.Error("a service that says no twice has the control plane asked twice")
	}
	for i := range maxReports {
		err := u.report(agent.SecretsInUse{Process: strconv.Itoa(i)})
		if full := i >= maxReports-1; full != (rampart.KindOf(err) == rampart.Limited) {
			t.Errorf("process %d: %v", i, err)
		}
	}
}

// TestASecretRotates through the control plane to the sidecar that injects it, at
// once and not when its cache has grown old.
func TestASecretRotates(t *testing.T) {
	h := open(t, []string{"shop"}, "generate: sk_test_ }", "generate: sk_test_, rotate: 1h }")
	s := h.of["shop"]
	before, err := s.secrets.Get(t.Context(), "processor_key")
	must(t, err)
	h.Admin(wire.AdminRotate, wire.RotateNow{Name: "data:processor_key"}, nil)
	h.Until("the sidecar has the new version", func() bool {
		after, err := s.secrets.Get(t.Context(), "processor_key")
		return err == nil && after.Version() == before.Version()+1
	})
	h.Until("the rotation has ended", func() bool {
		var list []wire.Rotation
		h.Admin(wire.AdminRotate, nil, &list)
		return len(list) == 1 && list[0].Step == "idle" && list[0].Version == before.Version()+1
	})
	if used := s.inUse.oldest(nil)["processor_key"]; used != before.Version()+1 {
		t.Errorf("heartbeats say %d", used)
	}
}

// TestProviderOutage: what is cached is served while the control plane is away, to
// its bound; then it is refused, and the reason says why.
func TestProviderOutage(t *testing.T) {
	h := open(t, []string{"shop"})
	s := h.of["shop"]
	_, err := s.secrets.Get(t.Context(), "processor_key")
	must(t, err)
	h.Stop()
	for _, tc := range []struct {
		after time.Duration
		open  bool
	}{{10 * time.Minute, true}, {45 * time.Minute, true}, {10 * time.Minute, false}} {
		h.pass(tc.after)
		_, err := s.secrets.Get(t.Context(), "processor_key")
		if (err == nil) != tc.open {
			t.Errorf("%v later: %v, want served: %v", tc.after, err, tc.open)
		}
		if err != nil && (rampart.KindOf(err) != rampart.Unavailable || !strings.Contains(err.Error(), "1h0m0s")) {
			t.Errorf("at the bound: %v, want the kind unavailable and the bound", err)
		}
	}
	if e := h.newest("shop"); e.Action != "serve stale" || e.Resource != "processor_key" {
		t.Errorf("the newest record is %+v", e)
	}
}
