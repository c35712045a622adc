package guess_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/internal/problem"
)

// table is a Store in memory that yields between reading and swapping, as a
// database does.
type table struct {
	mu     sync.Mutex
	rows   map[guess.Key]guess.State
	broken error
	lose   bool // every swap
}

func newTable() *table { return &table{rows: map[guess.Key]guess.State{}} }

func (t *table) Tries(_ context.Context, keys []guess.Key) ([]guess.State, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]guess.State, len(keys))
	for i, k := range keys {
		out[i] = t.rows[k]
	}
	return out, t.broken
}

func (t *table) SwapTries(_ context.Context, list []guess.Change) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range list {
		if t.rows[c.Key] != c.From || t.lose {
			return false, t.broken
		}
	}
	for _, c := range list {
		t.rows[c.Key] = c.To
		if c.To == (guess.State{}) {
			delete(t.rows, c.Key)
		}
	}
	return true, t.broken
}

func (t *table) SweepTries(_ context.Context, before time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, s := range t.rows {
		if s.Updated.Before(before) {
			delete(t.rows, k)
		}
	}
	return t.broken
}

// world is a guard with a clock that moves when told to.
type world struct {
	t     testing.TB
	store *table
	guard *guess.Guard
	clock atomic.Int64 // nanoseconds
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, store: newTable()}
	w.clock.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	w.guard = w.replica()
	return w
}

// replica is another process over the same store.
func (w *world) replica() *guess.Guard {
	return guess.New(guess.Options{Store: w.store, Key: make([]byte, 32), Now: func() time.Time { return time.Unix(0, w.clock.Load()) }})
}

func (w *world) pass(d time.Duration) { w.clock.Add(int64(d)) }

func from(address string) guess.Attempt {
	return guess.Attempt{What: guess.Password, Account: "user:ann", Address: netip.MustParseAddr(address)}
}

func on(device string) guess.Attempt {
	a := from("192.0.2.1")
	a.Device = device
	return a
}

func of(a guess.Attempt, account string) guess.Attempt {
	a.Account = account
	return a
}

// wait is how long the guard says to wait; 0: the attempt was admitted.
func wait(t testing.TB, err error) time.Duration {
	t.Helper()
	if err == nil {
		return 0
	}
	d, ok := errors.AsType[*problem.Details](err)
	if !ok || rampart.KindOf(err) != rampart.Limited || d.RetryAfter <= 0 {
		t.Fatalf("got %v, want a limit with a time to wait", err)
	}
	return d.RetryAfter
}

func (w *world) fail(a guess.Attempt) time.Duration {
	w.t.Helper()
	_, err := w.guard.Take(w.t.Context(), a)
	return wait(w.t, err)
}

// succeed reports whether the owner's right guess is admitted.
func (w *world) succeed(a guess.Attempt) bool {
	w.t.Helper()
	t, err := w.guard.Take(w.t.Context(), a)
	if wait(w.t, err) > 0 {
		return false
	}
	if err := t.Succeeded(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return true
}

// address is the n-th of a botnet: each in a network of its own.
func address(n int) string { return fmt.Sprintf("10.%d.%d.1", n/256, n%256) }

// exhaust fails at ann's from everywhere, waiting out every pause, until
// guessing is over. It returns how many guesses were looked at.
func (w *world) exhaust(device string) int {
	w.t.Helper()
	for n := 0; ; n++ {
		a := from(address(n))
		a.Device = device
		pause := w.fail(a)
		if pause > 15*time.Minute {
			return n
		}
		if pause > 0 {
			w.pass(pause)
			n--
		}
	}
}

func TestPausesGrow(t *testing.T) {
	for name, at := range map[string]func(n int) guess.Attempt{
		"strangers":      func(n int) guess.Attempt { return from(address(n)) },
		"a known device": func(int) guess.Attempt { return on("laptop") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for n := 1; n <= 5; n++ {
				if pause := w.fail(at(n)); pause != 0 {
					t.Fatalf("guess %d has to wait %v", n, pause)
				}
			}
			for n, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900} {
				if pause := w.fail(at(n)); pause != want*time.Second {
					t.Errorf("after failure %d: %v, want %v", n+5, pause, want*time.Second)
				}
				w.pass(want*time.Second - 1)
				if w.fail(at(n)) == 0 {
					t.Fatalf("after failure %d: admitted a nanosecond early", n+5)
				}
				w.pass(1)
				if pause := w.fail(at(n)); pause != 0 {
					t.Fatalf("after failure %d and the pause: %v", n+5, pause)
				}
			}
		})
	}
}

