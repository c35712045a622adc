// Package tokentest judges implementations of token.Store.
package tokentest

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/token"
)

// Test runs the contract of token.Store. Each call of open makes one store that
// holds nothing but the given clients, and returns two handles on it, as two
// replicas hold them; they may be the same.
func Test(t *testing.T, open func(t *testing.T, clients ...token.Client) (a, b token.Store)) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC)
	shop := token.Client{
		ID: "shop", Principal: "merchant", Name: "The shop", Redirects: []string{"https://a.example/cb", "https://b.example/cb"}, Auth: "private_key_jwt", Roles: []string{"customer"}, Orgs: []string{"acme"},
		Keys: []byte(`{"keys":[]}`), Grants: []string{"client_credentials"}, Scopes: []string{"orders:read"}, DPoP: true, Disabled: true, Tag: "verify",
	}
	code := token.Code{
		Hash: [32]byte{7}, Client: "shop", Redirect: "https://a.example/cb", Challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
		Subject: "user:ann", SID: "s1", AuthTime: at, ACR: "aal2", AMR: []string{"pwd", "otp"}, Scope: []string{"orders:read"}, OpenID: true, Nonce: "n", JKT: "thumb",
		Expires: at.Add(time.Minute),
	}
	family := func(id, sid, sub string) token.Family {
		return token.Family{
			ID: id, Rotated: at, Client: "shop", Subject: sub, SID: sid, AuthTime: at, ACR: "aal1", AMR: []string{"pwd"}, Scope: []string{}, OpenID: true, JKT: "thumb",
			Expires: at.Add(time.Hour), Absolute: at.Add(2 * time.Hour),
		}
	}
	both := func(t *testing.T) [2]token.Store {
		a, b := open(t, shop)
		must(t, a.PutCode(t.Context(), code))
		return [2]token.Store{a, b}
	}
	fill := func(t *testing.T) token.Store { return both(t)[0] }
	addFamily := func(t *testing.T, st token.Store, n byte, f token.Family) {
		c := code
		c.Hash = [32]byte{n}
		must(t, st.PutCode(t.Context(), c))
		must(t, st.UseCode(t.Context(), c.Hash, f))
	}

	t.Run("clients and codes come back as they were put", func(t *testing.T) {
		st := fill(t)
		gotClient, err := st.Client(t.Context(), "shop")
		must(t, err)
		gotCode, err := st.Code(t.Context(), code.Hash)
		must(t, err)
		if diff := cmp.Diff([]any{shop, code}, []any{gotClient, gotCode}); diff != "" {
			t.Errorf("-put +got\n%s", diff)
		}
	})
	t.Run("what is not there is ErrNotFound", func(t *testing.T) {
		st := fill(t)
		_, errClient := st.Client(t.Context(), "nobody")
		_, errCode := st.Code(t.Context(), [32]byte{9})
		_, errFamily := st.Family(t.Context(), "none")
		for _, err := range []error{errClient, errCode, errFamily} {
			if !errors.Is(err, token.ErrNotFound) {
				t.Errorf("got %v, want token.ErrNotFound", err)
			}
		}
	})
	t.Run("of many that use a code at once, one wins", func(t *testing.T) {
		st := both(t)
		var wg sync.WaitGroup
		var won atomic.Int32
		for i := range 8 {
			wg.Go(func() {
				err := st[i%2].UseCode(t.Context(), code.Hash, family(string(rune('a'+i)), "s1", "user:ann"))
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, token.ErrUsed) {
					t.Errorf("got %v, want token.ErrUsed", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d used the code, want 1", won.Load())
		}
		used, err := st[0].Code(t.Context(), code.Hash)
		must(t, err)
		if _, err := st[1].Family(t.Context(), used.Family); err != nil {
			t.Errorf("family %q of the code: %v", used.Family, err)
		}
	})
	t.Run("a family comes back as it was put, and rotates by compare and swap", func(t *testing.T) {
		st := both(t)
		want := family("f", "s1", "user:ann")
		must(t, st[0].UseCode(t.Context(), code.Hash, want))
		var wg sync.WaitGroup
		var won atomic.Int32
		later := at.Add(time.Minute)
		for i := range 8 {
			wg.Go(func() {
				ok, err := st[i%2].RotateFamily(t.Context(), "f", 0, later, at.Add(9*time.Hour))
				if err != nil {
					t.Error(err)
				}
				if ok {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d rotated generation 0, want 1", won.Load())
		}
		want.Generation, want.Rotated, want.Expires = 1, later, want.Absolute // the idle bound never passes the absolute one
		got, err := st[1].Family(t.Context(), "f")
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
	for _, tc := range []struct {
		kind, id string
		want     []string
	}{
		{"family", "f1", []string{"f1"}},
		{"sid", "s1", []string{"f1", "f2"}},
		{"sub", "user:bob", []string{"f3"}},
		{"client", "shop", []string{"f1", "f2", "f3"}},
	} {
		t.Run("families end by "+tc.kind, func(t *testing.T) {
			st, _ := open(t, shop)
			addFamily(t, st, 1, family("f1", "s1", "user:ann"))
			addFamily(t, st, 2, family("f2", "s1", "user:ann"))
			addFamily(t, st, 3, family("f3", "s2", "user:bob"))
			ended, err := st.RevokeFamilies(t.Context(), tc.kind, tc.id)
			must(t, err)
			again, err := st.RevokeFamilies(t.Context(), tc.kind, tc.id)
			must(t, err)
			if len(ended) != len(tc.want) || len(again) != 0 {
				t.Errorf("ended %v, then %v; want %v, then none", ended, again, tc.want)
			}
			for _, id := range tc.want {
				ok, err := st.RotateFamily(t.Context(), id, 0, at, at)
				must(t, err)
				if ok {
					t.Errorf("family %s rotated after its end", id)
				}
			}
		})
	}
	t.Run("a subject's live families are listed, newest first", func(t *testing.T) {
		st := fill(t)
		newest := family("f0", "s2", "user:ann")
		newest.AuthTime = at.Add(1)
		addFamily(t, st, 1, family("f1", "s1", "user:ann"))
		addFamily(t, st, 2, newest)
		addFamily(t, st, 3, family("f3", "s1", "user:ann"))
		addFamily(t, st, 4, family("f4", "s1", "user:bob"))
		_, err := st.RevokeFamilies(t.Context(), "family", "f3")
		must(t, err)
		got, err := st.Families(t.Context(), "user:ann")
		must(t, err)
		if diff := cmp.Diff([]token.Family{newest, family("f1", "s1", "user:ann")}, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
	testRevocations(t, at, both)
	t.Run("sweep forgets what has expired, no more", func(t *testing.T) {
		st := fill(t)
		must(t, st.UseCode(t.Context(), code.Hash, family("f", "s1", "user:ann")))
		must(t, st.SweepTokens(t.Context(), at.Add(2*time.Minute)))
		if _, err := st.Code(t.Context(), code.Hash); !errors.Is(err, token.ErrNotFound) {
			t.Errorf("an expired code: %v, want token.ErrNotFound", err)
		}
		if _, err := st.Family(t.Context(), "f"); err != nil {
			t.Errorf("a live family: %v", err)
		}
	})
}

func testRevocations(t *testing.T, at time.Time, both func(t *testing.T) [2]token.Store) {
	t.Run("revocations become visible in their order", func(t *testing.T) {
		st := both(t)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				v, err := st[i%2].PutRevocation(t.Context(), wire.Revocation{Kind: "jti", ID: "x", NotBefore: at, Expires: at.Add(time.Hour)})
				if err != nil {
					t.Error(err)
					return
				}
				seen, err := st[(i+1)%2].Revocations(t.Context(), at)
				if err != nil {
					t.Error(err)
				}
				for n, r := range seen {
					if r.Seq != seen[0].Seq+uint64(n) {
						t.Errorf("number %d follows %d", r.Seq, seen[n-1].Seq)
					}
				}
				if len(seen) == 0 || seen[len(seen)-1].Seq < v.Seq {
					t.Errorf("number %d is stored and cannot be seen", v.Seq)
				}
			})
		}
		wg.Wait()
	})
	t.Run("revocations keep order and expire", func(t *testing.T) {
		st := both(t)[0]
		for i, kind := range []string{"sid", "sub", "jti"} {
			v, err := st.PutRevocation(t.Context(), wire.Revocation{Kind: kind, ID: "x", NotBefore: at, Expires: at.Add(time.Duration(i+1) * time.Hour)})
			must(t, err)
			if v.Seq == 0 {
				t.Error("a revocation has no seq")
			}
		}
		got, err := st.Revocations(t.Context(), at.Add(90*time.Minute))
		must(t, err)
		if len(got) != 2 || got[0].Kind != "sub" || got[1].Kind != "jti" || got[0].Seq >= got[1].Seq || !got[0].NotBefore.Equal(at) {
			t.Errorf("got %+v, want sub and jti in order", got)
		}
		after, err := st.RevocationsAfter(t.Context(), got[0].Seq, at.Add(90*time.Minute))
		must(t, err)
		if diff := cmp.Diff(got[1:], after); diff != "" {
			t.Errorf("after the first: -want +got\n%s", diff)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
