package session_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/store/sqlite"
)

// clock is a hand-driven time source.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func setup(t testing.TB) (*session.Manager, *clock, *counting) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "s.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	c, st := &clock{time.Unix(1_700_000_000, 0)}, &counting{Store: db}
	return session.New(session.Options{Store: st, Key: make([]byte, 32), Now: c.now}), c, st
}

// counting counts writes of last_seen and can fail.
type counting struct {
	session.Store
	touched int
	broken  error
}

func (s *counting) TouchSession(ctx context.Context, key session.Key, seen time.Time) error {
	s.touched++
	return s.Store.TouchSession(ctx, key, seen)
}

func (s *counting) Session(ctx context.Context, key session.Key) (session.Session, error) {
	if s.broken != nil {
		return session.Session{}, s.broken
	}
	return s.Store.Session(ctx, key)
}

func TestBounds(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps []time.Duration // pauses between requests
		alive bool            // at the last
	}{
		{"used at once", []time.Duration{0}, true},
		{"idle for just under 30 minutes", []time.Duration{30*time.Minute - time.Nanosecond}, true},
		{"idle for 30 minutes", []time.Duration{30 * time.Minute}, false},
		{"kept busy", []time.Duration{20 * time.Minute, 20 * time.Minute, 20 * time.Minute}, true},
		{"kept busy for 12 hours", repeat(20*time.Minute, 36), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, c, _ := setup(t)
			id, _, err := m.Create(t.Context(), session.Login{Subject: "user:ann", IP: "192.0.2.1", Agent: "curl"})
			if err != nil {
				t.Fatal(err)
			}
			for _, pause := range tc.steps {
				c.t = c.t.Add(pause)
				_, err = m.Resolve(t.Context(), id)
			}
			if alive := err == nil; alive != tc.alive {
				t.Errorf("alive is %v (%v), want %v", alive, err, tc.alive)
			}
		})
	}
}

func repeat(d time.Duration, n int) []time.Duration {
	out := make([]time.Duration, n)
	for i := range out {
		out[i] = d
	}
	return out
}

func TestLastSeenIsWrittenOnceAMinute(t *testing.T) {
	m, c, st := setup(t)
	id, _, err := m.Create(t.Context(), session.Login{Subject: "user:ann"})
	if err != nil {
		t.Fatal(err)
	}
	for range 120 { // two minutes, a request per second
		c.t = c.t.Add(time.Second)
		if _, err := m.Resolve(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if st.touched != 2 {
		t.Errorf("%d writes in two minutes, want 2", st.touched)
	}
}

func TestRefused(t *testing.T) {
	m, _, _ := setup(t)
	id, s, err := m.Create(t.Context(), session.Login{Subject: "user:ann"})
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"nothing":              "",
		"an unknown id":        base64.RawURLEncoding.EncodeToString(make([]byte, 32)),
		"the handle":           s.SID,
		"the store's key":      base64.RawURLEncoding.EncodeToString(s.Key[:]),
		"another spelling":     id[:len(id)-1] + string(id[len(id)-1]+1),
		"an id and more":       id + "AAAA",
		"an id with a newline": id + "\n",
		"much":                 strings.Repeat("A", 1<<20),
	} {
		if _, err := m.Resolve(t.Context(), value); rampart.KindOf(err) != rampart.Unauthenticated || err == nil {
			t.Errorf("%s: %v, want unauthenticated", name, err)
		}
	}
}

func TestEndIsFinal(t *testing.T) {
	m, _, _ := setup(t)
	one, s, err := m.Create(t.Context(), session.Login{Subject: "user:ann"})
	if err != nil {
		t.Fatal(err)
	}
	two, _, err := m.Create(t.Context(), session.Login{Subject: "user:ann"})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := m.End(t.Context(), s.SID); !ok || err != nil {
		t.Fatalf("end: %v, %v", ok, err)
	}
	if _, err := m.Resolve(t.Context(), one); err == nil {
		t.Error("an ended session resolves")
	}
	if _, err := m.Resolve(t.Context(), two); err != nil {
		t.Errorf("the other session ended with it: %v", err)
	}
	sids, err := m.EndAll(t.Context(), "user:ann")
	if err != nil || len(sids) != 1 {
		t.Errorf("end all: %v, %v; want one", sids, err)
	}
	if _, err := m.Resolve(t.Context(), two); err == nil {
		t.Error("a session survived the end of all")
	}
}

// TestBrokenStore: a store that fails is an outage, never an anonymous request.
func TestBrokenStore(t *testing.T) {
	m, _, st := setup(t)
	id, _, err := m.Create(t.Context(), session.Login{Subject: "user:ann"})
	if err != nil {
		t.Fatal(err)
	}
	st.broken = errors.New("disk gone")
	if _, err := m.Resolve(t.Context(), id); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("got %v, want unavailable", err)
	}
}