func TestFewerThanAHundred(t *testing.T) {
	for _, device := range []string{"", "stolen"} {
		w := newWorld(t)
		if n := w.exhaust(device); n != 99 {
			t.Errorf("device %q: %d guesses were looked at, want 99", device, n)
		}
		w.pass(29 * 24 * time.Hour)
		a := from("192.0.2.1")
		a.Device = device
		if w.fail(a) == 0 {
			t.Errorf("device %q: admitted after 29 days", device)
		}
		w.pass(24 * time.Hour)
		if pause := w.fail(a); pause != 0 {
			t.Errorf("device %q: %v after 30 days", device, pause)
		}
	}
}

func TestSlowGuessing(t *testing.T) {
	w, looked := newWorld(t), 0
	for range 30 * 24 { // one try an hour for a month
		if w.fail(from("192.0.2.1")) == 0 {
			looked++
		}
		w.pass(time.Hour)
	}
	if looked > 99 {
		t.Errorf("%d guesses in a month", looked)
	}
}

func TestWindows(t *testing.T) {
	for _, tc := range []struct {
		name string
		at   func(n int) guess.Attempt
		most int
	}{
		{"one address, many accounts", func(n int) guess.Attempt { return of(from("192.0.2.1"), fmt.Sprint("user:u", n)) }, 30},
		{"one /24, many accounts", func(n int) guess.Attempt { return of(from(fmt.Sprint("192.0.2.", n%256)), fmt.Sprint("user:u", n)) }, 100},
		{"one /64, many accounts", func(n int) guess.Attempt { return of(from(fmt.Sprintf("2001:db8::%x", n)), fmt.Sprint("user:u", n)) }, 100},
		{"one IPv6 address", func(n int) guess.Attempt { return of(from("2001:db8::1"), fmt.Sprint("user:u", n)) }, 30},
		{"the same address in two spellings", func(n int) guess.Attempt {
			return of(from([]string{"192.0.2.1", "::ffff:192.0.2.1"}[n%2]), fmt.Sprint("user:u", n))
		}, 30},
		{"every network its own account", func(n int) guess.Attempt { return of(from(address(n)), fmt.Sprint("user:u", n)) }, 300},
	} {
		w := newWorld(t)
		for round := range 2 { // a window that is over begins anew, with its whole limit
			looked := 0
			for n := range 300 {
				if w.fail(tc.at(n)) == 0 {
					looked++
				}
			}
			if looked != tc.most {
				t.Errorf("%s, window %d: %d guesses were looked at, want %d", tc.name, round+1, looked, tc.most)
			}
			w.pass(10 * time.Minute)
		}
	}
}

func TestPair(t *testing.T) {
	w, looked := newWorld(t), 0
	for range 10 * 60 { // ten minutes, a try a second: pauses alone would admit 13
		if w.fail(from("192.0.2.1")) == 0 {
			looked++
		}
		w.pass(time.Second)
	}
	if looked != 10 {
		t.Errorf("%d guesses at one account from one address, want 10", looked)
	}
}

