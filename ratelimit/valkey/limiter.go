package valkey

import (
	"hash/maphash"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/ratelimit/internal/keyed"
)

// mostLimit is what a counter holds.
const mostLimit = 1 << 30

// Limiter is a ratelimit.Limiter whose counts are shared. Memory is bounded as
// that of package ring; what the store does not know yet is forgotten only while
// it is away.
//
// A cost above the gateway's share of what is free is refused: the stores' answer
// to what came before makes room for more, milliseconds later.
type Limiter struct {
	store    *Store
	prefix   string // of keys in the store: name and rate
	limit    int
	window   time.Duration
	bucket   int64 // ns, a whole number of microseconds
	m        int   // buckets: keyed.Buckets, or 1 for a calendar
	u        int   // this much unsaid is pushed at once
	share    int   // of this gateway, while the store is away
	keys     *keyed.Table[string, entry]
	overflow atomic.Uint64

	mu    sync.Mutex
	dirty []string // keys with something to push, each once
}

// entry is what this gateway knows of one key.
type entry struct {
	view   keyed.Wheel // what all admitted, as the store said last; by its clock
	own    keyed.Wheel // what this gateway admitted; by ours
	unsaid keyed.Wheel // of that, what was not pushed
	flying int         // of that, what is being pushed
	queued bool        // its key is in dirty
}

// Ring returns a limiter that admits limit per window, whichever way the window
// lies, within the bound of the package. name tells it from others in the store.
func (s *Store) Ring(name string, limit int, window time.Duration, keys int) *Limiter {
	return s.add(s.limiter("ring:"+name, limit, window, (int64(window)+keyed.Parts-1)/keyed.Parts, keyed.Buckets, keys))
}

// Calendar returns a limiter that admits limit per period of the calendar, in
// UTC: a period of 24 h begins at midnight.
func (s *Store) Calendar(name string, limit int, period time.Duration, keys int) *Limiter {
	return s.add(s.limiter("calendar:"+name, limit, period, int64(period), 1, keys))
}

func (s *Store) limiter(name string, limit int, window time.Duration, bucket int64, m, keys int) *Limiter {
	limit = min(max(0, limit), mostLimit)
	if window < time.Millisecond {
		limit, bucket = 0, int64(time.Millisecond)
	}
	bucket = (bucket + 999) / 1000 * 1000
	l := &Limiter{
		store: s, limit: limit, window: window, bucket: bucket, m: m,
		prefix: s.opt.Prefix + "{" + name + ":" + strconv.Itoa(limit) + "/" + window.String() + ":",
		u:      max(1, limit/(100*s.opt.Gateways)), share: limit / s.opt.Gateways,
	}
	seed := maphash.MakeSeed()
	l.keys = keyed.New(keyed.Options[string, entry]{
		Keys: keys, Worth: l.worth, Pause: min(bucket, int64(time.Second)),
		Hash: func(key string) uint64 { return maphash.String(seed, key) },
	})
	return l
}

// Close takes the limiter off its store: what is unsaid is lost. It decides on
// for those who still hold it.
func (l *Limiter) Close() {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.store.limiters = slices.DeleteFunc(l.store.limiters, func(x *Limiter) bool { return x == l })
}

// Overflow returns how many requests of new keys were refused because none of
// those remembered could be forgotten.
func (l *Limiter) Overflow() uint64 { return l.overflow.Load() }

// clocks are a moment by the server's clock and by ours.
type clocks struct{ server, ours int64 }

func (l *Limiter) at(since int64) clocks {
	c := clocks{since + l.store.offset.Load(), since}
	if l.m == 1 {
		c.ours = c.server // a calendar has one midnight
	}
	return c
}

func (e *entry) advance(c clocks, l *Limiter) {
	e.view.Advance(c.server/l.bucket, l.m)
	e.own.Advance(c.ours/l.bucket, l.m)
	e.unsaid.Advance(c.ours/l.bucket, l.m)
}

