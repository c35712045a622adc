package memory

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.TestShared(t, func(*testing.T) (a, b store.Shared) { st := New(); return st, st })
}

// TestWithShared runs the contract of the whole store on one that is divided.
func TestWithShared(t *testing.T) {
	storetest.Test(t, func(t *testing.T) (a, b store.Store) {
		base, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"))
		if err != nil {
			t.Fatal(err)
		}
		st := store.WithShared(base, New())
		t.Cleanup(func() { st.Close() })
		return st, st
	})
}

// TestSharedHoldsTheSessions: none of them touches the database below.
func TestSharedHoldsTheSessions(t *testing.T) {
	base, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	st := store.WithShared(base, New())
	defer st.Close()
	now := time.Now()
	s := session.Session{Key: session.Key{1}, SID: "s", Subject: "user:ann", Created: now, LastSeen: now, Expires: now.Add(time.Hour)}
	if err := st.PutSession(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Session(t.Context(), s.Key); err != nil {
		t.Errorf("the divided store: %v", err)
	}
	if _, err := base.Session(t.Context(), s.Key); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("the database below: %v, want session.ErrNotFound", err)
	}
}