func TestCookie(t *testing.T) {
	got := session.Cookie("x").String()
	if want := "__Host-rampart_sid=x; Path=/; HttpOnly; Secure; SameSite=Lax"; got != want {
		t.Errorf("cookie is %q, want %q", got, want)
	}
	if got := session.ClearCookie(); got.MaxAge >= 0 || got.Value != "" {
		t.Errorf("clearing cookie is %v", got)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(session.Cookie("one"))
	if got := session.FromRequest(r); got != "one" {
		t.Errorf("read %q, want one", got)
	}
	r.AddCookie(session.Cookie("two"))
	if got := session.FromRequest(r); got != "" {
		t.Errorf("of two cookies %q counted", got)
	}
}

func BenchmarkSessionResolve(b *testing.B) {
	m, _, _ := setup(b)
	id, _, err := m.Create(b.Context(), session.Login{Subject: "user:ann"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Resolve(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}

// TestRekey: whoever knew the id before a step-up has nothing after it.
func TestRekey(t *testing.T) {
	m, c, _ := setup(t)
	before, s, err := m.Create(t.Context(), session.Login{Subject: "user:ann", ACR: "aal1", AMR: []string{"pwd"}})
	if err != nil {
		t.Fatal(err)
	}
	c.t = c.t.Add(time.Second)
	raise := func(s *session.Session) {
		s.ACR, s.AMR, s.AuthTime = "aal2", append(s.AMR, "otp"), c.t
		s.Subject, s.SID, s.Expires = "user:root", "other", c.t.Add(time.Hour*1000) // what it may not change
	}
	after, _, err := m.Rekey(t.Context(), before, raise)
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Resolve(t.Context(), after)
	if err != nil {
		t.Fatal(err)
	}
	want := s
	want.Key, want.ACR, want.AMR, want.AuthTime = got.Key, "aal2", []string{"pwd", "otp"}, c.t
	if diff := cmp.Diff(want, got); diff != "" || after == before {
		t.Errorf("-want +got\n%s", diff)
	}
	for name, try := range map[string]func() error{
		"resolves":           func() error { _, err := m.Resolve(t.Context(), before); return err },
		"is raised again":    func() error { _, _, err := m.Rekey(t.Context(), before, raise); return err },
		"that none had ever": func() error { _, _, err := m.Rekey(t.Context(), "x", raise); return err },
	} {
		if err := try(); err == nil || rampart.KindOf(err) != rampart.Unauthenticated {
			t.Errorf("the old id %s: %v, want unauthenticated", name, err)
		}
	}
}

// TestMaxPerSubject: the oldest end, and whoever asked is told.
func TestMaxPerSubject(t *testing.T) {
	_, c, st := setup(t)
	var ended []string
	m := session.New(session.Options{Store: st, Key: make([]byte, 32), Now: c.now, Ended: func(_ context.Context, sids []string) error {
		ended = append(ended, sids...)
		return nil
	}})
	var sids []string
	for range session.MaxPerSubject + 2 {
		c.t = c.t.Add(time.Second)
		_, s, err := m.Create(t.Context(), session.Login{Subject: "user:ann"})
		if err != nil {
			t.Fatal(err)
		}
		sids = append([]string{s.SID}, sids...) // newest first
	}
	if _, _, err := m.Create(t.Context(), session.Login{Subject: "user:bob"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{sids[21], sids[20]}, ended); diff != "" {
		t.Errorf("ended: -want +got\n%s", diff)
	}
	if diff := cmp.Diff(sids[:session.MaxPerSubject], handles(t, m, "user:ann")); diff != "" {
		t.Errorf("left: -want +got\n%s", diff)
	}
}

func TestListAndEndOthers(t *testing.T) {
	m, c, _ := setup(t)
	var sids []string
	for _, subject := range []string{"user:ann", "user:bob", "user:ann", "user:ann"} {
		_, s, err := m.CreateAt(t.Context(), session.Login{Subject: subject}, c.t.Add(time.Duration(len(sids))*20*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		sids = append(sids, s.SID)
	}
	c.t = c.t.Add(40 * time.Minute) // the first has been idle for too long
	if diff := cmp.Diff([]string{sids[3], sids[2]}, handles(t, m, "user:ann")); diff != "" {
		t.Errorf("live: -want +got\n%s", diff)
	}
	ended, err := m.EndOthers(t.Context(), "user:ann", sids[2])
	if err != nil || len(ended) != 2 {
		t.Errorf("ended %v, %v; want all of ann's but one", ended, err)
	}
	if diff := cmp.Diff([]string{sids[2]}, handles(t, m, "user:ann")); diff != "" {
		t.Errorf("left: -want +got\n%s", diff)
	}
	if got := handles(t, m, "user:bob"); len(got) != 1 {
		t.Errorf("bob has %v, want his own", got)
	}
}

func handles(t *testing.T, m *session.Manager, subject string) []string {
	t.Helper()
	list, err := m.List(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range list {
		out = append(out, s.SID)
	}
	return out
}
