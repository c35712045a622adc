// Package sessiontest judges implementations of session.Store.
package sessiontest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rampart-security/rampart/authn/session"
)

// Test runs the contract of session.Store. Each call of open makes one empty
// store and returns two handles on it, as two replicas hold them; they may be
// the same.
func Test(t *testing.T, open func(t *testing.T) (a, b session.Store)) {
	t.Run("a session comes back as it was put", func(t *testing.T) {
		a, b := open(t)
		local, federated := sample(1, "user:ann"), sample(2, "user:ann")
		federated.Upstream = session.Upstream{Issuer: "https://idp.example", Subject: "42", SID: "up"}
		federated.ACR, federated.AMR = "aal2", []string{"fed", "otp"}
		for _, want := range []session.Session{local, federated} {
			must(t, a.PutSession(t.Context(), want))
			got, err := b.Session(t.Context(), want.Key)
			must(t, err)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-put +got\n%s", diff)
			}
		}
	})
	t.Run("keys and handles are unique", func(t *testing.T) {
		a, b := open(t)
		s := sample(1, "user:ann")
		must(t, a.PutSession(t.Context(), s))
		if err := b.PutSession(t.Context(), s); err == nil {
			t.Error("the same key was stored twice")
		}
		other := sample(2, "user:bob")
		other.SID = s.SID
		if err := b.PutSession(t.Context(), other); err == nil {
			t.Error("the same handle was stored twice")
		}
		gone(t, a, other.Key)
	})
	t.Run("touch moves last seen", func(t *testing.T) {
		a, b := open(t)
		s := sample(1, "user:ann")
		must(t, a.PutSession(t.Context(), s))
		want := s
		want.LastSeen = s.LastSeen.Add(time.Hour)
		must(t, b.TouchSession(t.Context(), s.Key, want.LastSeen))
		must(t, a.TouchSession(t.Context(), s.Key, s.LastSeen)) // a late writer does not move it back
		got, err := a.Session(t.Context(), s.Key)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
	t.Run("an ended session stays ended", func(t *testing.T) {
		a, b := open(t)
		s := sample(1, "user:ann")
		must(t, a.PutSession(t.Context(), s))
		for _, want := range []bool{true, false} {
			got, err := b.EndSession(t.Context(), s.SID)
			must(t, err)
			if got != want {
				t.Errorf("EndSession = %v, want %v", got, want)
			}
		}
		must(t, a.TouchSession(t.Context(), s.Key, s.LastSeen.Add(time.Hour)))
		gone(t, a, s.Key)
		raised := s
		raised.Key = session.Key{9}
		if ok, err := a.RekeySession(t.Context(), s.Key, raised); ok || err != nil {
			t.Errorf("an ended session has a new key: %v, %v", ok, err)
		}
		gone(t, a, raised.Key)
	})
	t.Run("a subject's are listed, newest first", func(t *testing.T) {
		a, b := open(t)
		for i, sub := range []string{"user:ann", "user:bob", "user:ann"} {
			s := sample(byte(i), sub)
			s.Created = s.Created.Add(time.Duration(i))
			must(t, a.PutSession(t.Context(), s))
		}
		wantSIDs(t, "user:ann", "sid-2", "sid-0")(b.Sessions(t.Context(), "user:ann"))
		wantSIDs(t, "nobody")(b.Sessions(t.Context(), "user:eve"))
	})
	t.Run("all of a subject end, nobody else's", func(t *testing.T) {
		a, b := open(t)
		for i, sub := range []string{"user:ann", "user:ann", "user:bob"} {
			must(t, a.PutSession(t.Context(), sample(byte(i), sub)))
		}
		sids, err := b.EndSessions(t.Context(), "user:ann")
		must(t, err)
		if len(sids) != 2 {
			t.Errorf("%d sessions ended, want 2", len(sids))
		}
		gone(t, a, sample(0, "").Key)
		wantSIDs(t, "user:ann")(a.Sessions(t.Context(), "user:ann"))
		if _, err := a.Session(t.Context(), sample(2, "").Key); err != nil {
			t.Errorf("another subject's session: %v", err)
		}
	})
	t.Run("sweep takes what is past either bound", func(t *testing.T) {
		a, b := open(t)
		live, idle, old := sample(1, "user:ann"), sample(2, "user:ann"), sample(3, "user:ann")
		idle.LastSeen = idle.LastSeen.Add(-time.Hour)
		old.Expires = old.LastSeen.Add(-time.Second)
		for _, s := range []session.Session{live, idle, old} {
			must(t, a.PutSession(t.Context(), s))
		}
		must(t, b.SweepSessions(t.Context(), live.LastSeen, live.LastSeen.Add(-time.Minute)))
		gone(t, a, idle.Key)
		gone(t, a, old.Key)
		wantSIDs(t, "user:ann", live.SID)(a.Sessions(t.Context(), "user:ann"))
	})
	t.Run("concurrent logins all land", func(t *testing.T) {
		a, b := open(t)
		var wg sync.WaitGroup
		for i := range byte(16) {
			wg.Go(func() {
				if err := []session.Store{a, b}[i%2].PutSession(t.Context(), sample(i, "user:ann")); err != nil {
					t.Errorf("session %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		sids, err := a.EndSessions(t.Context(), "user:ann")
		must(t, err)
		if len(sids) != 16 {
			t.Errorf("%d sessions stored, want 16", len(sids))
		}
	})
	t.Run("a new key takes the old one's place, once", func(t *testing.T) { testRekey(t, open) })
	t.Run("sessions are found by the login at the provider", func(t *testing.T) { testUpstream(t, open) })
}

func testRekey(t *testing.T, open func(t *testing.T) (a, b session.Store)) {
	a, b := open(t)
	old := sample(1, "user:ann")
	old.Upstream = session.Upstream{Issuer: "https://idp.example", Subject: "42"}
	must(t, a.PutSession(t.Context(), old))
	raised := func(i byte) session.Session {
		s := old
		s.Key, s.ACR, s.AMR, s.AuthTime = session.Key{i, 2}, "aal2", []string{"pwd", "otp"}, old.AuthTime.Add(time.Minute)
		return s
	}
	var wg sync.WaitGroup
	var winner atomic.Int32
	for i := range byte(16) {
		wg.Go(func() {
			ok, err := []session.Store{a, b}[i%2].RekeySession(t.Context(), old.Key, raised(i))
			if err != nil {
				t.Error(err)
			}
			if ok && !winner.CompareAndSwap(0, int32(i)+1) {
				t.Error("two won")
			}
		})
	}
	wg.Wait()
	if winner.Load() == 0 {
		t.Fatal("nobody won")
	}
	gone(t, b, old.Key)
	want := raised(byte(winner.Load() - 1))
	got, err := b.Session(t.Context(), want.Key)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for i := range byte(16) {
		if k := raised(i).Key; k != want.Key {
			gone(t, a, k)
		}
	}
	wantSIDs(t, "user:ann", old.SID)(a.Sessions(t.Context(), "user:ann"))
	wantSIDs(t, "upstream 42", old.SID)(a.UpstreamSessions(t.Context(), "https://idp.example", "42", ""))
	if ok, err := b.EndSession(t.Context(), old.SID); !ok || err != nil {
		t.Errorf("its handle ends it no more: %v, %v", ok, err)
	}
	gone(t, a, want.Key)
}

func testUpstream(t *testing.T, open func(t *testing.T) (a, b session.Store)) {
	a, b := open(t)
	for i, up := range []session.Upstream{
		{Issuer: "https://a.example", Subject: "42", SID: "x"},
		{Issuer: "https://a.example", Subject: "42"},
		{Issuer: "https://b.example", Subject: "42", SID: "x"},
		{},
	} {
		s := sample(byte(i), "user:ann")
		s.Upstream, s.Created = up, s.Created.Add(time.Duration(i))
		must(t, a.PutSession(t.Context(), s))
	}
	for _, tc := range []struct {
		issuer, subject, sid string
		want                 []string
	}{
		{"https://a.example", "42", "", []string{"sid-1", "sid-0"}},
		{"https://a.example", "42", "x", []string{"sid-0"}},
		{"https://a.example", "", "x", []string{"sid-0"}},
		{"https://b.example", "42", "", []string{"sid-2"}},
		{"https://a.example", "42", "y", nil},
		{"https://c.example", "42", "x", nil},
		{"https://a.example", "", "", nil},
		{"", "", "", nil},
	} {
		wantSIDs(t, fmt.Sprint(tc), tc.want...)(b.UpstreamSessions(t.Context(), tc.issuer, tc.subject, tc.sid))
	}
}

func sample(n byte, subject string) session.Session {
	at := time.Now().UTC().Truncate(time.Hour).Add(123456789) // a store may let its own clock forget
	return session.Session{
		Key: session.Key{n, 1}, SID: fmt.Sprintf("sid-%d", n), Subject: subject,
		Created: at, LastSeen: at, Expires: at.Add(12 * time.Hour), IP: "192.0.2.1", Agent: `curl/8 "<é>"`,
		AuthTime: at, ACR: "aal1", AMR: []string{"pwd"},
	}
}

func wantSIDs(t *testing.T, whose string, want ...string) func([]session.Session, error) {
	t.Helper()
	return func(list []session.Session, err error) {
		t.Helper()
		must(t, err)
		var got []string
		for _, s := range list {
			got = append(got, s.SID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", whose, diff)
		}
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
