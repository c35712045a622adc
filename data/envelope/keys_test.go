package envelope

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
)

// TestPeopleHaveKeysOfTheirOwn: a person's value opens with that person's key
// alone, and what the tenant's key sealed before stays readable.
func TestPeopleHaveKeysOfTheirOwn(t *testing.T) {
	keys := NewKeys(newSource().fetch, KeysOptions{})
	alice, bob := cell, cell
	alice.Subject, bob.Subject = "user:alice", "user:bob"
	before, err := Seal(t.Context(), keys, cell, []byte("before"))
	must(t, err)
	sealed, err := Seal(t.Context(), keys, alice, []byte("hers"))
	must(t, err)
	for name, tc := range map[string]struct {
		cell   Cell
		sealed []byte
		want   string
		err    error
	}{
		"her own":                    {alice, sealed, "hers", nil},
		"under another's name":       {bob, sealed, "", ErrTampered},
		"under nobody's":             {cell, sealed, "", ErrKey},
		"of before people had keys":  {alice, before, "before", nil},
		"of before, another person":  {bob, before, "before", nil}, // as it always was: the cell binds it to the row
		"of before, with nobody":     {cell, before, "before", nil},
		"of before, in another cell": {Cell{Tenant: "acme", Item: "customer", Subject: "user:alice"}, before, "", ErrTampered},
	} {
		got, err := Open(t.Context(), keys, tc.cell, tc.sealed)
		if string(got) != tc.want || !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestForget: what was shredded is not served once more, not even by a fetch that
// was under way.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		keys := NewKeys(src.fetch, KeysOptions{})
		person := Whose{Item: "customer", Tenant: "acme", Subject: "user:alice"}
		other := Whose{Item: "customer", Tenant: "globex"}
		for _, w := range []Whose{acme, person, other} {
			_, _, err := keys.Active(t.Context(), w)
			must(t, err)
		}
		src.delay = fetchTimeout / 2
		go keys.ByVersion(t.Context(), acme, 1)
		synctest.Wait()
		keys.Forget("customer", "acme")
		src.mu.Lock()
		src.err = rampart.Errorf(rampart.NotFound, "", "shredded")
		src.mu.Unlock()
		synctest.Wait()
		for _, w := range []Whose{acme, person} {
			if _, _, err := keys.Active(t.Context(), w); !errors.Is(err, ErrKey) {
				t.Errorf("%+v: %v", w, err)
			}
		}
		if _, err := keys.ByVersion(t.Context(), acme, 1); !errors.Is(err, ErrKey) {
			t.Errorf("what was being fetched: %v", err)
		}
		if _, _, err := keys.Active(t.Context(), other); err != nil {
			t.Errorf("another tenant: %v", err)
		}
		keys.ForgetAll()
		if _, _, err := keys.Active(t.Context(), other); !errors.Is(err, ErrKey) {
			t.Errorf("after all was forgotten: %v", err)
		}
	})
}

// TestMessagesAreReserved: blocks grow, what is left of one outlives the time for
// which a key is kept, and a new version has a block of its own.
func TestMessagesAreReserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		keys := NewKeys(src.fetch, KeysOptions{})
		seal := func(n int) {
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range n / 4 {
						if _, _, err := keys.Active(t.Context(), acme); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
		}
		want := func(when string, messages ...int64) {
			t.Helper()
			if !slices.Equal(src.messages, messages) {
				t.Errorf("%s: reserved %v, want %v", when, src.messages, messages)
			}
			src.messages = nil
		}
		seal(firstBlock)
		want("one block", firstBlock)
		seal(2 * firstBlock)
		want("the next", 2*firstBlock)
		seal(4)
		want("and one more", 4*firstBlock)
		time.Sleep(keys.opt.TTL)
		seal(4)
		want("with some left", 0)
		src.active = 2
		time.Sleep(keys.opt.TTL)
		seal(4)
		want("under a new version", 0, firstBlock)
		_, _, err := keys.Active(t.Context(), Whose{Item: "customer", Tenant: "acme", Subject: "user:alice"})
		must(t, err)
		want("of a person", 0)
	})
}

// TestBlocksEnd: one block is not more than may be reserved at once.
func TestBlocksEnd(t *testing.T) {
	c := NewKeys(newSource().fetch, KeysOptions{})
	old := &cached{block: agent.MaxMessages}
	old.spent.Store(true)
	c.mu.Lock()
	k := c.startLocked(context.Background(), keyName{Whose: acme}, old)
	c.mu.Unlock()
	if <-k.ready; k.block != agent.MaxMessages {
		t.Errorf("a block of %d", k.block)
	}
}

// BenchmarkEnvelope measures one column with the key at hand, beside the bare
// cipher with its key at hand, which knows no tenant, cell or version.
func BenchmarkEnvelope(b *testing.B) {
	keys := NewKeys(newSource().fetch, KeysOptions{})
	block, err := aes.NewCipher(keyOf("acme", "customer", 1))
	must(b, err)
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	must(b, err)
	aad := make([]byte, 50)
	for _, size := range []int{64, 1024} {
		plain := make([]byte, size)
		sealed, err := Seal(b.Context(), keys, cell, plain)
		must(b, err)
		bare := gcm.Seal(nil, nil, plain, aad)
		for name, f := range map[string]func() ([]byte, error){
			"seal":      func() ([]byte, error) { return Seal(b.Context(), keys, cell, plain) },
			"open":      func() ([]byte, error) { return Open(b.Context(), keys, cell, sealed) },
			"bare seal": func() ([]byte, error) { return gcm.Seal(nil, nil, plain, aad), nil },
			"bare open": func() ([]byte, error) { return gcm.Open(nil, nil, bare, aad) },
		} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := f(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
