package relational

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/store"
)

// PutTicket implements ticket.Store: one that has expired is replaced.
func (s *Store) PutTicket(ctx context.Context, kind string, hash ticket.Hash, value []byte, now, expires time.Time) error {
	ok, err := s.hit(ctx, `INSERT INTO tickets (kind, hash, value, expires) VALUES ($1,$2,$3,$4)
		ON CONFLICT (kind, hash) DO UPDATE SET value = excluded.value, expires = excluded.expires WHERE tickets.expires <= $5`,
		kind, hash[:], append([]byte{}, value...), nanos(expires), nanos(now))
	if err == nil && !ok {
		return ticket.ErrExists
	}
	return err
}

// Ticket implements ticket.Store.
func (s *Store) Ticket(ctx context.Context, kind string, hash ticket.Hash, now time.Time) (value []byte, err error) {
	err = s.db.Read.QueryRowContext(ctx, `SELECT value FROM tickets WHERE kind = $1 AND hash = $2 AND expires > $3`, kind, hash[:], nanos(now)).Scan(&value)
	return value, s.orMissing(err, ticket.ErrNotFound)
}

// TakeTicket implements ticket.Store.
func (s *Store) TakeTicket(ctx context.Context, kind string, hash ticket.Hash, now time.Time) (value []byte, err error) {
	err = s.db.Write.QueryRowContext(ctx, `DELETE FROM tickets WHERE kind = $1 AND hash = $2 AND expires > $3 RETURNING value`, kind, hash[:], nanos(now)).Scan(&value)
	return value, s.orMissing(err, ticket.ErrNotFound)
}

// SweepTickets implements ticket.Store.
func (s *Store) SweepTickets(ctx context.Context, now time.Time) error {
	return s.run(ctx, `DELETE FROM tickets WHERE expires <= $1`, nanos(now))
}

// Tries implements guess.Store.
func (s *Store) Tries(ctx context.Context, keys []guess.Key) ([]guess.State, error) {
	out := make([]guess.State, len(keys))
	for i, key := range keys {
		v := &out[i]
		err := s.db.Read.QueryRowContext(ctx, `SELECT count, since, until, updated FROM tries WHERE key = $1`, key[:]).
			Scan(&v.Count, instant{&v.Since}, instant{&v.Until}, instant{&v.Updated})
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	return out, nil
}

// errMoved ends a transaction in which a state was not the expected one.
var errMoved = errors.New("relational: a counter moved")

// SwapTries implements guess.Store. Rows are locked in the order of their keys:
// two swaps never wait for each other.
func (s *Store) SwapTries(ctx context.Context, changes []guess.Change) (bool, error) {
	changes = slices.SortedFunc(slices.Values(changes), func(a, b guess.Change) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		for _, c := range changes {
			n, err := s.swapOne(ctx, tx, c)
			if err != nil {
				return err
			}
			if n == 0 {
				return errMoved
			}
		}
		return nil
	})
	if errors.Is(err, errMoved) || errors.Is(err, store.ErrExists) {
		return false, nil
	}
	return err == nil, err
}

// swapOne returns how many rows were in the From state.
func (s *Store) swapOne(ctx context.Context, tx *sql.Tx, c guess.Change) (int64, error) {
	from, to := c.From, c.To
	switch (guess.State{}) {
	case from:
		return s.change(ctx, tx, `INSERT INTO tries (key, count, since, until, updated) VALUES ($1,$2,$3,$4,$5) ON CONFLICT (key) DO NOTHING`,
			c.Key[:], to.Count, nanos(to.Since), nanos(to.Until), nanos(to.Updated))
	case to:
		return s.change(ctx, tx, `DELETE FROM tries WHERE key = $1 AND count = $2 AND since = $3 AND until = $4 AND updated = $5`,
			c.Key[:], from.Count, nanos(from.Since), nanos(from.Until), nanos(from.Updated))
	}
	return s.change(ctx, tx, `UPDATE tries SET count = $6, since = $7, until = $8, updated = $9
		WHERE key = $1 AND count = $2 AND since = $3 AND until = $4 AND updated = $5`,
		c.Key[:], from.Count, nanos(from.Since), nanos(from.Until), nanos(from.Updated), to.Count, nanos(to.Since), nanos(to.Until), nanos(to.Updated))
}

// SweepTries implements guess.Store.
func (s *Store) SweepTries(ctx context.Context, before time.Time) error {
	return s.run(ctx, `DELETE FROM tries WHERE updated < $1`, nanos(before))
}