// since returns what this gateway admitted since the store's last word.
func (e *entry) since() int { return e.unsaid.Sum() + e.flying }

func (l *Limiter) worth(e *entry, now int64) keyed.Worth {
	e.advance(l.at(now), l)
	switch used := e.view.Sum() + e.since(); {
	case e.flying > 0 || used >= l.limit && l.limit > 0:
		return keyed.Never
	case e.since() > 0 && !l.store.alone.Load():
		return keyed.Never // for milliseconds
	case used > 0 || e.own.Sum() > 0:
		return keyed.Some
	}
	return keyed.Free
}

// Allow admits or refuses cost for key. It takes no longer when the store is away.
func (l *Limiter) Allow(key string, cost int) ratelimit.Verdict {
	cost = max(1, cost)
	s, e := l.keys.Lock(key, l.store.since())
	defer s.Unlock()
	if e == nil {
		l.overflow.Add(1)
		return ratelimit.Verdict{Limit: l.limit, Window: l.window, Reset: every, RetryAfter: every}
	}
	c := l.at(s.Now())
	e.advance(c, l)
	known, leased := l.room(e)
	ok := cost <= min(known, leased)
	if ok {
		l.spend(e, key, cost)
		known -= cost
	}
	v := ratelimit.Verdict{OK: ok, Limit: l.limit, Remaining: max(0, known), Window: l.window, Reset: l.reset(e, c)}
	if !ok {
		v.RetryAfter = every // what the store says next makes room
		if cost > known {
			v.RetryAfter = l.retryAfter(e, c, cost)
		}
	}
	return v
}

// room returns what is left of the limit as far as this gateway knows, and what
// it may take of that before the store has answered again.
func (l *Limiter) room(e *entry) (known, leased int) {
	known = l.limit - e.view.Sum() - e.since()
	leased = max(l.u, (l.limit-e.view.Sum())/l.store.opt.Gateways) - e.since()
	if l.store.alone.Load() {
		known = min(known, l.share-e.own.Sum())
		leased = known
	}
	return known, leased
}

// spend counts what was admitted and has it pushed.
func (l *Limiter) spend(e *entry, key string, cost int) {
	e.own.Add(cost, l.m)
	e.unsaid.Add(cost, l.m)
	if n := int64(e.since()); n > l.store.most.Load() {
		l.store.most.Store(n) // a figure for tests and operators: the last of two is good enough
	}
	l.queue(e, key)
	if e.unsaid.Sum() >= l.u && !l.store.alone.Load() {
		l.store.wake()
	}
}

func (l *Limiter) queue(e *entry, key string) {
	if e.queued {
		return
	}
	e.queued = true
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirty = append(l.dirty, key)
}

// reset returns when all that is counted has left.
func (l *Limiter) reset(e *entry, c clocks) time.Duration {
	return max(l.leaves(e.view.Newest(l.m), c.server), l.leaves(e.own.Newest(l.m), c.ours))
}

func (l *Limiter) leaves(bucket, now int64) time.Duration {
	if bucket < 0 {
		return 0
	}
	return time.Duration(max(0, (bucket+int64(l.m))*l.bucket-now))
}

// retryAfter returns when enough has left for cost, by what is known now.
func (l *Limiter) retryAfter(e *entry, c clocks, cost int) time.Duration {
	whole := time.Duration(int64(l.m) * l.bucket)
	wait := func(w *keyed.Wheel, rest int, now int64) time.Duration {
		if w.Sum() <= rest {
			return 0
		}
		if i := w.Frees(rest, l.m); i >= 0 && rest >= 0 {
			return l.leaves(i, now)
		}
		return whole
	}
	d := wait(&e.view, l.limit-cost-e.since(), c.server)
	if l.store.alone.Load() {
		d = max(d, wait(&e.own, l.share-cost, c.ours))
	}
	return max(d, every)
}
