package upstream

import (
	"context"
	"hash/maphash"
	"net/http"
	"slices"
	"time"

	"github.com/rampart-security/rampart/internal/relay"
)

// verdict is what a request says of the service's health.
type verdict uint8

const (
	unknown verdict = iota // the caller went away, or has said enough: nothing was learned
	well
	failed // nobody was there: no connection could be opened, whoever asked
	strain // no good answer came; that may be the request's fault
)

// verdictOf judges an answer. Only what says that nobody was there to answer is a
// failure: an answer 500 may be a fault that one request provokes, and whoever
// knows such a request must not be able to turn the service off for others. So
// may 503 be, but services that shed load say so on purpose, and are to be left
// alone: it is weighed by who gets it.
func verdictOf(res *http.Response) verdict {
	if relay.Told(res.Header) == relay.Unreached { // of a gRPC call with status 200
		return failed
	}
	switch res.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return strain
	}
	return well
}

// verdictOn judges that no answer came. A connection that breaks may do so because
// of what was sent on it. One that could not be opened says nothing if its caller had
// gone: he could turn a service off for all others by going away while it is opened.
func verdictOn(caller context.Context, slow bool, err error) verdict {
	switch {
	case caller.Err() != nil && !slow:
		return unknown
	case relay.OutcomeOf(err) == relay.Unreached:
		return failed
	}
	return strain
}

// maxStrainers is how many of those who strained an open service are remembered.
const maxStrainers = 64

// enter lets a request through, or says how long not to come back. While the
// breaker is open one request at a time is let through to try, and no sooner than
// it has been open for as long as it should. Whose request strained the service since
// it is open leaves others as long to try again: two who agree must not take all tries.
func (s *Service) enter(who string) (probe bool, err error) {
	now := s.opt.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		s.window.at(now).requests++
		return false, nil
	}
	if wait := s.until.Sub(now); wait > 0 {
		return false, s.closedFor(wait)
	}
	if s.probing {
		return false, s.closedFor(time.Second)
	}
	if wait := s.until.Add(s.opt.Open).Sub(now); wait > 0 && slices.Contains(s.strainers, who) {
		return false, s.closedFor(wait)
	}
	s.probing = true
	return true, nil
}

// leave takes what a request of who says; "" is a caller like no other.
func (s *Service) leave(probe bool, v verdict, who string) {
	if v == well && !probe {
		return // enter has counted it
	}
	now := s.opt.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case probe:
		s.tried(now, v, who)
	case s.open: // it left before the breaker opened
	case v == failed || v == strain:
		s.holdAgainst(now, v, who)
	case v == unknown:
		s.window.at(now).unknown++
	}
}

// brokeOff takes that an answer, which began well, has no end.
func (s *Service) brokeOff(who string) {
	now := s.opt.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		s.holdAgainst(now, strain, who)
	}
}

// holdAgainst counts a failure, and opens the breaker if it is one too many.
func (s *Service) holdAgainst(now time.Time, v verdict, who string) {
	if v == strain && who != "" {
		s.window.at(now).strained++
		s.evidence.add(now, maphash.String(s.seed, who))
	} else {
		s.window.at(now).failed++
	}
	s.judge(now)
}

// tried ends a probe.
func (s *Service) tried(now time.Time, v verdict, who string) {
	s.probing = false
	switch v {
	case well:
		s.open, s.window, s.evidence, s.strainers = false, window{}, evidence{}, nil
		s.tell(Change{})
	case failed, strain:
		s.until = now.Add(s.opt.Open)
		if v == strain {
			s.strained(who)
		}
	}
}

// strained remembers who was let through to try and strained the service, the newest.
func (s *Service) strained(who string) {
	if who == "" || slices.Contains(s.strainers, who) {
		return
	}
	s.strainers = append(s.strainers, who)
	s.strainers = s.strainers[max(0, len(s.strainers)-maxStrainers):]
}

// judge opens the breaker when too much of the window failed. Requests under way
// count as if they went well; failures of one caller beyond its share do not count
// at all.
func (s *Service) judge(now time.Time) {
	sum := s.window.sum(now)
	n, bad := sum.requests-sum.unknown, sum.failed+sum.strained
	if !s.tooMuch(n, bad) {
		return // not even if all of them counted
	}
	spared := sum.strained - s.evidence.weigh(now, sum.strained)
	n, bad = n-spared, bad-spared
	if !s.tooMuch(n, bad) {
		return
	}
	s.open, s.since, s.until, s.strainers = true, now, now.Add(s.opt.Open), nil
	s.tell(Change{Open: true, Requests: n, Failed: bad})
}

func (s *Service) tooMuch(n, bad int) bool {
	return s.opt.Failures > 0 && n >= max(1, s.opt.Least) && bad*100 >= n*s.opt.Failures
}

func (s *Service) tell(c Change) {
	if s.opt.OnChange != nil {
		s.opt.OnChange(c)
	}
}

// retry takes a second try from the budget: a tenth of the window's requests,
// rounded up. A service that fails is so asked 1.1 times as often, and not twice.
func (s *Service) retry() bool {
	now := s.opt.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.window.sum(now)
	if s.open || sum.retries*10 >= sum.requests {
		return false
	}
	s.window.at(now).retries++
	return true
}

// windowSeconds is how far back a window reaches.
const windowSeconds = 10

// window counts the last ten seconds, one by one.
type window [windowSeconds]second

type second struct {
	unix                                         int64
	requests, failed, strained, unknown, retries int
}

// at is the second of now.
func (w *window) at(now time.Time) *second {
	unix := now.Unix()
	s := &w[uint64(unix)%windowSeconds]
	if s.unix != unix {
		*s = second{unix: unix}
	}
	return s
}

func (w *window) sum(now time.Time) (out second) {
	unix := now.Unix()
	for _, s := range w {
		if age := unix - s.unix; age >= 0 && age < windowSeconds {
			out.requests += s.requests
			out.failed += s.failed
			out.strained += s.strained
			out.unknown += s.unknown
			out.retries += s.retries
		}
	}
	return out
}
