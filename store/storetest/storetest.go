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
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/authn/session/sessiontest"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/token"
	"github.com/rampart-security/rampart/token/tokentest"
)

// Test runs every contract against empty stores made by open.
func Test(t *testing.T, open func(t *testing.T) store.Store) {
	with := func(t *testing.T, clients ...token.Client) store.Store {
		st := open(t)
		for _, c := range clients {
			must(t, st.PutClient(t.Context(), c))
		}
		return st
	}
	t.Run("sessions", func(t *testing.T) {
		sessiontest.Test(t, func(t *testing.T) session.Store { return open(t) })
	})
	t.Run("api keys", func(t *testing.T) {
		apikeytest.Test(t, func(t *testing.T, names ...string) apikey.Store {
			var clients []token.Client
			for _, n := range names {
				clients = append(clients, token.Client{ID: n, Principal: "merchant"})
			}
			return with(t, clients...)
		})
	})
	t.Run("tokens", func(t *testing.T) {
		tokentest.Test(t, func(t *testing.T, clients ...token.Client) token.Store { return with(t, clients...) })
	})
	t.Run("secrets", func(t *testing.T) { testSecrets(t, open) })
	t.Run("accounts", func(t *testing.T) { testAccounts(t, open) })
	t.Run("logins", func(t *testing.T) { testLogins(t, open) })
	t.Run("join tokens", func(t *testing.T) { testJoinTokens(t, open) })
	t.Run("keys", func(t *testing.T) { testKeys(t, open) })
	t.Run("heads", func(t *testing.T) { testHeads(t, open) })
}

func when() time.Time { return time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC) }

func testSecrets(t *testing.T, open func(*testing.T) store.Store) {
	st, ctx := open(t), t.Context()
	sealed := make([]byte, 64)
	must(t, st.PutSecret(ctx, "a/b", 1, sealed, when()))
	sealed[0] = 1
	must(t, st.PutSecret(ctx, "a/b", 2, sealed, when()))
	for _, version := range []int{1, 2, 4} {
		if err := st.PutSecret(ctx, "a/b", version, sealed, when()); rampart.KindOf(err) != rampart.Conflict {
			t.Errorf("version %d after 2: %v, want a conflict", version, err)
		}
	}
	version, got, err := st.GetSecret(ctx, "a/b")
	must(t, err)
	if version != 2 || got[0] != 1 {
		t.Errorf("newest is %d %x, want 2 01...", version, got[:1])
	}
	if _, _, err := st.GetSecret(ctx, "none"); rampart.KindOf(err) != rampart.NotFound {
		t.Errorf("unknown path: %v, want not found", err)
	}
	list, err := st.ListSecrets(ctx)
	must(t, err)
	if diff := cmp.Diff([]embedded.Meta{{Path: "a/b", Version: 2, Created: when()}}, list); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func testAccounts(t *testing.T, open func(*testing.T) store.Store) {
	st, ctx := open(t), t.Context()
	ann := store.User{
		Name: "ann", Hash: "$argon2id$x", Tag: "verify", Changed: when(),
		Facts: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Tenant: "acme", Organizations: []string{"acme", "globex"}, Roles: []string{"admin"}, Team: "red", ManagedTeams: []string{"blue"}},
	}
	must(t, st.PutUser(ctx, store.User{Name: "bob", Hash: "$argon2id$y", Changed: when()}))
	must(t, st.PutUser(ctx, store.User{Name: "ann", Hash: "$argon2id$old", Changed: when()}))
	must(t, st.PutUser(ctx, ann)) // replaces
	got, err := st.User(ctx, "ann")
	must(t, err)
	if diff := cmp.Diff(ann, got); diff != "" {
		t.Errorf("-put +got\n%s", diff)
	}
	if _, err := st.User(ctx, "eve"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown user: %v, want store.ErrNotFound", err)
	}
	if err := st.PutUser(ctx, store.User{Name: "eve", Hash: "secret", Changed: when()}); err == nil {
		t.Error("a password was stored in the clear")
	}
	all, err := st.Users(ctx)
	must(t, err)
	if len(all) != 2 || all[0].Name != "ann" || all[1].Name != "bob" {
		t.Errorf("users are %+v, want ann and bob", all)
	}
}

func testLogins(t *testing.T, open func(*testing.T) store.Store) {
	st, ctx := open(t), t.Context()
	for _, name := range []string{"ann", "bob"} {
		must(t, st.PutUser(ctx, store.User{Name: name, Hash: "$argon2id$x", Changed: when()}))
	}
	want := func(name, address string, since time.Time, want bool) {
		t.Helper()
		got, err := st.LoggedIn(ctx, name, address, since)
		must(t, err)
		if got != want {
			t.Errorf("%s at %s since %s: %t", name, address, since, got)
		}
	}
	must(t, st.PutLogin(ctx, "ann", "home", when()))
	must(t, st.PutLogin(ctx, "ann", "home", when().Add(-time.Hour))) // a clock that stepped back
	want("ann", "home", when(), true)
	want("ann", "home", when().Add(1), false)
	want("ann", "office", when(), false)
	want("bob", "home", when(), false)

	must(t, st.PutLogin(ctx, "bob", "home", when().Add(-time.Hour)))
	for i := range store.MaxLogins {
		must(t, st.PutLogin(ctx, "ann", fmt.Sprint("hotel ", i), when().Add(time.Duration(i+1)*time.Minute)))
	}
	want("ann", "home", time.Unix(1, 0), false)
	want("ann", "hotel 0", when(), true)
	want("bob", "home", time.Unix(1, 0), true) // another's travels push nobody out

	must(t, st.SweepLogins(ctx, when()))
	want("bob", "home", time.Unix(1, 0), false)
	want("ann", "hotel 0", when(), true)
}

func testJoinTokens(t *testing.T, open func(*testing.T) store.Store) {
	st, ctx, now := open(t), t.Context(), when()
	must(t, st.PutJoinToken(ctx, [32]byte{1}, "service/orders", now.Add(time.Minute)))
	must(t, st.PutJoinToken(ctx, [32]byte{2}, "service/old", now))
	var wg sync.WaitGroup
	var won atomic.Int32
	for range 8 {
		wg.Go(func() {
			id, err := st.UseJoinToken(ctx, [32]byte{1}, now)
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

func testKeys(t *testing.T, open func(*testing.T) store.Store) {
	st, ctx := open(t), t.Context()
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

	one := store.DEK{Item: "payment", Tenant: "acme", Version: 1, KEK: "k1", Wrapped: make([]byte, 61), Created: when()}
	two := one
	two.Version = 2
	for _, d := range []store.DEK{one, two} {
		must(t, st.PutDEK(ctx, d))
	}
	if err := st.PutDEK(ctx, two); !errors.Is(err, store.ErrExists) {
		t.Errorf("second put: %v, want store.ErrExists", err)
	}
	for version, want := range map[uint32]store.DEK{0: two, 1: one, 2: two} {
		got, err := st.DEK(ctx, "payment", "acme", version)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("version %d: -want +got\n%s", version, diff)
		}
	}
	if _, err := st.DEK(ctx, "payment", "globex", 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another tenant: %v, want store.ErrNotFound", err)
	}

	for _, value := range []string{"pay.example", "shop.example"} {
		got, err := st.PinMeta(ctx, "trust_domain", value)
		must(t, err)
		if got != "pay.example" {
			t.Errorf("pinned %q, want the first value", got)
		}
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
