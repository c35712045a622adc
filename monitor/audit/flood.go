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
	floodCounts = 256  // of them, of nobody known, that get a count each
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
	others   map[string]*floodCount // by control: of all for whom there is no room
	recorded int                    // refusals, one by one
	counts   int                    // of nobody known, but for others
	timer    *time.Timer            // ends the window; nil when there is none
}

// floodKey is what makes two refusals equal.
type floodKey struct{ control, code, ip, subject string }

type floodCount struct {
	recorded int      // one by one
	n        int      // counted
	event    Event    // the first that was counted instead of recorded
	what     []string // what was refused: the first floodNamed different ones
	more     int      // refusals of something that is not in what
}

// add counts one refusal. What it was of is kept apart: whoever tries a thousand
// doors in a second must not have all but one of them forgotten.
func (c *floodCount) add(e Event) {
	c.n++
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
// a request.
//
// Whoever has a million addresses fills no log: while more different refusals come
// than can be watched, the rest are counted together, by control, and so are those
// of nobody known when so many have a count. Who came first in a window is named, and
// all are in the sums. Who is known is named always: his limits bound him.
func (l *Log) counted(e Event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.failure != nil {
		return false // Record finds the right error
	}
	f := &l.requests
	// What is to wake somebody is no other refusal of its author's, which could have him hide it.
	alert := e.Detail["alert"]
	key := floodKey{control: e.Control, code: cut(alert), ip: peerNet(e.Peer), subject: cut(e.Subject)}
	if e.strange() {
		f, key.code = &l.strangers, cut(e.Code)
	}
	l.openLocked(f)
	c := f.watch(key)
	switch {
	case c == nil && e.Subject != "":
		return false
	case c == nil:
		f.other(&e)
	case c.recorded < floodFree && f.recorded < f.all:
		c.recorded++
		f.recorded++
		return false
	case c.n == 0 && e.Subject == "" && alert == "" && f.counts >= floodCounts:
		f.other(&e)
	default:
		f.count(c, &e)
	}
	return true
}

// watch finds the count of key, nil if there is no room for one.
func (f *flood) watch(key floodKey) *floodCount {
	c := f.seen[key]
	if c == nil && len(f.seen) < floodKeys {
		c = new(floodCount)
		f.seen[key] = c
	}
	return c
}

// count takes e into c.
func (f *flood) count(c *floodCount, e *Event) {
	if c.n == 0 {
		c.event = *e
		c.event.Detail, c.event.Trace = maps.Clone(e.Detail), strings.Clone(e.Trace) // which may be a part of all that a request brought
		if e.Subject == "" {
			f.counts++
		}
	}
	c.add(*e)
}

// other counts e with all for whom there is no room, and names nobody.
func (f *flood) other(e *Event) {
	c := f.others[e.Control]
	if c == nil {
		c = &floodCount{event: *e}
		c.event.Peer, c.event.Subject, c.event.Actor, c.event.Trace, c.event.Decision = "", "", "", "", ""
		c.event.Detail = map[string]string{"peers": "many"}
		f.others[e.Control] = c
	}
	for _, said := range [][2]*string{{&c.event.Flow, &e.Flow}, {&c.event.Resource, &e.Resource}, {&c.event.Code, &e.Code}} {
		if *said[0] != *said[1] {
			*said[0] = "" // the sum is of several
		}
	}
	c.add(*e)
}

// strange reports whether e is of a connection that never became a request: no
// trace and no subject are known of it.
func (e *Event) strange() bool { return e.Class == ClassNetwork && e.Trace == "" && e.Subject == "" }

// openLocked begins a window, if there is none.
func (l *Log) openLocked(f *flood) {
	if f.timer != nil {
		return
	}
	f.seen, f.others = make(map[floodKey]*floodCount), make(map[string]*floodCount)
	f.timer = time.AfterFunc(f.window, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.closed {
			l.flushLocked(f)
		}
	})
}

// flushLocked ends the window: one event for each counted refusal, with the
// number of events that it stands for in Detail["count"], and, if they were of
// different things, those in Detail["refused.01"] and so on, then
// Detail["refused.more"]: "and N more". Those that were counted together say so in
// Detail["peers"], and name no peer and no subject.
func (l *Log) flushLocked(f *flood) {
	for _, c := range f.seen {
		l.tellLocked(c)
	}
	for _, c := range f.others {
		l.tellLocked(c)
	}
	if l.next.sync {
		signal(l.hurry)
	}
	if f.timer != nil {
		f.timer.Stop()
	}
	*f = flood{all: f.all, window: f.window}
}

// tellLocked records what was counted.
func (l *Log) tellLocked(c *floodCount) {
	if c.n == 0 {
		return
	}
	e := c.event
	if e.Detail == nil {
		e.Detail = make(map[string]string, 1)
	}
	c.describe(e.Detail)
	if b, err := new(text).encode(e); err == nil { // strings and times always encode
		l.addLocked(b, false)
		l.next.sync = true // they are refusals, and have waited for their window already
	}
}

func (c *floodCount) describe(detail map[string]string) {
	detail["count"] = strconv.Itoa(c.n)
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
