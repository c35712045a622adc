package keyed

import "encoding/binary"

// Parts of a window, and the counters that a wheel of them needs: the bucket in
// hand, and as many before it as there are parts, because both ends of a window
// lie inside a bucket.
const (
	Parts   = 10
	Buckets = Parts + 1
)

// Wheel counts what happened in the newest bucket and in those before it. The
// zero Wheel is empty and stands at bucket 0. Methods take m, of how many buckets
// it is: Buckets, or 1, that of a calendar which knows the period in hand alone.
//
// It is small, and holds no sum and no number that wants to lie on eight bytes, so
// that a key's slot of a Table is one line of memory.
type Wheel struct {
	newest [8]byte        // newest bucket, little endian
	counts [Buckets]int32 // counts[i%m] is bucket i
}

// last returns the newest bucket.
func (w *Wheel) last() int64 { return int64(binary.LittleEndian.Uint64(w.newest[:])) }

func (w *Wheel) stand(k int64) { binary.LittleEndian.PutUint64(w.newest[:], uint64(k)) }

// Sum returns what the wheel holds.
func (w *Wheel) Sum() int {
	n := 0
	for i := range w.counts {
		n += int(w.counts[i])
	}
	return n
}

// Advance moves the wheel to bucket k and drops what has left. A bucket of the
// past moves nothing.
func (w *Wheel) Advance(k int64, m int) {
	last := w.last()
	switch {
	case k <= last:
		return
	case k-last >= int64(m):
		w.counts = [Buckets]int32{}
	default:
		for i := last + 1; i <= k; i++ {
			w.counts[i%int64(m)] = 0
		}
	}
	w.stand(k)
}

// Add counts n in the newest bucket.
func (w *Wheel) Add(n, m int) { w.counts[w.last()%int64(m)] += int32(n) }

// Set makes the wheel hold counts: that of the oldest bucket first, and of
// bucket last at the end.
func (w *Wheel) Set(last int64, counts []int32, m int) {
	*w = Wheel{}
	w.stand(last)
	for i, n := range counts {
		if at := last - int64(len(counts)-1-i); at >= 0 {
			w.counts[at%int64(m)] = n
		}
	}
}

// Clear empties the wheel where it stands.
func (w *Wheel) Clear() { w.counts = [Buckets]int32{} }

// Newest returns the newest bucket with anything in it, or -1.
func (w *Wheel) Newest(m int) int64 {
	last := w.last()
	for i := last; i >= 0 && i > last-int64(m); i-- {
		if w.counts[i%int64(m)] > 0 {
			return i
		}
	}
	return -1
}

// Frees returns the bucket that, once it and all before it have left, leaves at
// most rest in the wheel; -1 when there is none.
func (w *Wheel) Frees(rest, m int) int64 {
	left, last := w.Sum(), w.last()
	for i := max(0, last-int64(m)+1); i <= last; i++ {
		left -= int(w.counts[i%int64(m)])
		if left <= rest {
			return i
		}
	}
	return -1
}
