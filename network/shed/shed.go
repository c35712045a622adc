// Package shed bounds how many requests of a route are in flight, and refuses
// the less important first when a route fills up.
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
	Normal    Priority = iota // may fill four fifths of a gate
	Important                 // login and health: may fill the whole gate
)

// Gate bounds one route. The zero Gate lets nobody in. Its methods may be
// called concurrently.
type Gate struct {
	limit    int64
	inFlight atomic.Int64
}

// New returns a Gate for limit requests at once, of which a fifth, and at least
// one where limit allows, is kept for the important.
func New(limit int) *Gate { return &Gate{limit: int64(limit)} }

// Enter lets a request in or refuses it, and never waits. Every success must be
// followed by exactly one Leave. The error is of kind Unavailable with
// Retry-After.
func (g *Gate) Enter(p Priority) error {
	limit := g.limit
	if p < Important && limit > 1 {
		limit -= max(1, limit/5)
	}
	if g.inFlight.Add(1) <= limit {
		return nil
	}
	g.inFlight.Add(-1)
	return full()
}

func full() error {
	return problem.With(rampart.Errorf(rampart.Unavailable, "", "too many requests in flight"), problem.Details{RetryAfter: time.Second})
}

// Leave ends a request that entered.
func (g *Gate) Leave() { g.inFlight.Add(-1) }
