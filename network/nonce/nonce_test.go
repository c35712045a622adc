package nonce

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
)

const born = 1_700_000_000

// at makes the n-th nonce stamped s seconds after the window was made.
func at(s, n int) string {
	var b [randomBytes]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	return fmt.Sprintf("%d.%s", born+s, base64.RawURLEncoding.EncodeToString(b[:]))
}

func TestCheck(t *testing.T) {
	now := int64(born)
	w := New(Options{Window: time.Minute, Now: func() time.Time { return time.Unix(now, 999) }, Max: 100})
	const fine = rampart.Kind(255)
	for i, tc := range []struct {
		now   int
		value string
		want  rampart.Kind
	}{
		{0, at(0, 1), rampart.Conflict}, // the second of birth: may have been used before a crash
		{0, at(-1, 2), rampart.Conflict},
		{1, at(1, 3), fine},
		{1, at(1, 3), rampart.Conflict},
		{2, at(1, 3), rampart.Conflict},
		{2, at(1, 4), fine},
		{2, at(2, 3), fine},               // another stamp is another nonce
		{2, at(2+30, 5), fine},            // a fast clock
		{2, at(2+31, 6), rampart.Invalid}, // too fast
		{61, at(1, 3), rampart.Conflict},  // remembered to the last second
		{61, at(1, 7), fine},
		{62, at(1, 3), rampart.Invalid}, // stale
		{62, at(1, 8), rampart.Invalid},
		{30, at(1, 3), rampart.Invalid}, // the clock steps back: not good again
		{92, at(32, 5), rampart.Conflict},
	} {
		now = born + int64(tc.now)
		err := w.Check("user:alice", tc.value)
		if tc.want == fine {
			if err != nil {
				t.Errorf("row %d: %v", i, err)
			}
			continue
		}
		e, ok := errors.AsType[*rampart.Error](err)
		if !ok || e.Kind != tc.want || e.Control != "nonce.window" {
			t.Errorf("row %d: got %v, want a refusal of kind %v", i, err, tc.want)
		}
	}
}

func TestOneSpelling(t *testing.T) {
	w := New(Options{Now: func() time.Time { return time.Unix(born, 0) }})
	good := at(1, 1)
	for _, value := range []string{
		"", ".", "1", good + "=", good + ".x", " " + good, "+" + good, "0" + good, "-" + good,
		good[:len(good)-1], good[:len(good)-1] + "B", // stray bits
		good[:len(good)-1] + "+", good[:len(good)-2] + "\nA", "9999999999999" + good[10:],
	} {
		if err := w.Check("user:alice", value); rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("%q: got %v, want invalid", value, err)
		}
	}
	if err := w.Check("user:alice", good); err != nil {
		t.Errorf("%q: %v", good, err)
	}
}

func TestFullRefusesAndRecovers(t *testing.T) {
	now := int64(born)
	w := New(Options{Window: time.Minute, Now: func() time.Time { return time.Unix(now, 0) }, Max: 10})
	for n := range 10 {
		if err := w.Check("user:alice", at(1, n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Check("user:alice", at(1, 11)); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("got %v, want unavailable", err)
	}
	if err := w.Check("user:alice", at(1, 5)); rampart.KindOf(err) != rampart.Conflict {
		t.Errorf("got %v, want conflict: a full window still remembers", err)
	}
	now += 62
	if err := w.Check("user:alice", at(62, 1)); err != nil {
		t.Errorf("after the window: %v", err)
	}
}

func TestNobodyUsesUpAnothersNonce(t *testing.T) {
	g := New(Options{Now: func() time.Time { return time.Unix(born, 0) }})
	for _, who := range []string{"user:mallory", "user:alice"} {
		if err := g.Check(who, at(1, 1)); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
	if rampart.KindOf(g.Check("user:alice", at(1, 1))) != rampart.Conflict {
		t.Error("a replay passed")
	}
}

// FuzzCheck: whatever is accepted once is refused the second time.
func FuzzCheck(f *testing.F) {
	f.Add(at(1, 1))
	f.Add("1700000001.AAAAAAAAAAAAAAAAAAAAAB")
	f.Add("..")
	f.Fuzz(func(t *testing.T, value string) {
		w := New(Options{Now: func() time.Time { return time.Unix(born, 0) }})
		if w.Check("user:alice", value) != nil {
			return
		}
		if rampart.KindOf(w.Check("user:alice", value)) != rampart.Conflict {
			t.Fatalf("%q accepted twice", value)
		}
	})
}

// TestParseAllocates: what refuses is made for who is refused.
func TestParseAllocates(t *testing.T) {
	value := at(1, 1)
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := parse(value); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkNonce(b *testing.B) {
	w := New(Options{Now: func() time.Time { return time.Unix(born, 0) }, Max: 1 << 16})
	values := make([]string, 1<<16)
	for i := range values {
		values[i] = at(1+i%20, i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		_ = w.Check("user:alice", values[i]) // a replay from the second round on: the same look-up
		i = (i + 1) % len(values)
	}
}
