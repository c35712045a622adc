// Package keyed is what limiters remember of a key: a table whose size is
// bounded, and a wheel of counters.
package keyed

import (
	"math/bits"
	"sync"
)

const shards = 64

// DefaultKeys is how many keys a Table remembers unless told otherwise.
const DefaultKeys = 1 << 16

// Worth is what would be lost with an entry.
type Worth uint8

// Worths, from what goes first to what never does.
const (
	Free  Worth = iota // nothing: it may go at once
	Some               // goes when it was not used since the search came by last
	Never              // stays: forgetting it would forgive somebody
)

// Options of a Table. Hash and Worth are required.
type Options[K comparable, E any] struct {
	Keys  int                         // remembered at most; if 0, DefaultKeys; rounded up to a multiple of 64
	Hash  func(K) uint64              // seeded: keys are strangers' to choose
	Worth func(e *E, now int64) Worth // of an entry at a time
	Pause int64                       // no second search for room within that time after one in vain: a flood of new keys must not buy a search each
	Gone  func(k K, e *E)             // if not nil, told of an entry that gives way, under the shard's lock
}

// Table holds an E per key, at most as many as it was made for. When it is full
// a key that was not used lately gives way (the clock algorithm). Safe for
// concurrent use.
//
// A key and its entry lie side by side, in the slot where the key's hash points or
// in one of the next (open addressing). Among a million keys each line of memory
// that is not where the last request was costs as much as the rest of a verdict: so
// one place is looked at, not an index and then what it points to.
type Table[K comparable, E any] struct {
	opt    Options[K, E]
	shards [shards]Shard[K, E]
}

// Shard is one lock's worth of keys.
type Shard[K comparable, E any] struct {
	mu      sync.Mutex
	now     int64 // newest time that was heard of
	slots   []slot[K, E]
	used    int // slots with a key, at most two of three
	cap     int // keys at most
	hand    int
	again   int64 // no search for room before
	crowded bool  // again counts
}

// slot is of 64 bytes, one line of memory, for a key of 11 bytes with a Wheel.
type slot[K comparable, E any] struct {
	key   K
	state state
	entry E
}

// state of a slot. The zero state is that of an empty one.
type state uint8

const (
	empty state = iota
	kept        // has a key
	seen        // and it was used since the hand last passed
)

const fewest = 8 // slots of a shard that has a key

// New returns an empty Table.
func New[K comparable, E any](opt Options[K, E]) *Table[K, E] {
	if opt.Keys <= 0 {
		opt.Keys = DefaultKeys
	}
	t := &Table[K, E]{opt: opt}
	for i := range t.shards {
		t.shards[i].cap = (opt.Keys + shards - 1) / shards
	}
	return t
}

// Lock finds or makes the entry of key and returns it with its shard, which is
// locked: the caller unlocks it, and holds the entry no longer. A new entry is the
// zero E. The entry is nil when there is no room. The time only grows: the Shard's
// Now counts.
func (t *Table[K, E]) Lock(key K, now int64) (*Shard[K, E], *E) {
	h := t.opt.Hash(key)
	s := t.enter(h, now)
	if i, ok := s.find(key, h); ok {
		s.slots[i].state = seen
		return s, &s.slots[i].entry
	}
	if !t.room(s) {
		return s, nil
	}
	v := s.put(slot[K, E]{key: key, state: seen}, h)
	return s, &v.entry
}

// Peek is Lock for a key that is not to be made.
func (t *Table[K, E]) Peek(key K, now int64) (*Shard[K, E], *E) {
	h := t.opt.Hash(key)
	s := t.enter(h, now)
	if i, ok := s.find(key, h); ok {
		return s, &s.slots[i].entry
	}
	return s, nil
}

// enter locks the shard of the keys with such a hash.
func (t *Table[K, E]) enter(h uint64, now int64) *Shard[K, E] {
	s := &t.shards[h%shards]
	s.mu.Lock()
	s.now = max(s.now, now)
	return s
}

// Unlock ends what Lock and Peek began.
func (s *Shard[K, E]) Unlock() { s.mu.Unlock() }

