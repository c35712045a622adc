package guess

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

const control = "limit.login"

// swaps bounds how often an attempt that lost against another replica's is
// counted again. Each round, one of them wins.
const swaps = 32

// What callers guess at. Each is counted for itself: the right password must
// not forgive wrong codes.
const (
	Password = "password"
	OTP      = "otp"
	Recovery = "recovery"
	Client   = "client"
)

// ErrOwn is what a Limited error of Take is when failures at this very account
// caused it.
var ErrOwn = errors.New("guess: too many failures at this account")

// Options configure a Guard. Store and Key are required.
type Options struct {
	Store Store
	Key   []byte           // HMAC key, 32 bytes or more, the same on every replica
	Now   func() time.Time // nil: time.Now
}

// Guard counts guesses. Guards over one store and with one key, in any number
// of processes, are one guard. Safe for concurrent use.
type Guard struct {
	opt  Options
	turn chan struct{} // held by who counts: within a process nobody loses a swap
}

// New returns a Guard. It panics without a store or with a short key, which is
// an error of the program.
func New(opt Options) *Guard {
	if opt.Store == nil || len(opt.Key) < sha256.Size {
		panic("guess: a store and a 32-byte key are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Guard{opt: opt, turn: make(chan struct{}, 1)}
}

// Attempt says who guesses at what.
type Attempt struct {
	What    string     // Password, OTP, Recovery or Client
	Account string     // "user:NAME" or "client:ID"; one that does not exist is counted alike
	Address netip.Addr // of the client
	Device  string     // id of a known device of this very account, verified by the caller; "": a stranger
}

// counter is one of those that an attempt is counted by.
type counter struct {
	class class
	key   Key
}

// Ticket admits one attempt, which is counted as a failure until Succeeded.
// The zero Ticket stands for an attempt that nobody counts.
type Ticket struct {
	guard    *Guard
	counters []counter
	stuffing Stuffing
}

// Take counts a and admits it, or counts nothing and returns an error: of kind
// Limited, with the time to wait, if any counter is full, and of kind
// Unavailable if the store fails or is too busy. It comes before the compare.
// A Limited error is ErrOwn when it is the account's, the pair's or the device's
// own failures that are too many, and not those of a neighbour.
func (g *Guard) Take(ctx context.Context, a Attempt) (Ticket, error) {
	a.Address = a.Address.Unmap().WithZone("")
	if a.What == "" || a.Account == "" || !a.Address.IsValid() {
		return Ticket{}, rampart.Errorf(rampart.Internal, control, "guess: an attempt has a kind, an account and an address")
	}
	t := Ticket{guard: g, counters: g.counters(a)}
	err := g.change(ctx, t.counters, func(states []State, now time.Time) ([]State, error) {
		for i, c := range t.counters {
			if wait := c.class.wait(states[i], now); wait > 0 {
				return nil, limited(c.class, wait)
			}
		}
		to := count(t.counters, states, now)
		t.stuffing = stuffing(t.counters, states, to, network(a.Address))
		return to, nil
	})
	if err != nil {
		return Ticket{}, err
	}
	return t, nil
}

// Succeeded takes back what a right guess should not have cost. A failure of
// the store is of kind Unavailable: the attempt should then fail too.
func (t Ticket) Succeeded(ctx context.Context) error {
	if t.guard == nil {
		return nil
	}
	return t.guard.change(ctx, t.counters, func(states []State, now time.Time) ([]State, error) {
		return forgive(t.counters, states, now), nil
	})
}

// Void takes back the attempt itself, for one whose guess was never compared.
func (t Ticket) Void(ctx context.Context) error {
	if t.guard == nil {
		return nil
	}
	return t.guard.change(ctx, t.counters, func(states []State, now time.Time) ([]State, error) {
		to := slices.Clone(states)
		for i, c := range t.counters {
			if !c.class.tally() {
				to[i] = c.class.remove(states[i], 1, now)
			}
		}
		return to, nil
	})
}

// Stuffing reports whether the attempt is one of many at many accounts from
// one network, for the audit log. It says so at every tenth account, not at
// every attempt.
func (t Ticket) Stuffing() (Stuffing, bool) { return t.stuffing, t.stuffing != Stuffing{} }

// Forgive forgets the failures at an account, of strangers and on every known
// device, for whoever has proved to be its owner by other means. Those of
// addresses and networks stay.
func (g *Guard) Forgive(ctx context.Context, account string, what ...string) error {
	var list []counter
	for _, w := range what {
		list = append(list, g.counter(byAccount, w, account), g.counter(byPardon, w, account))
	}
	return g.change(ctx, list, func(states []State, now time.Time) ([]State, error) {
		to := make([]State, len(states))
		for i, c := range list {
			if c.class == byPardon {
				to[i] = pardon(now)
			}
		}
		return to, nil
	})
}

// Sweep forgets what means nothing any more. Guards ignore it anyway.
func (g *Guard) Sweep(ctx context.Context) error {
	return unavailable(g.opt.Store.SweepTries(ctx, g.now()))
}

// counters lists what a is counted by.
func (g *Guard) counters(a Attempt) []counter {
	if a.Device != "" {
		return []counter{g.counter(byDevice, a.What, a.Account, a.Device), g.counter(byPardon, a.What, a.Account)}
	}
	from, net := a.Address.String(), network(a.Address).String()
	return []counter{
		g.counter(byAccount, a.What, a.Account),
		g.counter(byPair, a.What, a.Account, from),
		g.counter(byAddress, a.What, from),
		g.counter(byNetwork, a.What, net),
		g.counter(allTries, a.What, net),
		g.counter(allTargets, a.What, net),
	}
}

func (g *Guard) counter(c class, parts ...string) counter {
	mac := hmac.New(sha256.New, g.opt.Key)
	fmt.Fprintf(mac, "rampart-guess-v1 %s %q", c, parts) // quoted: no two lists look alike
	return counter{c, Key(mac.Sum(nil))}
}

// network is the /24 of an IPv4 address, and the /64 of an IPv6 address, which
// is what one subscriber gets.
func network(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// change moves the counters from the states they are in to those that next
// returns, in one step, however many do the same elsewhere.
func (g *Guard) change(ctx context.Context, list []counter, next func(states []State, now time.Time) ([]State, error)) error {
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
	keys := make([]Key, len(list))
	for i, c := range list {
		keys[i] = c.key
	}
	for range swaps {
		was, err := g.opt.Store.Tries(ctx, keys)
		if err != nil {
			return unavailable(err)
		}
		if len(was) != len(keys) {
			return unavailable(fmt.Errorf("the store has %d states of %d keys", len(was), len(keys)))
		}
		now := g.now()
		states := make([]State, len(was))
		for i := range was {
			states[i] = live(was[i], now)
		}
		pardoned(list, states)
		to, err := next(states, now)
		if err != nil {
			return err
		}
		ok, err := g.swap(ctx, keys, was, to)
		if err != nil {
			return unavailable(err)
		}
		if ok {
			return nil
		}
	}
	return unavailable(fmt.Errorf("%d swaps lost in a row", swaps))
}

// swap makes the changes that are some.
func (g *Guard) swap(ctx context.Context, keys []Key, from, to []State) (bool, error) {
	var list []Change
	for i := range keys {
		if from[i] != to[i] {
			list = append(list, Change{Key: keys[i], From: from[i], To: to[i]})
		}
	}
	if len(list) == 0 {
		return true, nil
	}
	return g.opt.Store.SwapTries(ctx, list)
}

// now has no monotonic reading: a state that is stored and read again is the
// same.
func (g *Guard) now() time.Time { return g.opt.Now().Round(0).UTC() }

// count adds one attempt to every counter, but to the accounts of a network
// only one that it has not tried in this window.
func count(list []counter, states []State, now time.Time) []State {
	to, fresh := slices.Clone(states), false
	for i, c := range list {
		if c.class == byPair {
			fresh = states[i].Count == 0
		}
		if c.class != byPardon && (c.class != allTargets || fresh) {
			to[i] = c.class.add(states[i], now)
		}
	}
	return to
}

// forgive takes off what a success from there and then makes good: on a known
// device, everything; of a stranger, the failures of the pair. An attacker who
// fails elsewhere gains nothing by the owner's success.
func forgive(list []counter, states []State, now time.Time) []State {
	to, own := slices.Clone(states), 0
	for i, c := range list {
		if c.class == byPair || c.class == byDevice {
			own = states[i].Count
		}
	}
	for i, c := range list {
		if !c.class.tally() {
			to[i] = c.class.remove(states[i], own, now)
		}
	}
	return to
}

// limited says how long to wait. Longer than any pause is the end of guessing:
// then there are other ways in for the owner.
func limited(by class, wait time.Duration) error {
	text := "too many failed attempts; try again later"
	if wait > longestPause {
		text = "too many failed attempts; sign in on a device that you have used before, or with a passkey, or ask for a new password"
	}
	err := &rampart.Error{Kind: rampart.Limited, Control: control, Msg: text}
	if by.own() {
		err.Err = ErrOwn
	}
	return &problem.Details{RetryAfter: wait, Err: err}
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "this is not possible right now; try again", Err: fmt.Errorf("guess: %w", err)}
}
