package control

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
)

func fileKEK(t testing.TB) *embedded.FileKEK {
	t.Helper()
	k, err := embedded.OpenKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// farKEK is a key elsewhere: it has an id of its own and can be away.
type farKEK struct {
	secrets.KEK
	id    string
	away  bool
	asked int

	fails     error             // what it answers
	meanwhile func()            // happens while it is asked
	wrapped   map[string][]byte // by tenant
}

func (f *farKEK) KeyID() string { return f.id }

func (f *farKEK) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if f.asked++; f.away {
		return nil, rampart.Errorf(rampart.Unavailable, secretControl, "away")
	}
	if f.meanwhile != nil {
		f.meanwhile()
	}
	if f.fails != nil {
		return nil, f.fails
	}
	return f.KEK.Unwrap(ctx, wrapped, aad)
}

// try opens a tenant's key.
func (f *farKEK) try(ring *keyring, d store.DEK) ([]byte, error) {
	return ring.Unwrap(context.Background(), f.wrapped[d.Tenant], dekAAD(d))
}

func TestKeyringTakesAnySize(t *testing.T) {
	ring := newKeyring(time.Now, held{kek: fileKEK(t), prefix: filePrefix}, nil)
	for _, n := range []int{1, maxDirect, maxDirect + 1, 5000, 1 << 20} {
		plain := bytes.Repeat([]byte("x"), n)
		w, err := ring.Wrap(t.Context(), plain, []byte("aad"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ring.Unwrap(t.Context(), w, []byte("aad"))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %v", n, err)
		}
		for _, i := range []int{1, 2, 4, len(w) / 2, len(w) - 1} {
			m := bytes.Clone(w)
			m[i] ^= 1
			if _, err := ring.Unwrap(t.Context(), m, []byte("aad")); err == nil {
				t.Errorf("%d bytes: opens with byte %d changed", n, i)
			}
		}
		if _, err := ring.Unwrap(t.Context(), w, []byte("other")); err == nil {
			t.Errorf("%d bytes: opens as something else", n)
		}
	}
}

// What the key file wrapped before there was a keyring still opens, and moves.
func TestKeyringOpensWhatWasBefore(t *testing.T) {
	file := fileKEK(t)
	old, err := file.Wrap(t.Context(), []byte("dek"), []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	far := &farKEK{KEK: fileKEK(t), id: "aws:key"}
	for name, ring := range map[string]*keyring{
		"in the key file":   newKeyring(time.Now, held{kek: file, prefix: filePrefix}, nil),
		"while it moves on": newKeyring(time.Now, held{kek: far, prefix: "aws:key", remote: true}, &held{kek: file, prefix: filePrefix}),
	} {
		if got, err := ring.Unwrap(t.Context(), old, []byte("aad")); err != nil || string(got) != "dek" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		moved, err := ring.Rewrap(t.Context(), old, []byte("aad"))
		if err != nil || wrappedBy(moved) != ring.KeyID() {
			t.Fatalf("%s: under %s, %v", name, wrappedBy(moved), err)
		}
	}
	gone := newKeyring(time.Now, held{kek: far, prefix: "aws:key", remote: true}, nil)
	if _, err := gone.Unwrap(t.Context(), old, []byte("aad")); err == nil || !strings.Contains(err.Error(), "rampart kek rewrap") {
		t.Errorf("without the old key: %v", err)
	}
}

// A key elsewhere is asked once in five minutes. When it is away, what was opened
// within the hour opens, and nothing else.
func TestKeyringInAnOutage(t *testing.T) {
	now := time.Now()
	far := &farKEK{KEK: fileKEK(t), id: "vault:transit/rampart:v1"}
	ring := newKeyring(func() time.Time { return now }, held{kek: far, prefix: "vault:transit/rampart", remote: true}, nil)
	var wrapped [2][]byte
	for i := range wrapped {
		w, err := ring.Wrap(t.Context(), []byte{byte(i)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		wrapped[i] = w
	}
	opens := func(i int) bool {
		got, err := ring.Unwrap(t.Context(), wrapped[i], nil)
		if err != nil && rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("got %v", err)
		}
		return err == nil && got[0] == byte(i)
	}
	if !opens(0) || !opens(0) || far.asked != 1 {
		t.Errorf("asked %d times", far.asked)
	}
	far.away = true
	for _, step := range []struct {
		pass time.Duration
		want bool
	}{{time.Minute, true}, {58 * time.Minute, true}, {2 * time.Minute, false}} {
		now = now.Add(step.pass)
		if opens(0) != step.want || opens(1) {
			t.Errorf("after %v more: what was opened opens: %v", step.pass, !step.want)
		}
	}
	far.away = false
	if !opens(0) || !opens(1) {
		t.Error("it is back, and something does not open")
	}
}

// What was opened is not kept for longer than it may be served, nor past a
// shredding, nor past the word that the key was taken away.
func TestKeyringWipes(t *testing.T) {
	acme, globex := store.DEK{Item: "payment", Tenant: "acme", Version: 1}, store.DEK{Item: "payment", Tenant: "globex", Version: 1}
	refuse := func(k rampart.Kind) error { return rampart.Errorf(k, secretControl, "no") }
	for name, tc := range map[string]struct {
		then func(ring *keyring, far *farKEK, pass func(time.Duration))
		want int // of acme's and globex's keys
	}{
		"a while":       {func(ring *keyring, _ *farKEK, pass func(time.Duration)) { pass(59 * time.Minute); ring.sweep() }, 2},
		"an hour":       {func(ring *keyring, _ *farKEK, pass func(time.Duration)) { pass(time.Hour); ring.sweep() }, 0},
		"one is shred":  {func(ring *keyring, _ *farKEK, _ func(time.Duration)) { ring.forget(dekLabel("payment", "acme")) }, 1},
		"of a namesake": {func(ring *keyring, _ *farKEK, _ func(time.Duration)) { ring.forget(dekLabel("payment", "acm")) }, 2},
		"refused": {func(ring *keyring, far *farKEK, pass func(time.Duration)) {
			pass(6 * time.Minute)
			far.fails = refuse(rampart.Denied)
			far.try(ring, acme)
			far.fails = refuse(rampart.Unavailable)
			if got, err := far.try(ring, acme); err == nil {
				t.Errorf("what was refused is served in the next outage: %q", got)
			}
		}, 1},
		"shred while it is opened": {func(ring *keyring, far *farKEK, pass func(time.Duration)) {
			pass(6 * time.Minute)
			far.meanwhile = func() { ring.forget(dekLabel("payment", "acme")) }
			far.try(ring, acme)
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			far := &farKEK{KEK: fileKEK(t), id: "aws:key", wrapped: map[string][]byte{}}
			ring := newKeyring(func() time.Time { return now }, held{kek: far, prefix: "aws:key", remote: true}, nil)
			for _, d := range []store.DEK{acme, globex} {
				w, err := ring.Wrap(t.Context(), []byte(d.Tenant), dekAAD(d))
				if err != nil {
					t.Fatal(err)
				}
				far.wrapped[d.Tenant] = w
				if _, err := far.try(ring, d); err != nil {
					t.Fatal(err)
				}
			}
			tc.then(ring, far, func(d time.Duration) { now = now.Add(d) })
			if len(ring.opened) != tc.want {
				t.Errorf("%d keys are in memory, want %d", len(ring.opened), tc.want)
			}
		})
	}
}

func TestOneMoveAtATime(t *testing.T) {
	place := func(kind, key string) kekPlace {
		p := kekPlace{KEK: spec.KEK{Kind: kind, Key: key}}
		p.Prefix = p.key()
		return p
	}
	file, a, b := place("file", ""), place("aws", "a"), place("aws", "b")
	unknown := a
	unknown.Prefix = ""
	both := map[string]int{file.Prefix: 1, a.Prefix: 1}
	for name, c := range map[string]struct {
		known  kekWhere
		want   kekPlace
		under  map[string]int
		before string
		fails  bool
	}{
		"the first start":               {kekWhere{}, a, nil, "", false},
		"nothing changes":               {kekWhere{Current: file}, file, both, "", false},
		"to elsewhere":                  {kekWhere{Current: file}, a, both, "file", false},
		"still on the way":              {kekWhere{Current: a, Before: &file}, a, both, "file", false},
		"all has arrived":               {kekWhere{Current: a, Before: &file}, a, map[string]int{a.Prefix: 1}, "", false},
		"back":                          {kekWhere{Current: a, Before: &file}, file, both, a.key(), false},
		"back, and nothing had moved":   {kekWhere{Current: a, Before: &file}, file, map[string]int{file.Prefix: 1}, "", false},
		"on to a third from halfway":    {kekWhere{Current: a, Before: &file}, b, both, "", true},
		"to a third from the first":     {kekWhere{Current: a, Before: &file}, b, map[string]int{file.Prefix: 1}, "file", false},
		"to a third from the second":    {kekWhere{Current: a, Before: &file}, b, map[string]int{a.Prefix: 1}, a.key(), false},
		"what is under it is not known": {kekWhere{Current: unknown, Before: &file}, file, nil, a.key(), false},
	} {
		got, err := c.known.to(c.want, func(prefix string) (int, error) { return c.under[prefix], nil })
		before := ""
		if got.Before != nil {
			before = got.Before.key()
		}
		if (err != nil) != c.fails || !c.fails && (before != c.before || got.Current.key() != c.want.key()) {
			t.Errorf("%s: %v before %q, %v", name, got.Current.key(), before, err)
		}
	}
}

func FuzzKeyring(f *testing.F) {
	ring := newKeyring(time.Now, held{kek: fileKEK(f), prefix: filePrefix}, nil)
	for _, n := range []int{32, 100} {
		w, err := ring.Wrap(f.Context(), make([]byte, n), nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(w)
		f.Add(w[:len(w)/2])
	}
	f.Add([]byte{ringHead, 1, 255})
	f.Fuzz(func(t *testing.T, text []byte) {
		wrappedBy(text)
		ring.Unwrap(t.Context(), text, nil)
	})
}
