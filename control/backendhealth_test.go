package control

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/secrets/vault"
	"github.com/rampart-security/rampart/secrets/vault/vaulttest"
)

// heard is a watch over some asks whose changes a test reads.
type heard struct {
	healthWatch
	hear sync.Mutex // guards said: all are asked side by side
	said []string
	deaf bool // nothing can be put on record
	skew time.Duration
}

func listen(asks map[string]healthAsk) *heard {
	h := &heard{}
	h.now = func() time.Time { return time.Now().Add(h.skew) }
	h.jitter = func() float64 { return 0.999 }
	h.asks = func() map[string]healthAsk { return asks }
	h.log = slog.New(slog.DiscardHandler)
	h.changed = func(_ context.Context, one health) error {
		if h.deaf {
			return errors.New("disk full")
		}
		h.hear.Lock()
		defer h.hear.Unlock()
		h.said = append(h.said, one.name+map[bool]string{true: " away", false: " back"}[one.away])
		return nil
	}
	return h
}

func (h *heard) all() []string {
	h.hear.Lock()
	defer h.hear.Unlock()
	return slices.Clone(h.said)
}

// rounds asks so often, with the time between rounds, and returns what was said.
func (h *heard) rounds(t *testing.T, n int) []string {
	t.Helper()
	h.said = nil
	for range n {
		h.skew += healthEvery
		h.round(t.Context())
	}
	return h.all()
}

// TestVaultIsWatched: each outage and its end is said once, however often Vault is
// asked; one failure alone is none.
func TestVaultIsWatched(t *testing.T) {
	s := vaulttest.Start(t)
	asRoot(t, s, "sys/mounts/transit", `{"type":"transit"}`)
	asRoot(t, s, "transit/keys/kek", `{"derived":true}`)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(s.Root()), 0o600); err != nil {
		t.Fatal(err)
	}
	var h *heard
	c, err := vault.New(vault.Options{Name: "v", Address: s.URL, HTTP: s.Client(), Now: func() time.Time { return h.now() }, Login: vault.Login{Method: "token", SecretFile: token}})
	if err != nil {
		t.Fatal(err)
	}
	h = listen(map[string]healthAsk{"backend:v": askBackend(c.KV("secret"), c), "kek:k": askKEK(c.Transit("transit", "kek"))})
	for _, step := range []struct {
		what   string
		fault  vaulttest.Faults
		rounds int
		away   bool // both, after it
		says   int
	}{
		{what: "it is there", rounds: 3},
		{what: "one failure", fault: vaulttest.Faults{Down: true}, rounds: 1},
		{what: "there again", rounds: 3},
		{what: "it cannot be reached", fault: vaulttest.Faults{Down: true}, rounds: 5, away: true, says: 2},
		{what: "it is back", rounds: 3, says: 2},
		{what: "it is sealed", fault: vaulttest.Faults{Sealed: true}, rounds: 5, away: true, says: 2},
		{what: "it is unsealed", rounds: 3, says: 2},
		{what: "it answers that it is too busy", fault: vaulttest.Faults{Status: 429, Retry: 1}, rounds: 3},
	} {
		s.Fault(step.fault)
		said := h.rounds(t, step.rounds)
		if len(said) != step.says {
			t.Errorf("%s: said %q in %d rounds", step.what, said, step.rounds)
		}
		for _, one := range h.status() {
			if one.Away != step.away || one.Away && one.Error == "" {
				t.Errorf("%s: %+v", step.what, one)
			}
		}
	}
}

// TestAnOutageIsNoticedInAMinute also of one whose client never answers, which does
// not keep another from being watched, and by one call that waits.
func TestAnOutageIsNoticedInAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began atomic.Int32
		var broken atomic.Bool
		stuck := make(chan struct{})
		h := listen(map[string]healthAsk{
			"stuck": func(context.Context) error { began.Add(1); <-stuck; return nil },
			"other": func(context.Context) error {
				if broken.Load() {
					return errors.New("refused")
				}
				return nil
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); h.run(ctx) }()
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]string{"stuck away"}, h.all()); diff != "" || began.Load() != 1 {
			t.Errorf("asked %d times; -want +got\n%s", began.Load(), diff)
		}
		broken.Store(true)
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]string{"stuck away", "other away"}, h.all()); diff != "" {
			t.Errorf("a minute after the outage: -want +got\n%s", diff)
		}
		close(stuck)
		broken.Store(false)
		time.Sleep(time.Minute)
		if len(h.all()) != 4 {
			t.Errorf("said %q", h.all())
		}
		cancel()
		<-done
	})
}

// TestHealthOnRecord: what cannot be put on record is said when it can be.
func TestHealthOnRecord(t *testing.T) {
	h := listen(map[string]healthAsk{"a": func(context.Context) error { return errors.New("refused") }})
	h.deaf = true
	if h.rounds(t, 3); h.status()[0].Away {
		t.Error("away, and nobody was told")
	}
	h.deaf = false
	if diff := cmp.Diff([]string{"a away"}, h.rounds(t, 3)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	h.asks = func() map[string]healthAsk { return nil }
	if h.rounds(t, 1); len(h.status()) != 0 {
		t.Error("what is not in use any more is watched still")
	}
}