// TestOwner is the promise: nothing that strangers do keeps a known device out.
func TestOwner(t *testing.T) {
	t.Run("while guessing is over for strangers", func(t *testing.T) {
		w := newWorld(t)
		w.exhaust("")
		for range 100 {
			if !w.succeed(on("laptop")) {
				t.Fatal("the owner is locked out")
			}
		}
		if w.fail(from("198.51.100.1")) == 0 {
			t.Error("the owner's logins opened the account to strangers")
		}
	})
	t.Run("behind one address with the attacker", func(t *testing.T) {
		w := newWorld(t)
		for n := range 500 {
			w.fail(of(from("192.0.2.1"), fmt.Sprint("user:u", n%100)))
		}
		if w.fail(from("192.0.2.1")) == 0 {
			t.Fatal("the address is not at its limit")
		}
		if !w.succeed(on("laptop")) {
			t.Error("the owner is locked out by a neighbour")
		}
	})
	t.Run("two devices do not share", func(t *testing.T) {
		w := newWorld(t)
		w.exhaust("stolen")
		if !w.succeed(on("laptop")) {
			t.Error("one device locked another out")
		}
	})
	t.Run("a device says nothing about another account", func(t *testing.T) {
		w := newWorld(t)
		w.exhaust("laptop")
		if pause := w.fail(of(on("laptop"), "user:bob")); pause != 0 {
			t.Errorf("bob waits %v for what ann's device did", pause)
		}
	})
	t.Run("typing errors end with success", func(t *testing.T) {
		w := newWorld(t)
		for range 20 {
			for range 4 {
				w.fail(on("laptop"))
			}
			if !w.succeed(on("laptop")) {
				t.Fatal("failures added up over successes")
			}
		}
	})
}

// TestStrangersSuccess: it forgives the owner's own errors, and nobody else's.
func TestStrangersSuccess(t *testing.T) {
	t.Run("own errors are forgotten", func(t *testing.T) {
		w := newWorld(t)
		for range 20 {
			for range 4 {
				w.fail(from("192.0.2.1"))
			}
			if !w.succeed(from("192.0.2.1")) {
				t.Fatal("failures added up over successes")
			}
		}
	})
	t.Run("the attacker's are not", func(t *testing.T) {
		w := newWorld(t)
		for range 9 {
			for pause := w.fail(from("198.51.100.1")); pause > 0; pause = w.fail(from("198.51.100.1")) {
				w.pass(pause)
			}
		}
		w.pass(16 * time.Second)
		if !w.succeed(from("192.0.2.1")) {
			t.Fatal("the owner is not admitted after the pause")
		}
		w.pass(16 * time.Second)
		if w.fail(from("203.0.113.1")) != 0 {
			t.Fatal("the pause grew by a success")
		}
		if pause := w.fail(from("203.0.113.1")); pause != 32*time.Second {
			t.Errorf("after ten failures and a success: %v, want 32s", pause)
		}
	})
	t.Run("many users behind one address", func(t *testing.T) {
		w := newWorld(t)
		for n := range 500 {
			if !w.succeed(of(from("192.0.2.1"), fmt.Sprint("user:u", n))) {
				t.Fatalf("user %d is not admitted", n)
			}
		}
	})
	t.Run("the right password forgives no codes", func(t *testing.T) {
		w := newWorld(t)
		code := from("192.0.2.1")
		code.What = guess.OTP
		for range 5 {
			w.fail(code)
			if !w.succeed(from("192.0.2.1")) {
				t.Fatal("the password is not admitted")
			}
		}
		if w.fail(code) == 0 {
			t.Error("the sixth code has no pause")
		}
	})
}

