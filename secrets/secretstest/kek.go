package secretstest

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// maxDEK is what a KEK never wraps: no data key has as many bytes, and the
// narrowest of the services takes no more.
const maxDEK = 4096

// Key is a key encryption key in the hands of its suite. KEK is needed. What
// else is nil cannot be done: the suite says so and goes on.
type Key struct {
	KEK   secrets.KEK
	Other secrets.KEK // another key of the same place

	Rotate      func(t *testing.T) // gives KEK a new version
	Unversioned bool               // KeyID does not tell versions apart: the place does not

	Down func(down bool) // the key cannot be asked, or can be again
}

// KEK runs the suite. It calls new for each part: keys share nothing.
func KEK(t *testing.T, new func(t *testing.T) Key) {
	for name, part := range map[string]func(*testing.T, Key){
		"what is wrapped opens":           roundTrip,
		"it opens where it belongs":       bound,
		"what was changed does not open":  mutants,
		"another key does not open it":    otherKey,
		"the id is stable and shows none": keyID,
		"sizes are bounded":               kekSizes,
		"many may ask at once":            kekConcurrent,
		"old versions open":               rotated,
		"an outage is unavailable":        kekOutage,
	} {
		t.Run(name, func(t *testing.T) { part(t, new(t)) })
	}
}

// dek returns n bytes that a dump would show.
func dek(n int) []byte { return []byte(strings.Repeat(canary, n/len(canary)+1))[:n] }

func wrap(t *testing.T, k secrets.KEK, key, aad []byte) []byte {
	t.Helper()
	w, err := k.Wrap(t.Context(), key, aad)
	if err != nil {
		t.Fatalf("wrap: %v", err)
	}
	if bytes.Contains(w, []byte(canary)) {
		t.Fatal("what is wrapped shows the key")
	}
	return w
}

func opens(t *testing.T, k secrets.KEK, wrapped, aad, want []byte) {
	t.Helper()
	got, err := k.Unwrap(t.Context(), wrapped, aad)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, the right ones: %v, error %v", len(got), bytes.Equal(got, want), err)
	}
}

// closed demands that wrapped does not open, that asking again is said to be
// in vain, and that the error shows no key.
func closed(t *testing.T, k secrets.KEK, wrapped, aad []byte) {
	t.Helper()
	got, err := k.Unwrap(t.Context(), wrapped, aad)
	if err == nil || len(got) > 0 || rampart.KindOf(err) != rampart.Internal {
		t.Errorf("got %d bytes and error %v of kind %v, want kind internal", len(got), err, rampart.KindOf(err))
	}
	quiet(t, err)
}

func roundTrip(t *testing.T, k Key) {
	for _, n := range []int{1, 16, 32, 64} {
		key, aad := dek(n), []byte("tenant|class|1")
		one, two := wrap(t, k.KEK, key, aad), wrap(t, k.KEK, key, aad)
		if !bytes.Equal(key, dek(n)) || string(aad) != "tenant|class|1" {
			t.Error("wrapping changed what it was given")
		}
		if bytes.Equal(one, two) {
			t.Error("who sees two wrapped keys sees that they are the same")
		}
		opens(t, k.KEK, one, aad, key)
		opens(t, k.KEK, two, aad, key)
	}
	opens(t, k.KEK, wrap(t, k.KEK, dek(32), nil), nil, dek(32))
}

func bound(t *testing.T, k Key) {
	wrapped := wrap(t, k.KEK, dek(32), []byte("a|bc"))
	for _, aad := range []string{"", "a|b", "a|bcd", "ab|c", "a|bC", strings.Repeat("a", 1000)} {
		closed(t, k.KEK, wrapped, []byte(aad))
	}
	closed(t, k.KEK, wrap(t, k.KEK, dek(32), nil), []byte("a"))
}

