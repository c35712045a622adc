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
	floodAll    = 2048 // refusals per window that get a record each, of all together
	floodKeys   = 4096 // different refusals watched at once
	floodWindow = time.Second
	floodNamed  = 16 // different things that a count names
	floodName   = 96 // bytes of each name

	// Of connections that never became a request: anybody can open them, from as
	// many addresses as he has, and nothing but limits of connections bounds them.
	strangeAll    = 512
	strangeWindow = 10 * time.Second
)

// flood counts equal refusals, so that an attacker's million requests do not
// become a million records. It is guarded by Log.mu.
type flood struct {
	all    int // refusals per window that get a record
	window time.Duration

	seen     map[floodKey]*floodCount
	recorded int
	timer    *time.Timer // ends the window; nil when there is none
}

// floodKey is what makes two refusals equal. That of no ip and no subject, with
// rest set, is of all for whom there is no room.
type floodKey struct {
	control, code, ip, subject string
	rest                       bool
}

type floodCount struct {
	n        int
	recorded int      // of them, one by one
	event    Event    // the first that was counted instead of recorded
	what     []string // what was refused: the first floodNamed different ones
	more     int      // refusals of something that is not in what
	rest     bool     // of all for whom there is no room
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
// is in the log when its window ends: a second, ten of connections that never became
// a request. While more different refusals come than can be watched, the rest are
// counted together, by control, unless they are of somebody known: whoever has a
// million addresses fills no log.
func (l *Log) counted(e Event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.failure != nil {
		return false // Record finds the right error
	}
	f := &l.requests
	key := floodKey{control: e.Control, ip: peerNet(e.Peer), subject: cut(e.Subject)}
	if e.strange() {
		f, key.code = &l.strangers, cut(e.Code)
	}
	c := l.countLocked(f, key)
	if c.rest && e.Subject != "" {
		return false // who is known is bounded by limits of its own, and is named
	}
	c.n++
	if c.recorded < floodFree && f.recorded < f.all && !c.rest {
		c.recorded++
		f.recorded++
		return false
	}
	if c.n == c.recorded+1 {
		c.keep(e)
	}
	c.add(e)
	return true
}

// strange reports whether e is of a connection that never became a request: no
// trace and no subject are known of it.
func (e *Event) strange() bool { return e.Class == ClassNetwork && e.Trace == "" && e.Subject == "" }

// countLocked finds the count of key, or the one of all for whom there is no room.
// There are as many of those as controls, and they are not among floodKeys.
func (l *Log) countLocked(f *flood, key floodKey) *floodCount {
	if f.seen[key] == nil && len(f.seen) >= floodKeys {
		key = floodKey{control: key.control, rest: true}
	}
	c := f.seen[key]
	if c == nil {
		c = &floodCount{rest: key.rest}
		l.watchLocked(f, key, c)
	}
	return c
}

// keep makes e the event that is recorded for those that are counted.
func (c *floodCount) keep(e Event) {
	e.Detail = maps.Clone(e.Detail)
	if c.rest {
		e.Peer, e.Subject, e.Actor, e.Trace, e.Detail = "", "", "", "", map[string]string{"peers": "many"}
	}
	c.event = e
}

func (l *Log) watchLocked(f *flood, key floodKey, c *floodCount) {
	if f.seen == nil {
		f.seen = make(map[floodKey]*floodCount)
	}
	f.seen[key] = c
	if f.timer == nil {
		f.timer = time.AfterFunc(f.window, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if !l.closed {
				l.flushLocked(f)
			}
		})
	}
}

// flushLocked ends the window: one event for each counted refusal, with the
// number of events that it stands for in Detail["count"], and, if they were of
// different things, those in Detail["refused.01"] and so on, then
// Detail["refused.more"]: "and N more". Those that were counted together say so in
// Detail["peers"], and name no peer and no subject.
func (l *Log) flushLocked(f *flood) {
	var t text
	for _, c := range f.seen {
		if c.n == c.recorded {
			continue
		}
		e := c.event
		if e.Detail == nil {
			e.Detail = make(map[string]string, 1)
		}
		c.describe(e.Detail)
		if b, err := t.encode(e); err == nil { // strings and times always encode
			l.addLocked(b, false)
			l.next.sync = true // they are refusals, and have waited for their window already
		}
	}
	if l.next.sync {
		signal(l.hurry)
	}
	if f.timer != nil {
		f.timer.Stop()
	}
	*f = flood{all: f.all, window: f.window}
}

func (c *floodCount) describe(detail map[string]string) {
	detail["count"] = strconv.Itoa(c.n - c.recorded)
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

// peerNet leaves the port out: an attacker has 65,535 of them, and 64 bits of IPv6.
func peerNet(peer string) string {
	ap, err := netip.ParseAddrPort(peer)
	if err != nil {
		return cut(peer)
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	return netip.PrefixFrom(a, 64).Masked().String()
}
