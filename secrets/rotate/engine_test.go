package rotate_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets/rotate"
)

// TestTurns: two users take turns, and the old one ends when nobody uses it.
func TestTurns(t *testing.T) {
	h := open(t)
	e := h.engine("control")
	s := h.turn(e)
	h.wantCalls("create app_a", "test app_a", "publish app_a")
	if user, version, works := h.published(); s.Step != rotate.Idle || user != "app_a" || version != 1 || !works || s.Current != user {
		t.Fatalf("the first: %s version %d, works %v: %+v", user, version, works, s)
	}
	h.now = h.now.Add(23 * time.Hour)
	h.turn(e)
	h.wantCalls() // it is not due
	h.now = h.now.Add(2 * time.Hour)
	h.waiting = []string{"sidecar/orders uses version 1"}
	s = h.turn(e)
	h.wantCalls("create app_b", "test app_b", "publish app_b")
	if user, version, works := h.published(); s.Step != rotate.Drain || user != "app_b" || version != 2 || !works || h.passwords["app_a"] == "" {
		t.Fatalf("while the old one is used: %s version %d, works %v: %+v", user, version, works, s)
	}
	h.waiting = nil
	s = h.turn(e)
	h.wantCalls("revoke app_a")
	if s.Step != rotate.Idle || s.Current != "app_b" || s.Version != 2 || h.passwords["app_a"] != "" || h.told != 2 {
		t.Errorf("at the end: %+v, readers told %d times", s, h.told)
	}
	h.now = h.now.Add(25 * time.Hour)
	h.waiting = []string{"sidecar/orders has not said what it uses"}
	h.turn(e)
	h.now = h.now.Add(h.target.Longest)
	if s = h.turn(e); s.Step != rotate.Idle || s.Current != "app_a" || s.Version != 3 {
		t.Errorf("after the longest use: %+v", s)
	}
}

// TestFailures: up to publishing, what is in use stays so.
func TestFailures(t *testing.T) {
	away := rampart.Errorf(rampart.Unavailable, "", "the database is away")
	wrong := rampart.Errorf(rampart.Denied, "", "the database says no")
	for name, tc := range map[string]struct {
		hook  string
		err   error
		step  rotate.Step
		after time.Duration // until it goes on by itself
		user  string        // in use meanwhile
	}{
		"the database is away when the role is made":   {"create", away, rotate.Create, 5 * time.Second, "app_a"},
		"the admin may not":                            {"create", wrong, rotate.Create, 5 * time.Second, "app_a"},
		"the database is away when it is tried":        {"test", away, rotate.Test, 5 * time.Second, "app_a"},
		"a test that fails ends the rotation":          {"test", wrong, rotate.Idle, time.Hour, "app_a"},
		"whoever is told of it cannot be reached":      {"publish", away, rotate.Publish, 5 * time.Second, "app_b"},
		"the old one cannot be revoked, and will be":   {"revoke", away, rotate.Revoke, 5 * time.Second, "app_b"},
		"an admin that may not revoke is said at once": {"revoke", wrong, rotate.Revoke, 5 * time.Second, "app_b"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			e := h.engine("control")
			h.turn(e)
			h.now = h.now.Add(25 * time.Hour)
			h.fail[tc.hook] = tc.err
			s := h.turn(e)
			user, _, works := h.published()
			if s.Step != tc.step || !strings.Contains(s.Error, tc.err.Error()) || s.Due.Sub(h.now) != tc.after || user != tc.user || !works {
				t.Fatalf("%s in use, works %v: %+v", user, works, s)
			}
			h.fail = nil
			if h.turn(e); h.state().Error == "" {
				t.Error("it was tried again before its time")
			}
			h.now = s.Due
			if s = h.turn(e); s.Step != rotate.Idle || s.Current != "app_b" || s.Error != "" || len(h.passwords) != 1 {
				t.Errorf("after it was mended: %+v, %d may log in", s, len(h.passwords))
			}
		})
	}
}

// TestOneActs: of several control planes one is at a step, for a minute at most,
// and what cannot be put on record is done again.
func TestOneActs(t *testing.T) {
	h := open(t)
	h.turn(h.engine("control/a"))
	h.calls = nil
	h.now = h.now.Add(25 * time.Hour)
	var wg sync.WaitGroup
	for _, name := range []string{"control/a", "control/b", "control/c"} {
		e := h.engine(name)
		wg.Go(func() {
			for range 20 {
				e.Turn(t.Context(), h.target) // a database that is busy says so
			}
		})
	}
	wg.Wait()
	h.turn(h.engine("control/a"))
	h.wantCalls("create app_b", "test app_b", "publish app_b", "revoke app_a")

	_, err := h.engine("control/a").Start(t.Context(), h.target)
	must(t, err)
	h.deaf = errors.New("disk full")
	if _, err := h.engine("control/a").Turn(t.Context(), h.target); !errors.Is(err, h.deaf) || h.state().Step != rotate.Create {
		t.Errorf("%v, at %s: what is not on record did not happen", err, h.state().Step)
	}
	h.deaf = nil
	if s := h.turn(h.engine("control/b")); s.Step != rotate.Create {
		t.Errorf("another one acted while the first was at it: %+v", s)
	}
	h.now = h.now.Add(time.Minute)
	if s := h.turn(h.engine("control/b")); s.Step != rotate.Idle || s.Current != "app_a" {
		t.Errorf("after the first had its minute: %+v", s)
	}
}

// TestValues: what stands alone is replaced where it is, and the old version goes.
func TestValues(t *testing.T) {
	h := open(t)
	h.target.Name, h.target.Path, h.target.Users, h.target.Hooks = "data:key", "prod/key", nil, rotate.Nothing{}
	e := h.engine("control")
	if moved, err := e.Turn(t.Context(), h.target); moved || err != nil {
		t.Fatalf("nothing to rotate: %v %v", moved, err)
	}
	_, err := h.store.Put(t.Context(), h.target.Path, []byte("by hand"), 0)
	must(t, err)
	if s := h.turn(e); s.Version != 1 || s.Step != rotate.Idle {
		t.Fatalf("found: %+v", s)
	}
	h.now = h.now.Add(25 * time.Hour)
	if s := h.turn(e); s.Version != 2 || s.Step != rotate.Idle || h.told != 1 {
		t.Errorf("rotated: %+v, readers told %d times", s, h.told)
	}
}
