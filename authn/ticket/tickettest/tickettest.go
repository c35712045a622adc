// Package tickettest judges implementations of ticket.Store.
package tickettest

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/ticket"
)

// Test runs the contract of ticket.Store. Each call of open makes one empty
// store and returns two handles on it, as two replicas hold them; they may be
// the same.
func Test(t *testing.T, open func(t *testing.T) (a, b ticket.Store)) {
	now := time.Now().Truncate(time.Second) // a store may let its own clock forget
	end := now.Add(time.Minute)
	name := ticket.Hash{1}

	t.Run("a ticket comes back as it was put, for its kind alone", func(t *testing.T) {
		a, b := open(t)
		value := bytes.Repeat([]byte{0, 0xff}, ticket.MaxValue/2)
		must(t, a.PutTicket(t.Context(), "login", name, value, now, end))
		must(t, a.PutTicket(t.Context(), "mark", name, nil, now, end))
		got, err := b.Ticket(t.Context(), "login", name, end.Add(-1))
		must(t, err)
		if !bytes.Equal(got, value) {
			t.Error("the value differs")
		}
		got, err = b.Ticket(t.Context(), "mark", name, now)
		must(t, err)
		if len(got) != 0 {
			t.Errorf("a mark without a value has %q", got)
		}
		missing(t, b, "other", name, now)
		missing(t, b, "login", ticket.Hash{2}, now)
	})
	t.Run("a value above the bound is refused", func(t *testing.T) {
		a, _ := open(t)
		if err := a.PutTicket(t.Context(), "login", name, make([]byte, ticket.MaxValue+1), now, end); err == nil {
			t.Error("it was stored")
		}
	})
	t.Run("a second put is a replay, until the first has expired", func(t *testing.T) {
		a, b := open(t)
		must(t, a.PutTicket(t.Context(), "mark", name, []byte("one"), now, end))
		if err := b.PutTicket(t.Context(), "mark", name, []byte("two"), end.Add(-1), end); !errors.Is(err, ticket.ErrExists) {
			t.Errorf("got %v, want ticket.ErrExists", err)
		}
		must(t, b.PutTicket(t.Context(), "mark", name, []byte("two"), end, end.Add(time.Minute)))
		got, err := a.Ticket(t.Context(), "mark", name, end)
		must(t, err)
		if string(got) != "two" {
			t.Errorf("got %q, want two", got)
		}
	})
	t.Run("at its end a ticket is gone", func(t *testing.T) {
		a, b := open(t)
		must(t, a.PutTicket(t.Context(), "login", name, []byte("x"), now, end))
		missing(t, b, "login", name, end)
		if _, err := b.TakeTicket(t.Context(), "login", name, end); !errors.Is(err, ticket.ErrNotFound) {
			t.Errorf("took it: %v", err)
		}
	})
	t.Run("of many that put a ticket at once, one wins", func(t *testing.T) {
		a, b := open(t)
		once(t, func(i int) (bool, error) {
			err := []ticket.Store{a, b}[i%2].PutTicket(t.Context(), "mark", name, nil, now, end)
			return err == nil, unless(err, ticket.ErrExists)
		})
	})
	t.Run("of many that take a ticket at once, one gets it", func(t *testing.T) {
		a, b := open(t)
		must(t, a.PutTicket(t.Context(), "login", name, []byte("x"), now, end))
		once(t, func(i int) (bool, error) {
			v, err := []ticket.Store{a, b}[i%2].TakeTicket(t.Context(), "login", name, now)
			return string(v) == "x", unless(err, ticket.ErrNotFound)
		})
		missing(t, b, "login", name, now)
		must(t, b.PutTicket(t.Context(), "login", name, nil, now, end)) // its name is free again
	})
	t.Run("sweep forgets nothing that is live", func(t *testing.T) {
		a, b := open(t)
		must(t, a.PutTicket(t.Context(), "login", name, nil, now, end))
		must(t, a.PutTicket(t.Context(), "login", ticket.Hash{2}, nil, now, end.Add(1)))
		must(t, b.SweepTickets(t.Context(), end))
		missing(t, a, "login", name, end)
		if _, err := a.Ticket(t.Context(), "login", ticket.Hash{2}, end); err != nil {
			t.Errorf("a live ticket: %v", err)
		}
	})
}

func missing(t *testing.T, st ticket.Store, kind string, hash ticket.Hash, now time.Time) {
	t.Helper()
	if _, err := st.Ticket(t.Context(), kind, hash, now); !errors.Is(err, ticket.ErrNotFound) {
		t.Errorf("%s %x: %v, want ticket.ErrNotFound", kind, hash[:1], err)
	}
}

// once runs try many times at once and wants it to win once.
func once(t *testing.T, try func(i int) (bool, error)) {
	t.Helper()
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 16 {
		wg.Go(func() {
			ok, err := try(i)
			if err != nil {
				t.Error(err)
			}
			if ok {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d won, want 1", won.Load())
	}
}

func unless(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
