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
}

func (f *farKEK) KeyID() string { return f.id }

func (f *farKEK) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if f.asked++; f.away {
		return nil, rampart.Errorf(rampart.Unavailable, secretControl, "away")
	}
	return f.KEK.Unwrap(ctx, wrapped, aad)
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

func TestOneMoveAtATime(t *testing.T) {
	place := func(kind, key string) kekPlace { return kekPlace{KEK: spec.KEK{Kind: kind, Key: key}} }
	file, a, b := place("file", ""), place("aws", "a"), place("aws", "b")
	for name, c := range map[string]struct {
		known  kekWhere
		want   kekPlace
		before string
		fails  bool
	}{
		"nothing changes":            {kekWhere{Current: file}, file, "", false},
		"to elsewhere":               {kekWhere{Current: file}, a, "file", false},
		"still on the way":           {kekWhere{Current: a, Before: &file}, a, "file", false},
		"back":                       {kekWhere{Current: a, Before: &file}, file, a.key(), false},
		"on to a third from halfway": {kekWhere{Current: a, Before: &file}, b, "", true},
	} {
		got, err := c.known.move(c.want)
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
