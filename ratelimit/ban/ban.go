// Package ban keeps addresses away that are refused again and again.
//
// What is counted are refusals, by a credential, a policy, a limit or the WAF, of
// one address (IPv4) or one network of 64 bits (IPv6). Whoever is over the rate is
// banned: for the first time that long, for twice as long each further time, up
// to a longest. A ban is forgotten when that longest has passed without another.
//
// Many people may stand behind one address, and one of them must not be able to
// shut the others out with bad requests, nor a few expired sessions the whole
// house. So an address is banned only when its refusals are also the greater part
// of what it asked for: Good counts what was let through.
package ban

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/ratelimit/internal/keyed"
)

// defaultKeys is how many addresses are remembered unless told otherwise.
const defaultKeys = 1 << 15

// Rule says who is banned, and for how long. The zero Rule bans nobody.
type Rule struct {
	Refusals int           // more than so many
	Within   time.Duration // of each other
	First    time.Duration // of the first ban
	Longest  time.Duration // and of the last
}

// Options of a Ladder. The zero value is usable.
type Options struct {
	Rule   Rule
	Exempt []netip.Prefix   // never banned
	Keys   int              // addresses remembered at most; if 0, 32768
	Now    func() time.Time // if nil, time.Now
}

// Ban is one address's time away.
type Ban struct {
	Addr    string        // as ratelimit.IPKey writes it
	Step    int           // of the ladder: 1 is the first ban
	For     time.Duration // how long it is, from its beginning
	Refused uint64        // how often it was turned away meanwhile
}

// Ladder remembers who was refused. Its memory is bounded: when it is full, an
// address that was not heard of lately is forgotten, never one that is banned;
// if all are, a new one cannot be banned, but is limited as before. Safe for
// concurrent use.
type Ladder struct {
	now     func() time.Time
	start   time.Time
	rule    atomic.Pointer[rules]
	keys    *keyed.Table[netip.Addr, entry]
	banned  atomic.Int64 // bans in force: while there are none, nobody is looked up
	crowded atomic.Uint64

	mu    sync.Mutex
	ended []Ban // of addresses that gave way after their ban
}

type rules struct {
	Rule
	number uint64 // counts begun under another rule do not count
	bucket int64
	exempt []netip.Prefix
}

// entry is what is known of one address.
type entry struct {
	rule    uint64
	refused keyed.Wheel
	good    keyed.Wheel
	until   int64 // end of the ban; 0: none, or its end was told
	recent  int64 // end of the newest ban
	step    int
	length  time.Duration
	away    uint64 // turned away since the ban began
}

// New returns a Ladder.
func New(opt Options) *Ladder {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Keys <= 0 {
		opt.Keys = defaultKeys
	}
	l := &Ladder{now: opt.Now, start: opt.Now()}
	l.Set(opt.Rule, opt.Exempt)
	seed := maphash.MakeSeed()
	l.keys = keyed.New(keyed.Options[netip.Addr, entry]{
		Keys: opt.Keys, Worth: l.worth, Pause: int64(time.Second), Gone: l.end,
		Hash: func(a netip.Addr) uint64 { return maphash.Comparable(seed, a) },
	})
	return l
}

// Set replaces the rule, as nobody else does meanwhile. Counts go on if it is the
// same. Bans in force run on, but those of exempt addresses.
func (l *Ladder) Set(r Rule, exempt []netip.Prefix) {
	number := uint64(0)
	if old := l.rule.Load(); old != nil && old.Rule == r {
		number = old.number
	} else if old != nil {
		number = old.number + 1
	}
	l.rule.Store(&rules{Rule: r, number: number, bucket: max(1, int64(r.Within+keyed.Parts-1)/keyed.Parts), exempt: exempt})
}

func (r *rules) off() bool { return r.Refusals <= 0 || r.Within <= 0 || r.First <= 0 }

