package vault_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/secretstest"
	"github.com/rampart-security/rampart/secrets/vault"
	"github.com/rampart-security/rampart/secrets/vault/vaulttest"
)

// write puts text into a file that this user alone may read.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "proof")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// options of a client that logs in with a role of its own, which may do
// everything below the mounts that tests use but what deny names.
func options(t *testing.T, s *vaulttest.Server, uses int, deny ...string) vault.Options {
	t.Helper()
	rules := map[string]any{}
	for _, mount := range []string{"secret", "database", "transit", "pki"} {
		rules[mount+"/*"] = map[string]any{"capabilities": []string{"create", "read", "update", "delete", "list"}}
	}
	rules["sys/leases/*"] = map[string]any{"capabilities": []string{"update"}}
	for _, path := range deny {
		rules[path] = map[string]any{"capabilities": []string{"deny"}}
	}
	text, err := json.Marshal(map[string]any{"path": rules})
	if err != nil {
		t.Fatal(err)
	}
	s.Admin(t, "PUT", "sys/policies/acl/rampart", map[string]any{"policy": string(text)})
	s.Admin(t, "POST", "sys/auth/approle", map[string]any{"type": "approle"})
	s.Admin(t, "POST", "auth/approle/role/control", map[string]any{"token_policies": []string{"rampart"}, "token_ttl": "1h", "token_max_ttl": "4h", "secret_id_num_uses": uses})
	role := s.Admin(t, "GET", "auth/approle/role/control/role-id", nil)["role_id"].(string)
	id := s.Admin(t, "POST", "auth/approle/role/control/secret-id", nil)["secret_id"].(string)
	return vault.Options{Name: "shop-vault", Address: s.URL, Login: vault.Login{Method: "approle", Role: role, SecretFile: write(t, id)}}
}

// start returns a running server and a client of it.
func start(t *testing.T, uses int, deny ...string) (*vaulttest.Server, *vault.Client) {
	t.Helper()
	s := vaulttest.Start(t)
	opt := options(t, s, uses, deny...)
	opt.HTTP = s.Client()
	return s, open(t, opt)
}

func open(t *testing.T, opt vault.Options) *vault.Client {
	t.Helper()
	c, err := vault.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// inMemory lets a client call a server without a network, for tests in which
// time stands still.
type inMemory struct{ s *vaulttest.Server }

func (m inMemory) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("the connection broke off")
		}
	}()
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	m.s.ServeHTTP(w, r)
	return w.Result(), nil
}

func set(t *testing.T, s *vaulttest.Server, path string, fields map[string]string) {
	t.Helper()
	data := map[string]string{}
	for k, v := range fields {
		if k == "" {
			k = "value"
		}
		data[k] = v
	}
	s.Admin(t, "POST", "secret/data/"+path, map[string]any{"data": data})
}

func TestKVConforms(t *testing.T) {
	secretstest.Backend(t, func(t *testing.T) secretstest.Place {
		s := vaulttest.Start(t)
		opt := options(t, s, 0)
		opt.HTTP = s.Client()
		return secretstest.Place{
			Backend: open(t, opt).KV("secret"), Name: "shop-vault", Fields: true, Max: 1 << 20,
			Set: func(t *testing.T, path string, fields map[string]string) { set(t, s, path, fields) },
			Deny: func(t *testing.T, path string) {
				s.Admin(t, "PUT", "sys/policies/acl/rampart", map[string]any{"policy": `{"path":{"secret/*":{"capabilities":["read"]},"secret/data/` + path + `":{"capabilities":["deny"]}}}`})
			},
			Down: func(down bool) { s.Fault(vaulttest.Faults{Down: down}) },
			Hang: func(hang bool) { s.Fault(vaulttest.Faults{Hang: hang}) },
		}
	})
}

