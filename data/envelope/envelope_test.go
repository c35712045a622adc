package envelope

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// source gives each tenant, item and version a key of its own.
type source struct {
	mu     sync.Mutex
	active uint32
	err    error
	delay  time.Duration
	calls  []string

	messages []int64
}

func (s *source) fetch(ctx context.Context, q Query) ([]byte, uint32, error) {
	s.mu.Lock()
	s.calls = append(s.calls, fmt.Sprintf("%s %s %d", q.Tenant+q.Subject, q.Item, q.Version))
	s.messages = append(s.messages, q.Messages)
	version := q.Version
	if version == 0 {
		version = s.active
		if q.Subject != "" {
			version |= agent.SubjectKey
		}
	}
	err, delay := s.err, s.delay
	s.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	if err != nil {
		return nil, 0, err
	}
	return keyOf(q.Tenant+q.Subject, q.Item, version), version, nil
}

func keyOf(tenant, item string, version uint32) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %d", tenant, item, version))
	return sum[:]
}

func newSource() *source { return &source{active: 1} }

var cell = Cell{Tenant: "acme", Item: "customer", Table: "orders", Column: "email", Row: "018f"}

var (
	ab   = Whose{Tenant: "a", Item: "b"}
	acme = Whose{Tenant: "acme", Item: "customer"}
)

