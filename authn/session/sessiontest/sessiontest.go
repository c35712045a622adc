// Package sessiontest judges implementations of session.Store.
package sessiontest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rampart-security/rampart/authn/session"
)

// Test runs the contract of session.Store against empty stores made by open.
func Test(t *testing.T, open func(t *testing.T) session.Store) {
	t.Run("a session comes back as it was put", func(t *testing.T) {
		st, want := open(t), sample(1, "user:ann")
		must(t, st.PutSession(t.Context(), want))
		got, err := st.Session(t.Context(), want.Key)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-put +got\n%s", diff)
		}
	})
	t.Run("keys and handles are unique", func(t *testing.T) {
		st, s := open(t), sample(1, "user:ann")
		must(t, st.PutSession(t.Context(), s))
		if err := st.PutSession(t.Context(), s); err == nil {
			t.Error("the same key was stored twice")
		}
		other := sample(2, "user:bob")
		other.SID = s.SID
		if err := st.PutSession(t.Context(), other); err == nil {
			t.Error("the same handle was stored twice")
		}
	})
	t.Run("touch moves last seen", func(t *testing.T) {
		st, s := open(t), sample(1, "user:ann")
		must(t, st.PutSession(t.Context(), s))
		later := s.LastSeen.Add(time.Hour)
		must(t, st.TouchSession(t.Context(), s.Key, later))
		must(t, st.TouchSession(t.Context(), s.Key, s.LastSeen)) // a late writer does not move it back
		got, err := st.Session(t.Context(), s.Key)
		must(t, err)
		if !got.LastSeen.Equal(later) {
			t.Errorf("last seen is %v, want %v", got.LastSeen, later)
		}
	})
	t.Run("an ended session stays ended", func(t *testing.T) {
		st, s := open(t), sample(1, "user:ann")
		must(t, st.PutSession(t.Context(), s))
		for _, want := range []bool{true, false} {
			got, err := st.EndSession(t.Context(), s.SID)
			must(t, err)
			if got != want {
				t.Errorf("EndSession = %v, want %v", got, want)
			}
		}
		must(t, st.TouchSession(t.Context(), s.Key, s.LastSeen.Add(time.Hour)))
		gone(t, st, s.Key)
	})
	t.Run("all of a subject end, nobody else's", func(t *testing.T) {
		st := open(t)
		for i, sub := range []string{"user:ann", "user:ann", "user:bob"} {
			must(t, st.PutSession(t.Context(), sample(byte(i), sub)))
		}
		sids, err := st.EndSessions(t.Context(), "user:ann")
		must(t, err)
		if len(sids) != 2 {
			t.Errorf("%d sessions ended, want 2", len(sids))
		}
		gone(t, st, sample(0, "").Key)
		if _, err := st.Session(t.Context(), sample(2, "").Key); err != nil {
			t.Errorf("another subject's session: %v", err)
		}
	})
	t.Run("sweep takes what is past either bound", func(t *testing.T) {
		st := open(t)
		live, idle, old := sample(1, "user:ann"), sample(2, "user:ann"), sample(3, "user:ann")
		idle.LastSeen = idle.LastSeen.Add(-time.Hour)
		old.Expires = old.LastSeen.Add(-time.Second)
		for _, s := range []session.Session{live, idle, old} {
			must(t, st.PutSession(t.Context(), s))
		}
		must(t, st.SweepSessions(t.Context(), live.LastSeen, live.LastSeen.Add(-time.Minute)))
		gone(t, st, idle.Key)
		gone(t, st, old.Key)
		if _, err := st.Session(t.Context(), live.Key); err != nil {
			t.Errorf("the live session: %v", err)
		}
	})
	t.Run("concurrent logins all land", func(t *testing.T) {
		st := open(t)
		var wg sync.WaitGroup
		for i := range byte(16) {
			wg.Go(func() {
				if err := st.PutSession(t.Context(), sample(i, "user:ann")); err != nil {
					t.Errorf("session %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		sids, err := st.EndSessions(t.Context(), "user:ann")
		must(t, err)
		if len(sids) != 16 {
			t.Errorf("%d sessions stored, want 16", len(sids))
		}
	})
}

func sample(n byte, subject string) session.Session {
	at := time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC)
	return session.Session{
		Key: session.Key{n, 1}, SID: fmt.Sprintf("sid-%d", n), Subject: subject,
		Created: at, LastSeen: at, Expires: at.Add(12 * time.Hour), IP: "192.0.2.1", Agent: "curl/8",
	}
}

func gone(t *testing.T, st session.Store, key session.Key) {
	t.Helper()
	if _, err := st.Session(t.Context(), key); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("got %v, want session.ErrNotFound", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
