package store

import (
	"context"
	"errors"
	"time"
)

// Answers of an EdgeStore that callers tell apart.
var (
	ErrFenced = errors.New("store: the lock is somebody else's by now")
	ErrFull   = errors.New("store: full")
)

// EdgeValue is one thing that all gateways share: a certificate, its key, the
// account at the authority. The caller sealed it.
type EdgeValue struct {
	Key      string // words between slashes
	Sealed   []byte
	Modified time.Time
}

// EdgeStore keeps what gateways share, and who of them is at work on what. A
// lock guards its key and the keys below it. Its fence grows with every new
// holder, also when the one before never unlocked.
type EdgeStore interface {
	// EdgeValue returns one value, or ErrNotFound.
	EdgeValue(ctx context.Context, key string) (EdgeValue, error)
	// EdgeKeys returns the keys below prefix, sorted, limit at most; "" is all.
	EdgeKeys(ctx context.Context, prefix string, limit int) ([]string, error)
	// PutEdge inserts or replaces a value. It is ErrFenced when a lock that guards
	// the key has a newer fence, or has a holder now and fence is 0; and ErrFull
	// when the key is new and there are limit others.
	PutEdge(ctx context.Context, v EdgeValue, fence uint64, limit int) error
	// SwapEdge replaces what is stored if it is old still, and reports whether it was.
	// It is for the same value sealed anew: no lock counts, and the time stays.
	SwapEdge(ctx context.Context, key string, old, sealed []byte) (bool, error)
	// DeleteEdge deletes a key and those below it, under the same rule of fences.
	DeleteEdge(ctx context.Context, key string, fence uint64, now time.Time) error
	// LockEdge takes a lock that nobody holds at now, or extends the owner's own,
	// and returns its fence; 0 is that somebody else holds it.
	LockEdge(ctx context.Context, key, owner string, until, now time.Time) (fence uint64, err error)
	// UnlockEdge gives the owner's lock back; one that was lost stays lost.
	UnlockEdge(ctx context.Context, key, owner string) error
}
