package planelink

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
)

// TestPosition follows streams line by line: what a gap hides only a new stream
// tells, and a line is as old as it can be, whatever the clocks say.
func TestPosition(t *testing.T) {
	asked := time.Unix(1000, 0)
	theirs := time.Unix(5000, 0) // another clock
	line := func(seq uint64, kind string, after time.Duration) wire.Update {
		return wire.Update{Seq: seq, Kind: kind, ServerTime: theirs.Add(after)}
	}
	snapshot := []wire.Update{line(7, "config", 0), line(7, "keys", 0), line(7, "revoked", 0)}
	for name, tc := range map[string]struct {
		then  []wire.Update
		at    time.Duration // after the asking
		whole bool
		err   string
	}{
		"the whole state":                {nil, 0, true, ""},
		"one after the other":            {[]wire.Update{line(8, "beat", time.Second), line(9, "beat", 2*time.Second)}, 2 * time.Second, true, ""},
		"what the state holds may come":  {[]wire.Update{line(6, "revoked", 0), line(7, "beat", 0), line(8, "beat", time.Second)}, time.Second, true, ""},
		"a line is missing":              {[]wire.Update{line(9, "beat", time.Second)}, 0, true, "the stream went from 7 to 9"},
		"a line is missing later":        {[]wire.Update{line(8, "beat", 0), line(10, "revoked", time.Second)}, 0, true, "the stream went from 8 to 10"},
		"an old line hides no gap":       {[]wire.Update{line(8, "beat", 0), line(5, "beat", 0), line(10, "beat", 0)}, 0, true, "the stream went from 8 to 10"},
		"a late line is as old as it is": {[]wire.Update{line(8, "beat", 300*time.Millisecond)}, 300 * time.Millisecond, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pos := position{asked: asked}
			var at time.Time
			var err error
			for _, u := range append(snapshot, tc.then...) {
				if at, err = pos.next(u); err != nil {
					break
				}
			}
			switch {
			case tc.err != "":
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q", err, tc.err)
				}
			case err != nil || !at.Equal(asked.Add(tc.at)) || pos.whole != tc.whole:
				t.Errorf("at %v, whole %v, %v", at.Sub(asked), pos.whole, err)
			}
		})
	}
	pos := position{asked: asked}
	for _, u := range snapshot[:2] {
		if pos.next(u); pos.whole {
			t.Errorf("whole before the revocations, at %s", u.Kind)
		}
	}
}