func (r *rules) spares(a netip.Addr) bool {
	for _, p := range r.exempt {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (l *Ladder) since() int64 { return int64(l.now().Sub(l.start)) }

func (l *Ladder) worth(e *entry, now int64) keyed.Worth {
	r := l.rule.Load()
	e.advance(now, r)
	switch {
	case e.until > now:
		return keyed.Never
	case e.refused.Sum() > 0 || e.step > 0 && now < e.recent+int64(r.Longest):
		return keyed.Some
	}
	return keyed.Free
}

// advance moves the counts to the present.
func (e *entry) advance(now int64, r *rules) {
	if e.rule != r.number {
		e.rule, e.refused, e.good = r.number, keyed.Wheel{}, keyed.Wheel{}
	}
	k := now / r.bucket
	e.refused.Advance(k, keyed.Buckets)
	e.good.Advance(k, keyed.Buckets)
}

// Banned returns for how much longer a is banned, 0 if it is not. Each call that
// finds a ban counts as one who was turned away.
func (l *Ladder) Banned(a netip.Addr) time.Duration {
	if l.banned.Load() == 0 {
		return 0
	}
	a = a.Unmap().WithZone("")
	if l.rule.Load().spares(a) {
		return 0
	}
	s, e := l.keys.Peek(network(a), l.since())
	defer s.Unlock()
	if e == nil || e.until <= s.Now() {
		return 0
	}
	e.away++
	return time.Duration(e.until - s.Now())
}

// Good counts a request of a that was let through, for an address that was also
// refused.
func (l *Ladder) Good(a netip.Addr) {
	r := l.rule.Load()
	if r.off() {
		return
	}
	s, e := l.keys.Peek(network(a.Unmap().WithZone("")), l.since())
	defer s.Unlock()
	if e != nil {
		e.advance(s.Now(), r)
		e.good.Add(1, keyed.Buckets)
	}
}

// Refused counts a refusal of a, and reports the ban if one begins with it.
func (l *Ladder) Refused(a netip.Addr) (Ban, bool) {
	r := l.rule.Load()
	a = a.Unmap().WithZone("")
	if r.off() || !a.IsValid() || r.spares(a) {
		return Ban{}, false
	}
	s, e := l.keys.Lock(network(a), l.since())
	defer s.Unlock()
	if e == nil {
		l.crowded.Add(1)
		return Ban{}, false
	}
	e.advance(s.Now(), r)
	if e.until > s.Now() { // of a connection from before
		return Ban{}, false
	}
	e.refused.Add(1, keyed.Buckets)
	if e.refused.Sum() <= r.Refusals || e.refused.Sum() <= e.good.Sum() {
		return Ban{}, false
	}
	l.end(a, e)
	return l.begin(a, e, r, s.Now()), true
}

// begin bans. The count begins anew after it, so that the next ban takes as much
// as the first.
func (l *Ladder) begin(a netip.Addr, e *entry, r *rules, now int64) Ban {
	if e.step > 0 && now >= e.recent+int64(r.Longest) {
		e.step = 0
	}
	e.step++
	length := r.First
	for i := 1; i < e.step && length < r.Longest; i++ {
		length *= 2
	}
	e.length = max(r.First, min(length, r.Longest))
	e.until = now + int64(e.length)
	e.recent, e.away = e.until, 0
	e.refused, e.good = keyed.Wheel{}, keyed.Wheel{}
	e.advance(now, r)
	l.banned.Add(1)
	return Ban{Addr: ratelimit.IPKey(a), Step: e.step, For: e.length}
}

// end notes the end of a ban that was not told yet.
func (l *Ladder) end(a netip.Addr, e *entry) {
	if e.until == 0 {
		return
	}
	e.until = 0
	l.banned.Add(-1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = append(l.ended, Ban{ratelimit.IPKey(a), e.step, e.length, e.away})
}

// Ended returns the bans that have ended since it was asked last. It looks at
// every address: ask it every few seconds.
func (l *Ladder) Ended() []Ban {
	now := l.since()
	l.keys.Each(func(a netip.Addr, e *entry) {
		if e.until != 0 && e.until <= now {
			l.end(a, e)
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.ended
	l.ended = nil
	return out
}

// InForce returns how many addresses are banned at most: a ban whose end Ended
// has not told yet is among them.
func (l *Ladder) InForce() int { return int(l.banned.Load()) }

// Crowded returns how many refusals were not counted because every remembered
// address was banned.
func (l *Ladder) Crowded() uint64 { return l.crowded.Load() }

// network is what one host has at least: the address itself for IPv4, the first
// of its /64 for IPv6.
func network(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return a
	}
	p, _ := a.Prefix(64) // of 128 bits, so it cannot fail
	return p.Addr()
}
