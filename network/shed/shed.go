// Package shed bounds how many requests are in flight, and refuses the less
// important first when that fills up.
package shed

import (
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// Priority of a request. The zero value is the first to be shed.
type Priority uint8

// The priorities.
const (
	Low       Priority = iota // may fill three fifths of a gate
	Normal                    // may fill four fifths
	High                      // may fill nine tenths
	Important                 // login and health: may fill the whole gate
)

// of is how many of limit requests in flight may be there for one of p to enter:
// at least one, as far as limit allows, is kept for each that is more important.
func (p Priority) of(limit int64) int64 {
	tenths := [...]int64{4, 2, 1, 0}
	kept := int64(0)
	if p < Important {
		kept = max(int64(Important-p), limit*tenths[p]/10)
	}
	return max(min(limit, 1), limit-kept)
}

// Gate bounds one route. The zero Gate lets nobody in. Its methods may be
// called concurrently.
type Gate struct {
	limit    int64
	inFlight atomic.Int64
}

// New returns a Gate for limit requests at once, of which each priority may fill
// its part.
func New(limit int) *Gate { return &Gate{limit: int64(limit)} }

// Enter lets a request in or refuses it, and never waits. Every success must be
// followed by exactly one Leave. The error is of kind Unavailable with
// Retry-After.
func (g *Gate) Enter(p Priority) error {
	if g.inFlight.Add(1) <= p.of(g.limit) {
		return nil
	}
	g.inFlight.Add(-1)
	return full()
}

func full() error {
	return problem.With(rampart.Errorf(rampart.Unavailable, "", "too many requests in flight"), problem.Details{RetryAfter: time.Second, Limit: "places"})
}

// busy is full of a service instead of the edge.
func busy() error {
	return problem.With(rampart.Errorf(rampart.Unavailable, "", "the service has as many requests in flight as it bears"), problem.Details{RetryAfter: time.Second, Limit: "load"})
}

// Leave ends a request that entered.
func (g *Gate) Leave() { g.inFlight.Add(-1) }
