package guess

import (
	"math"
	"time"
)

// What bounds failures in a row.
const (
	freeFailures = 4  // without a pause
	maxFailures  = 99 // then no more
	firstPause   = time.Second
	longestPause = 15 * time.Minute
	longestLife  = 30 // days
)

// What bounds failures in a window, which begins with the first of them.
const (
	window        = 10 * time.Minute
	maxPerPair    = 10
	maxPerAddress = 30
	maxPerNetwork = 100
)

// class is what a counter counts.
type class string

const (
	byDevice   class = "device"   // failures in a row on a known device
	byAccount  class = "account"  // failures in a row of strangers
	byPair     class = "pair"     // failures in a window, as the rest
	byAddress  class = "address"  //
	byNetwork  class = "network"  //
	allTries   class = "tries"    // of a network, failed or not
	allTargets class = "accounts" // that a network has tried
	byPardon   class = "pardon"   // when an account was last forgiven
)

// inRow reports whether c counts failures in a row.
func (c class) inRow() bool { return c == byDevice || c == byAccount }

// tally reports whether c only notes: it refuses nobody and forgives nothing.
func (c class) tally() bool { return c == allTries || c == allTargets || c == byPardon }

// own reports whether c counts failures at one account.
func (c class) own() bool { return c == byDevice || c == byAccount || c == byPair }

// most is how many failures c admits.
func (c class) most() int {
	switch c {
	case byDevice, byAccount:
		return maxFailures
	case byPair:
		return maxPerPair
	case byAddress:
		return maxPerAddress
	case byNetwork:
		return maxPerNetwork
	case allTries, allTargets, byPardon:
		return math.MaxInt
	}
	return 0
}

// live is s, or the zero State when s means nothing any more.
func live(s State, now time.Time) State {
	if !now.Before(s.Updated) {
		return State{}
	}
	return s
}

// wait is how long s refuses the next attempt; 0: it does not.
func (c class) wait(s State, now time.Time) time.Duration {
	if s.Count >= c.most() {
		return s.Updated.Sub(now)
	}
	return max(0, s.Until.Sub(now))
}

// add counts one attempt on top of s.
func (c class) add(s State, now time.Time) State {
	if s.Count == 0 {
		s = State{Since: now, Updated: now.Add(window)}
	}
	s.Count++
	if c.inRow() {
		s.Until, s.Updated = until(s.Count, now), now.Add(life(s.Count))
	}
	return s
}

// remove takes n failures off s.
func (c class) remove(s State, n int, now time.Time) State {
	s.Count -= n
	if s.Count <= 0 {
		return State{}
	}
	if !c.inRow() {
		return s
	}
	if t := until(s.Count, now); t.Before(s.Until) {
		s.Until = t // a success must not leave a longer pause than it found
	}
	return s
}

// pardoned empties what was counted on a known device before its account was
// forgiven.
func pardoned(list []counter, states []State) {
	var at time.Time
	for i, c := range list {
		if c.class == byPardon {
			at = states[i].Since
		}
	}
	for i, c := range list {
		if c.class == byDevice && states[i].Since.Before(at) {
			states[i] = State{}
		}
	}
}

// pardon notes that an account was forgiven, for as long as any counter lives.
func pardon(now time.Time) State {
	return State{Count: 1, Since: now, Updated: now.Add(life(longestLife))}
}

// until is when the pause after failure n ends; the zero time: there is none.
func until(n int, now time.Time) time.Time {
	if n <= freeFailures {
		return time.Time{}
	}
	pause := longestPause
	if doubled := n - freeFailures - 1; doubled < 10 {
		pause = min(longestPause, firstPause<<doubled)
	}
	return now.Add(pause)
}

// life is how long n failures in a row are remembered.
func life(n int) time.Duration { return time.Duration(min(n, longestLife)) * 24 * time.Hour }
