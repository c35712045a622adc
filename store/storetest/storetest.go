// Package storetest judges implementations of store.Store: all the contracts
// that it joins, and its own.
package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/authn/apikey/apikeytest"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/guess/guesstest"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/mfa/mfatest"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/authn/session/sessiontest"
	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/authn/ticket/tickettest"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/token"
	"github.com/rampart-security/rampart/token/tokentest"
)

// Test runs every contract. Each call of both makes one empty store and returns
// two handles on it, as two replicas hold them; they may be the same.
func Test(t *testing.T, both func(t *testing.T) (a, b store.Store)) {
	open := func(t *testing.T) store.Store {
		a, _ := both(t)
		return a
	}
	with := func(t *testing.T, clients ...token.Client) (a, b store.Store) {
		a, b = both(t)
		for _, c := range clients {
			must(t, a.PutClient(t.Context(), c))
		}
		return a, b
	}
	t.Run("sessions", func(t *testing.T) {
		sessiontest.Test(t, func(t *testing.T) (a, b session.Store) { return both(t) })
	})
	t.Run("factors", func(t *testing.T) {
		mfatest.Test(t, func(t *testing.T, names ...string) (a, b mfa.Store) {
			st, other := both(t)
			for _, n := range names {
				must(t, st.CreateUser(t.Context(), store.User{Name: n, Changed: when()}))
			}
			return st, other
		})
	})
	t.Run("counters", func(t *testing.T) {
		guesstest.Test(t, func(t *testing.T) (a, b guess.Store) { return both(t) })
	})
	t.Run("tickets", func(t *testing.T) {
		tickettest.Test(t, func(t *testing.T) (a, b ticket.Store) { return both(t) })
	})
	t.Run("api keys", func(t *testing.T) {
		apikeytest.Test(t, func(t *testing.T, names ...string) apikey.Store {
			var clients []token.Client
			for _, n := range names {
				clients = append(clients, token.Client{ID: n, Principal: "merchant"})
			}
			st, _ := with(t, clients...)
			return st
		})
	})
	t.Run("tokens", func(t *testing.T) {
		tokentest.Test(t, func(t *testing.T, clients ...token.Client) (a, b token.Store) { return with(t, clients...) })
	})
	t.Run("secrets", func(t *testing.T) { testSecrets(t, open) })
	t.Run("accounts", func(t *testing.T) { testAccounts(t, open) })
	t.Run("changes of accounts", func(t *testing.T) { testSwapUser(t, both) })
	t.Run("links", func(t *testing.T) { testLinks(t, open) })
	t.Run("deletions", func(t *testing.T) { testDeletions(t, both) })
	t.Run("late rows", func(t *testing.T) { testLateRows(t, both) })
	t.Run("join tokens", func(t *testing.T) { testJoinTokens(t, both) })
	t.Run("keys", func(t *testing.T) { testKeys(t, both) })
	t.Run("data keys", func(t *testing.T) { testDEKs(t, both) })
	t.Run("shredding", func(t *testing.T) { testShred(t, both) })
	t.Run("notices", func(t *testing.T) { testNotices(t, both) })
	t.Run("edge", func(t *testing.T) { testEdgeStore(t, both) })
	t.Run("heads", func(t *testing.T) { testHeads(t, open) })
	t.Run("issued", func(t *testing.T) { testIssued(t, both) })
	t.Run("acknowledged", func(t *testing.T) { testAcknowledged(t, both) })
	t.Run("revoked certificates", func(t *testing.T) { testCertificateRevocations(t, both) })
	t.Run("rotations", func(t *testing.T) { testRotations(t, both) })
}

// TestShared runs the contracts of store.Shared. Each call of both makes one
// empty store and returns two handles on it, as two replicas hold them; they
// may be the same.
func TestShared(t *testing.T, both func(t *testing.T) (a, b store.Shared)) {
	t.Run("sessions", func(t *testing.T) {
		sessiontest.Test(t, func(t *testing.T) (a, b session.Store) { return both(t) })
	})
	t.Run("counters", func(t *testing.T) {
		guesstest.Test(t, func(t *testing.T) (a, b guess.Store) { return both(t) })
	})
	t.Run("tickets", func(t *testing.T) {
		tickettest.Test(t, func(t *testing.T) (a, b ticket.Store) { return both(t) })
	})
}

