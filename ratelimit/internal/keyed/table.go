// Package keyed is what limiters remember of a key: a table whose size is
// bounded, and a wheel of counters.
package keyed

import "sync"

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
type Table[K comparable, E any] struct {
	opt    Options[K, E]
	shards [shards]Shard[K, E]
}

// Shard is one lock's worth of keys.
type Shard[K comparable, E any] struct {
	mu      sync.Mutex
	now     int64 // newest time that was heard of
	index   map[K]int32
	slots   []slot[K, E]
	cap     int
	hand    int
	again   int64 // no search for room before
	crowded bool  // again counts
}

type slot[K comparable, E any] struct {
	key   K
	seen  bool // since the hand last passed
	entry E
}

// New returns an empty Table.
func New[K comparable, E any](opt Options[K, E]) *Table[K, E] {
	if opt.Keys <= 0 {
		opt.Keys = DefaultKeys
	}
	t := &Table[K, E]{opt: opt}
	for i := range t.shards {
		t.shards[i].index = map[K]int32{}
		t.shards[i].cap = (opt.Keys + shards - 1) / shards
	}
	return t
}

// Lock finds or makes the entry of key and returns it with its shard, which is
// locked: the caller unlocks it. A new entry is the zero E. The entry is nil when
// there is no room. The time only grows: the Shard's Now counts.
func (t *Table[K, E]) Lock(key K, now int64) (*Shard[K, E], *E) {
	s := &t.shards[t.opt.Hash(key)%shards]
	s.mu.Lock()
	s.now = max(s.now, now)
	if i, ok := s.index[key]; ok {
		s.slots[i].seen = true
		return s, &s.slots[i].entry
	}
	i := t.room(s)
	if i < 0 {
		return s, nil
	}
	s.index[key] = int32(i)
	s.slots[i] = slot[K, E]{key: key, seen: true}
	return s, &s.slots[i].entry
}

// Peek is Lock for a key that is not to be made.
func (t *Table[K, E]) Peek(key K, now int64) (*Shard[K, E], *E) {
	s := &t.shards[t.opt.Hash(key)%shards]
	s.mu.Lock()
	s.now = max(s.now, now)
	if i, ok := s.index[key]; ok {
		return s, &s.slots[i].entry
	}
	return s, nil
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
			f(s.slots[j].key, &s.slots[j].entry)
		}
		s.mu.Unlock()
	}
}

// Len returns how many keys are remembered.
func (t *Table[K, E]) Len() int {
	n := 0
	for i := range t.shards {
		t.shards[i].mu.Lock()
		n += len(t.shards[i].slots)
		t.shards[i].mu.Unlock()
	}
	return n
}

// room returns the index of a slot for a new key, or -1. Two rounds of the hand:
// the first may only clear marks.
func (t *Table[K, E]) room(s *Shard[K, E]) int {
	if len(s.slots) < s.cap {
		s.slots = append(s.slots, slot[K, E]{})
		return len(s.slots) - 1
	}
	if s.crowded && s.now < s.again {
		return -1
	}
	for range 2 * len(s.slots) {
		i := s.hand
		s.hand = (s.hand + 1) % len(s.slots)
		v := &s.slots[i]
		switch w := t.opt.Worth(&v.entry, s.now); {
		case w == Never:
			continue
		case w == Some && v.seen:
			v.seen = false
			continue
		}
		if t.opt.Gone != nil {
			t.opt.Gone(v.key, &v.entry)
		}
		delete(s.index, v.key)
		return i
	}
	s.crowded, s.again = true, s.now+t.opt.Pause
	return -1
}
