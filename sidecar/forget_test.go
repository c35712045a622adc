package sidecar

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
)

// TestForgets: what is to be forgotten counts as forgotten when every process
// that asks has come back for more.
func TestForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newForgets(time.Now)
		ask := func(after uint64) agent.ForgetAnswer {
			a, err := f.wait(t.Context(), after)
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
		go ask(a.ID)
		want("one has come back", 7)
		time.Sleep(forgetGone + time.Second) // the other was killed
		want("the other is gone", 8)
		if late := ask(3); !late.All || late.ID != a.ID {
			t.Errorf("one from before this process was told %+v", late)
		}
		if ahead := ask(a.ID + 99); !ahead.All {
			t.Errorf("one of a sidecar whose clock was ahead was told %+v", ahead)
		}
		synctest.Wait()
	})
}

// TestForgetsAreBounded: calls that wait, names of one answer, what is remembered.
func TestForgetsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newForgets(time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		for range maxWaiters {
			go f.wait(ctx, f.last)
		}
		synctest.Wait()
		if _, err := f.wait(t.Context(), f.last); rampart.KindOf(err) != rampart.Limited {
			t.Errorf("one call too many: %v", err)
		}
		cancel()
		synctest.Wait()
		if len(f.waiting)+len(f.away) != 0 {
			t.Errorf("%d wait and %d are away after all hung up", len(f.waiting), len(f.away))
		}
		from := f.last
		for range maxForgets + 1 {
			f.add(wire.Forget{Secrets: []string{"a"}})
		}
		for after, all := range map[uint64]bool{from: true, from + 2: true, f.last - 2: false} {
			if a, err := f.wait(t.Context(), after); err != nil || a.All != all {
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
