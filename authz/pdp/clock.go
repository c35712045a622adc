package pdp

import (
	"fmt"
	"sync"
	"time"
)

// MaxJump is how far the wall clock may run away from the monotonic one, and
// how far the control plane's may be from both.
const MaxJump = 10 * time.Second

// Clock notices that this machine's wall clock was set, or that the machine
// slept: since it was anchored, the wall clock went further than the monotonic
// one, or less far. Expiry, working hours and step-up would then be judged by a
// time that nobody vouched for. It is safe for concurrent use.
type Clock struct {
	wall func() time.Time
	mono func() time.Duration

	mu     sync.Mutex
	at     time.Time     // wall clock at the anchor, without monotonic reading
	after  time.Duration // monotonic clock at the anchor
	jumped time.Duration // 0: it did not
}

// NewClock returns a clock that trusts the time at which it is made. wall is
// the wall clock, if nil time.Now; mono never goes back and is never set, if
// nil the monotonic part of time.Now.
func NewClock(wall func() time.Time, mono func() time.Duration) *Clock {
	if wall == nil {
		wall = time.Now
	}
	if mono == nil {
		start := time.Now()
		mono = func() time.Duration { return time.Since(start) }
	}
	return &Clock{wall: wall, mono: mono, at: wall().Round(0), after: mono()}
}

// Anchor is called with the control plane's time at each beat of its stream.
// When that agrees with the wall clock, all is well from here; a beat that does
// not agree changes nothing, as it may be the other clock that is wrong.
func (c *Clock) Anchor(server time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, mono := c.lookLocked()
	if off := server.Round(0).Sub(wall); off > MaxJump || off < -MaxJump {
		return
	}
	c.at, c.after, c.jumped = wall, mono, 0
}

// Err is not nil after a jump, until an Anchor agrees with the wall clock. It
// fits Options.Clock.
func (c *Clock) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lookLocked()
	if c.jumped == 0 {
		return nil
	}
	return fmt.Errorf("the clock of this machine jumped by %v, and the control plane has not confirmed it since", c.jumped.Round(time.Second))
}

// lookLocked reads both clocks and notes a jump.
func (c *Clock) lookLocked() (time.Time, time.Duration) {
	wall, mono := c.wall().Round(0), c.mono()
	if jump := wall.Sub(c.at) - (mono - c.after); jump > MaxJump || jump < -MaxJump {
		c.jumped = jump
	}
	return wall, mono
}