// TestVoid: a guess that was never compared costs nothing, and forgives nothing.
func TestVoid(t *testing.T) {
	for _, device := range []string{"", "laptop"} {
		w := newWorld(t)
		a := on(device)
		for range 4 {
			w.fail(a)
		}
		for range 50 {
			ticket, err := w.guard.Take(t.Context(), a)
			if err != nil {
				t.Fatalf("device %q: %v", device, err)
			}
			if err := ticket.Void(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if w.fail(a) != 0 || w.fail(a) != time.Second {
			t.Errorf("device %q: four failures were not kept", device)
		}
	}
}

// TestForgive: whose owner was looked at begins anew, as a stranger and on each
// known device, and what fails from then on counts as it did before.
func TestForgive(t *testing.T) {
	for _, device := range []string{"", "laptop"} {
		w := newWorld(t)
		a := on(device)
		w.exhaust(device)
		if err := w.guard.Forgive(t.Context(), "user:bob", guess.Password); err != nil {
			t.Fatal(err)
		}
		if err := w.guard.Forgive(t.Context(), "user:ann", guess.OTP); err != nil {
			t.Fatal(err)
		}
		if w.fail(a) == 0 {
			t.Errorf("device %q: another account, or other guesses, were forgiven", device)
		}
		if err := w.guard.Forgive(t.Context(), "user:ann", guess.Password, guess.OTP); err != nil {
			t.Fatal(err)
		}
		for n := range 5 {
			if pause := w.fail(a); pause != 0 {
				t.Errorf("device %q: %v at guess %d after the account was forgiven", device, pause, n+1)
			}
		}
		if pause := w.fail(a); pause != time.Second {
			t.Errorf("device %q: %v after five more failures, want a second", device, pause)
		}
		if n := w.exhaust(device); n != 94 {
			t.Errorf("device %q: %d guesses beside those five, want 94", device, n)
		}
	}
}

// TestOwnFailures: who is refused can tell whether it is for their own account
// or for what neighbours did.
func TestOwnFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		fill func(w *world)
		own  bool
	}{
		"the account's, from elsewhere": {func(w *world) { w.exhaust("") }, true},
		"the device's":                  {func(w *world) { w.exhaust("laptop") }, true},
		"the pair's": {func(w *world) {
			for range 10 {
				for w.fail(from("192.0.2.1")) > 0 {
					w.pass(time.Second)
				}
			}
		}, true},
		"the address's": {func(w *world) {
			for n := range 30 {
				w.fail(of(from("192.0.2.1"), fmt.Sprint("user:u", n)))
			}
		}, false},
		"the network's": {func(w *world) {
			for n := range 100 {
				w.fail(of(from(fmt.Sprint("192.0.2.", 2+n)), fmt.Sprint("user:u", n)))
			}
		}, false},
	} {
		w := newWorld(t)
		tc.fill(w)
		a := from("192.0.2.1")
		if name == "the device's" {
			a.Device = "laptop"
		}
		_, err := w.guard.Take(t.Context(), a)
		if rampart.KindOf(err) != rampart.Limited || err == nil || errors.Is(err, guess.ErrOwn) != tc.own {
			t.Errorf("%s failures are too many: %v, want own %v", name, err, tc.own)
		}
	}
}

