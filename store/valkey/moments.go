package valkey

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/ticket"
)

func (s *Store) ticketKey(kind string, hash ticket.Hash) []string {
	return []string{s.prefix + "k:" + kind + ":" + hex.EncodeToString(hash[:])}
}

// PutTicket implements ticket.Store.
func (s *Store) PutTicket(ctx context.Context, kind string, hash ticket.Hash, value []byte, now, expires time.Time) error {
	if len(value) > ticket.MaxValue {
		return rampart.Errorf(rampart.Invalid, "", "valkey: a ticket has at most %d bytes", ticket.MaxValue)
	}
	n, err := s.count(ctx, s.run.putTicket, s.ticketKey(kind, hash), stamp(now), stamp(expires), value, forget(expires))
	if err == nil && n == 0 {
		return ticket.ErrExists
	}
	return err
}

// Ticket implements ticket.Store.
func (s *Store) Ticket(ctx context.Context, kind string, hash ticket.Hash, now time.Time) ([]byte, error) {
	return found(s.script(ctx, s.run.ticket, s.ticketKey(kind, hash), stamp(now)))
}

// TakeTicket implements ticket.Store.
func (s *Store) TakeTicket(ctx context.Context, kind string, hash ticket.Hash, now time.Time) ([]byte, error) {
	return found(s.script(ctx, s.run.takeTicket, s.ticketKey(kind, hash), stamp(now)))
}

func found(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	text, ok := v.(string)
	if !ok {
		return nil, ticket.ErrNotFound
	}
	return []byte(text), nil
}

// SweepTickets implements ticket.Store: the server forgets by itself.
func (s *Store) SweepTickets(context.Context, time.Time) error { return nil }

func (s *Store) triesKey(key guess.Key) string { return s.prefix + "t:" + hex.EncodeToString(key[:]) }

// stateText is a state as the server keeps and compares it; "" is the zero
// State.
func stateText(v guess.State) string {
	if v == (guess.State{}) {
		return ""
	}
	return fmt.Sprintf("%d %s %s %s", v.Count, stamp(v.Since), stamp(v.Until), stamp(v.Updated))
}

func parseState(text string) (guess.State, error) {
	var v guess.State
	var since, until, updated int64
	if _, err := fmt.Sscanf(text, "%d %d %d %d", &v.Count, &since, &until, &updated); err != nil {
		return guess.State{}, unavailable(fmt.Errorf("a counter holds %.100q: %w", text, err))
	}
	for to, n := range map[*time.Time]int64{&v.Since: since, &v.Until: until, &v.Updated: updated} {
		if n != 0 {
			*to = time.Unix(0, n).UTC()
		}
	}
	return v, nil
}

// Tries implements guess.Store.
func (s *Store) Tries(ctx context.Context, keys []guess.Key) ([]guess.State, error) {
	out := make([]guess.State, len(keys))
	if len(keys) == 0 {
		return out, nil
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = s.triesKey(key)
	}
	var values []any
	err := live(func() (err error) {
		values, err = s.db.MGet(ctx, names...).Result()
		return err
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, unavailable(err)
	}
	for i, v := range values {
		text, ok := v.(string)
		if !ok {
			continue // never seen
		}
		if out[i], err = parseState(text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// SwapTries implements guess.Store.
func (s *Store) SwapTries(ctx context.Context, changes []guess.Change) (bool, error) {
	if len(changes) == 0 {
		return true, nil
	}
	var keys []string
	var args []any
	for _, c := range changes {
		keys = append(keys, s.triesKey(c.Key))
		args = append(args, stateText(c.From), stateText(c.To), forget(c.To.Updated, c.To.Until))
	}
	n, err := s.count(ctx, s.run.swapTries, keys, args...)
	return n == 1, err
}

// SweepTries implements guess.Store: the server forgets by itself.
func (s *Store) SweepTries(context.Context, time.Time) error { return nil }
