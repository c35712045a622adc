// Package memory is a store.Shared in the memory of one process: sessions,
// counters and tickets that end with it. It is the measure of what a look-up
// must cost, and serves who needs no second control plane and takes a restart
// for a logout of all.
package memory

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/store"
)

// How much is held at most. What is full refuses new entries, and whoever
// cannot count an attempt refuses it.
const (
	maxSessions = 4 << 20
	maxTries    = 1 << 20
	maxTickets  = 1 << 18
)

// Store is a store.Shared. Safe for concurrent use; the zero Store is not, use
// New.
type Store struct {
	sessions sessions

	mu      sync.Mutex // guards the fields below
	tries   map[guess.Key]guess.State
	tickets map[ticketName]ticketRow
}

type ticketName struct {
	kind string
	hash ticket.Hash
}

type ticketRow struct {
	value   []byte
	expires time.Time
}

// New returns an empty Store.
func New() *Store {
	return &Store{
		sessions: newSessions(),
		tries:    map[guess.Key]guess.State{},
		tickets:  map[ticketName]ticketRow{},
	}
}

// Close does nothing.
func (s *Store) Close() error { return nil }

// PutTicket implements ticket.Store.
func (s *Store) PutTicket(_ context.Context, kind string, hash ticket.Hash, value []byte, now, expires time.Time) error {
	if len(value) > ticket.MaxValue {
		return rampart.Errorf(rampart.Invalid, "", "memory: a ticket has at most %d bytes", ticket.MaxValue)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := ticketName{kind, hash}
	if old, ok := s.tickets[name]; ok && now.Before(old.expires) {
		return ticket.ErrExists
	}
	if len(s.tickets) >= maxTickets {
		return full("tickets")
	}
	s.tickets[name] = ticketRow{bytes.Clone(value), expires}
	return nil
}

// Ticket implements ticket.Store.
func (s *Store) Ticket(_ context.Context, kind string, hash ticket.Hash, now time.Time) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.tickets[ticketName{kind, hash}]
	if !ok || !now.Before(row.expires) {
		return nil, ticket.ErrNotFound
	}
	return bytes.Clone(row.value), nil
}

// TakeTicket implements ticket.Store.
func (s *Store) TakeTicket(_ context.Context, kind string, hash ticket.Hash, now time.Time) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := ticketName{kind, hash}
	row, ok := s.tickets[name]
	if !ok || !now.Before(row.expires) {
		return nil, ticket.ErrNotFound
	}
	delete(s.tickets, name)
	return row.value, nil
}

// SweepTickets implements ticket.Store.
func (s *Store) SweepTickets(_ context.Context, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, row := range s.tickets {
		if !now.Before(row.expires) {
			delete(s.tickets, name)
		}
	}
	return nil
}

// Tries implements guess.Store.
func (s *Store) Tries(_ context.Context, keys []guess.Key) ([]guess.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]guess.State, len(keys))
	for i, key := range keys {
		out[i] = s.tries[key]
	}
	return out, nil
}

// SwapTries implements guess.Store.
func (s *Store) SwapTries(_ context.Context, changes []guess.Change) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(changes, func(c guess.Change) bool { return !same(s.tries[c.Key], c.From) }) {
		return false, nil
	}
	if len(s.tries)+len(changes) > maxTries {
		return false, full("counters")
	}
	for _, c := range changes {
		if same(c.To, guess.State{}) {
			delete(s.tries, c.Key)
		} else {
			s.tries[c.Key] = c.To
		}
	}
	return true, nil
}

// same compares by instants: a time that was read elsewhere may be in another
// zone.
func same(a, b guess.State) bool {
	return a.Count == b.Count && a.Since.Equal(b.Since) && a.Until.Equal(b.Until) && a.Updated.Equal(b.Updated)
}

// SweepTries implements guess.Store.
func (s *Store) SweepTries(_ context.Context, before time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, v := range s.tries {
		if v.Updated.Before(before) {
			delete(s.tries, key)
		}
	}
	return nil
}

func full(what string) error {
	return rampart.Errorf(rampart.Unavailable, "", "memory: there is no place for more %s", what)
}

var _ store.Shared = (*Store)(nil)
