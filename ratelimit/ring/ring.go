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
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart/ratelimit"
)

const (
	parts   = 10        // buckets per window
	buckets = parts + 1 // counters per key
	shards  = 64
)

// DefaultKeys is how many keys a Ring remembers unless told otherwise.
const DefaultKeys = 1 << 16

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
	seed     maphash.Seed
	overflow atomic.Uint64
	shards   [shards]shard
}

// New returns a Ring that admits limit per window. A limit below 1 or a window
// below 10 ns refuses everything.
func New(limit int, window time.Duration, opt Options) *Ring {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Keys <= 0 {
		opt.Keys = DefaultKeys
	}
	if window < parts {
		limit, window = 0, parts
	}
	r := &Ring{
		limit:  max(0, limit),
		window: window,
		bucket: (window + parts - 1) / parts,
		now:    opt.Now,
		start:  opt.Now(),
		seed:   maphash.MakeSeed(),
	}
	for i := range r.shards {
		r.shards[i].index = map[string]int{}
		r.shards[i].cap = (opt.Keys + shards - 1) / shards
		r.shards[i].fullAt = -1
	}
	return r
}

// Overflow returns how many requests of new keys were refused because every
// remembered key was itself being refused.
func (r *Ring) Overflow() uint64 { return r.overflow.Load() }

// Allow admits or refuses cost for key. It does not allocate for a known key.
func (r *Ring) Allow(key string, cost int) ratelimit.Verdict {
	cost = max(1, cost)
	s := &r.shards[maphash.String(r.seed, key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	since := r.now().Sub(r.start)
	// A clock that steps back must not free capacity, so time only grows.
	s.since = max(s.since, since)
	k := int64(s.since / r.bucket)
	e := s.entry(key, k, r.limit)
	if e == nil {
		r.overflow.Add(1)
		return ratelimit.Verdict{Limit: r.limit, Window: r.window, Reset: r.bucket, RetryAfter: r.bucket}
	}
	ok := cost <= r.limit-e.sum
	if ok {
		e.add(k, cost)
	}
	v := ratelimit.Verdict{OK: ok, Limit: r.limit, Remaining: r.limit - e.sum, Window: r.window}
	v.Reset = r.leaves(e.newest(k), s.since)
	if !ok {
		v.RetryAfter = r.retryAfter(e, k, cost, s.since)
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
func (r *Ring) retryAfter(e *entry, k int64, cost int, since time.Duration) time.Duration {
	left := e.sum
	for i := max(0, k-parts); i <= k; i++ {
		left -= e.counts[i%buckets]
		if cost <= r.limit-left {
			return r.leaves(i, since)
		}
	}
	return r.window
}

// shard is one lock's worth of keys.
type shard struct {
	mu      sync.Mutex
	since   time.Duration // newest reading of the clock
	index   map[string]int
	entries []entry
	cap     int
	hand    int   // of the eviction clock
	fullAt  int64 // bucket in which no key could give way, -1 if none
}

// entry is one key's ring. counts[i%buckets] is bucket i for i in last-parts to
// last; sum is their total.
type entry struct {
	key    string
	last   int64
	sum    int
	counts [buckets]int
	seen   bool // since the eviction clock's hand last passed
}

// entry finds or makes the entry of key and moves it to bucket k. It returns
// nil when there is no room.
func (s *shard) entry(key string, k int64, limit int) *entry {
	if i, ok := s.index[key]; ok {
		e := &s.entries[i]
		e.seen = true
		e.advance(k)
		return e
	}
	i := s.room(k, limit)
	if i < 0 {
		return nil
	}
	s.index[key] = i
	s.entries[i] = entry{key: key, last: k, seen: true}
	return &s.entries[i]
}

// room returns the index of a free slot, or -1. Two rounds of the clock: the
// first may only clear marks.
func (s *shard) room(k int64, limit int) int {
	if len(s.entries) < s.cap {
		s.entries = append(s.entries, entry{})
		return len(s.entries) - 1
	}
	// Refusals end only when a bucket does, so there is no use in looking
	// again before: a flood of new keys must not buy a search each.
	if s.fullAt == k {
		return -1
	}
	for range 2 * len(s.entries) {
		i := s.hand
		s.hand = (s.hand + 1) % len(s.entries)
		e := &s.entries[i]
		e.advance(k)
		if e.sum >= limit && limit > 0 {
			continue
		}
		if e.seen && e.sum > 0 {
			e.seen = false
			continue
		}
		delete(s.index, e.key)
		return i
	}
	s.fullAt = k
	return -1
}

// advance drops the buckets that left the window before bucket k.
func (e *entry) advance(k int64) {
	if k-e.last >= buckets {
		e.counts, e.sum, e.last = [buckets]int{}, 0, k
		return
	}
	for ; e.last < k; e.last++ {
		i := (e.last + 1) % buckets
		e.sum -= e.counts[i]
		e.counts[i] = 0
	}
}

func (e *entry) add(k int64, cost int) {
	e.counts[k%buckets] += cost
	e.sum += cost
}

// newest returns the newest bucket with anything in it, or -1.
func (e *entry) newest(k int64) int64 {
	for i := k; i >= 0 && i > k-buckets; i-- {
		if e.counts[i%buckets] > 0 {
			return i
		}
	}
	return -1
}
