// Package ring limits requests per key with the conservative ring: whatever a
// client's schedule, at most N are admitted in ANY window of length W.
//
// Time is cut into buckets of s = W/10, and a key holds the counts of the bucket
// in hand and of the ten before it: eleven, because both ends of a window lie
// inside a bucket. A request is admitted when the whole sum leaves room. So the
// oldest bucket counts in full until all of it has left the window; the price is
// that capacity returns up to s late, a sustained rate of at least 91 % of N/W.
package ring

import (
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/ratelimit/internal/keyed"
)

const (
	parts   = keyed.Parts   // buckets per window
	buckets = keyed.Buckets // counters per key

	mostLimit = 1 << 30 // what a counter holds
)

// DefaultKeys is how many keys a Ring remembers unless told otherwise.
const DefaultKeys = keyed.DefaultKeys

// Options of a Ring. The zero value is usable.
type Options struct {
	Now  func() time.Time // if nil, time.Now; readings are compared by their monotonic clock
	Keys int              // keys remembered at most; if 0, DefaultKeys; rounded up to a multiple of 64
}

// Ring is a ratelimit.Limiter in memory. Its methods may be called concurrently.
//
// Memory is bounded: when all keys are in use, a key that was not seen lately
// gives way, one that has nothing in its window for preference, and never one
// that is refused at the moment. If every candidate is, new keys are refused.
// So the bound of N holds for each key that the Ring remembers.
type Ring struct {
	limit    int
	window   time.Duration
	bucket   time.Duration
	now      func() time.Time
	start    time.Time
	overflow atomic.Uint64
	seeds    [2]maphash.Seed
	keys     *keyed.Table[digest, keyed.Wheel]
}

// digest stands for a key: 88 bits of a keyed hash. Among a million keys there is
// nothing to follow to a text elsewhere in memory, and nothing for the collector to
// look at, and what is remembered of a key is one line of memory. Two keys that met,
// as among two million some do once in 10^14 processes, would share one limit, which
// lets nobody do more.
type digest [11]byte

func (r *Ring) digest(key string) digest {
	var d digest
	binary.LittleEndian.PutUint64(d[3:], maphash.String(r.seeds[1], key))
	binary.LittleEndian.PutUint64(d[:], maphash.String(r.seeds[0], key))
	return d
}

func (d digest) hash() uint64 { return binary.LittleEndian.Uint64(d[:]) }

// New returns a Ring that admits limit per window. A limit below 1 or a window
// below 10 ns refuses everything; one above 2^30 counts as 2^30.
func New(limit int, window time.Duration, opt Options) *Ring {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if window < parts {
		limit, window = 0, parts
	}
	r := &Ring{
		limit:  min(max(0, limit), mostLimit),
		window: window,
		bucket: (window + parts - 1) / parts,
		now:    opt.Now,
		start:  opt.Now(),
		seeds:  [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
	}
	r.keys = keyed.New(keyed.Options[digest, keyed.Wheel]{
		Keys: opt.Keys, Worth: r.worth,
		Hash:  digest.hash,
		Pause: int64(r.bucket), // refusals end only when a bucket does
	})
	return r
}

// worth of what is counted: who is refused now must not be forgotten.
func (r *Ring) worth(w *keyed.Wheel, now int64) keyed.Worth {
	w.Advance(now/int64(r.bucket), buckets)
	switch used := w.Sum(); {
	case used >= r.limit && r.limit > 0:
		return keyed.Never
	case used > 0:
		return keyed.Some
	}
	return keyed.Free
}

// Overflow returns how many requests of new keys were refused because every
// remembered key was itself being refused.
func (r *Ring) Overflow() uint64 { return r.overflow.Load() }

// Allow admits or refuses cost for key. It does not allocate for a known key.
func (r *Ring) Allow(key string, cost int) ratelimit.Verdict {
	cost = max(1, cost)
	s, w := r.keys.Lock(r.digest(key), int64(r.now().Sub(r.start)))
	defer s.Unlock()
	if w == nil {
		r.overflow.Add(1)
		return ratelimit.Verdict{Limit: r.limit, Window: r.window, Reset: r.bucket, RetryAfter: r.bucket}
	}
	// A clock that steps back must not free capacity: the shard's only grows.
	since := time.Duration(s.Now())
	w.Advance(int64(since/r.bucket), buckets)
	left := r.limit - w.Sum()
	ok := cost <= left
	if ok {
		w.Add(cost, buckets)
		left -= cost
	}
	v := ratelimit.Verdict{OK: ok, Limit: r.limit, Remaining: left, Window: r.window}
	v.Reset = r.leaves(w.Newest(buckets), since)
	if !ok {
		v.RetryAfter = r.retryAfter(w, cost, since)
	}
	return v
}

// leaves returns how long after since bucket i stops counting. A bucket below
// zero has nothing in it and has left.
func (r *Ring) leaves(i int64, since time.Duration) time.Duration {
	if i < 0 {
		return 0
	}
	return max(0, time.Duration(i+buckets)*r.bucket-since)
}

// retryAfter returns when enough of the oldest buckets have left for cost. A
// cost above the limit never fits; it is told to wait a window.
func (r *Ring) retryAfter(w *keyed.Wheel, cost int, since time.Duration) time.Duration {
	if i := w.Frees(r.limit-cost, buckets); i >= 0 {
		return r.leaves(i, since)
	}
	return r.window
}
