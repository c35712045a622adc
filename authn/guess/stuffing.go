package guess

import (
	"net/netip"
	"time"
)

// Bounds of what looks like stuffing: lists of other people's passwords, each
// tried once.
const (
	stuffingFrom  = 20 // accounts
	stuffingEvery = 10
	stuffingRatio = 80 // percent of attempts that failed
)

// Stuffing says that one network tries many accounts and mostly fails. The
// zero Stuffing is none.
type Stuffing struct {
	Network  netip.Prefix
	Accounts int // tried in the window; once per address, and anew after a success
	Attempts int
	Failures int // this one included, whatever becomes of it
	Window   time.Duration
}

// stuffing judges the tallies that an attempt has moved.
func stuffing(list []counter, from, to []State, net netip.Prefix) Stuffing {
	s, fresh := Stuffing{Network: net, Window: window}, false
	for i, c := range list {
		switch c.class {
		case byNetwork:
			s.Failures = to[i].Count
		case allTries:
			s.Attempts = to[i].Count
		case allTargets:
			s.Accounts, fresh = to[i].Count, to[i].Count > from[i].Count
		}
	}
	many := fresh && s.Accounts >= stuffingFrom && s.Accounts%stuffingEvery == 0
	if !many || s.Failures*100 < s.Attempts*stuffingRatio {
		return Stuffing{}
	}
	return s
}
