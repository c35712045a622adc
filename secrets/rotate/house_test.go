package rotate_test

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/secrets/rotate"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
)

// house is an engine on a real database and a place where credentials count.
type house struct {
	t      *testing.T
	rows   store.Store
	store  secrets.Writer
	target rotate.Target

	mu        sync.Mutex
	now       time.Time
	passwords map[string]string // of the users who may log in
	calls     []string
	fail      map[string]error // by hook
	waiting   []string
	told      int
	deaf      error
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) *house {
	t.Helper()
	dir := t.TempDir()
	rows, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"))
	must(t, err)
	t.Cleanup(func() { rows.Close() })
	kek, err := embedded.OpenKEK(filepath.Join(dir, "kek"))
	must(t, err)
	h := &house{t: t, rows: rows, store: embedded.NewStore(kek, rows), now: time.Now(), passwords: map[string]string{}, fail: map[string]error{}}
	h.target = rotate.Target{
		Name: "store:db", Path: "rotation/db", Users: []string{"app_a", "app_b"}, Every: 24 * time.Hour, Hooks: h, Longest: time.Hour,
		Drained: func(context.Context, rotate.State) ([]string, error) { return h.waiting, nil },
	}
	return h
}

func (h *house) engine(holder string) *rotate.Engine {
	return rotate.New(rotate.Options{
		Rows: h.rows, Store: h.store, Holder: holder, Now: func() time.Time { return h.now },
		Record:    func(context.Context, rotate.State, error) error { return h.deaf },
		Published: func(context.Context, rotate.State) error { h.told++; return nil },
	})
}

// turn moves on until nothing moves.
func (h *house) turn(e *rotate.Engine) rotate.State {
	h.t.Helper()
	for {
		moved, err := e.Turn(h.t.Context(), h.target)
		must(h.t, err)
		if !moved {
			return h.state()
		}
	}
}

func (h *house) state() rotate.State {
	h.t.Helper()
	s, err := h.rows.Rotation(h.t.Context(), h.target.Name)
	must(h.t, err)
	return s
}

// published is what readers get, and whether it lets them in.
func (h *house) published() (user string, version int, works bool) {
	h.t.Helper()
	s, err := h.store.Fetch(h.t.Context(), secrets.Ref{Backend: "embedded", Path: h.target.Path})
	must(h.t, err)
	c, err := rotate.ParseCredential(s)
	must(h.t, err)
	err = c.Use(func(b []byte) error { works = h.passwords[c.User()] == string(b); return nil })
	must(h.t, err)
	return c.User(), c.Version(), works
}

func (h *house) call(name, user string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, name+" "+user)
	return h.fail[name]
}

// Create implements rotate.Hooks.
func (h *house) Create(_ context.Context, c rotate.Credential) error {
	if err := h.call("create", c.User); err != nil {
		return err
	}
	return c.Password.Use(func(b []byte) error { h.passwords[c.User] = string(b); return nil })
}

// Test implements rotate.Hooks.
func (h *house) Test(_ context.Context, c rotate.Credential) error {
	if err := h.call("test", c.User); err != nil {
		return err
	}
	return c.Password.Use(func(b []byte) error {
		if h.passwords[c.User] != string(b) {
			return rampart.Errorf(rampart.Denied, "", "%s was not let in", c.User)
		}
		return nil
	})
}

// Publish implements rotate.Hooks.
func (h *house) Publish(_ context.Context, c rotate.Credential) error {
	return h.call("publish", c.User)
}

// Revoke implements rotate.Hooks.
func (h *house) Revoke(_ context.Context, user string) error {
	if err := h.call("revoke", user); err != nil {
		return err
	}
	delete(h.passwords, user)
	return nil
}

func (h *house) wantCalls(want ...string) {
	h.t.Helper()
	if !slices.Equal(h.calls, want) {
		h.t.Errorf("called %q, want %q", h.calls, want)
	}
	h.calls = nil
}
