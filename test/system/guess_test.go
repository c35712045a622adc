//go:build system

package system

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	bits "encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestGuessing attacks one account from 200 addresses while its owner, on a
// device that is known, keeps signing in: first for the password, then for the
// code of somebody whose password is known.
func TestGuessing(t *testing.T) {
	r := start(t, payments)
	t.Run("password", func(t *testing.T) { passwordGuesses(t, r) })
	t.Run("code", func(t *testing.T) { codeGuesses(t, r) })
}

// attackers make so many guesses each, one after another.
const (
	attackers = 200
	rounds    = 50
)

// attacker is a client with an address of its own: fifty in each of four
// networks.
func (r *running) attacker(n int) *http.Client {
	c := r.client()
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(10+n/50), byte(1+n%50))}}
	_, port, _ := net.SplitHostPort(r.Edge)
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return from.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	}
	return c
}

// submit sends a form and returns status, place and page.
func (r *running) submit(c *http.Client, path string, form url.Values) (int, string, string) {
	res, err := c.PostForm(r.base()+path, form)
	if err != nil {
		return 0, "", err.Error()
	}
	defer res.Body.Close()
	page, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res.StatusCode, res.Header.Get("Location"), string(page)
}

// tally counts what became of guesses, and how often one had to be tried again.
type tally struct{ compared, limited, other, shed atomic.Int64 }

func (a *tally) add(status int) {
	switch status {
	case http.StatusUnauthorized:
		a.compared.Add(1)
	case http.StatusTooManyRequests:
		a.limited.Add(1)
	default:
		a.other.Add(1)
	}
}

func (a *tally) all() int64 {
	return a.compared.Load() + a.limited.Load() + a.other.Load()
}

// attack has every attacker guess in a row, all at once, and the owner sign in
// again and again until they are done.
func (r *running) attack(t *testing.T, guess func(c *http.Client, n int) int, owner func() (time.Duration, error)) {
	t.Helper()
	var told tally
	var gang sync.WaitGroup
	began := time.Now()
	for n := range attackers {
		c := r.attacker(n)
		gang.Go(func() {
			for round := range rounds {
				status := guess(c, n*rounds+round)
				for ; status == http.StatusServiceUnavailable; status = guess(c, n*rounds+round) {
					told.shed.Add(1) // turned away for load: once more
					time.Sleep(50 * time.Millisecond)
				}
				told.add(status)
			}
		})
	}
	done := make(chan struct{})
	go func() { gang.Wait(); close(done) }()
	logins, slowest := 0, time.Duration(0)
	for over := false; !over; {
		took, err := owner()
		if err != nil {
			t.Errorf("the owner's login %d, after %d guesses: %v", logins+1, told.all(), err)
		}
		logins++
		slowest = max(slowest, took)
		select {
		case <-done:
			over = true
		case <-time.After(200 * time.Millisecond):
		}
	}
	t.Logf("%d guesses from %d addresses in %v: %d compared, %d refused by a limit, after %d tries that were turned away for load; the owner signed in %d times, the slowest in %v",
		told.all(), attackers, time.Since(began).Round(100*time.Millisecond), told.compared.Load(), told.limited.Load(), told.shed.Load(), logins, slowest.Round(time.Millisecond))
	if n := told.compared.Load(); n == 0 || n >= 100 {
		t.Errorf("%d guesses were compared, want some and fewer than 100", n)
	}
	if told.all() != 10_000 {
		t.Errorf("%d guesses were made, want 10,000", told.all())
	}
	if n := told.other.Load(); n > 0 {
		t.Errorf("%d guesses had another answer", n)
	}
}

func passwordGuesses(t *testing.T, r *running) {
	right := url.Values{"username": {"alice"}, "password": {r.password("alice")}}
	home := r.login("alice")
	r.attack(t, func(c *http.Client, n int) int {
		status, _, _ := r.submit(c, "/login", url.Values{"username": {"alice"}, "password": {fmt.Sprint("guess number ", n)}})
		return status
	}, func() (time.Duration, error) {
		began := time.Now()
		status, _, page := r.submit(home, "/login", right)
		if status != http.StatusSeeOther {
			return 0, fmt.Errorf("%d %s", status, page)
		}
		return time.Since(began), nil
	})
	if status, _, _ := r.submit(r.attacker(0), "/login", right); status != http.StatusTooManyRequests {
		t.Errorf("the right password on a strange device within the pause: %d, want 429", status)
	}
}

// codeGuesses gives the attackers bob's password: each refusal costs them the
// login they have begun, so each guess costs a whole one.
func codeGuesses(t *testing.T, r *running) {
	right := url.Values{"username": {"bob"}, "password": {r.password("bob")}}
	home := r.login("bob")
	key := r.enrolTOTP(t, home)
	shown := time.Now().Unix() / 30 // the step that enrolment took
	r.attack(t, func(c *http.Client, n int) int {
		if status, to, _ := r.submit(c, "/login", right); status != http.StatusSeeOther || to != "/login/factor" {
			return status
		}
		status, _, _ := r.submit(c, "/login/factor", url.Values{"how": {"totp"}, "code": {fmt.Sprintf("%06d", n*997%1_000_000)}})
		return status
	}, func() (time.Duration, error) {
		for time.Now().Unix()/30+1 <= shown { // a code is good once, the next one early
			time.Sleep(100 * time.Millisecond)
		}
		shown++
		began := time.Now()
		status, to, page := r.submit(home, "/login", right)
		if status != http.StatusSeeOther || to != "/login/factor" {
			return 0, fmt.Errorf("the password: %d to %q %s", status, to, page)
		}
		if status, _, page = r.submit(home, "/login/factor", url.Values{"how": {"totp"}, "code": {codeOf(key, shown)}}); status != http.StatusSeeOther {
			return 0, fmt.Errorf("the code: %d %s", status, page)
		}
		return time.Since(began), nil
	})
}

// enrolTOTP turns an authenticator app on and returns its secret.
func (r *running) enrolTOTP(t *testing.T, c *http.Client) []byte {
	t.Helper()
	if status, _, page := r.submit(c, "/account/totp", nil); status != http.StatusSeeOther {
		t.Fatalf("enrolment: %d %s", status, page)
	}
	_, page := r.call(c, http.MethodGet, "/account/totp", nil)
	found := regexp.MustCompile(`id="secret">([A-Z2-7 ]+)<`).FindStringSubmatch(page)
	if found == nil {
		t.Fatalf("the page shows no secret\n%s", page)
	}
	key, err := base32.StdEncoding.DecodeString(strings.ReplaceAll(found[1], " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	if status, _, page := r.submit(c, "/account/totp/confirm", url.Values{"code": {codeOf(key, time.Now().Unix()/30)}}); status != http.StatusSeeOther {
		t.Fatalf("confirmation: %d %s", status, page)
	}
	return key
}

// codeOf is RFC 6238 for one step.
func codeOf(key []byte, step int64) string {
	mac := hmac.New(sha1.New, key)
	mac.Write(bits.BigEndian.AppendUint64(nil, uint64(step)))
	sum := mac.Sum(nil)
	at := sum[19] & 15
	return fmt.Sprintf("%06d", (bits.BigEndian.Uint32(sum[at:])&0x7fffffff)%1_000_000)
}
