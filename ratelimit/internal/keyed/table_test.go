package keyed

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

// TestSlotIsOneLine: what a limiter remembers of a key is one line of memory.
func TestSlotIsOneLine(t *testing.T) {
	if n := reflect.TypeFor[slot[[11]byte, Wheel]]().Size(); n != 64 {
		t.Errorf("%d bytes", n)
	}
}

// Some hashes, from one that spreads to one that has all keys begin at the last slot.
var hashes = map[string]func(int) uint64{
	"spread":             func(k int) uint64 { return uint64(k) * 0x9e3779b97f4a7c15 },
	"few homes":          func(k int) uint64 { return uint64(k%5) << 61 },
	"all at the end":     func(int) uint64 { return 0xffffffffffffffc0 },
	"two ends, one lock": func(k int) uint64 { return -uint64(k&1) &^ (shards - 1) },
}

// TestTableIsAMap plays random calls at a table and at a map, which forgets what
// the table says has gone. They must agree on every key, whatever was moved about,
// and the table must stay within its bounds.
func TestTableIsAMap(t *testing.T) {
	for name, hash := range hashes {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(40) {
				rng := rand.New(rand.NewPCG(seed, 1))
				newTwin(t, hash, 1+rng.IntN(20)).play(t, rng, 2_000)
			}
		})
	}
}

// twin is a table beside the map that says what must be in it. An entry is how
// often its key was locked; one of a number that 7 divides never goes.
type twin struct {
	table *Table[int, int]
	want  map[int]int
	each  int // keys of a shard
	gone  int
}

func newTwin(t *testing.T, hash func(int) uint64, each int) *twin {
	w := &twin{want: map[int]int{}, each: each}
	w.table = New(Options[int, int]{Keys: each * shards, Hash: hash, Worth: worth, Gone: func(k int, e *int) {
		if *e%7 == 0 {
			t.Errorf("key %d is gone, which never goes", k)
		}
		delete(w.want, k)
		w.gone++
	}})
	return w
}

func worth(e *int, _ int64) Worth {
	switch {
	case *e%7 == 0:
		return Never
	case *e%7 > 3:
		return Some
	}
	return Free
}

func (w *twin) play(t *testing.T, rng *rand.Rand, n int) {
	t.Helper()
	for range n {
		k := rng.IntN(4 * w.each)
		if rng.IntN(3) == 0 {
			w.peek(t, k)
			continue
		}
		w.lock(t, k)
	}
	w.whole(t)
	if w.gone == 0 && len(w.want) >= w.each && w.table.opt.Hash(0)%shards == w.table.opt.Hash(1)%shards {
		t.Error("nothing gave way")
	}
}

func (w *twin) peek(t *testing.T, k int) {
	t.Helper()
	s, e := w.table.Peek(k, 0)
	defer s.Unlock()
	n, ok := w.want[k]
	if (e != nil) != ok || ok && *e != n {
		t.Fatalf("key %d: %v, want %d, %v", k, e, n, ok)
	}
}

func (w *twin) lock(t *testing.T, k int) {
	t.Helper()
	s, e := w.table.Lock(k, 0)
	defer s.Unlock()
	n, ok := w.want[k]
	switch {
	case e == nil && ok:
		t.Fatalf("key %d was forgotten", k)
	case e == nil:
		return // all others must stay
	case *e != n:
		t.Fatalf("key %d: %d, want %d", k, *e, n)
	}
	*e++
	w.want[k] = *e
}

// whole compares all keys.
func (w *twin) whole(t *testing.T) {
	t.Helper()
	got := map[int]int{}
	w.table.Each(func(k int, e *int) { got[k] = *e })
	if !reflect.DeepEqual(got, w.want) || w.table.Len() != len(got) {
		t.Fatalf("%d keys: %v, want %v", w.table.Len(), got, w.want)
	}
	for i := range w.table.shards {
		s := &w.table.shards[i]
		if s.used > w.each || len(s.slots) > max(fewest, w.each+w.each/2+1) {
			t.Fatalf("%d keys in %d slots, want at most %d", s.used, len(s.slots), w.each)
		}
	}
}