// Now is the newest time that the Shard has heard of.
func (s *Shard[K, E]) Now() int64 { return s.now }

// Each calls f for every entry, shard by shard, under the shard's lock.
func (t *Table[K, E]) Each(f func(k K, e *E)) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for j := range s.slots {
			if v := &s.slots[j]; v.state != empty {
				f(v.key, &v.entry)
			}
		}
		s.mu.Unlock()
	}
}

// Len returns how many keys are remembered.
func (t *Table[K, E]) Len() int {
	n := 0
	for i := range t.shards {
		t.shards[i].mu.Lock()
		n += t.shards[i].used
		t.shards[i].mu.Unlock()
	}
	return n
}

// home is where the search for a key with hash h begins. The shard was chosen by
// the lowest bits, this by the highest.
func (s *Shard[K, E]) home(h uint64) int {
	hi, _ := bits.Mul64(h, uint64(len(s.slots)))
	return int(hi)
}

func (s *Shard[K, E]) after(i int) int {
	if i++; i < len(s.slots) {
		return i
	}
	return 0
}

// find returns the slot of key. The search ends: a third of the slots is empty.
func (s *Shard[K, E]) find(key K, h uint64) (int, bool) {
	if s.used == 0 {
		return 0, false
	}
	for i := s.home(h); s.slots[i].state != empty; i = s.after(i) {
		if s.slots[i].key == key {
			return i, true
		}
	}
	return 0, false
}

// put adds a slot whose key is not among them, for which there is room.
func (s *Shard[K, E]) put(v slot[K, E], h uint64) *slot[K, E] {
	i := s.home(h)
	for s.slots[i].state != empty {
		i = s.after(i)
	}
	s.slots[i] = v
	s.used++
	return &s.slots[i]
}

// room sees to it that there is room for a new key.
func (t *Table[K, E]) room(s *Shard[K, E]) bool {
	if s.used >= s.cap {
		return t.evict(s)
	}
	if 3*(s.used+1) > 2*len(s.slots) {
		t.grow(s)
	}
	return true
}

// grow doubles the slots, up to one and a half for each key that may come.
func (t *Table[K, E]) grow(s *Shard[K, E]) {
	old := s.slots
	s.slots, s.used, s.hand = make([]slot[K, E], min(max(fewest, 2*len(old)), s.cap+s.cap/2+1)), 0, 0
	for i := range old {
		if old[i].state != empty {
			s.put(old[i], t.opt.Hash(old[i].key))
		}
	}
}

// evict removes a key that may go. Two rounds of the hand: the first may only clear
// marks.
func (t *Table[K, E]) evict(s *Shard[K, E]) bool {
	if s.crowded && s.now < s.again {
		return false
	}
	for range 2 * len(s.slots) {
		if v := &s.slots[s.hand]; t.goes(v, s.now) {
			if t.opt.Gone != nil {
				t.opt.Gone(v.key, &v.entry)
			}
			t.remove(s, s.hand) // what moves to this slot is next
			return true
		}
		s.hand = s.after(s.hand)
	}
	s.crowded, s.again = true, s.now+t.opt.Pause
	return false
}

// goes reports whether v may go now, and takes its mark.
func (t *Table[K, E]) goes(v *slot[K, E], now int64) bool {
	if v.state == empty {
		return false
	}
	switch w := t.opt.Worth(&v.entry, now); {
	case w == Never:
		return false
	case w == Some && v.state == seen:
		v.state = kept
		return false
	}
	return true
}

// remove empties slot i, and has those behind it move up that would not be found
// across an empty slot.
func (t *Table[K, E]) remove(s *Shard[K, E], i int) {
	for j := s.after(i); s.slots[j].state != empty; j = s.after(j) {
		if home := s.home(t.opt.Hash(s.slots[j].key)); s.way(home, j) >= s.way(i, j) {
			s.slots[i] = s.slots[j]
			i = j
		}
	}
	s.slots[i] = slot[K, E]{}
	s.used--
}

// way is how many slots it is from i on to j.
func (s *Shard[K, E]) way(i, j int) int {
	if i <= j {
		return j - i
	}
	return j - i + len(s.slots)
}
