package profile

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// TestTurns: networks that wait take turns, whoever came first of each; who gives
// up is passed over and takes no turn along.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::")
		turns := newTurns(1)
		if err := turns.enter(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		var got []string
		wait := func(ctx context.Context, name string, at netip.Addr) {
			go func() {
				if err := turns.enter(ctx, at); err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				got = append(got, name) // one turn, so nobody else does
				turns.leave()
			}()
			synctest.Wait()
		}
		tired, giveUp := context.WithCancel(t.Context())
		wait(t.Context(), "a1", a)
		wait(t.Context(), "a2", a)
		wait(tired, "a3", a)
		wait(t.Context(), "a4", a)
		wait(t.Context(), "b1", b)
		wait(tired, "b2", b)
		wait(t.Context(), "c1", c)
		wait(t.Context(), "c2", c)
		giveUp()
		synctest.Wait()
		turns.leave()
		synctest.Wait()
		if diff := cmp.Diff([]string{"a1", "b1", "c1", "a2", "c2", "a4"}, got); diff != "" {
			t.Error(diff)
		}
		if turns.free != 1 || len(turns.queues) != 0 || turns.order.Len() != 0 {
			t.Errorf("%d free, %d networks wait", turns.free, len(turns.queues))
		}
	})
}

// TestTurnThatComesTooLate: a turn that is granted to one who has given up goes to
// the next.
func TestTurnThatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := netip.MustParseAddr("192.0.2.1")
		turns := newTurns(1)
		turns.enter(t.Context(), a)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- turns.enter(ctx, a) }()
		synctest.Wait()
		turns.mu.Lock() // it wakes up for both reasons, and may take either
		turns.passLocked()
		cancel()
		turns.mu.Unlock()
		if <-done == nil {
			turns.leave()
		}
		if turns.free != 1 {
			t.Errorf("%d free, want 1", turns.free)
		}
	})
}