// TestPrincipalRevoked: whichever part of a credential is revoked, it is void;
// what is younger lives.
func TestPrincipalRevoked(t *testing.T) {
	const shop, stock = "spiffe://shop.example/service/shop", "spiffe://shop.example/service/stock"
	ann := rampart.Principal{Subject: "user:ann", Session: "s1", Client: "app", Tenant: "acme", Actors: []string{stock, shop}}
	now := time.Unix(1000, 0)
	for _, row := range []struct {
		kind, id string
		who      rampart.Principal
		want     bool
	}{
		{"sid", "s1", ann, true},
		{"family", "s1", ann, true},
		{"sub", "user:ann", ann, true},
		{"client", "app", ann, true},
		{"tenant", "acme", ann, true},
		{"svid", stock, ann, true},
		{"svid", shop, ann, true},
		{"svid", shop, rampart.Principal{Subject: shop}, true},
		{"sid", "s2", ann, false},
		{"svid", "spiffe://shop.example/service/mail", ann, false},
		{"sub", shop, ann, false},
		{"key", "user:ann", ann, false},
		{"sid", "", rampart.Principal{Subject: "user:ann"}, false},
	} {
		l := &Link{opt: Options{Now: func() time.Time { return now }}}
		l.state.Store(&State{})
		err := l.apply(wire.Update{Kind: "revoked", Revoked: []wire.Revocation{{Kind: row.kind, ID: row.id, NotBefore: now, Expires: now.Add(time.Hour)}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.State().PrincipalRevoked(row.who, now); got != row.want {
			t.Errorf("%s %q: revoked %v", row.kind, row.id, got)
		}
		if l.State().PrincipalRevoked(row.who, now.Add(time.Second)) {
			t.Errorf("%s %q: what was issued later is revoked", row.kind, row.id)
		}
	}
}

// TestWhileValid: an answer ends with its principal, its token, its API key or the
// key that signed its token, whichever is revoked, and with nothing else. Of a
// principal the date counts, of a single credential it does not.
func TestWhileValid(t *testing.T) {
	now := time.Unix(1000, 0)
	by := Credential{
		Principal: rampart.Principal{Subject: "user:ann", Session: "s1"}, Issued: now.Add(time.Second),
		TokenID: "t1", Token: "eyJhbGciOiJFUzI1NiIsImtpZCI6ImUxIn0.e30.c2ln", KeyID: "k1", // header {"alg":"ES256","kid":"e1"}
	}
	for _, row := range []struct {
		kind, id string
		at       time.Time
		want     bool
	}{
		{"sub", "user:ann", now, false},
		{"sub", "user:ann", now.Add(2 * time.Second), true},
		{"jti", "t1", now, true},
		{"key", "k1", now, true},
		{"kid", "e1", now, true},
		{"jti", "k1", now, false},
		{"key", "", now, false},
		{"kid", "e2", now, false},
	} {
		l := &Link{opt: Options{Now: func() time.Time { return now }}}
		l.state.Store(&State{})
		cut := 0
		done := l.WhileValid(by, func() { cut++ })
		apply(t, l, wire.Update{Kind: "revoked", Revoked: []wire.Revocation{{Kind: row.kind, ID: row.id, NotBefore: row.at, Expires: now.Add(time.Hour)}}})
		if (cut > 0) != row.want {
			t.Errorf("%s %q: cut %d times", row.kind, row.id, cut)
		}
		done()
		before := cut
		apply(t, l, wire.Update{Kind: "revoked"})
		if cut != before {
			t.Errorf("%s %q: cut after its end", row.kind, row.id)
		}
		late := 0
		l.WhileValid(by, func() { late++ })()
		if (late > 0) != row.want {
			t.Errorf("%s %q: an answer that begins later is cut %d times", row.kind, row.id, late)
		}
	}
	if (&State{}).CredentialRevoked(Credential{}) || signer("no token") != "" {
		t.Error("nothing is revoked")
	}
}

func apply(t *testing.T, l *Link, u wire.Update) {
	t.Helper()
	if err := l.apply(u); err != nil {
		t.Fatal(err)
	}
}

// TestKeyRevoked: a revoked key is gone from what verifiers see, whichever of
// key and revocation came first.
func TestKeyRevoked(t *testing.T) {
	l := &Link{opt: Options{Now: func() time.Time { return time.Unix(1000, 0) }}}
	l.state.Store(&State{})
	apply := func(u wire.Update) {
		t.Helper()
		if err := l.apply(u); err != nil {
			t.Fatal(err)
		}
	}
	kids := func(jwks []byte) string {
		var set struct{ Keys []struct{ Kid string } }
		if err := json.Unmarshal(jwks, &set); err != nil {
			return err.Error()
		}
		var out []string
		for _, k := range set.Keys {
			out = append(out, k.Kid)
		}
		return strings.Join(out, " ")
	}
	both := wire.Update{Kind: "keys", Keys: &wire.Keys{Internal: []byte(`{"keys":[{"kid":"a"},{"kid":"b"}]}`), Edge: []byte(`{"keys":[{"kid":"c"}]}`)}}
	apply(both)
	if got := kids(l.State().Keys.Internal); got != "a b" {
		t.Fatalf("internal keys %q", got)
	}
	apply(wire.Update{Kind: "revoked", Revoked: []wire.Revocation{
		{Kind: "kid", ID: "a", Expires: time.Unix(2000, 0)}, {Kind: "sid", ID: "b", Expires: time.Unix(2000, 0)}, {Kind: "kid", ID: "c", Expires: time.Unix(2000, 0)},
	}})
	for range 2 {
		if got := kids(l.State().Keys.Internal); got != "b" {
			t.Errorf("internal keys %q", got)
		}
		if got := kids(l.State().Keys.Edge); got != "" {
			t.Errorf("edge keys %q", got)
		}
		apply(both) // published once more
	}
}

// TestWatched: of several answers those end that are still under way, whichever of
// them was over before.
func TestWatched(t *testing.T) {
	for over := range 4 { // the last: none
		l := &Link{opt: Options{Now: time.Now}}
		l.state.Store(&State{})
		var w [3]Watched
		var cut [3]int
		for i := range w {
			l.Watch(&w[i], Credential{KeyID: "k1"}, ender(func() { cut[i]++ }))
		}
		want := [3]int{1, 1, 1}
		if over < len(w) {
			w[over].Over()
			w[over].Over()
			want[over] = 0
		}
		apply(t, l, wire.Update{Kind: "revoked", Revoked: []wire.Revocation{{Kind: "key", ID: "k1", Expires: time.Now().Add(time.Hour)}}})
		for i := range w {
			w[i].Over()
		}
		if cut != want || l.answers.first != nil {
			t.Errorf("answer %d was over: cut %v times, want %v; %v is left", over, cut, want, l.answers.first)
		}
	}
}
