package token_test

import (
	"slices"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/token"
)

func TestRevocation(t *testing.T) {
	for _, tc := range []struct{ kind, id string }{{"sid", "sid-ann"}, {"sub", "user:ann"}} {
		t.Run(tc.kind, func(t *testing.T) {
			h := newHouse(t, "")
			forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
			granted := h.login("shop")
			if _, err := h.Revoke(t.Context(), tc.kind, tc.id); err != nil {
				t.Fatal(err)
			}
			h.dead("after the revocation", forA, granted)
			h.clock = h.clock.Add(time.Second)
			h.dead("a second later", forA, granted)
			if !slices.ContainsFunc(h.revoked, func(v wire.Revocation) bool { return v.Kind == tc.kind && v.ID == tc.id }) {
				t.Errorf("planes heard of %+v only", h.revoked)
			}
			h.restart()
			if _, err := h.exchange("edge", wire.TypeSession, "ann", "a"); err == nil {
				t.Error("a restart forgot the revocation")
			}
		})
	}
}

// dead demands that nothing issued before a revocation still works.
func (h *house) dead(when, forA string, g token.Granted) {
	h.t.Helper()
	for name, try := range map[string]func() error{
		"session":       func() error { _, err := h.exchange("edge", wire.TypeSession, "ann", "a"); return err },
		"internal":      func() error { _, err := h.exchange("a", wire.TypeJWT, forA, "b"); return err },
		"access token":  func() error { _, err := h.exchange("edge", wire.TypeJWT, g.AccessToken, "a"); return err },
		"refresh token": func() error { _, err := h.refresh("shop", g.RefreshToken); return err },
	} {
		if err := try(); err == nil {
			h.t.Errorf("%s: the %s still works", when, name)
		}
	}
}

// TestLoginInTheSecondOfARevocation: iat has whole seconds, so a token of a
// new login would be dead at birth if it were stamped with its own second.
func TestLoginInTheSecondOfARevocation(t *testing.T) {
	h := newHouse(t, "")
	v, err := h.Revoke(t.Context(), "sub", "user:ann")
	if err != nil {
		t.Fatal(err)
	}
	h.clock = h.clock.Add(time.Millisecond)
	h.started = h.clock
	got, err := h.read(h.mustExchange("edge", wire.TypeSession, "ann", "a"), "edge", "a")
	if err != nil {
		t.Fatal(err)
	}
	if issued := time.Unix(got.IssuedAt, 0); !issued.After(v.NotBefore) {
		t.Errorf("issued at %v, not after the cut-off %v", issued, v.NotBefore)
	}
}

// TestCutoffOfAService lies ahead of what a control plane that has not heard of it
// may issue meanwhile, by a clock that is ahead, and past the cut-off before:
// whoever came back in between is dated just after that.
func TestCutoffOfAService(t *testing.T) {
	h := newHouse(t, "")
	a := h.sys.ServiceID("a")
	void := func(at time.Time, want bool) {
		t.Helper()
		if h.Disabled(a, at) != want {
			t.Errorf("issued %v after now: void is %v, want %v", at.Sub(h.clock), !want, want)
		}
	}
	void(h.clock, false)
	h.disable("a")
	void(h.clock.Add(7*time.Second), true)
	back := h.Cutoff(a).Truncate(time.Second).Add(time.Second)
	void(back, false)
	h.disable("a") // at once, with a certificate of the meantime out
	void(back, true)
	if h.restart(); h.Cutoff(a).Before(back) {
		t.Errorf("after a restart the cut-off is %v", h.Cutoff(a))
	}
}

func TestRoleTakenAwayIsGoneAtTheNextExchange(t *testing.T) {
	h := newHouse(t, "")
	access := h.login("shop").AccessToken
	ann := h.people["user:ann"]
	ann.Roles = nil
	h.people["user:ann"] = ann
	got, err := h.read(h.mustExchange("edge", wire.TypeJWT, access, "a"), "edge", "a")
	if err != nil || len(got.Roles) != 0 {
		t.Errorf("roles %v, %v; want none", got.Roles, err)
	}
}
