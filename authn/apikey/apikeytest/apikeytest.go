// Package apikeytest judges implementations of apikey.Store.
package apikeytest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rampart-security/rampart/authn/apikey"
)

// Test runs the contract of apikey.Store against empty stores made by open,
// which know a client of each name.
func Test(t *testing.T, open func(t *testing.T, clients ...string) apikey.Store) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 987654321, time.UTC)
	ann := apikey.Key{
		ID: "a1", Hash: [32]byte{1}, Client: "shop", Label: "till 4", Scopes: []string{"orders:read"}, IPs: []string{"192.0.2.0/24"},
		Created: at, Expires: at.Add(time.Hour), LastUsed: at.Add(time.Minute),
	}
	bob := apikey.Key{ID: "b1", Hash: [32]byte{2}, Client: "till", Created: at}
	fill := func(t *testing.T) apikey.Store {
		st := open(t, "shop", "till")
		must(t, st.PutAPIKey(t.Context(), ann))
		must(t, st.PutAPIKey(t.Context(), bob))
		return st
	}
	t.Run("a key comes back as it was put", func(t *testing.T) {
		st := fill(t)
		for _, want := range []apikey.Key{ann, bob} {
			got, err := st.APIKey(t.Context(), want.ID)
			must(t, err)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-put +got\n%s", diff)
			}
		}
	})
	t.Run("a client's are listed, newest first, disabled or not", func(t *testing.T) {
		st := fill(t)
		next := apikey.Key{ID: "a0", Hash: [32]byte{3}, Client: "shop", Created: at.Add(1), Disabled: true}
		must(t, st.PutAPIKey(t.Context(), next))
		got, err := st.APIKeys(t.Context(), "shop")
		must(t, err)
		if diff := cmp.Diff([]apikey.Key{next, ann}, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		none, err := st.APIKeys(t.Context(), "nobody")
		must(t, err)
		if len(none) != 0 {
			t.Errorf("a client that is none has %d keys", len(none))
		}
	})
	t.Run("touch moves last used", func(t *testing.T) {
		st := fill(t)
		must(t, st.TouchAPIKey(t.Context(), bob.ID, at.Add(time.Hour)))
		must(t, st.TouchAPIKey(t.Context(), bob.ID, at)) // a late writer does not move it back
		must(t, st.TouchAPIKey(t.Context(), "zz", at))
		want := bob
		want.LastUsed = at.Add(time.Hour)
		got, err := st.APIKey(t.Context(), bob.ID)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
	t.Run("ids are unique", func(t *testing.T) {
		if err := fill(t).PutAPIKey(t.Context(), ann); err == nil {
			t.Error("the same id was stored twice")
		}
	})
	t.Run("an unknown id is ErrNotFound", func(t *testing.T) {
		if _, err := fill(t).APIKey(t.Context(), "zz"); !errors.Is(err, apikey.ErrNotFound) {
			t.Errorf("got %v, want apikey.ErrNotFound", err)
		}
	})
	t.Run("disable one", func(t *testing.T) {
		st := fill(t)
		ok, err := st.DisableAPIKey(t.Context(), ann.ID)
		must(t, err)
		missing, err := st.DisableAPIKey(t.Context(), "zz")
		must(t, err)
		if !ok || missing {
			t.Errorf("disable reports %v for a key and %v for none", ok, missing)
		}
		wantDisabled(t, st, map[string]bool{ann.ID: true, bob.ID: false})
	})
	t.Run("a key expires once, at the earliest time that was said", func(t *testing.T) {
		st := fill(t)
		for _, after := range []time.Duration{2 * time.Hour, time.Hour, 3 * time.Hour} {
			ok, err := st.ExpireAPIKey(t.Context(), ann.ID, at.Add(after))
			must(t, err)
			if !ok {
				t.Error("expire reports that the key is not there")
			}
		}
		if missing, err := st.ExpireAPIKey(t.Context(), "zz", at); missing || err != nil {
			t.Errorf("expire of no key: %v, %v", missing, err)
		}
		want := ann
		want.Expires = at.Add(time.Hour)
		got, err := st.APIKey(t.Context(), ann.ID)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
	t.Run("disable a client's", func(t *testing.T) {
		st := fill(t)
		must(t, st.DisableAPIKeys(t.Context(), "till"))
		wantDisabled(t, st, map[string]bool{ann.ID: false, bob.ID: true})
	})
}

func wantDisabled(t *testing.T, st apikey.Store, want map[string]bool) {
	t.Helper()
	for id, off := range want {
		k, err := st.APIKey(t.Context(), id)
		must(t, err)
		if k.Disabled != off {
			t.Errorf("key %s: disabled is %v, want %v", id, k.Disabled, off)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
