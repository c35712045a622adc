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
//
// Whoever has many networks of IPv6 is counted by the site too: a /56 may be refused
// four times as often as a /64, a /48 sixteen times. What is banned counts no more,
// so it takes several of the smaller to have the larger banned, never one.
//
// Faults are what an attack looks like, and a broken client too: handshakes that
// fail, connections over a bound. Eight count as one refusal, up to half of the
// bound; they begin no ban, and do not count against what was let through. So a
// house full of old devices shuts out nobody by that alone.
package ban

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

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

// faultsPer is how many faults count as one refusal.
const faultsPer = 8

// Kind is what a refusal was for. It counts alike; whoever reads of the ban that
// began wants to know.
type Kind uint8

// The kinds of refusals. The zero Kind is of none of the others.
const (
	Other      Kind = iota
	Credential      // 401
	Policy          // 403 of a policy or a rule of the edge
	Limit           // 429
	Attack          // of the WAF
	Protocol        // no HTTP by the letter
	Kinds           // how many there are
)

// Ban is the time away of one address, or of one network.
type Ban struct {
	Addr    string        // of IPv4 an address; of IPv6 a network of 64, 56 or 48 bits
	Step    int           // of the ladder: 1 is the first ban
	For     time.Duration // how long it is, from its beginning
	Refused uint64        // how often it was turned away meanwhile
	Left    time.Duration // of List: until it ends
	Lifted  bool          // it ended before its time

	Why    [Kinds]uint32 // of Refused: the refusals of each kind since the address was last a whole Within without one
	Faults int           // of Refused: faults within Within, eight of which count as a refusal
}

