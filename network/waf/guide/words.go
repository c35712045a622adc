package guide

import "math/bits"

// words finds many words in a text in one pass, without regard to the case of
// ASCII letters (Aho and Corasick 1975, as a full table). Each word reports a
// number below 64*len(bitset).
//
// The table has megabytes, and a text is looked through while it is in no cache:
// so a row begins with the columns of common letters, at a cache line; the rows
// of states that texts are often in stand together; and an entry says itself
// whether its state reports anything.
type words struct {
	class [256]uint8 // column; 0 is every byte that no word holds
	width int        // of a row
	next  []uint32   // row + column -> row of the next state, and reports
	out   []int32    // state -> index into sets, or -1
	sets  []bitset
}

// The columns of a cache line, and what is left of an entry for the mark.
const (
	lineWidth = 16
	reports   = 1
)

// common are the letters of texts, by how often they come. What they are, and
// in which order, is a matter of speed only.
const common = " etaoinsrhldcumfpgwybvk.,'-"

// bitset holds small numbers. It is a value: copies are apart.
type bitset [8]uint64

func (b *bitset) set(n int)      { b[n>>6] |= 1 << (n & 63) }
func (b *bitset) has(n int) bool { return b[n>>6]&(1<<(n&63)) != 0 }

func (b *bitset) meets(o *bitset) bool {
	for i := range b {
		if b[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

func (b *bitset) merge(o *bitset) {
	for i := range b {
		b[i] |= o[i]
	}
}

func (b *bitset) count() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// maxNumber is the size of a bitset.
const maxNumber = 64 * len(bitset{})

// wordList is what words is built from.
type wordList struct {
	word   string
	number int
}

func newWords(list []wordList) *words {
	w := &words{width: 1}
	used := [256]bool{}
	for _, l := range list {
		for i := range len(l.word) {
			used[lower(l.word[i])] = true
		}
	}
	for i := range len(common) {
		w.column(common[i], &used)
	}
	for c := range 256 {
		w.column(byte(c), &used)
	}
	for c := byte('A'); c <= 'Z'; c++ {
		w.class[c] = w.class[lower(c)]
	}
	w.width = (w.width + lineWidth - 1) / lineWidth * lineWidth
	w.grow()
	for _, l := range list {
		w.insert(l)
	}
	w.link()
	return w
}

// column gives c the next one, once, if a word holds it.
func (w *words) column(c byte, used *[256]bool) {
	if used[c] && w.class[c] == 0 {
		w.class[c] = uint8(w.width)
		w.width++
	}
}

func (w *words) grow() uint32 {
	w.next = append(w.next, make([]uint32, w.width)...)
	w.out = append(w.out, -1)
	return uint32(len(w.out) - 1)
}

// insert adds a word to the trie. Its entries are states until link is through.
func (w *words) insert(l wordList) {
	at := uint32(0)
	for i := range len(l.word) {
		slot := int(at)*w.width + int(w.class[l.word[i]])
		if w.next[slot] == 0 {
			n := w.grow()
			w.next[slot] = n
		}
		at = w.next[slot]
	}
	w.report(at, &bitset{}).set(l.number)
}

// report adds to what a state reports.
func (w *words) report(at uint32, more *bitset) *bitset {
	if w.out[at] < 0 {
		w.out[at] = int32(len(w.sets))
		w.sets = append(w.sets, bitset{})
	}
	set := &w.sets[w.out[at]]
	set.merge(more)
	return set
}

// link fills the missing transitions, breadth first, from the longest suffix
// that is a prefix of a word.
func (w *words) link() {
	fail := make([]uint32, len(w.out))
	queue := make([]uint32, 0, len(w.out))
	for c := range w.width {
		if n := w.next[c]; n != 0 {
			queue = append(queue, n)
		}
	}
	for i := 0; i < len(queue); i++ {
		at := queue[i]
		if o := w.out[fail[at]]; o >= 0 {
			set := w.sets[o]
			w.report(at, &set)
		}
		for c := range w.width {
			slot, back := int(at)*w.width+c, w.next[int(fail[at])*w.width+c]
			if n := w.next[slot]; n != 0 {
				fail[n] = back
				queue = append(queue, n)
			} else {
				w.next[slot] = back
			}
		}
	}
	w.order(append([]uint32{0}, queue...))
}

// order puts the states in this order, and makes rows of the entries.
func (w *words) order(states []uint32) {
	place := make([]uint32, len(states))
	for i, old := range states {
		place[old] = uint32(i)
	}
	next, out := make([]uint32, len(w.next)), make([]int32, len(w.out))
	for i, old := range states {
		out[i] = w.out[old]
		for c := range w.width {
			to := w.next[int(old)*w.width+c]
			entry := place[to] * uint32(w.width)
			if w.out[to] >= 0 {
				entry |= reports
			}
			next[i*w.width+c] = entry
		}
	}
	w.next, w.out = next, out
}

// find adds the numbers of the words in s to found.
func (w *words) find(s string, found *bitset) {
	if w.out[0] >= 0 { // the empty word is everywhere
		found.merge(&w.sets[w.out[0]])
	}
	at := uint32(0)
	for i := range len(s) {
		at = w.next[int(at&^reports)+int(w.class[s[i]])]
		if at&reports != 0 {
			found.merge(&w.sets[w.out[int(at)/w.width]])
		}
	}
}
