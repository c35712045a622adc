package control

import (
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// guessWindow is the window of every login limit.
const guessWindow = 5 * time.Minute

// Limits of failed logins per window: of one account from one address, of one
// account from anywhere, from one address to anywhere. The second would let any
// botnet lock anybody out, so it spares the addresses that the account has
// logged in from: there the first alone counts, which a stranger elsewhere
// cannot use up.
const (
	guessesPerPair    = 10
	guessesPerAccount = 50
	guessesPerIP      = 30
)

// maxGuessKeys bounds the memory of guesses. The same again is kept for the
// addresses that are known, so that strangers cannot fill it all.
const maxGuessKeys = 1 << 16

// knownFor is how long an address counts as known after a login.
const knownFor = 30 * 24 * time.Hour

// guesses counts login attempts exactly. An attempt is counted before the
// compare, so that a thousand at once are no better than one after another,
// and given back when it succeeds, so that only failures add up. Safe for
// concurrent use.
type guesses struct {
	now func() time.Time

	mu    sync.Mutex
	tries map[string][]time.Time
}

func newGuesses(now func() time.Time) *guesses {
	return &guesses{now: now, tries: map[string][]time.Time{}}
}

// take counts one attempt on every limit, or on none and says that one refused.
// known: the account has logged in from this address. giveBack is to be called
// if the attempt succeeds.
func (g *guesses) take(account, ip string, known bool) (giveBack func(), err error) {
	limits := []struct {
		key   string
		max   int
		spare bool
	}{
		{"pair\x00" + account + "\x00" + ip, guessesPerPair, false},
		{"account\x00" + account, guessesPerAccount, known},
		{"ip\x00" + ip, guessesPerIP, false},
	}
	room := maxGuessKeys
	if known {
		room *= 2
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for _, l := range limits {
		list := g.recentLocked(l.key, now)
		if len(list) >= l.max && !l.spare {
			wait := list[len(list)-l.max].Add(guessWindow).Sub(now)
			return nil, &problem.Details{RetryAfter: wait, Err: rampart.Errorf(rampart.Limited, "limit.login", "too many failed attempts; try again later")}
		}
	}
	if len(g.tries)+len(limits) > room {
		g.sweepLocked(now)
	}
	if len(g.tries)+len(limits) > room {
		return nil, rampart.Errorf(rampart.Limited, "limit.login", "too many failed attempts; try again later")
	}
	for _, l := range limits {
		g.tries[l.key] = append(g.tries[l.key], now)
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, l := range limits {
			g.dropLocked(l.key, now)
		}
	}, nil
}

// recentLocked returns the attempts of key within the window.
func (g *guesses) recentLocked(key string, now time.Time) []time.Time {
	list := g.tries[key]
	for len(list) > 0 && now.Sub(list[0]) >= guessWindow {
		list = list[1:]
	}
	if len(list) == 0 {
		delete(g.tries, key)
		return nil
	}
	g.tries[key] = list
	return list
}

// dropLocked takes one attempt back.
func (g *guesses) dropLocked(key string, at time.Time) {
	list := g.tries[key]
	for i, t := range list {
		if t.Equal(at) {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(g.tries, key)
		return
	}
	g.tries[key] = list
}

// sweep forgets attempts that have left the window.
func (g *guesses) sweep() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sweepLocked(g.now())
}

func (g *guesses) sweepLocked(now time.Time) {
	for key := range g.tries {
		g.recentLocked(key, now)
	}
}
