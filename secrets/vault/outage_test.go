package vault_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/vault"
	"github.com/rampart-security/rampart/secrets/vault/vaulttest"
)

// provider is a backend by path, as a cache wants it.
type provider struct{ secrets.Backend }

func (p provider) Get(ctx context.Context, path string) (secrets.Secret, error) {
	return p.Fetch(ctx, secrets.Ref{Backend: "shop-vault", Path: path})
}

// lender is a provider of leases.
type lender struct {
	provider
	secrets.Leaser
}

// inBubble returns a server and a client of it under a clock that the test sets.
func inBubble(t *testing.T) (*vaulttest.Server, *vault.Client) {
	t.Helper()
	s := vaulttest.New()
	s.URL = "https://vault.example"
	opt := options(t, s, 0)
	opt.HTTP = &http.Client{Transport: inMemory{s}}
	return s, open(t, opt)
}

// TestOutage is the bar: with the provider away for ten minutes, cached secrets
// are served, each time told, and at the bound the cache is closed and says why.
// What Vault refuses is never bridged, whatever is wrong next.
func TestOutage(t *testing.T) {
	for name, fault := range map[string]vaulttest.Faults{
		"no connection": {Down: true}, "sealed": {Sealed: true}, "bad gateway": {Status: 502, Body: "<html>"}, "busy": {Status: 429, Retry: 20},
		"standby that points elsewhere": {Standby: "https://other.example"}, "no answer": {Hang: true},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { outage(t, fault) }) })
	}
}

func outage(t *testing.T, fault vaulttest.Faults) {
	s, c := inBubble(t)
	set(t, s, "key", map[string]string{"": "v"})
	told := 0
	cache := secrets.NewCache(provider{c.KV("secret")}, secrets.CacheOptions{
		Name: "shop-vault", MaxStale: 12 * time.Minute, OnStale: func(context.Context, string, time.Duration, error) { told++ },
	})
	defer cache.Close()
	get := func(want string) error {
		t.Helper()
		_, err := cache.Get(t.Context(), "key")
		if kindOf(err) != want {
			t.Errorf("got %s (%v), want %s", kindOf(err), err, want)
		}
		return err
	}
	get("ok")
	s.Fault(fault)
	start, first := time.Now(), time.Duration(0)
	for time.Since(start) < 10*time.Minute {
		time.Sleep(10 * time.Second)
		get("ok")
		if told > 0 && first == 0 {
			first = time.Since(start)
		}
	}
	if first < 5*time.Minute || first > 5*time.Minute+15*time.Second || told < 25 {
		t.Errorf("told %d times, first after %v: want all that is older than five minutes", told, first)
	}
	time.Sleep(3 * time.Minute)
	if err := get("unavailable"); !strings.Contains(fmt.Sprint(err), "shop-vault") || !strings.Contains(fmt.Sprint(err), "12m0s") {
		t.Errorf("the error does not say backend and bound: %v", err)
	}
	s.Fault(vaulttest.Faults{})
	time.Sleep(time.Minute)
	get("ok")
	s.Admin(t, "PUT", "sys/policies/acl/rampart", map[string]any{"policy": `{"path":{}}`})
	time.Sleep(5 * time.Minute)
	get("denied")
	s.Fault(fault)
	time.Sleep(10 * time.Second)
	if _, err := cache.Get(t.Context(), "key"); err == nil {
		t.Error("what was refused was served in the outage that followed")
	}
}

// TestLeasedCredential is a day in the life of a database user: it is renewed
// while it may be, replaced in time, and never served after its end.
func TestLeasedCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := inBubble(t)
		s.Admin(t, "POST", "sys/mounts/database", map[string]any{"type": "database"})
		s.Admin(t, "POST", "database/roles/app", map[string]any{"default_ttl": "1h", "max_ttl": "4h"})
		db := c.Database("database")
		cache := secrets.NewCache(lender{provider{db}, db}, secrets.CacheOptions{Name: "shop-vault"})
		defer cache.Close()
		users := map[string]bool{}
		for range 24 * 12 {
			got, err := cache.Get(t.Context(), "creds/app")
			if err != nil || !got.Until().After(time.Now()) {
				t.Fatalf("until %v, %v", got.Until(), err)
			}
			users[got.User()] = true
			time.Sleep(5 * time.Minute)
		}
		if len(users) < 6 || len(users) > 12 { // neither they nor the login with which they end live longer than 4 h, and each is used for half of that at least
			t.Errorf("%d users in a day, at 4 h each", len(users))
		}
		if _, err := cache.Get(t.Context(), "creds/app"); err != nil {
			t.Fatal(err)
		}
		s.Fault(vaulttest.Faults{Sealed: true})
		time.Sleep(59 * time.Minute)
		_, _ = cache.Get(t.Context(), "creds/app")
		time.Sleep(6 * time.Minute)
		if got, err := cache.Get(t.Context(), "creds/app"); kindOf(err) != "unavailable" {
			t.Errorf("served until %v, and it is %v", got.Until(), time.Now())
		}
	})
}
