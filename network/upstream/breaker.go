package upstream

import (
	"context"
	"net/http"
	"time"
)

// verdict is what a request says of the service's health.
type verdict uint8

const (
	unknown verdict = iota // the caller went away: nothing was learned
	well
	failed
)

// verdictOf judges an answer. Only what says that nobody was there to answer is a
// failure: an answer 500 may be a fault that one request provokes, and whoever
// knows such a request must not be able to turn the service off for others. So
// may 503 be, but services that shed load say so on purpose, and are to be left
// alone.
func verdictOf(status int) verdict {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return failed
	}
	return well
}

// verdictOn judges that no answer came.
func verdictOn(caller context.Context, slow bool) verdict {
	if caller.Err() != nil && !slow {
		return unknown
	}
	return failed
}

// enter lets a request through, or says how long not to come back. While the
// breaker is open one request at a time is let through to try, and no sooner than
// it has been open for as long as it should.
func (s *Service) enter() (probe bool, err error) {
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
	s.probing = true
	return true, nil
}

// leave takes what a request says.
func (s *Service) leave(probe bool, v verdict) {
	now := s.opt.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case probe:
		s.tried(now, v)
	case s.open: // it left before the breaker opened
	case v == failed:
		s.window.at(now).failed++
		s.judge(now)
	case v == unknown:
		s.window.at(now).unknown++
	}
}

// brokeOff takes that an answer, which began well, has no end.
func (s *Service) brokeOff() {
	now := s.opt.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		s.window.at(now).failed++
		s.judge(now)
	}
}

// tried ends a probe.
func (s *Service) tried(now time.Time, v verdict) {
	s.probing = false
	switch v {
	case well:
		s.open, s.window = false, window{}
		s.tell(Change{})
	case failed:
		s.until = now.Add(s.opt.Open)
	}
}

// judge opens the breaker when too much of the window failed. Requests under way
// count as if they went well.
func (s *Service) judge(now time.Time) {
	sum := s.window.sum(now)
	n := sum.requests - sum.unknown
	if s.opt.Failures <= 0 || n < max(1, s.opt.Least) || sum.failed*100 < n*s.opt.Failures {
		return
	}
	s.open, s.until = true, now.Add(s.opt.Open)
	s.tell(Change{Open: true, Requests: n, Failed: sum.failed})
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
	unix                               int64
	requests, failed, unknown, retries int
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
			out.unknown += s.unknown
			out.retries += s.retries
		}
	}
	return out
}