// Ladder remembers who was refused. Its memory is bounded: when it is full, an
// address that was not heard of lately is forgotten, never one that is banned;
// if all are, a new one cannot be banned, but is limited as before. Safe for
// concurrent use.
type Ladder struct {
	now     func() time.Time
	start   time.Time
	rule    atomic.Pointer[rules]
	keys    *keyed.Table[netip.Prefix, entry]
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
	faults  keyed.Wheel
	why     [Kinds]uint32 // of refused, and of what was there before it, since it was last empty
	until   int64         // end of the ban; 0: none, or its end was told
	recent  int64         // end of the newest ban
	step    int
	length  time.Duration
	away    uint64 // turned away since the ban began
	lifted  bool   // it is being lifted
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
	l.keys = keyed.New(keyed.Options[netip.Prefix, entry]{
		Keys: opt.Keys, Worth: l.worth, Pause: int64(time.Second), Gone: l.end,
		Hash: func(p netip.Prefix) uint64 { return maphash.Comparable(seed, p) },
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
		e.rule = r.number
		e.clear()
	}
	k := now / r.bucket
	e.refused.Advance(k, keyed.Buckets)
	if e.refused.Sum() == 0 {
		e.why = [Kinds]uint32{}
	}
	e.good.Advance(k, keyed.Buckets)
	e.faults.Advance(k, keyed.Buckets)
}

func (e *entry) clear() {
	e.refused, e.good, e.faults = keyed.Wheel{}, keyed.Wheel{}, keyed.Wheel{}
	e.why = [Kinds]uint32{}
}

// note counts a refusal of a kind.
func (e *entry) note(k Kind) {
	e.refused.Add(1, keyed.Buckets)
	if k >= Kinds {
		k = Other
	}
	if e.why[k] < math.MaxUint32 {
		e.why[k]++
	}
}

// tooMany judges the counts of a network that may be refused so many times as
// often as an address. Only what was refused is held against what was let through.
func (e *entry) tooMany(r *rules, times int) bool {
	refused := e.refused.Sum()
	faults := min(e.faults.Sum()/faultsPer, r.Refusals/2)
	return refused > e.good.Sum() && refused+faults > times*r.Refusals
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
	var left time.Duration
	for _, bits := range widths(a) {
		left = max(left, l.turnAway(around(a, bits), left == 0))
	}
	return left
}

// turnAway returns how long p is still banned, and counts if it is and it is to.
func (l *Ladder) turnAway(p netip.Prefix, count bool) time.Duration {
	s, e := l.keys.Peek(p, l.since())
	defer s.Unlock()
	if e == nil || e.until <= s.Now() {
		return 0
	}
	if count {
		e.away++
	}
	return time.Duration(e.until - s.Now())
}

// Good counts a request of a that was let through, for an address or a network that
// was also refused.
func (l *Ladder) Good(a netip.Addr) {
	r := l.rule.Load()
	if r.off() {
		return
	}
	a = a.Unmap().WithZone("")
	now := l.since()
	for _, bits := range widths(a) {
		s, e := l.keys.Peek(around(a, bits), now)
		if e != nil {
			e.advance(s.Now(), r)
			e.good.Add(1, keyed.Buckets)
		}
		s.Unlock()
	}
}

// Refused counts a refusal of a for k, and returns the bans that begin with it: of a
// itself, and of the networks around it.
func (l *Ladder) Refused(a netip.Addr, k Kind) []Ban {
	r := l.rule.Load()
	a = a.Unmap().WithZone("")
	if r.off() || !a.IsValid() || r.spares(a) || l.inForce(a) {
		return nil
	}
	var begun []Ban
	times := 1
	for _, bits := range widths(a) {
		b, ok, again := l.refused(around(a, bits), k, r, times)
		if ok {
			begun = append(begun, b)
		}
		if again {
			break
		}
		times *= 4
	}
	return begun
}

// inForce reports whether a, or a network around it, is banned already: what comes
// then is of a connection from before.
func (l *Ladder) inForce(a netip.Addr) bool {
	if l.banned.Load() == 0 {
		return false
	}
	for _, bits := range widths(a) {
		if l.turnAway(around(a, bits), false) > 0 {
			return true
		}
	}
	return false
}

// refused counts a refusal of p. again says that p was banned so lately that the
// networks around it still hold against them what led to that: who has a site, and is
// banned again and again, must not have his neighbours banned.
func (l *Ladder) refused(p netip.Prefix, k Kind, r *rules, times int) (b Ban, begun, again bool) {
	s, e := l.keys.Lock(p, l.since())
	defer s.Unlock()
	if e == nil {
		l.crowded.Add(1)
		return Ban{}, false, false
	}
	e.advance(s.Now(), r)
	again = e.step > 0 && s.Now() < e.recent+int64(r.Within)
	if e.until > s.Now() { // since just now
		return Ban{}, false, again
	}
	e.note(k)
	if !e.tooMany(r, times) {
		return Ban{}, false, again
	}
	l.end(p, e)
	return l.begin(p, e, r, s.Now()), true, again
}

// Fault counts what may be an attack of a and may be a broken client of its house.
func (l *Ladder) Fault(a netip.Addr) {
	r := l.rule.Load()
	a = a.Unmap().WithZone("")
	if r.off() || !a.IsValid() || r.spares(a) {
		return
	}
	s, e := l.keys.Lock(around(a, widths(a)[0]), l.since())
	defer s.Unlock()
	if e != nil {
		e.advance(s.Now(), r)
		e.faults.Add(1, keyed.Buckets)
	}
}

// begin bans. The count begins anew after it, so that the next ban takes as much
// as the first.
func (l *Ladder) begin(p netip.Prefix, e *entry, r *rules, now int64) Ban {
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
	b := Ban{Addr: name(p), Step: e.step, For: e.length, Why: e.why, Faults: e.faults.Sum()}
	e.clear()
	e.advance(now, r)
	l.banned.Add(1)
	return b
}

// end notes the end of a ban that was not told yet.
func (l *Ladder) end(p netip.Prefix, e *entry) {
	if e.until == 0 {
		return
	}
	e.until = 0
	l.banned.Add(-1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = append(l.ended, e.ban(p))
}

// Ended returns the bans that have ended since it was asked last. It looks at
// every address: ask it every few seconds.
func (l *Ladder) Ended() []Ban {
	now := l.since()
	l.keys.Each(func(p netip.Prefix, e *entry) {
		if e.until != 0 && e.until <= now {
			l.end(p, e)
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.ended
	l.ended = nil
	return out
}

// List returns the bans that are in force, in no order. It looks at every address,
// unless there are none.
func (l *Ladder) List() []Ban {
	if l.banned.Load() == 0 {
		return nil
	}
	var out []Ban
	now := l.since()
	l.keys.Each(func(p netip.Prefix, e *entry) {
		if e.until > now {
			b := e.ban(p)
			b.Left = time.Duration(e.until - now)
			out = append(out, b)
		}
	})
	return out
}

// Lift ends every ban of p, of networks in it and of networks around it, and forgets
// what led to them. It returns how many were in force; Ended tells which.
func (l *Ladder) Lift(p netip.Prefix) int {
	n := 0
	now := l.since()
	l.keys.Each(func(at netip.Prefix, e *entry) {
		if !at.Overlaps(p) {
			return
		}
		if e.lifted = e.until > now; e.lifted {
			n++
		}
		l.end(at, e)
		*e = entry{}
	})
	return n
}

// ban is that of an entry whose address or network is p.
func (e *entry) ban(p netip.Prefix) Ban {
	return Ban{Addr: name(p), Step: e.step, For: e.length, Refused: e.away, Lifted: e.lifted}
}

// InForce returns how many addresses are banned at most: a ban whose end Ended
// has not told yet is among them.
func (l *Ladder) InForce() int { return int(l.banned.Load()) }

// Crowded returns how many refusals were not counted because every remembered
// address was banned.
func (l *Ladder) Crowded() uint64 { return l.crowded.Load() }

// widths are the networks that an address counts for, in bits, the smallest first:
// itself of IPv4; of IPv6 what one host has at least, and what providers give a
// site.
func widths(a netip.Addr) []int {
	if !a.Is6() {
		return []int{32}
	}
	return []int{64, 56, 48}
}

// around is the network of so many bits that a is in.
func around(a netip.Addr, bits int) netip.Prefix { return netip.PrefixFrom(a, bits).Masked() }

// name writes a network as ratelimit.IPKey does.
func name(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