func when() time.Time { return time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC) }

func testAccounts(t *testing.T, open func(*testing.T) store.Store) {
	st, ctx := open(t), t.Context()
	ann := store.User{
		Name: "ann", Hash: "$argon2id$x", Tag: "verify", Disabled: true, Changed: when(),
		Facts: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Tenant: "acme", Organizations: []string{"acme", "globex"}, Roles: []string{"admin"}, Team: "red", ManagedTeams: []string{"blue"}},
	}
	for _, u := range []store.User{ann, {Name: "bob", Hash: "$argon2id$y", Changed: when()}} {
		must(t, st.CreateUser(ctx, u))
	}
	if err := st.CreateUser(ctx, store.User{Name: "ann", Hash: "$argon2id$eves", Changed: when()}); !errors.Is(err, store.ErrExists) {
		t.Errorf("an account was created twice: %v, want store.ErrExists", err)
	}
	got, err := st.User(ctx, "ann")
	must(t, err)
	ann.Version = got.Version
	if diff := cmp.Diff(ann, got); diff != "" {
		t.Errorf("-created +got\n%s", diff)
	}
	for _, name := range []string{"eve", "", "ANN", "a\x00nn", "\xff", "ann\x00"} { // names come from outside
		_, errUser := st.User(ctx, name)
		_, errClient := st.Client(ctx, name)
		if !errors.Is(errUser, store.ErrNotFound) || !errors.Is(errClient, token.ErrNotFound) {
			t.Errorf("%q: %v, %v; want not found", name, errUser, errClient)
		}
	}
	for i, hash := range []string{"", "$2b$10$x", "$scrypt$x", "$pbkdf2-sha256$x"} { // none, and those of other systems
		must(t, st.CreateUser(ctx, store.User{Name: fmt.Sprint("of-old-", i), Hash: hash, Changed: when()}))
	}
	if err := st.CreateUser(ctx, store.User{Name: "eve", Hash: "secret", Changed: when()}); err == nil {
		t.Error("a password was stored in the clear")
	}
	all, err := st.Users(ctx)
	must(t, err)
	if len(all) != 6 || all[0].Name != "ann" || all[1].Name != "bob" {
		t.Errorf("users are %+v, want ann, bob and four more", all)
	}
}

