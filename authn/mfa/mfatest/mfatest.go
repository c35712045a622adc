// Package mfatest judges implementations of mfa.Store.
package mfatest

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rampart-security/rampart/authn/mfa"
)

// Test runs the contract of mfa.Store. Each call of open makes one empty store
// with accounts of these names and returns two handles on it, as two replicas
// hold them; they may be the same.
func Test(t *testing.T, open func(t *testing.T, names ...string) (a, b mfa.Store)) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC)
	key := mfa.Factor{
		ID: "key", Subject: "user:ann", Kind: mfa.KindPasskey, Label: "blue \"key\"", Credential: [32]byte{1},
		Data: []byte{0, 0xff}, Created: at, LastUsed: at.Add(time.Hour),
	}
	phone := mfa.Factor{ID: "phone", Subject: "user:ann", Kind: mfa.KindTOTP, Data: []byte("sealed"), Version: 3, Created: at.Add(-time.Hour)}
	bobs := mfa.Factor{ID: "bobs", Subject: "user:bob", Kind: mfa.KindRecovery, Data: []byte("sealed"), Created: at}
	fill := func(t *testing.T) (a, b mfa.Store) {
		a, b = open(t, "ann", "bob", "eve")
		for _, f := range []mfa.Factor{key, phone, bobs} {
			must(t, a.PutFactor(t.Context(), f))
		}
		return a, b
	}

	t.Run("factors come back as they were put, oldest first", func(t *testing.T) {
		_, b := fill(t)
		byID, err := b.Factor(t.Context(), key.ID)
		must(t, err)
		byCredential, err := b.FactorByCredential(t.Context(), key.Credential)
		must(t, err)
		anns, err := b.Factors(t.Context(), "user:ann")
		must(t, err)
		if diff := cmp.Diff([]any{key, key, []mfa.Factor{phone, key}}, []any{byID, byCredential, anns}); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
	t.Run("what is not there is ErrNotFound", func(t *testing.T) {
		_, b := fill(t)
		_, errID := b.Factor(t.Context(), "none")
		_, errCredential := b.FactorByCredential(t.Context(), [32]byte{9})
		_, errZero := b.FactorByCredential(t.Context(), [32]byte{}) // the credential of all that are no passkeys
		for _, err := range []error{errID, errCredential, errZero} {
			if !errors.Is(err, mfa.ErrNotFound) {
				t.Errorf("got %v, want mfa.ErrNotFound", err)
			}
		}
	})
	t.Run("ids and credentials are unique", func(t *testing.T) {
		a, _ := fill(t)
		again, taken := bobs, key
		again.Subject, taken.ID, taken.Subject = "user:eve", "eves", "user:eve"
		for name, f := range map[string]mfa.Factor{"an id": again, "a credential": taken} {
			if err := a.PutFactor(t.Context(), f); err == nil {
				t.Errorf("%s was stored twice", name)
			}
		}
	})
	t.Run("nobody has no factor", func(t *testing.T) {
		a, _ := fill(t)
		f := bobs
		f.ID, f.Subject = "next", "user:zoe"
		if err := a.PutFactor(t.Context(), f); !errors.Is(err, mfa.ErrNotFound) {
			t.Errorf("got %v, want mfa.ErrNotFound", err)
		}
	})
	t.Run("a factor changes from the version that was read, once", func(t *testing.T) {
		a, b := fill(t)
		next := phone
		next.Label, next.Data, next.LastUsed = "new", []byte("step 7"), at
		var wg sync.WaitGroup
		var won atomic.Int32
		for i := range 16 {
			wg.Go(func() {
				ok, err := []mfa.Store{a, b}[i%2].SwapFactor(t.Context(), next)
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
			t.Errorf("%d used the code, want 1", won.Load())
		}
		next.Version = phone.Version + 1
		got, err := b.Factor(t.Context(), phone.ID)
		must(t, err)
		if diff := cmp.Diff(next, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
	t.Run("a factor that is gone does not come back", func(t *testing.T) {
		a, b := fill(t)
		deleted(t, a, "user:ann", phone.ID, true)
		ok, err := b.SwapFactor(t.Context(), phone)
		must(t, err)
		if ok {
			t.Error("a deleted factor was changed")
		}
	})
	t.Run("one or all of a subject go, nobody else's", func(t *testing.T) {
		a, b := fill(t)
		deleted(t, a, "user:bob", key.ID, false)
		deleted(t, a, "user:ann", key.ID, true)
		deleted(t, b, "user:ann", key.ID, false)
		must(t, a.PutFactor(t.Context(), key)) // its credential is free again
		must(t, b.DeleteFactors(t.Context(), "user:ann"))
		for subject, want := range map[string]int{"user:ann": 0, "user:bob": 1} {
			got, err := a.Factors(t.Context(), subject)
			must(t, err)
			if len(got) != want {
				t.Errorf("%s has %d factors, want %d", subject, len(got), want)
			}
		}
	})
}

func deleted(t *testing.T, st mfa.Store, subject, id string, want bool) {
	t.Helper()
	got, err := st.DeleteFactor(t.Context(), subject, id)
	must(t, err)
	if got != want {
		t.Errorf("delete %s of %s: %v, want %v", id, subject, got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
