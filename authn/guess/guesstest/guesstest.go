// Package guesstest judges implementations of guess.Store.
package guesstest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rampart-security/rampart/authn/guess"
)

// Test runs the contract of guess.Store. Each call of open makes one empty
// store and returns two handles on it, as two replicas hold them; they may be
// the same.
func Test(t *testing.T, open func(t *testing.T) (a, b guess.Store)) {
	at := time.Now().UTC().Truncate(time.Hour).Add(2*time.Hour + 123456789) // a store's own clock may forget what is past Updated
	ann, bob, net := guess.Key{1}, guess.Key{2}, guess.Key{3}
	one := guess.State{Count: 1, Since: at, Updated: at}
	two := guess.State{Count: 2, Since: at, Until: at.Add(time.Second), Updated: at.Add(1)}

	t.Run("a key never seen has the zero state, in its place", func(t *testing.T) {
		a, b := open(t)
		swap(t, a, true, guess.Change{Key: ann, To: one})
		want(t, b, []guess.Key{bob, ann, net}, guess.State{}, one, guess.State{})
		want(t, b, nil)
	})
	t.Run("a change needs the state it comes from", func(t *testing.T) {
		a, b := open(t)
		swap(t, a, false, guess.Change{Key: ann, From: one, To: two})
		swap(t, a, true, guess.Change{Key: ann, To: one})
		swap(t, b, false, guess.Change{Key: ann, To: two})
		for _, from := range []guess.State{
			{Count: 2, Since: one.Since, Updated: one.Updated},
			{Count: 1, Since: one.Since.Add(1), Updated: one.Updated},
			{Count: 1, Since: one.Since, Until: at, Updated: one.Updated},
			{Count: 1, Since: one.Since, Updated: one.Updated.Add(1)}, // a nanosecond is a difference
		} {
			swap(t, b, false, guess.Change{Key: ann, From: from, To: two})
		}
		swap(t, b, true, guess.Change{Key: ann, From: one, To: two})
		want(t, a, []guess.Key{ann}, two)
		swap(t, a, true, guess.Change{Key: ann, From: two})
		want(t, b, []guess.Key{ann}, guess.State{})
		swap(t, b, true, guess.Change{Key: ann, To: one}) // and can be seen for the first time again
	})
	t.Run("all changes are made, or none", func(t *testing.T) {
		a, b := open(t)
		swap(t, a, true, guess.Change{Key: net, To: two})
		swap(t, b, false, guess.Change{Key: ann, To: one}, guess.Change{Key: net, To: one}, guess.Change{Key: bob, To: one})
		want(t, a, []guess.Key{ann, bob, net}, guess.State{}, guess.State{}, two)
		swap(t, b, true, guess.Change{Key: bob, To: one}, guess.Change{Key: net, From: two}, guess.Change{Key: ann, To: one})
		want(t, a, []guess.Key{ann, bob, net}, one, one, guess.State{})
		swap(t, a, true)
	})
	t.Run("no try at once is lost, whatever the order of its keys", func(t *testing.T) {
		a, b := open(t)
		var wg sync.WaitGroup
		const tries = 16
		for i := range tries {
			keys := []guess.Key{ann, net}
			if i%4 < 2 {
				keys = []guess.Key{net, ann}
			}
			wg.Go(func() { count(t, []guess.Store{a, b}[i%2], keys, at) })
		}
		wg.Wait()
		got, err := b.Tries(t.Context(), []guess.Key{ann, net})
		must(t, err)
		if got[0].Count != tries || got[1].Count != tries {
			t.Errorf("counted %d and %d, want %d", got[0].Count, got[1].Count, tries)
		}
	})
	t.Run("of many first tries at once, one is the first", func(t *testing.T) {
		a, b := open(t)
		var wg sync.WaitGroup
		var won atomic.Int32
		for i := range 16 {
			wg.Go(func() {
				ok, err := []guess.Store{a, b}[i%2].SwapTries(t.Context(), []guess.Change{{Key: ann, To: one}})
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
			t.Errorf("%d were first", won.Load())
		}
	})
	t.Run("sweep forgets nothing that matters", func(t *testing.T) {
		a, b := open(t)
		swap(t, a, true, guess.Change{Key: ann, To: one}, guess.Change{Key: bob, To: two})
		must(t, b.SweepTries(t.Context(), one.Updated))
		want(t, a, []guess.Key{ann, bob}, one, two)
	})
}

// count adds one to each key, again until nobody was faster.
func count(t *testing.T, st guess.Store, keys []guess.Key, at time.Time) {
	for range 1000 {
		states, err := st.Tries(t.Context(), keys)
		if err != nil {
			t.Error(err)
			return
		}
		var changes []guess.Change
		for i, key := range keys {
			to := states[i]
			to.Count, to.Since, to.Updated = to.Count+1, at, at.Add(time.Duration(to.Count))
			changes = append(changes, guess.Change{Key: key, From: states[i], To: to})
		}
		ok, err := st.SwapTries(t.Context(), changes)
		if err != nil {
			t.Error(err)
			return
		}
		if ok {
			return
		}
	}
	t.Error("never the fastest in 1000 rounds")
}

func swap(t *testing.T, st guess.Store, want bool, changes ...guess.Change) {
	t.Helper()
	got, err := st.SwapTries(t.Context(), changes)
	must(t, err)
	if got != want {
		t.Errorf("swap %+v is %v, want %v", changes, got, want)
	}
}

func want(t *testing.T, st guess.Store, keys []guess.Key, want ...guess.State) {
	t.Helper()
	got, err := st.Tries(t.Context(), keys)
	must(t, err)
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
