package guide

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// The memo holds memoShards * memoSize answers.
const (
	memoShards = 64
	memoSize   = 1024
)

// memo remembers which texts were found clean. It keeps a keyed hash of 128
// bits of each and no text. A full shard is emptied: whoever fills it with
// texts of his own slows the next requests down and no more. It is safe for
// concurrent use.
type memo struct {
	seeds  [2]maphash.Seed
	shards [memoShards]struct {
		sync.RWMutex
		clean map[digest]struct{}
	}
}

type digest [2]uint64

func newMemo() *memo {
	m := &memo{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
	for i := range m.shards {
		m.shards[i].clean = make(map[digest]struct{})
	}
	return m
}

// digest hashes b together with where it stands.
func (m *memo) digest(b []byte) digest {
	return digest{maphash.Bytes(m.seeds[0], b), maphash.Bytes(m.seeds[1], b)}
}

// or runs fn unless b is known to be clean.
func (m *memo) or(b []byte, fn func() bool) bool {
	d := m.digest(b)
	if m.has(d) {
		return true
	}
	if !fn() {
		return false
	}
	m.add(d)
	return true
}

func (m *memo) has(d digest) bool {
	s := &m.shards[d[0]%memoShards]
	s.RLock()
	_, ok := s.clean[d]
	s.RUnlock()
	return ok
}

func (m *memo) add(d digest) {
	s := &m.shards[d[0]%memoShards]
	s.Lock()
	if len(s.clean) >= memoSize {
		clear(s.clean)
	}
	s.clean[d] = struct{}{}
	s.Unlock()
}

// shorts remembers which short values were found clean in one place: true, EUR, 12.
// Each is kept whole, in one word, so nothing can be taken for it. Later ones take
// the places of earlier ones. It is safe for concurrent use.
type shorts [1024]atomic.Uint64

// maxShort is the length of what fits into a word beside its length.
const maxShort = 7

// packed is s in a word, which is never 0; 0 where it is too long.
func packed(s string) (w uint64) {
	if len(s) > maxShort {
		return 0
	}
	for i := range len(s) {
		w |= uint64(s[i]) << (8 * i)
	}
	return w | uint64(len(s)+1)<<56
}

func (h *shorts) slot(w uint64) *atomic.Uint64 { return &h[w*0x9e3779b97f4a7c15>>54] }

func (h *shorts) has(s string) bool {
	w := packed(s)
	return w != 0 && h.slot(w).Load() == w
}

func (h *shorts) add(s string) {
	if w := packed(s); w != 0 {
		h.slot(w).Store(w)
	}
}
