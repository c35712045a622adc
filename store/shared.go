package store

import (
	"context"
	"errors"

	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/authn/ticket"
)

// Shared keeps what is written at every login and read at every request: small,
// short-lived, and better in memory that all control planes share than in a
// database.
type Shared interface {
	session.Store
	guess.Store
	ticket.Store
	Close() error
}

// WithShared returns base with its sessions, counters and tickets in shared.
// Closing it closes both.
func WithShared(base Store, shared Shared) Store {
	return divided{lower{base}, shared}
}

// lower puts a Store one level deeper in divided, where methods of Shared hide
// its own.
type lower struct{ Store }

type divided struct {
	lower
	Shared
}

// DeleteUser implements Accounts: sessions are not where base looks for them.
func (d divided) DeleteUser(ctx context.Context, name string) (bool, error) {
	u, err := d.User(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if _, err := d.EndSessions(ctx, u.Facts.Subject); err != nil {
		return false, err
	}
	return d.lower.DeleteUser(ctx, name)
}

// Close closes both.
func (d divided) Close() error { return errors.Join(d.Shared.Close(), d.lower.Close()) }