func mutants(t *testing.T, k Key) {
	aad := []byte("aad")
	wrapped := wrap(t, k.KEK, dek(32), aad)
	for _, i := range []int{0, len(wrapped) / 2, len(wrapped) - 6} {
		m := bytes.Clone(wrapped)
		m[i] ^= 1
		closed(t, k.KEK, m, aad)
	}
	for _, m := range [][]byte{nil, {}, {0}, {1}, wrapped[:len(wrapped)/2], wrapped[1:], append(bytes.Clone(wrapped), wrapped...), make([]byte, 1<<20), dek(32)} {
		closed(t, k.KEK, m, aad)
	}
}

func otherKey(t *testing.T, k Key) {
	if k.Other == nil {
		t.Skip("there is no other key")
	}
	closed(t, k.Other, wrap(t, k.KEK, dek(32), nil), nil)
	if k.Other.KeyID() == k.KEK.KeyID() {
		t.Errorf("two keys have the id %s", k.KEK.KeyID())
	}
}

func keyID(t *testing.T, k Key) {
	wrap(t, k.KEK, dek(32), nil) // some learn the version by it
	id := k.KEK.KeyID()
	wrap(t, k.KEK, dek(32), []byte("other"))
	if id == "" || len(id) > 512 || k.KEK.KeyID() != id {
		t.Errorf("the id is %.600q, then %.600q", id, k.KEK.KeyID())
	}
	if text := fmt.Sprintf("%s %+v", id, k.KEK); strings.Contains(text, "canary") {
		t.Error("the key shows what it wrapped")
	}
}

func kekSizes(t *testing.T, k Key) {
	for _, n := range []int{0, maxDEK + 1, 1 << 20} {
		w, err := k.KEK.Wrap(t.Context(), dek(n), nil)
		if err == nil || len(w) > 0 || rampart.KindOf(err) != rampart.Internal {
			t.Errorf("%d bytes: got %d and error of kind %v, want internal", n, len(w), rampart.KindOf(err))
		}
		quiet(t, err)
	}
}

func kekConcurrent(t *testing.T, k Key) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			key, aad := fmt.Appendf(dek(30), "%02d", i), fmt.Append(nil, i)
			w, err := k.KEK.Wrap(t.Context(), key, aad)
			if err != nil {
				t.Errorf("wrap: %v", err)
				return
			}
			opens(t, k.KEK, w, aad, key)
		})
	}
	wg.Wait()
}

func rotated(t *testing.T, k Key) {
	if k.Rotate == nil {
		t.Skip("this key has one version for ever")
	}
	key, aad := dek(32), []byte("tenant|class|1")
	old := wrap(t, k.KEK, key, aad)
	id := k.KEK.KeyID()
	k.Rotate(t)
	newer := wrap(t, k.KEK, key, aad)
	if !k.Unversioned && k.KEK.KeyID() == id {
		t.Errorf("the id is %s still", id)
	}
	opens(t, k.KEK, newer, aad, key)
	opens(t, k.KEK, old, aad, key)
	r, ok := k.KEK.(secrets.Rewrapper)
	if !ok {
		return
	}
	moved, err := r.Rewrap(t.Context(), old, aad)
	if err != nil || bytes.Equal(moved, old) {
		t.Fatalf("rewrap: %v, or nothing changed", err)
	}
	opens(t, k.KEK, moved, aad, key)
	closed(t, k.KEK, moved, []byte("other"))
	if m, err := r.Rewrap(t.Context(), old, []byte("other")); err == nil {
		t.Error("rewrap took another aad")
		closed(t, k.KEK, m, []byte("other"))
	}
}

func kekOutage(t *testing.T, k Key) {
	if k.Down == nil {
		t.Skip("this key is never away")
	}
	wrapped := wrap(t, k.KEK, dek(32), nil)
	k.Down(true)
	if _, err := k.KEK.Wrap(t.Context(), dek(32), nil); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("wrap: %v", err)
	}
	if _, err := k.KEK.Unwrap(t.Context(), wrapped, nil); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("unwrap: %v", err)
	}
	k.Down(false)
	opens(t, k.KEK, wrapped, nil, dek(32))
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.KEK.Unwrap(over, wrapped, nil); err != nil && rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("who hangs up gets %v", err)
	}
}