// TestParallel: a thousand at once, over two replicas, are no better than five
// one after another.
func TestParallel(t *testing.T) {
	for name, tc := range map[string]struct {
		at   func(n int) guess.Attempt
		most int64
	}{
		"one account from everywhere": {func(n int) guess.Attempt { return from(address(n)) }, 5},
		"one account on one device":   {func(int) guess.Attempt { return on("laptop") }, 5},
		"every account from one /24": {func(n int) guess.Attempt {
			return of(from(fmt.Sprint("192.0.2.", n%256)), fmt.Sprint("user:u", n))
		}, 100},
	} {
		w := newWorld(t)
		replicas := []*guess.Guard{w.guard, w.replica()}
		var looked, limited atomic.Int64
		var wg sync.WaitGroup
		for n := range 1000 {
			wg.Go(func() {
				_, err := replicas[n%2].Take(t.Context(), tc.at(n))
				switch {
				case err == nil:
					looked.Add(1)
				case rampart.KindOf(err) == rampart.Limited:
					limited.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if looked.Load() != tc.most || limited.Load() != 1000-tc.most {
			t.Errorf("%s: %d were looked at and %d refused, want %d and %d", name, looked.Load(), limited.Load(), tc.most, 1000-tc.most)
		}
	}
}

func TestStuffing(t *testing.T) {
	for _, tc := range []struct {
		name  string
		right func(n int) bool
		want  string
	}{
		{"all fail", func(int) bool { return false }, "[20 30 40]"},
		{"one in ten succeeds", func(n int) bool { return n%10 == 0 }, "[20 30 40]"},
		{"a morning in an office", func(n int) bool { return n%4 != 0 }, "[]"},
	} {
		w, seen := newWorld(t), []int{}
		for n := range 45 {
			a := of(from(fmt.Sprint("192.0.2.", n)), fmt.Sprint("user:u", n))
			ticket, err := w.guard.Take(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			if s, ok := ticket.Stuffing(); ok {
				seen = append(seen, s.Accounts)
				if s.Network.String() != "192.0.2.0/24" || s.Attempts != n+1 || s.Failures == 0 {
					t.Errorf("%s: %+v", tc.name, s)
				}
			}
			if tc.right(n) {
				if err := ticket.Succeeded(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if fmt.Sprint(seen) != tc.want {
			t.Errorf("%s: said at %v, want %s", tc.name, seen, tc.want)
		}
	}
	w := newWorld(t)
	for n := range 30 { // five at each of six accounts
		ticket, err := w.guard.Take(t.Context(), of(from("192.0.2.1"), fmt.Sprint("user:u", n%6)))
		if s, ok := ticket.Stuffing(); ok || err != nil {
			t.Errorf("guess %d at six accounts: %+v, %v", n, s, err)
		}
	}
}

// TestClosed: what cannot be counted is not looked at.
func TestClosed(t *testing.T) {
	w := newWorld(t)
	ticket, err := w.guard.Take(t.Context(), from("192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	unavailable := func(what string, err error) {
		t.Helper()
		if rampart.KindOf(err) != rampart.Unavailable || err == nil {
			t.Errorf("%s: %v, want unavailable", what, err)
		}
	}
	w.store.broken = errors.New("disk gone")
	_, err = w.guard.Take(t.Context(), on("laptop"))
	unavailable("a broken store", err)
	unavailable("a success on a broken store", ticket.Succeeded(t.Context()))
	unavailable("a sweep of a broken store", w.guard.Sweep(t.Context()))
	w.store.broken, w.store.lose = nil, true
	_, err = w.guard.Take(t.Context(), on("laptop"))
	unavailable("a store that is too busy", err)
	w.store.lose = false
	for name, a := range map[string]guess.Attempt{
		"no address": {What: guess.Password, Account: "user:ann"},
		"no account": {What: guess.Password, Address: netip.MustParseAddr("192.0.2.1")},
		"no kind":    {Account: "user:ann", Address: netip.MustParseAddr("192.0.2.1")},
		"nothing":    {},
	} {
		if _, err := w.guard.Take(t.Context(), a); err == nil {
			t.Errorf("%s: admitted", name)
		}
	}
	if err := (guess.Ticket{}).Succeeded(t.Context()); err != nil {
		t.Errorf("the zero ticket: %v", err)
	}
}

// TestSweep: what is made up is forgotten in a day, what counts is not.
func TestSweep(t *testing.T) {
	w := newWorld(t)
	for n := range 50 {
		w.fail(of(from(address(n)), fmt.Sprint("user:made-up", n)))
	}
	w.exhaust("")
	w.pass(24*time.Hour + 1)
	if err := w.guard.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.store.rows); n != 1 {
		t.Errorf("%d rows are left, want ann's alone", n)
	}
	if w.fail(from("192.0.2.1")) == 0 {
		t.Error("the sweep opened the account")
	}
}

// FuzzOwner plays any history of strangers and time: a known device is always
// admitted, and strangers never have a hundred looks at one account in a month.
func FuzzOwner(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07"))
	f.Add([]byte("\xff\x80\x00\xff\x80\x00\xff\x80\x00\xff\x80\x00\xff\x80\x00\xff\x80\x00"))
	f.Fuzz(func(t *testing.T, history []byte) {
		w, looked := newWorld(t), 0
		for _, b := range history[:min(len(history), 2000)] {
			a := from(fmt.Sprintf("192.0.%d.%d", b>>6&1, b&3))
			a.What = []string{guess.Password, guess.OTP}[b>>5&1]
			if b&7 == 7 {
				a.Account = "user:bob"
			}
			if w.fail(a) == 0 && a == of(a, "user:ann") && a.What == guess.Password {
				looked++
			}
			w.pass(time.Duration(b) * time.Second)
			if !w.succeed(on("laptop")) {
				t.Fatal("the owner is locked out")
			}
		}
		if looked > 99 {
			t.Fatalf("strangers had %d looks", looked)
		}
	})
}

func BenchmarkGuess(b *testing.B) {
	for name, a := range map[string]guess.Attempt{"stranger": from("192.0.2.1"), "known device": on("laptop")} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b)
			b.ReportAllocs()
			for b.Loop() {
				ticket, err := w.guard.Take(b.Context(), a)
				if err != nil {
					b.Fatal(err)
				}
				if err := ticket.Succeeded(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("refused", func(b *testing.B) {
		w := newWorld(b)
		w.exhaust("")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := w.guard.Take(b.Context(), from("192.0.2.1")); err == nil {
				b.Fatal("admitted")
			}
		}
	})
}
