package audit

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	floodFree   = 20   // equal refusals per window that get a record each
	floodKeys   = 4096 // different refusals watched at once
	floodWindow = time.Second
	floodNamed  = 16 // different things that a count names
	floodName   = 96 // bytes of each name
)

// flood counts equal refusals, so that an attacker's million requests do not
// become a million records. It is guarded by Log.mu.
type flood struct {
	seen  map[floodKey]*floodCount
	timer *time.Timer // ends the window; nil when there is none
}

// floodKey is what makes two refusals equal.
type floodKey struct{ control, ip, subject string }

type floodCount struct {
	n     int
	event Event    // the first that was counted instead of recorded
	what  []string // what was refused: the first floodNamed different ones
	more  int      // refusals of something that is not in what
}

// add takes one refusal in. What it was of is kept apart: whoever tries a
// thousand doors in a second must not have all but one of them forgotten.
func (c *floodCount) add(e Event) {
	name := e.Action[:min(len(e.Action), floodName)]
	if e.Resource != "" {
		name += " " + e.Resource[:min(len(e.Resource), floodName)]
	}
	name = strings.ToValidUTF8(name[:min(len(name), floodName)], "")
	switch {
	case slices.Contains(c.what, name):
	case len(c.what) < floodNamed:
		c.what = append(c.what, strings.Clone(name))
	default:
		c.more++
	}
}

// counted reports whether e was counted instead of recorded. A counted refusal
// is in the log when its window, a second, ends. While more different refusals
// come than can be watched, the rest are recorded one by one.
func (l *Log) counted(e Event) bool {
	key := floodKey{e.Control, peerIP(e.Peer), cut(e.Subject)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.failure != nil {
		return false // Record finds the right error
	}
	c := l.flood.seen[key]
	if c == nil {
		if len(l.flood.seen) >= floodKeys {
			return false
		}
		c = &floodCount{}
		l.watchLocked(key, c)
	}
	c.n++
	if c.n <= floodFree {
		return false
	}
	if c.n == floodFree+1 {
		e.Detail = maps.Clone(e.Detail)
		c.event = e
	}
	c.add(e)
	return true
}

func (l *Log) watchLocked(key floodKey, c *floodCount) {
	if l.flood.seen == nil {
		l.flood.seen = make(map[floodKey]*floodCount)
	}
	l.flood.seen[key] = c
	if l.flood.timer == nil {
		l.flood.timer = time.AfterFunc(floodWindow, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if !l.closed {
				l.flushLocked()
			}
		})
	}
}

// flushLocked ends the window: one event for each counted refusal, with the
// number of events that it stands for in Detail["count"], and, if they were of
// different things, those in Detail["refused.01"] and so on, then
// Detail["refused.more"]: "and N more".
func (l *Log) flushLocked() {
	for _, c := range l.flood.seen {
		if c.n <= floodFree {
			continue
		}
		e := c.event
		if e.Detail == nil {
			e.Detail = make(map[string]string, 1)
		}
		c.describe(e.Detail)
		if b, err := encode(e); err == nil { // strings and times always encode
			l.addLocked(b, false)
		}
	}
	if l.flood.timer != nil {
		l.flood.timer.Stop()
	}
	l.flood = flood{}
}

func (c *floodCount) describe(detail map[string]string) {
	detail["count"] = strconv.Itoa(c.n - floodFree)
	if len(c.what) < 2 {
		return
	}
	for i, name := range c.what {
		detail[fmt.Sprintf("refused.%02d", i+1)] = name
	}
	if c.more > 0 {
		detail["refused.more"] = fmt.Sprintf("and %d more", c.more)
	}
}

// peerIP leaves the port out: an attacker has 65,535 of them.
func peerIP(peer string) string {
	if a, err := netip.ParseAddrPort(peer); err == nil {
		return a.Addr().Unmap().String()
	}
	return cut(peer)
}
