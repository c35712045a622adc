package storetest

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets/rotate"
	"github.com/rampart-security/rampart/store"
)

func testRotations(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	a, b := both(t)
	if _, err := a.Rotation(t.Context(), "store:db"); rampart.KindOf(err) != rampart.NotFound {
		t.Errorf("an unknown rotation: %v, want not found", err)
	}
	s := rotate.State{
		Name: "store:db", Step: rotate.Create, Current: "app_a", Next: "app_b", Version: 3, Since: when(), Due: when().Add(time.Hour),
		Error: "it's \"broken\"", Failures: 2, Holder: "control/a", Until: when().Add(time.Minute),
	}
	for i, want := range []bool{true, false} {
		if ok, err := a.AddRotation(t.Context(), s); err != nil || ok != want {
			t.Errorf("add %d: %v, %v", i, ok, err)
		}
	}
	got, err := b.Rotation(t.Context(), s.Name)
	must(t, err)
	s.Rev = got.Rev
	if d := cmp.Diff(s, got); d != "" || got.Rev == 0 {
		t.Errorf("revision %d: %s", got.Rev, d)
	}
	oneMoves(t, a, b, s)
	uses(t, a, b)
}

// oneMoves: of many who read one row, one moves it.
func oneMoves(t *testing.T, a, b store.Store, s rotate.State) {
	t.Helper()
	s.Step = rotate.Test
	var wg sync.WaitGroup
	won := make(chan bool, 8)
	for i := range cap(won) {
		wg.Go(func() {
			ok, err := []store.Store{a, b}[i%2].SwapRotation(t.Context(), s)
			if err != nil {
				t.Error(err)
			}
			won <- ok
		})
	}
	wg.Wait()
	winners := 0
	for range cap(won) {
		if <-won {
			winners++
		}
	}
	list, err := b.Rotations(t.Context())
	must(t, err)
	if winners != 1 || len(list) != 1 || list[0].Rev != s.Rev+1 || list[0].Step != rotate.Test {
		t.Errorf("%d moved the row, which is %+v", winners, list)
	}
}

// uses: the newest word of a plane counts, in whatever order words arrive.
func uses(t *testing.T, a, b store.Store) {
	t.Helper()
	for _, u := range []rotate.Use{
		{Name: "store:db", Plane: "sidecar/orders", Version: 4, Seen: when().Add(time.Second)},
		{Name: "store:db", Plane: "sidecar/orders", Version: 3, Seen: when()},
		{Name: "store:db", Plane: "sidecar/mail", Version: 0, Seen: when()},
		{Name: "store:other", Plane: "sidecar/mail", Version: 9, Seen: when()},
	} {
		must(t, a.PutRotationUse(t.Context(), u))
	}
	got, err := b.RotationUses(t.Context(), "store:db")
	must(t, err)
	want := []rotate.Use{
		{Name: "store:db", Plane: "sidecar/mail", Version: 0, Seen: when()},
		{Name: "store:db", Plane: "sidecar/orders", Version: 4, Seen: when().Add(time.Second)},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
