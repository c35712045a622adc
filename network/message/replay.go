package message

import (
	"crypto/sha256"
	"time"

	"github.com/rampart-security/rampart"
)

// sighting names a message in the replay memory: its producer and id, hashed
// to one size.
type sighting [16]byte

// memory remembers when each message was stored. It keeps two generations and
// drops the older when the younger is old enough, so that forgetting costs no
// search. All time is the broker's: a copy stored within the window may be
// read at any time later, but only after what was stored before it.
type memory struct {
	keep       time.Duration // how long a message is remembered, at least
	young, old map[sighting]int64
	began      time.Time // store time at which young began
}

// see refuses a message that was stored at another time before.
func (m *memory) see(msg Message, stored time.Time) error {
	if stored.Sub(m.began) > m.keep {
		m.old, m.young, m.began = m.young, make(map[sighting]int64), stored
	}
	sum := sha256.Sum256([]byte(msg.Producer + "\x00" + msg.ID))
	name, at := sighting(sum[:16]), stored.UnixNano()
	before, known := m.young[name]
	if !known {
		before, known = m.old[name]
	}
	switch {
	case known && before != at:
		return replayed(rampart.Conflict, "has been seen before")
	case !known && len(m.young)+len(m.old) >= maxRemembered:
		return replayed(rampart.Unavailable, "too many messages within the window to remember")
	}
	m.young[name] = at
	return nil
}
