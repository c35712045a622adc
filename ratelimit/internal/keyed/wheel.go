package keyed

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
type Wheel struct {
	last   int64 // newest bucket; counts[i%m] is bucket i
	sum    int64
	counts [Buckets]int32
}

// Sum returns what the wheel holds.
func (w *Wheel) Sum() int { return int(w.sum) }

// Advance moves the wheel to bucket k and drops what has left. A bucket of the
// past moves nothing.
func (w *Wheel) Advance(k int64, m int) {
	if k-w.last >= int64(m) {
		w.counts, w.sum, w.last = [Buckets]int32{}, 0, k
		return
	}
	for ; w.last < k; w.last++ {
		i := (w.last + 1) % int64(m)
		w.sum -= int64(w.counts[i])
		w.counts[i] = 0
	}
}

// Add counts n in the newest bucket.
func (w *Wheel) Add(n, m int) {
	w.counts[w.last%int64(m)] += int32(n)
	w.sum += int64(n)
}

// Set makes the wheel hold counts: that of the oldest bucket first, and of
// bucket last at the end.
func (w *Wheel) Set(last int64, counts []int32, m int) {
	*w = Wheel{last: last}
	for i, n := range counts {
		at := last - int64(len(counts)-1-i)
		if at < 0 {
			continue
		}
		w.counts[at%int64(m)] = n
		w.sum += int64(n)
	}
}

// Clear empties the wheel where it stands.
func (w *Wheel) Clear() { *w = Wheel{last: w.last} }

// Newest returns the newest bucket with anything in it, or -1.
func (w *Wheel) Newest(m int) int64 {
	for i := w.last; i >= 0 && i > w.last-int64(m); i-- {
		if w.counts[i%int64(m)] > 0 {
			return i
		}
	}
	return -1
}

// Frees returns the bucket that, once it and all before it have left, leaves at
// most rest in the wheel; -1 when there is none.
func (w *Wheel) Frees(rest, m int) int64 {
	left := w.sum
	for i := max(0, w.last-int64(m)+1); i <= w.last; i++ {
		left -= int64(w.counts[i%int64(m)])
		if left <= int64(rest) {
			return i
		}
	}
	return -1
}
