package guess

import (
	"context"
	"crypto/sha256"
	"time"
)

// Key is HMAC-SHA256 of what is counted, so that the store knows neither names
// nor addresses.
type Key [sha256.Size]byte

// State is what is known of one key. The zero State is that of a key never seen.
type State struct {
	Count   int       // tries counted
	Since   time.Time // of the first of them
	Until   time.Time // no try before
	Updated time.Time // what sweeps go by; a Guard sets it ahead, by as long as the state matters
}

// Change moves one key from a state to another; the zero State is no row.
type Change struct {
	Key      Key
	From, To State
}

// Store keeps the counters. Times keep their nanoseconds. Implementations are
// judged by guesstest.Test.
type Store interface {
	// Tries returns the states of the keys, in their order.
	Tries(ctx context.Context, keys []Key) ([]State, error)
	// SwapTries makes all changes in one step and reports true, or none when
	// any key is not in its From state any more and reports false.
	SwapTries(ctx context.Context, changes []Change) (bool, error)
	// SweepTries forgets keys last updated before the bound, if the store does
	// not by itself: it may forget a key once its Updated has passed.
	SweepTries(ctx context.Context, before time.Time) error
}
