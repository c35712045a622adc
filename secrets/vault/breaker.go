package vault

import (
	"errors"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

const (
	tolerated = 5               // failures in a row before the breaker opens
	openFor   = 5 * time.Second // and for how long
)

// result is what one exchange says about the server.
type result uint8

const (
	unknown result = iota // nothing: whoever asked went away
	good
	failed
	busy // it asked to be left alone
)

// breaker keeps us from asking a server that does not answer. Degraded, not
// closed: what the cache holds is served meanwhile, as its rules say.
type breaker struct {
	now func() time.Time

	mu      sync.Mutex
	row     int       // failures since the last success
	until   time.Time // nothing is asked before
	why     error
	probing bool // one request is out to see whether it is over
}

// allow says no, and as what, while the server is left alone.
func (b *breaker) allow() (rampart.Kind, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.why == nil {
		return 0, nil
	}
	left := b.until.Sub(b.now())
	if left <= 0 && !b.probing {
		b.probing = true
		return 0, nil
	}
	if _, ok := errors.AsType[secrets.Busy](b.why); ok {
		return rampart.Limited, secrets.Busy(max(left, 0))
	}
	return rampart.Unavailable, b.why
}

// report takes what an allowed request found; wait is what a busy server asked for.
func (b *breaker) report(r result, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch r {
	case good:
		b.row, b.why = 0, nil
	case busy:
		b.why = secrets.Busy(max(wait, time.Second))
		b.until = b.now().Add(max(wait, time.Second))
	case failed:
		if b.row++; b.row >= tolerated {
			b.why = errors.New("it failed five times in a row and is asked again in some seconds")
			b.until = b.now().Add(openFor)
		}
	}
	b.probing = false
}