func TestDatabaseLeases(t *testing.T) {
	s, c := start(t, 0)
	s.Admin(t, "POST", "sys/mounts/database", map[string]any{"type": "database"})
	s.Admin(t, "POST", "database/roles/app", map[string]any{"default_ttl": "1h", "max_ttl": "90m"})
	s.Admin(t, "POST", "database/static-roles/old", map[string]any{"username": "app_old", "rotation_period": "24h"})
	db := c.Database("database")
	fetch := func(path, field string) secrets.Secret {
		t.Helper()
		got, err := db.Fetch(t.Context(), secrets.Ref{Backend: "shop-vault", Path: path, Field: field})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	about := func(s secrets.Secret) time.Duration { return time.Until(s.Until()).Round(time.Minute) }
	a, b := fetch("creds/app", ""), fetch("creds/app", "")
	if a.User() == b.User() || a.Lease() == b.Lease() || a.Lease() == "" || about(a) != time.Hour {
		t.Errorf("users %s and %s, leases %s and %s, for %v", a.User(), b.User(), a.Lease(), b.Lease(), about(a))
	}
	s.Advance(45 * time.Minute)
	more, err := db.Renew(t.Context(), a, time.Hour)
	if err != nil || about(more) != 45*time.Minute || more.User() != a.User() {
		t.Errorf("renewed for %v (%v), want what is left of 90 minutes", about(more), err)
	}
	if err := db.Revoke(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Renew(t.Context(), a, 0); rampart.KindOf(err) != rampart.NotFound {
		t.Errorf("renew after revoke: %v", err)
	}
	if err := db.Revoke(t.Context(), a); err != nil {
		t.Errorf("revoked twice: %v", err)
	}
	if st := fetch("static-creds/old", ""); st.Lease() != "" || st.User() != "app_old" || about(st) != 23*time.Hour+15*time.Minute {
		t.Errorf("static: user %s, lease %q, for %v", st.User(), st.Lease(), about(st))
	}
	for path, want := range map[string]rampart.Kind{"creds/nobody": rampart.NotFound, "config/x": rampart.Invalid, "creds": rampart.Invalid, "creds/../config": rampart.Invalid} {
		if _, err := db.Fetch(t.Context(), secrets.Ref{Path: path}); rampart.KindOf(err) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// static is a database's leases beside a KV engine's secrets, as one backend.
type static struct {
	*vault.KV
	db *vault.Database
}

func (b static) Fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	if strings.HasPrefix(ref.Path, "creds/") {
		return b.db.Fetch(ctx, ref)
	}
	return b.KV.Fetch(ctx, ref)
}

func (b static) Renew(ctx context.Context, s secrets.Secret, by time.Duration) (secrets.Secret, error) {
	return b.db.Renew(ctx, s, by)
}

func (b static) Revoke(ctx context.Context, s secrets.Secret) error { return b.db.Revoke(ctx, s) }

func TestLeasesConform(t *testing.T) {
	secretstest.Backend(t, func(t *testing.T) secretstest.Place {
		s, c := start(t, 0)
		s.Admin(t, "POST", "sys/mounts/database", map[string]any{"type": "database"})
		s.Admin(t, "POST", "database/roles/app", map[string]any{"default_ttl": "1h", "max_ttl": "90m"})
		return secretstest.Place{
			Backend: static{c.KV("secret"), c.Database("database")}, Name: "shop-vault", Lease: secrets.Ref{Backend: "shop-vault", Path: "creds/app"},
			Set: func(t *testing.T, path string, fields map[string]string) { set(t, s, path, fields) },
		}
	})
}

func TestTransitConforms(t *testing.T) {
	secretstest.KEK(t, func(t *testing.T) secretstest.Key {
		s, c := start(t, 0)
		s.Admin(t, "POST", "sys/mounts/transit", map[string]any{"type": "transit"})
		for _, key := range []string{"rampart", "other"} {
			s.Admin(t, "POST", "transit/keys/"+key, map[string]any{"derived": true})
		}
		return secretstest.Key{
			KEK: c.Transit("transit", "rampart"), Other: c.Transit("transit", "other"),
			Rotate: func(t *testing.T) { s.Admin(t, "POST", "transit/keys/rampart/rotate", nil) },
			Down:   func(down bool) { s.Fault(vaulttest.Faults{Down: down}) },
		}
	})
}

// TestTransitNeedsBinding shows what a key does that is not derived: Vault
// ignores the context, and a key wrapped for one tenant would open for another.
func TestTransitNeedsBinding(t *testing.T) {
	s, c := start(t, 0)
	s.Admin(t, "POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	s.Admin(t, "POST", "transit/keys/plain", nil)
	s.Admin(t, "POST", "transit/keys/derived", map[string]any{"derived": true})
	if _, err := c.Transit("transit", "plain").Wrap(t.Context(), []byte("k"), nil); rampart.KindOf(err) != rampart.Internal || !strings.Contains(err.Error(), "derived=true") {
		t.Errorf("a key that binds nothing: %v", err)
	}
	k := c.Transit("transit", "derived")
	old, err := k.Wrap(t.Context(), []byte("k"), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Admin(t, "POST", "transit/keys/derived/rotate", nil)
	if id := k.KeyID(); id != "vault:transit/derived:v1" {
		t.Errorf("the id is %s", id)
	}
	if err := k.Check(t.Context()); err != nil || k.KeyID() != "vault:transit/derived:v2" {
		t.Errorf("after a check the id is %s, %v", k.KeyID(), err)
	}
	s.Admin(t, "POST", "transit/keys/derived/config", map[string]any{"min_decryption_version": 2})
	if _, err := k.Unwrap(t.Context(), old, nil); rampart.KindOf(err) != rampart.Internal || !strings.Contains(err.Error(), "too old") {
		t.Errorf("below the least version: %v", err)
	}
}

// status is what the server answers, and what we make of it.
func TestKindsOfFailure(t *testing.T) {
	for name, c := range map[string]struct {
		fault vaulttest.Faults
		want  rampart.Kind
		wait  time.Duration
	}{
		"bad request":                      {vaulttest.Faults{Status: 400}, rampart.Invalid, 0},
		"not found":                        {vaulttest.Faults{Status: 404}, rampart.NotFound, 0},
		"not found, says a proxy":          {vaulttest.Faults{Status: 404, Body: "<html>no backend</html>"}, rampart.Unavailable, 0},
		"wrong method":                     {vaulttest.Faults{Status: 405}, rampart.Invalid, 0},
		"not yet consistent":               {vaulttest.Faults{Status: 412}, rampart.Unavailable, 0},
		"too many requests":                {vaulttest.Faults{Status: 429, Retry: 7}, rampart.Limited, 7 * time.Second},
		"too many, for a day":              {vaulttest.Faults{Status: 429, Retry: 86400}, rampart.Limited, time.Minute},
		"disaster recovery secondary":      {vaulttest.Faults{Status: 472}, rampart.Unavailable, 0},
		"performance standby":              {vaulttest.Faults{Status: 473}, rampart.Unavailable, 0},
		"internal":                         {vaulttest.Faults{Status: 500}, rampart.Unavailable, 0},
		"bad gateway":                      {vaulttest.Faults{Status: 502, Body: "<html>"}, rampart.Unavailable, 0},
		"sealed":                           {vaulttest.Faults{Sealed: true}, rampart.Unavailable, 0},
		"no connection":                    {vaulttest.Faults{Down: true}, rampart.Unavailable, 0},
		"standby that points elsewhere":    {vaulttest.Faults{Standby: "https://active.example:8200"}, rampart.Unavailable, 0},
		"standby that points down to http": {vaulttest.Faults{Standby: "http://127.0.0.1"}, rampart.Unavailable, 0},
		"standby without an address":       {vaulttest.Faults{Status: 307}, rampart.Unavailable, 0},
		"a reply without end":              {vaulttest.Faults{Oversize: true}, rampart.Unavailable, 0},
		"a reply that is not Vault's":      {vaulttest.Faults{Status: 200, Body: "<html>sign in to the wireless network</html>"}, rampart.Unavailable, 0},
		"a reply of another engine":        {vaulttest.Faults{Status: 200, Body: `{"data":{"value":"canary-4711"}}`}, rampart.Unavailable, 0},
		"a proxy that repeats our words":   {vaulttest.Faults{Status: 400, Body: "canary-4711"}, rampart.Invalid, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := start(t, 0)
			set(t, s, "key", map[string]string{"": "canary-4711"})
			kv, ref := client.KV("secret"), secrets.Ref{Path: "key"}
			if _, err := kv.Fetch(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
			s.Fault(c.fault)
			_, err := kv.Fetch(t.Context(), ref)
			if err == nil || rampart.KindOf(err) != c.want || secrets.RetryAfter(err) != c.wait {
				t.Errorf("got %v of kind %v, wait %v; want %v, %v", err, rampart.KindOf(err), secrets.RetryAfter(err), c.want, c.wait)
			}
			if err != nil && (strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "shop-vault")) {
				t.Errorf("the error shows a value, or not where it was: %v", err)
			}
		})
	}
}

// TestRedirect: a token goes to the server that it is for, over https.
func TestRedirect(t *testing.T) {
	s, client := start(t, 0)
	set(t, s, "key", map[string]string{"": "v"})
	var stolen http.Header
	thief := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen = r.Header }))
	defer thief.Close()
	if _, err := client.KV("secret").Fetch(t.Context(), secrets.Ref{Path: "key"}); err != nil {
		t.Fatal(err)
	}
	s.Fault(vaulttest.Faults{Standby: thief.URL})
	_, err := client.KV("secret").Fetch(t.Context(), secrets.Ref{Path: "key"})
	if rampart.KindOf(err) != rampart.Unavailable || !strings.Contains(fmt.Sprint(err), "load balancer") || stolen != nil {
		t.Errorf("error %v; the other host saw %v", err, stolen)
	}
	s.Fault(vaulttest.Faults{Standby: s.URL})
	if _, err := client.KV("secret").Fetch(t.Context(), secrets.Ref{Path: "key"}); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("in a circle: %v", err)
	}
	h, err := client.Health(t.Context())
	if err != nil || !h.Standby || h.Sealed {
		t.Errorf("health of a standby: %+v, %v", h, err)
	}
	s.Fault(vaulttest.Faults{Sealed: true})
	if h, err = client.Health(t.Context()); err != nil || !h.Sealed {
		t.Errorf("health of a sealed one: %+v, %v", h, err)
	}
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := vaulttest.New()
		s.URL = "https://vault.example"
		opt := options(t, s, 0)
		opt.HTTP = &http.Client{Transport: inMemory{s}}
		kv := open(t, opt).KV("secret")
		set(t, s, "key", map[string]string{"": "v"})
		fetch := func(want rampart.Kind) {
			t.Helper()
			if _, err := kv.Fetch(t.Context(), secrets.Ref{Path: "key"}); (err == nil) != (want == 0) || rampart.KindOf(err) != want {
				t.Errorf("got %v, want kind %v", err, want)
			}
		}
		fetch(0)
		s.Fault(vaulttest.Faults{Down: true})
		for range 20 {
			fetch(rampart.Unavailable)
		}
		if n := s.Count("GET secret/data/key"); n != 6 {
			t.Errorf("asked %d times: the breaker did not open after five failures", n)
		}
		time.Sleep(5 * time.Second)
		fetch(rampart.Unavailable)
		fetch(rampart.Unavailable)
		if n := s.Count("GET secret/data/key"); n != 7 {
			t.Errorf("asked %d times, want one to see whether it is over", n)
		}
		s.Fault(vaulttest.Faults{})
		time.Sleep(5 * time.Second)
		fetch(0)
		s.Fault(vaulttest.Faults{Status: 429, Retry: 30})
		fetch(rampart.Limited)
		s.Fault(vaulttest.Faults{})
		n := s.Total()
		fetch(rampart.Limited)
		time.Sleep(29 * time.Second)
		fetch(rampart.Limited)
		if s.Total() != n {
			t.Error("asked before the time that the server set")
		}
		time.Sleep(time.Second)
		fetch(0)
	})
}

func TestAtMostFourInFlight(t *testing.T) {
	s, client := start(t, 0)
	set(t, s, "key", map[string]string{"": "v"})
	kv := client.KV("secret")
	if _, err := kv.Fetch(t.Context(), secrets.Ref{Path: "key"}); err != nil {
		t.Fatal(err)
	}
	before := s.Count("GET secret/data/key")
	s.Fault(vaulttest.Faults{Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if _, err := kv.Fetch(ctx, secrets.Ref{Path: "key"}); rampart.KindOf(err) != rampart.Unavailable {
				t.Errorf("got %v", err)
			}
		})
	}
	for s.Count("GET secret/data/key") < before+4 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	wg.Wait()
	if n := s.Count("GET secret/data/key") - before; n != 4 {
		t.Errorf("%d were under way at once", n)
	}
	s.Fault(vaulttest.Faults{})
	if _, err := kv.Fetch(t.Context(), secrets.Ref{Path: "key"}); err != nil {
		t.Errorf("those who hung up opened the breaker: %v", err)
	}
}