func TestRoundTrip(t *testing.T) {
	src := newSource()
	keys := NewKeys(src.fetch, KeysOptions{})
	for _, n := range []int{0, 1, 100, MaxPlaintext} {
		plain := bytes.Repeat([]byte("x"), n)
		sealed, err := Seal(t.Context(), keys, cell, plain)
		must(t, err)
		if len(sealed) != n+Overhead || n > 8 && bytes.Contains(sealed, plain[:8]) {
			t.Errorf("%d bytes became %d", n, len(sealed))
		}
		got, err := Open(t.Context(), keys, cell, sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %v", n, err)
		}
		again, err := Seal(t.Context(), keys, cell, plain)
		if err != nil || bytes.Equal(sealed, again) {
			t.Error("equal values look equal in the database")
		}
	}
	if _, err := Seal(t.Context(), keys, cell, make([]byte, MaxPlaintext+1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("got %v", err)
	}
}

func TestOldVersionsOpenAfterRekey(t *testing.T) {
	src := newSource()
	first, err := Seal(t.Context(), NewKeys(src.fetch, KeysOptions{}), cell, []byte("old"))
	must(t, err)
	src.active = 2
	keys := NewKeys(src.fetch, KeysOptions{})
	second, err := Seal(t.Context(), keys, cell, []byte("new"))
	must(t, err)
	if v := binary.BigEndian.Uint32(second[1:5]); v != 2 {
		t.Errorf("sealed with version %d", v)
	}
	for want, sealed := range map[string][]byte{"old": first, "new": second} {
		if got, err := Open(t.Context(), keys, cell, sealed); err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// Tink reads our bytes, with associated data that this test puts together by
// itself: the format is what the package says it is.
func TestTinkOpensOurBytes(t *testing.T) {
	sealed, err := Seal(t.Context(), NewKeys(newSource().fetch, KeysOptions{}), cell, []byte("ada@example.org"))
	must(t, err)
	aad := []byte{1, 0, 0, 0, 1}
	for _, s := range []string{"acme", "customer", "orders", "email", "018f"} {
		aad = append(aad, 0, 0, 0, byte(len(s)))
		aad = append(aad, s...)
	}
	tink, err := subtle.NewAESGCM(keyOf("acme", "customer", 1))
	must(t, err)
	got, err := tink.Decrypt(sealed[5:], aad)
	if err != nil || string(got) != "ada@example.org" || !bytes.Equal(sealed[:5], aad[:5]) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestMovedValuesDoNotOpen(t *testing.T) {
	keys := NewKeys(newSource().fetch, KeysOptions{})
	sealed, err := Seal(t.Context(), keys, cell, []byte("v"))
	must(t, err)
	other := map[string]func(c *Cell){
		"tenant":                    func(c *Cell) { c.Tenant = "evil" },
		"data item":                 func(c *Cell) { c.Item = "card" },
		"table":                     func(c *Cell) { c.Table = "users" },
		"column":                    func(c *Cell) { c.Column = "phone" },
		"row":                       func(c *Cell) { c.Row = "018e" },
		"table and column shifted":  func(c *Cell) { c.Table, c.Column = "order", "semail" },
		"column and row shifted":    func(c *Cell) { c.Column, c.Row = "email0", "18f" },
		"column and row exchanged":  func(c *Cell) { c.Column, c.Row = c.Row, c.Column },
		"everything in one field":   func(c *Cell) { c.Table, c.Column, c.Row = "ordersemail018f", "", "" },
		"tenant and item exchanged": func(c *Cell) { c.Tenant, c.Item = c.Item, c.Tenant },
	}
	for name, move := range other {
		c := cell
		move(&c)
		if got, err := Open(t.Context(), keys, c, sealed); !errors.Is(err, ErrTampered) || got != nil {
			t.Errorf("%s: opened as %q, %v", name, got, err)
		}
	}
}

// oneKey gives every tenant and item the same key: the binding must hold by
// the associated data alone.
func oneKey(context.Context, Query) ([]byte, uint32, error) {
	return make([]byte, keySize), 1, nil
}

func TestBindingHoldsUnderOneKey(t *testing.T) {
	keys := NewKeys(oneKey, KeysOptions{})
	sealed, err := Seal(t.Context(), keys, cell, []byte("v"))
	must(t, err)
	for _, c := range []Cell{
		{Tenant: "acm", Item: "ecustomer", Table: "orders", Column: "email", Row: "018f"},
		{Tenant: "evil", Item: "customer", Table: "orders", Column: "email", Row: "018f"}, {},
	} {
		if _, err := Open(t.Context(), keys, c, sealed); !errors.Is(err, ErrTampered) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Whatever is wrong, the caller reads one sentence; the operator reads why.
func TestOneMessageForEveryFailure(t *testing.T) {
	src := newSource()
	sealed, err := Seal(t.Context(), NewKeys(src.fetch, KeysOptions{}), cell, []byte("v"))
	must(t, err)
	flip := func(i int) []byte { b := bytes.Clone(sealed); b[i] ^= 1; return b }
	down := rampart.Errorf(rampart.Unavailable, "", "control plane is down")
	tests := []struct {
		name   string
		sealed []byte
		fetch  error
		cause  error
		kind   rampart.Kind
	}{
		{"nothing", nil, nil, ErrFormat, rampart.Internal},
		{"plaintext", []byte("ada@example.org, who lives next door"), nil, ErrFormat, rampart.Internal},
		{"short", sealed[:Overhead-1], nil, ErrFormat, rampart.Internal},
		{"too long", append([]byte{1}, make([]byte, MaxPlaintext+Overhead)...), nil, ErrFormat, rampart.Internal},
		{"format byte", flip(0), nil, ErrFormat, rampart.Internal},
		{"version", flip(3), nil, ErrTampered, rampart.Internal},
		{"version 0", flip(4), nil, ErrKey, rampart.Internal},
		{"nonce", flip(5), nil, ErrTampered, rampart.Internal},
		{"ciphertext", flip(17), nil, ErrTampered, rampart.Internal},
		{"tag", flip(len(sealed) - 1), nil, ErrTampered, rampart.Internal},
		{"cut", sealed[:len(sealed)-1], nil, ErrTampered, rampart.Internal},
		{"longer", append(bytes.Clone(sealed), 0), nil, ErrTampered, rampart.Internal},
		{"shredded", sealed, ErrKey, ErrKey, rampart.Internal},
		{"no answer", sealed, down, down, rampart.Unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := newSource()
			src.err = tt.fetch
			_, err := Open(t.Context(), NewKeys(src.fetch, KeysOptions{}), cell, tt.sealed)
			e, ok := errors.AsType[*rampart.Error](err)
			if !ok || e.Msg != "protected value is not available" || e.Control != control || e.Kind != tt.kind || !errors.Is(err, tt.cause) {
				t.Errorf("got %#v", err)
			}
		})
	}
	src.err = down
	if _, err := Seal(t.Context(), NewKeys(src.fetch, KeysOptions{}), cell, nil); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("Seal without a key: %v", err)
	}
}

func TestKeysAreCheckedAndWiped(t *testing.T) {
	var given []byte
	tests := []struct {
		name    string
		key     []byte
		version uint32
		ok      bool
	}{
		{"good", keyOf("a", "b", 7), 7, true},
		{"short key", make([]byte, 16), 7, false},
		{"no key", nil, 7, false},
		{"another version", keyOf("a", "b", 8), 8, false},
		{"version 0", keyOf("a", "b", 0), 0, false},
	}
	for _, tt := range tests {
		keys := NewKeys(func(context.Context, Query) ([]byte, uint32, error) {
			given = tt.key
			return tt.key, tt.version, nil
		}, KeysOptions{})
		if _, err := keys.ByVersion(t.Context(), ab, 7); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if !bytes.Equal(given, make([]byte, len(given))) {
			t.Errorf("%s: the key was not wiped", tt.name)
		}
	}
	keys := NewKeys(newSource().fetch, KeysOptions{})
	if _, err := keys.ByVersion(t.Context(), ab, 0); !errors.Is(err, ErrKey) {
		t.Errorf("version 0: %v", err)
	}
}

func TestKeysAreFetchedOnceAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.delay = time.Second
		keys := NewKeys(src.fetch, KeysOptions{})
		hurry, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, _, err := keys.Active(hurry, acme); rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("who hangs up gets %v", err)
		}
		for range 50 {
			go func() {
				if v, aead, err := keys.Active(t.Context(), acme); err != nil || v != 1 || aead == nil {
					t.Errorf("%d, %v", v, err)
				}
			}()
		}
		time.Sleep(defaultTTL)
		get := func() error { _, _, err := keys.Active(t.Context(), acme); return err }
		must(t, get())
		src.delay = 0
		time.Sleep(2 * time.Second)
		src.err = errors.New("shredded")
		if get() == nil || get() == nil {
			t.Error("a key outlived its time")
		}
		src.err = nil
		must(t, get())
		if n := len(src.calls); n != 4 {
			t.Errorf("%d fetches: %v", n, src.calls)
		}
	})
}

func TestKeysDoNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.delay = time.Hour
		start := time.Now()
		_, err := NewKeys(src.fetch, KeysOptions{}).ByVersion(t.Context(), ab, 1)
		if rampart.KindOf(err) != rampart.Unavailable || time.Since(start) != fetchTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestKeysAreBounded(t *testing.T) {
	src := newSource()
	keys := NewKeys(src.fetch, KeysOptions{Entries: 3})
	for i := range 20 {
		for _, tenant := range []string{"kept", fmt.Sprint(i)} {
			_, err := keys.ByVersion(t.Context(), Whose{Tenant: tenant, Item: "b"}, 1)
			must(t, err)
		}
	}
	if n := len(keys.byKey); n != 3 {
		t.Errorf("%d keys", n)
	}
	if i := slices.Index(src.calls[1:], "kept b 1"); i >= 0 {
		t.Error("the key in use was forgotten")
	}
}

func TestNilFetchPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	NewKeys(nil, KeysOptions{})
}

func TestMAC(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	h := hmac.New(sha256.New, key)
	h.Write([]byte("\x00\x00\x00\x02ab\x00\x00\x00\x00\x00\x00\x00\x01c"))
	if got := MAC(key, []byte("ab"), nil, []byte("c")); !hmac.Equal(got, h.Sum(nil)) {
		t.Errorf("got %x", got)
	}
	seen := make(map[string]string)
	for name, fields := range map[string][][]byte{
		"ab c": {[]byte("ab"), []byte("c")}, "a bc": {[]byte("a"), []byte("bc")}, "abc": {[]byte("abc")}, "abc and empty": {[]byte("abc"), nil},
		"none": {}, "one empty": {nil}, "looks like a length": {[]byte("\x00\x00\x00\x01a")}, "the field itself": {[]byte("a")},
	} {
		mac := hex.EncodeToString(MAC(key, fields...))
		if twin, ok := seen[mac]; ok {
			t.Errorf("%q and %q have one MAC", name, twin)
		}
		seen[mac] = name
	}
}

func TestDeriveKey(t *testing.T) {
	dek := make([]byte, keySize)
	a, err := DeriveKey(dek, "row_mac")
	must(t, err)
	b, err := DeriveKey(dek, "blind_index")
	must(t, err)
	again, err := DeriveKey(dek, "row_mac")
	must(t, err)
	if len(a) != keySize || bytes.Equal(a, b) || !bytes.Equal(a, again) || bytes.Equal(a, dek) {
		t.Errorf("%x %x %x", a, b, again)
	}
	if _, err := DeriveKey(dek[:16], "row_mac"); err == nil {
		t.Error("a short key was accepted")
	}
}

// FuzzOpen: nothing but what was sealed opens, and every failure reads alike.
func FuzzOpen(f *testing.F) {
	keys := NewKeys(oneKey, KeysOptions{})
	sealed, err := Seal(f.Context(), keys, cell, []byte("value"))
	must(f, err)
	f.Add(sealed)
	f.Add(sealed[:Overhead])
	f.Add([]byte{1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Open(t.Context(), keys, cell, data)
		if err == nil {
			if string(got) != "value" || len(data) != Overhead+len(got) { // each fuzzing process seals its own seed
				t.Errorf("%x opened as %q", data, got)
			}
			return
		}
		if e, ok := errors.AsType[*rampart.Error](err); !ok || e.Msg != "protected value is not available" || got != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// BenchmarkMAC measures a row of six columns.
func BenchmarkMAC(b *testing.B) {
	key, field := make([]byte, keySize), []byte("018f0000-0000-7000-8000-000000000000")
	b.ReportAllocs()
	for b.Loop() {
		MAC(key, field, field, field, field, field, field)
	}
}
