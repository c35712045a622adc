package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/store"
)

func testEdgeStore(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	t.Run("values", func(t *testing.T) {
		a, b := both(t)
		testEdgeValues(t, a, b)
	})
	t.Run("locks", func(t *testing.T) {
		a, b := both(t)
		testEdgeLocks(t, a, b)
	})
	t.Run("sealed anew", func(t *testing.T) {
		a, b := both(t)
		testEdgeSwap(t, a, b)
	})
	t.Run("one of many gets a lock", func(t *testing.T) {
		a, b := both(t)
		var got atomic.Int32
		var wg sync.WaitGroup
		for i := range 16 {
			st := []store.Store{a, b}[i%2]
			wg.Go(func() {
				fence, err := st.LockEdge(t.Context(), "certificates/ca/shop", fmt.Sprint(i), when().Add(time.Minute), when())
				if err != nil {
					t.Error(err)
				}
				if fence != 0 {
					got.Add(1)
				}
			})
		}
		wg.Wait()
		if got.Load() != 1 {
			t.Errorf("%d hold the lock", got.Load())
		}
	})
}

func testEdgeValues(t *testing.T, a, b store.Store) {
	ctx := t.Context()
	for _, key := range []string{"c/shop/shop.crt", "c/shop/shop.key", "c/shop-b", "c/shop", "d"} {
		must(t, a.PutEdge(ctx, store.EdgeValue{Key: key, Sealed: []byte(key), Modified: when()}, 0, 5))
	}
	if err := b.PutEdge(ctx, store.EdgeValue{Key: "e", Sealed: []byte("x"), Modified: when()}, 0, 5); !errors.Is(err, store.ErrFull) {
		t.Errorf("a sixth of five: %v", err)
	}
	must(t, b.PutEdge(ctx, store.EdgeValue{Key: "d", Sealed: []byte("new"), Modified: when().Add(1)}, 0, 5))
	got, err := a.EdgeValue(ctx, "d")
	must(t, err)
	if diff := cmp.Diff(store.EdgeValue{Key: "d", Sealed: []byte("new"), Modified: when().Add(1)}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for prefix, want := range map[string][]string{
		"":       {"c/shop", "c/shop-b", "c/shop/shop.crt", "c/shop/shop.key", "d"},
		"c/shop": {"c/shop/shop.crt", "c/shop/shop.key"},
		"c/sho":  nil,
		"z":      nil,
	} {
		keys, err := b.EdgeKeys(ctx, prefix, 10)
		must(t, err)
		if diff := cmp.Diff(want, keys); diff != "" {
			t.Errorf("below %q: -want +got\n%s", prefix, diff)
		}
	}
	must(t, a.DeleteEdge(ctx, "c/shop", 0, when()))
	must(t, a.DeleteEdge(ctx, "c/shop", 0, when()))
	keys, err := b.EdgeKeys(ctx, "", 10)
	must(t, err)
	if diff := cmp.Diff([]string{"c/shop-b", "d"}, keys); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for _, key := range []string{"c/shop", "", "a\x00", "\xff"} {
		if _, err := b.EdgeValue(ctx, key); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%q: %v, want store.ErrNotFound", key, err)
		}
	}
}

// testEdgeSwap: what is sealed anew replaces what was read alone, whoever has the
// lock, and looks no newer.
func testEdgeSwap(t *testing.T, a, b store.Store) {
	ctx, key := t.Context(), "c/shop/shop.key"
	must(t, a.PutEdge(ctx, store.EdgeValue{Key: key, Sealed: []byte("one"), Modified: when()}, 0, 9))
	if _, err := b.LockEdge(ctx, "c/shop", "gone", when().Add(time.Minute), when()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, key, old, to string
		want               bool
	}{
		{"as it was read", key, "one", "two", true},
		{"another has stored since", key, "one", "three", false},
		{"it was deleted", "c/shop/none", "one", "three", false},
	} {
		if got, err := a.SwapEdge(ctx, tc.key, []byte(tc.old), []byte(tc.to)); err != nil || got != tc.want {
			t.Errorf("%s: swapped %v, %v", tc.name, got, err)
		}
	}
	got, err := b.EdgeValue(ctx, key)
	must(t, err)
	if diff := cmp.Diff(store.EdgeValue{Key: key, Sealed: []byte("two"), Modified: when()}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if _, err := b.EdgeValue(ctx, "c/shop/none"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a deleted value is back: %v", err)
	}
}

func testEdgeLocks(t *testing.T, a, b store.Store) {
	ctx, key := t.Context(), "c/shop"
	lock := func(st store.Store, owner string, at time.Time) uint64 {
		t.Helper()
		fence, err := st.LockEdge(ctx, key, owner, at.Add(time.Minute), at)
		must(t, err)
		return fence
	}
	put := func(st store.Store, key string, fence uint64, at time.Time) error {
		return st.PutEdge(ctx, store.EdgeValue{Key: key, Sealed: []byte("x"), Modified: at}, fence, 9)
	}
	first := lock(a, "one", when())
	if got := lock(b, "two", when().Add(59*time.Second)); first == 0 || got != 0 {
		t.Errorf("two holders: fences %d and %d", first, got)
	}
	if got := lock(a, "one", when().Add(time.Second)); got != first {
		t.Errorf("extended: fence %d, was %d", got, first)
	}
	must(t, put(a, "c/shop/shop.key", first, when()))
	if err := put(b, "c/shop/shop.key", 0, when()); !errors.Is(err, store.ErrFenced) {
		t.Errorf("written past a holder without a fence: %v", err)
	}
	must(t, put(b, "c/shopping", 0, when()))
	late := when().Add(2 * time.Minute)
	second := lock(b, "two", late) // the first slept past its lease
	if second <= first {
		t.Errorf("fence %d after %d", second, first)
	}
	for name, err := range map[string]error{
		"store":  put(a, "c/shop/shop.key", first, late),
		"delete": a.DeleteEdge(ctx, "c/shop/shop.key", first, late),
	} {
		if !errors.Is(err, store.ErrFenced) {
			t.Errorf("%s with an old fence: %v", name, err)
		}
	}
	must(t, a.UnlockEdge(ctx, key, "one")) // lost, so nothing to give back
	if got := lock(a, "one", late); got != 0 {
		t.Error("the lock of another was given back")
	}
	must(t, b.UnlockEdge(ctx, key, "two"))
	if err := put(a, "c/shop/shop.key", first, late); !errors.Is(err, store.ErrFenced) {
		t.Errorf("an old fence counts again after the newer lock ended: %v", err)
	}
	must(t, put(a, "c/shop/shop.json", 0, late)) // nobody holds it
	if third := lock(a, "one", late.Add(-time.Hour)); third <= second {
		t.Errorf("fence %d after %d by a clock that went back", third, second)
	}
}