// testSwapUser: what is read, changed and written undoes nothing that others
// did in between.
func testSwapUser(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	a, b := both(t)
	ctx := t.Context()
	must(t, a.CreateUser(ctx, store.User{Name: "ann", Hash: "$argon2id$x", Changed: when()}))
	read, err := b.User(ctx, "ann")
	must(t, err)
	swap := func(u store.User, want bool) {
		t.Helper()
		got, err := a.SwapUser(ctx, u)
		must(t, err)
		if got != want {
			t.Errorf("swapped: %v, want %v", got, want)
		}
	}
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 16 {
		wg.Go(func() {
			u := read
			u.Tag, u.Disabled, u.Changed = fmt.Sprint(i), true, when().Add(1)
			ok, err := []store.Store{a, b}[i%2].SwapUser(ctx, u)
			if err != nil {
				t.Error(err)
			}
			if ok {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	now, err := b.User(ctx, "ann")
	must(t, err)
	if won.Load() != 1 || !now.Disabled || now.Tag == "" || !now.Changed.Equal(when().Add(1)) || now.Version == read.Version {
		t.Errorf("%d of 16 made %+v of %+v, want one", won.Load(), now, read)
	}
	swap(read, false)
	now.Disabled = false
	swap(now, true)

	_, err = a.DeleteUser(ctx, "ann")
	must(t, err)
	now, read = read, now
	swap(read, false)
	if _, err := b.User(ctx, "ann"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a deleted account is back: %v", err)
	}
	for range 3 { // whatever was read of an account says nothing about the next
		must(t, a.CreateUser(ctx, store.User{Name: "ann", Changed: when()}))
		swap(now, false)
		swap(read, false)
		read, err = b.User(ctx, "ann")
		must(t, err)
		_, err = a.DeleteUser(ctx, "ann")
		must(t, err)
	}
}

// testLateRows: a factor or link that is on its way while its account is
// deleted never belongs to the next of the name.
func testLateRows(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	a, b := both(t)
	ctx := t.Context()
	factor := func(i int) mfa.Factor {
		return mfa.Factor{ID: fmt.Sprint(i), Subject: "user:ann", Kind: mfa.KindTOTP, Created: when()}
	}
	link := func(i int) store.Link {
		return store.Link{Issuer: "https://a.example", Upstream: fmt.Sprint(i), Subject: "user:ann", Created: when()}
	}
	if err := a.PutFactor(ctx, factor(0)); !errors.Is(err, mfa.ErrNotFound) {
		t.Errorf("a factor of nobody: %v, want mfa.ErrNotFound", err)
	}
	if err := a.PutLink(ctx, link(0)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a link to nobody: %v, want store.ErrNotFound", err)
	}
	for round := range 8 {
		must(t, a.CreateUser(ctx, store.User{Name: "ann", Changed: when()}))
		var wg sync.WaitGroup
		for i := range 8 {
			id, st := 100*round+i, []store.Store{a, b}[i%2]
			wg.Go(func() {
				if err := st.PutFactor(ctx, factor(id)); err != nil && !errors.Is(err, mfa.ErrNotFound) {
					t.Error(err)
				}
				if err := st.PutLink(ctx, link(id)); err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if _, err := b.DeleteUser(ctx, "ann"); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		factors, err := a.Factors(ctx, "user:ann")
		must(t, err)
		links, err := a.Links(ctx, "user:ann")
		must(t, err)
		if len(factors)+len(links) > 0 {
			t.Fatalf("a deleted account left %d factors and %d links", len(factors), len(links))
		}
	}
}

func testLinks(t *testing.T, open func(*testing.T) store.Store) {
	st, ctx := open(t), t.Context()
	for _, name := range []string{"ann", "eve"} {
		must(t, st.CreateUser(ctx, store.User{Name: name, Changed: when()}))
	}
	one := store.Link{Issuer: "https://a.example", Upstream: "42", Subject: "user:ann", Created: when().Add(1)}
	two := store.Link{Issuer: "https://b.example", Upstream: "42", Subject: "user:ann", Created: when(), LastLogin: when()}
	must(t, st.PutLink(ctx, one))
	must(t, st.PutLink(ctx, two))
	eves := one
	eves.Subject = "user:eve"
	if err := st.PutLink(ctx, eves); !errors.Is(err, store.ErrExists) {
		t.Errorf("a link that is another's: %v, want store.ErrExists", err)
	}
	must(t, st.TouchLink(ctx, one.Issuer, one.Upstream, when().Add(time.Hour)))
	must(t, st.TouchLink(ctx, one.Issuer, one.Upstream, when())) // a late writer does not move it back
	must(t, st.TouchLink(ctx, "https://c.example", "42", when()))
	one.LastLogin = when().Add(time.Hour)
	got, err := st.Link(ctx, one.Issuer, one.Upstream)
	must(t, err)
	list, err := st.Links(ctx, "user:ann")
	must(t, err)
	if diff := cmp.Diff([]any{one, []store.Link{two, one}}, []any{got, list}); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for _, want := range []bool{true, false} {
		got, err := st.DeleteLink(ctx, one.Issuer, one.Upstream)
		must(t, err)
		if got != want {
			t.Errorf("delete reports %v, want %v", got, want)
		}
	}
	for _, upstream := range []string{"42", "\x00"} {
		if _, err := st.Link(ctx, one.Issuer, upstream); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("no link of %q: %v, want store.ErrNotFound", upstream, err)
		}
	}
}

// testDeletions: the next account of a name inherits nothing.
func testDeletions(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	a, b := both(t)
	ctx := t.Context()
	for i, name := range []string{"ann", "bob"} {
		n, subject := byte(i+1), "user:"+name
		must(t, a.CreateUser(ctx, store.User{Name: name, Facts: rampart.Principal{Subject: subject}, Changed: when()}))
		must(t, a.PutLink(ctx, store.Link{Issuer: "https://a.example", Upstream: name, Subject: subject, Created: when()}))
		must(t, a.PutFactor(ctx, mfa.Factor{ID: name, Subject: subject, Kind: mfa.KindTOTP, Created: when()}))
		now := time.Now().UTC()
		must(t, a.PutSession(ctx, session.Session{Key: session.Key{n}, SID: name, Subject: subject, Created: now, LastSeen: now, Expires: now.Add(time.Hour)}))
		must(t, a.PutClient(ctx, token.Client{ID: "of-" + name, Principal: "merchant"}))
		must(t, a.PutAPIKey(ctx, apikey.Key{ID: name, Client: "of-" + name, Created: when()}))
		code := token.Code{
			Hash: [32]byte{n}, Client: "of-" + name, Redirect: "https://a.example", Challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
			Subject: subject, AuthTime: when(), Expires: when(),
		}
		must(t, a.PutCode(ctx, code))
		must(t, a.UseCode(ctx, code.Hash, token.Family{ID: name, Client: "of-" + name, Subject: subject, Rotated: when(), AuthTime: when(), Expires: when(), Absolute: when()}))
	}
	left := func() map[string]int {
		out := map[string]int{}
		for _, name := range []string{"ann", "bob"} {
			factors, err := b.Factors(ctx, "user:"+name)
			must(t, err)
			links, err := b.Links(ctx, "user:"+name)
			must(t, err)
			sessions, err := b.Sessions(ctx, "user:"+name)
			must(t, err)
			families, err := b.Families(ctx, "user:"+name)
			must(t, err)
			keys, err := b.APIKeys(ctx, "of-"+name)
			must(t, err)
			out[name] = len(factors) + len(links) + len(sessions) + len(families)
			out["keys of "+name] = len(keys)
		}
		return out
	}
	want := map[string]int{"ann": 4, "keys of ann": 1, "bob": 4, "keys of bob": 1}
	if diff := cmp.Diff(want, left()); diff != "" {
		t.Fatalf("at first: -want +got\n%s", diff)
	}
	for _, found := range []bool{true, false} {
		gotUser, err := a.DeleteUser(ctx, "ann")
		must(t, err)
		gotClient, err := a.DeleteClient(ctx, "of-bob")
		must(t, err)
		if gotUser != found || gotClient != found {
			t.Errorf("deletions report %v and %v, want %v", gotUser, gotClient, found)
		}
	}
	want = map[string]int{"ann": 0, "keys of ann": 1, "bob": 3, "keys of bob": 0} // bob's client took its family along
	if diff := cmp.Diff(want, left()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	clients, err := b.Clients(ctx)
	must(t, err)
	if len(clients) != 1 || clients[0].ID != "of-ann" {
		t.Errorf("clients are %+v, want of-ann", clients)
	}
}

func testJoinTokens(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	st, other := both(t)
	ctx, now := t.Context(), when()
	must(t, st.PutJoinToken(ctx, [32]byte{1}, "service/orders", now.Add(time.Minute)))
	must(t, st.PutJoinToken(ctx, [32]byte{2}, "service/old", now))
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 8 {
		wg.Go(func() {
			id, err := []store.Store{st, other}[i%2].UseJoinToken(ctx, [32]byte{1}, now)
			if err == nil && id == "service/orders" {
				won.Add(1)
			} else if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("got %q, %v; want store.ErrNotFound", id, err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d used the token, want 1", won.Load())
	}
	for name, hash := range map[string][32]byte{"expired": {2}, "unknown": {3}} {
		if _, err := st.UseJoinToken(ctx, hash, now); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s token: %v, want store.ErrNotFound", name, err)
		}
	}
}

func testKeys(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	st, other := both(t)
	ctx := t.Context()
	value := make([]byte, 64)
	must(t, st.PutSealed(ctx, "ca", value))
	if err := st.PutSealed(ctx, "ca", value); !errors.Is(err, store.ErrExists) {
		t.Errorf("second put: %v, want store.ErrExists", err)
	}
	value[0] = 1
	must(t, st.ReplaceSealed(ctx, "ca", value))
	got, err := st.Sealed(ctx, "ca")
	must(t, err)
	if diff := cmp.Diff(value, got); diff != "" {
		t.Errorf("-put +got\n%s", diff)
	}
	_, errGet := st.Sealed(ctx, "none")
	errReplace := st.ReplaceSealed(ctx, "none", value)
	if !errors.Is(errGet, store.ErrNotFound) || !errors.Is(errReplace, store.ErrNotFound) {
		t.Errorf("unknown name: %v, %v; want store.ErrNotFound", errGet, errReplace)
	}
	testSwapSealed(t, st, other, value)

	for _, value := range []string{"pay.example", "shop.example"} {
		got, err := st.PinMeta(ctx, "trust_domain", value)
		must(t, err)
		if got != "pay.example" {
			t.Errorf("pinned %q, want the first value", got)
		}
	}
}

// testSwapSealed: of replicas that make or renew a key at once, one wins.
func testSwapSealed(t *testing.T, a, b store.Store, old []byte) {
	for _, tc := range []struct {
		name string
		old  []byte
	}{{"new", nil}, {"ca", old}} {
		var wg sync.WaitGroup
		var winner atomic.Int32
		for i := range 8 {
			wg.Go(func() {
				value := make([]byte, 64)
				value[1] = byte(i + 1)
				ok, err := []store.Store{a, b}[i%2].SwapSealed(t.Context(), tc.name, tc.old, value)
				if err != nil {
					t.Error(err)
				}
				if ok && !winner.CompareAndSwap(0, int32(i+1)) {
					t.Errorf("%s: two won", tc.name)
				}
			})
		}
		wg.Wait()
		got, err := b.Sealed(t.Context(), tc.name)
		must(t, err)
		if winner.Load() == 0 || got[1] != byte(winner.Load()) {
			t.Errorf("%s: %d won, %d is stored", tc.name, winner.Load(), got[1])
		}
	}
	if ok, err := a.SwapSealed(t.Context(), "none", old, old); ok || err != nil {
		t.Errorf("a name that is not there was swapped: %v, %v", ok, err)
	}
}

func testHeads(t *testing.T, open func(*testing.T) store.Store) {
	st, ctx := open(t), t.Context()
	five := store.Head{Plane: "sidecar/orders", Instance: "a", Listen: "127.0.0.1:1", Seq: 5, Hash: [32]byte{5}, Seen: when()}
	cut := store.Head{Plane: "sidecar/orders", Instance: "b", Listen: "127.0.0.1:2", Seq: 3, Hash: [32]byte{3}, Seen: when().Add(time.Second)}
	forged := cut
	forged.Seq, forged.Hash = 5, [32]byte{66}
	kept := store.Head{Plane: "sidecar/orders", Instance: "b", Listen: "127.0.0.1:2", Seq: 5, Hash: [32]byte{5}, Seen: when().Add(time.Second)}
	for _, step := range []struct {
		name      string
		put, want store.Head
	}{
		{"first", five, five},
		{"went backwards", cut, kept},
		{"same number, other hash", forged, kept},
	} {
		got, err := st.PutHead(ctx, step.put)
		must(t, err)
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", step.name, diff)
		}
	}
	next := kept
	next.Seq, next.Hash = 6, [32]byte{6}
	_, err := st.PutHead(ctx, next)
	must(t, err)
	quiet := store.Head{Plane: "queue/events", Seen: when()}
	_, err = st.PutHead(ctx, quiet)
	must(t, err)
	all, err := st.Heads(ctx)
	must(t, err)
	if diff := cmp.Diff([]store.Head{quiet, next}, all); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
