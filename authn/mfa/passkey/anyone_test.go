package passkey

import (
	"context"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/ticket"
)

// counted counts what is remembered.
type counted struct {
	ticket.Store
	puts int
}

func (c *counted) PutTicket(ctx context.Context, kind string, hash ticket.Hash, value []byte, now, expires time.Time) error {
	c.puts++
	return c.Store.PutTicket(ctx, kind, hash, value, now, expires)
}

// TestAnyoneIsNotRemembered: strangers may ask as often as they like, and answer
// as badly; one good answer leaves one mark.
func TestAnyoneIsNotRemembered(t *testing.T) {
	w := open(t)
	w.register()
	seen := &counted{Store: w.m.opt.Tickets}
	w.m.opt.Tickets = seen
	for range 20 {
		q := w.ask("")
		q.Challenge[3] ^= 1
		if _, err := w.finish("", w.get(q)); rampart.KindOf(err) != rampart.Unauthenticated {
			t.Errorf("a challenge of nobody's: %v", err)
		}
	}
	q := w.ask("")
	mine := w.cred
	w.cred = newCredential()
	if _, err := w.finish("", w.get(q)); rampart.KindOf(err) != rampart.Unauthenticated {
		t.Errorf("a passkey of nobody's: %v", err)
	}
	if seen.puts != 0 {
		t.Errorf("%d tickets of strangers", seen.puts)
	}
	w.cred = mine
	if _, err := w.finish("", w.get(q)); err != nil || seen.puts != 1 {
		t.Errorf("a good answer: %v, %d tickets", err, seen.puts)
	}
	for _, later := range []time.Duration{0, ceremonyFor - time.Second} {
		w.ahead.Store(int64(later))
		if _, err := w.finish("", w.get(q)); rampart.KindOf(err) != rampart.Unauthenticated {
			t.Errorf("another good answer to the same challenge, %v later: %v", later, err)
		}
	}
}

// TestAnyoneAsks: the challenge to anybody is no challenge to somebody, of
// another system or of another time, and the other way round.
func TestAnyoneAsks(t *testing.T) {
	for name, challenge := range map[string]func(w *world) []byte{
		"of a system with another key": func(w *world) []byte {
			key := w.m.opt.Key
			w.m.opt.Key = []byte("another key, as long as it has to be")
			defer func() { w.m.opt.Key = key }()
			return w.ask("").Challenge
		},
		"to somebody":   func(w *world) []byte { return w.ask("user:ann").Challenge },
		"made later":    func(w *world) []byte { c := w.ask("").Challenge; c[datedSize-1]++; return c },
		"cut":           func(w *world) []byte { return w.ask("").Challenge[:datedSize] },
		"with more":     func(w *world) []byte { return append(w.ask("").Challenge, 0) },
		"without a tag": func(w *world) []byte { c := w.ask("").Challenge; clear(c[datedSize:]); return c },
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			w.register()
			q := w.ask("")
			q.Challenge = challenge(w)
			if _, err := w.finish("", w.get(q)); rampart.KindOf(err) != rampart.Unauthenticated {
				t.Errorf("got %v", err)
			}
		})
	}
	w := open(t)
	w.register()
	q := w.ask("user:ann")
	q.Challenge = w.ask("").Challenge
	if _, err := w.finish("user:ann", w.get(q)); rampart.KindOf(err) != rampart.Unauthenticated {
		t.Errorf("answered as somebody: %v", err)
	}
}
