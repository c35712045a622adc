package shed

import (
	"math"
	"sync"
	"time"
)

// Outcome is how a request left.
type Outcome uint8

// The outcomes.
const (
	Ignored  Outcome = iota // says nothing of the load: the caller went away, or nobody was asked
	Answered                // the time it took counts
	Overload                // refused for its load, or no answer in time
)

// AdaptiveOptions configure an Adaptive.
type AdaptiveOptions struct {
	Least, Most int              // bounds of the limit; 0: 64 and 512
	Now         func() time.Time // nil: time.Now
}

// Adaptive is a gate whose limit follows what stands behind it: as long as answers
// take the time that they take when nothing queues, it grows; when they take more
// than twice that, and longer than a person notices, requests queue somewhere, and
// it shrinks in proportion. Nobody
// has to know how much a service can bear, and a service that can bear less today
// is asked less.
//
// Who is refused is told at once: a queue here would only hide the one behind. Its
// methods may be called concurrently.
type Adaptive struct {
	least, most float64
	now         func() time.Time

	mu       sync.Mutex // guards below
	limit    float64
	inFlight int64
	base     float64 // seconds that an answer takes when nothing queues; 0: not known yet
	round    round
	refused  time.Time // when Enter refused last; zero: never
}

// round is what was seen since the limit was last set.
type round struct {
	began    time.Time
	took     float64 // seconds, of all answers together
	answers  int
	overload int
	peak     int64 // most in flight
}

// The rule.
const (
	roundTime    = 100 * time.Millisecond // a round lasts so long,
	roundAnswers = 16                     // and has so many answers,
	roundLongest = time.Second            // or lasts so long
	tolerance    = 2.0                    // times base that an answer may take;
	patience     = 0.1                    // seconds that it always may: a busy machine makes quick answers several times slower, and nobody is helped by refusals then
	drift        = 0.02                   // part of the way that base goes up in a round
	startLimit   = 128
)

// NewAdaptive returns an Adaptive.
func NewAdaptive(opt AdaptiveOptions) *Adaptive {
	if opt.Least <= 0 {
		opt.Least = 64
	}
	if opt.Most <= 0 {
		opt.Most = 512
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	most := float64(max(opt.Least, opt.Most))
	return &Adaptive{least: float64(opt.Least), most: most, now: opt.Now, limit: min(most, max(startLimit, float64(opt.Least)))}
}

// Enter lets a request in or refuses it, and never waits. Every success must be
// followed by exactly one Leave, with the time of Enter. The error is of kind
// Unavailable with Retry-After.
func (a *Adaptive) Enter(p Priority) (time.Time, error) {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inFlight >= p.of(int64(a.limit)) {
		a.refused = now
		return now, busy()
	}
	a.inFlight++
	a.round.peak = max(a.round.peak, a.inFlight)
	return now, nil
}

// Leave ends a request that entered.
func (a *Adaptive) Leave(entered time.Time, o Outcome) {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inFlight--
	switch o {
	case Answered:
		a.round.took += now.Sub(entered).Seconds()
		a.round.answers++
	case Overload:
		a.round.overload++
	}
	a.turn(now)
}

// Limit returns how many may be in flight now.
func (a *Adaptive) Limit() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int(a.limit)
}

// Refused returns when Enter refused last; the zero time: it never did.
func (a *Adaptive) Refused() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// turn sets the limit by what the round has seen, when it has seen enough.
func (a *Adaptive) turn(now time.Time) {
	r := a.round
	if r.began.IsZero() {
		a.round.began = now
		return
	}
	seen, age := r.answers+r.overload, now.Sub(r.began)
	if seen == 0 || age < roundTime || seen < roundAnswers && age < roundLongest {
		return
	}
	a.round = round{began: now, peak: a.inFlight}
	a.limit = min(a.most, max(a.least, a.next(r)))
}

// next is the limit that a round calls for. It grows only if it was nearly used:
// else quiet hours would lift it to where it protects nothing.
func (a *Adaptive) next(r round) float64 {
	gradient := 1.0
	if r.answers > 0 {
		took := r.took / float64(r.answers)
		gradient = max(0.5, min(1, max(patience, tolerance*a.measure(took, r.peak))/max(took, 1e-9)))
	}
	if r.overload*10 > r.answers {
		gradient = min(gradient, 0.8) // more than one in ten were too much for it
	}
	if gradient == 1 && float64(r.peak) < a.limit/2 {
		return a.limit
	}
	if gradient < 1 {
		return a.limit * gradient
	}
	return a.limit + math.Sqrt(a.limit)
}

// measure takes how long answers took in a round and returns the time that they
// take when nothing queues. That time goes up only while few are let in: work that
// became slower by nature becomes the measure, and a queue, which lasts as long as
// the overload, never does.
func (a *Adaptive) measure(took float64, peak int64) float64 {
	few := a.limit <= a.least || float64(peak) < a.limit/2
	switch {
	case a.base == 0 || took < a.base:
		a.base = took
	case few:
		a.base += drift * (took - a.base)
	}
	return a.base
}
