package gateway

import (
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/fairshare"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/network/shed"
)

// How many streams may be open at once at one gateway: of one service, and of one
// caller at that service. They cost memory and connections for up to an hour, and
// next to no work, so they have places of their own: requests that end soon are not
// turned away for them. As they fill, a caller's part shrinks (package fairshare): eight
// callers would take all for an hour otherwise.
const (
	maxStreams  = 1024
	streamShare = maxStreams / 8
	streamFew   = 8 // that a caller may have although others have taken most
)

// openStreams counts those of one service. Its methods may be called concurrently.
type openStreams struct {
	most, each, few int

	mu   sync.Mutex // guards below
	n    int
	held map[string]int // by caller
}

func newOpenStreams() *openStreams {
	return &openStreams{most: maxStreams, each: streamShare, few: streamFew, held: map[string]int{}}
}

// enter lets a stream in or refuses it, and never waits. Every success must be
// followed by exactly one leave.
func (o *openStreams) enter(who string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n >= o.most {
		return tooManyStreams("", "more than %d streams of this service at once", o.most)
	}
	if each := o.share(); o.held[who] >= each {
		return tooManyStreams("limit.user", "more than %d streams of this user at once", each)
	}
	o.n++
	o.held[who]++
	return nil
}

// share is how many one caller may have now. mu is held.
func (o *openStreams) share() int {
	return min(o.each, int(fairshare.Of(int64(o.most), int64(o.n), int64(o.few))))
}

func (o *openStreams) leave(who string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n--
	if o.held[who]--; o.held[who] <= 0 {
		delete(o.held, who)
	}
}

// tooManyStreams is 503, as of a full edge: it is no sign of an attack.
func tooManyStreams(control, text string, most int) error {
	return problem.With(rampart.Errorf(rampart.Unavailable, control, text, most), problem.Details{RetryAfter: 5 * time.Second, Limit: "streams"})
}

// stay has the call hold a place of a stream from here on to its end, and none of a
// request any more. What the plan of an API key says of requests at once holds for
// streams, too.
func (c *call) stay() error {
	open, who := c.target.backend.streams, c.who()
	if err := open.enter(who); err != nil {
		return err
	}
	c.onEnd(func() { open.leave(who) })
	c.leavePlaces()
	return nil
}

// place is one that a request holds: at a gate, or among those of somebody. The zero
// place is none.
type place struct {
	gate *shed.Gate
	of   *inflight
	who  heldBy
}

func (p place) leave() {
	if p.gate != nil {
		p.gate.Leave()
	}
	if p.of != nil {
		p.of.leave(p.who)
	}
}

// hold has p left when the call ends, or turns out to be a stream.
func (c *call) hold(p place) {
	for i, held := range c.places {
		if held == (place{}) {
			c.places[i] = p
			return
		}
	}
	c.onEnd(p.leave)
}

func (c *call) leavePlaces() {
	for i, p := range c.places {
		c.places[i] = place{}
		p.leave()
	}
}
