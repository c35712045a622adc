package upstream

import (
	"slices"
	"time"
)

// share is the part of the failures held against a service that one caller may
// have provoked, and so, at least, how many callers they come from.
const share = 4

// samples is how many failures are remembered with who met them: the newest.
const samples = 128

// evidence remembers who met the last failures that a caller can provoke: a request
// that takes too long, or that kills the service's handler, says as much of the
// request as of the service. Nobody is to turn a service off for others with it.
type evidence struct {
	ring [samples]sighting
	next int
}

type sighting struct {
	unix int64
	who  uint64
}

func (e *evidence) add(now time.Time, who uint64) {
	e.ring[e.next] = sighting{now.Unix(), who}
	e.next = (e.next + 1) % samples
}

// weigh returns how many of so many failures count. They are cut down until nobody
// has more than a share of what is left, which leaves none of those that fewer
// callers met than there are shares.
func (e *evidence) weigh(now time.Time, failures int) int {
	var room [samples]int
	met := e.perCaller(now, room[:0])
	seen := sum(met, failures)
	if seen == 0 {
		return 0
	}
	left := seen
	for {
		next := sum(met, left/share)
		if next == left {
			return failures * left / seen
		}
		left = next
	}
}

// perCaller appends how many failures each caller met in the window.
func (e *evidence) perCaller(now time.Time, met []int) []int {
	var room [samples]uint64
	who := room[:0]
	for _, s := range e.ring {
		if age := now.Unix() - s.unix; age >= 0 && age < windowSeconds {
			who = append(who, s.who)
		}
	}
	slices.Sort(who)
	for i, w := range who {
		if i == 0 || w != who[i-1] {
			met = append(met, 0)
		}
		met[len(met)-1]++
	}
	return met
}

// sum adds up what is met, at most so much of each.
func sum(met []int, each int) (n int) {
	for _, m := range met {
		n += min(m, each)
	}
	return n
}
