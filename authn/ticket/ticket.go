// Package ticket is the contract for what must be remembered for minutes and
// then be gone: a half-finished login, the challenge of a ceremony, an id that
// must not come twice.
package ticket

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"
)

// MaxValue bounds the value of a ticket, in bytes.
const MaxValue = 16 << 10

// Answers of a Store that callers tell apart.
var (
	ErrNotFound = errors.New("ticket: not found")
	ErrExists   = errors.New("ticket: exists already")
)

// Hash is the SHA-256 or HMAC-SHA256 of what names the ticket. The store never
// sees the name itself, so that a copy of the database continues no login.
type Hash [sha256.Size]byte

// Store keeps tickets by kind and hash. A ticket at or past its end is not
// there. Every change is durable when its method returns. Implementations are
// judged by tickettest.Test.
type Store interface {
	// PutTicket inserts a ticket; one that is there and has not expired is
	// ErrExists, which is how a replay shows.
	PutTicket(ctx context.Context, kind string, hash Hash, value []byte, now, expires time.Time) error
	// Ticket returns the value, or ErrNotFound.
	Ticket(ctx context.Context, kind string, hash Hash, now time.Time) ([]byte, error)
	// TakeTicket returns the value and removes the ticket in one step: of two
	// at once, one gets ErrNotFound.
	TakeTicket(ctx context.Context, kind string, hash Hash, now time.Time) ([]byte, error)
	// SweepTickets forgets what has expired, if the store does not by itself.
	SweepTickets(ctx context.Context, now time.Time) error
}
