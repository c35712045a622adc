package control

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/vault"
	"github.com/rampart-security/rampart/secrets/vault/vaulttest"
)

// TestLeases: each service has a database user of its own, renewed at half its
// life, replaced before it cannot be renewed any more, and while Vault is away it
// is there to its end.
func TestLeases(t *testing.T) {
	s := vaulttest.Start(t)
	skew := time.Duration(0)
	pass := func(d time.Duration) { skew += d; s.Advance(d) }
	now := func() time.Time { return time.Now().Add(skew) }
	asRoot(t, s, "sys/mounts/database", `{"type":"database"}`)
	asRoot(t, s, "database/roles/shop", `{"default_ttl":"1h","max_ttl":"3h"}`)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(s.Root()), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := vault.New(vault.Options{Name: "v", Address: s.URL, HTTP: s.Client(), Now: now, Login: vault.Login{Method: "token", SecretFile: token}})
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	l := &leases{
		now: now, log: slog.New(slog.DiscardHandler), disabled: noneOff, told: func(context.Context, string) error { told++; return nil },
		open: func(string) (leasing, secrets.Ref, error) {
			return c.Database("database"), secrets.Ref{Backend: "v", Path: "creds/shop"}, nil
		},
	}
	get := func(service string) secrets.Secret {
		t.Helper()
		one, err := l.fetch(t.Context(), service, "db")
		if err != nil {
			t.Fatal(err)
		}
		return one
	}
	first, other := get("orders"), get("payments")
	if first.User() == "" || first.User() == other.User() || first.Version() == 0 {
		t.Fatalf("users %q and %q, version %d", first.User(), other.User(), first.Version())
	}
	pass(31 * time.Minute)
	l.renewAll(t.Context())
	again := get("orders")
	if again.User() != first.User() || again.Version() != first.Version() || again.Until().Sub(now()) < 59*time.Minute || told != 0 {
		t.Errorf("at half its life: %q version %d until %v", again.User(), again.Version(), again.Until().Sub(now()))
	}
	for range 5 {
		pass(29 * time.Minute)
		l.renewAll(t.Context())
	}
	next := get("orders")
	if next.User() == first.User() || next.Version() <= first.Version() || told != 2 {
		t.Errorf("near the most that a lease may have: %q version %d, readers told %d times", next.User(), next.Version(), told)
	}
	s.Fault(vaulttest.Faults{Down: true})
	pass(40 * time.Minute)
	l.renewAll(t.Context())
	if kept := get("orders"); kept.User() != next.User() {
		t.Errorf("while Vault is away: %q", kept.User())
	}
	pass(time.Hour)
	if _, err := l.fetch(t.Context(), "orders", "db"); err == nil {
		t.Error("a user that Vault has dropped was handed out")
	}
}

func noneOff(context.Context) (func(string) bool, error) {
	return func(string) bool { return false }, nil
}

// TestRefusedLeases: what Vault refuses, and what a disabled service held, is
// handed out no more, and readers hear of it.
func TestRefusedLeases(t *testing.T) {
	s := vaulttest.Start(t)
	skew := time.Duration(0)
	now := func() time.Time { return time.Now().Add(skew) }
	asRoot(t, s, "sys/mounts/database", `{"type":"database"}`)
	asRoot(t, s, "database/roles/shop", `{"default_ttl":"1h","max_ttl":"3h"}`)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(s.Root()), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := vault.New(vault.Options{Name: "v", Address: s.URL, HTTP: s.Client(), Now: now, Login: vault.Login{Method: "token", SecretFile: token}})
	if err != nil {
		t.Fatal(err)
	}
	told, off, at := 0, "", lent{Database: c.Database("database")}
	l := &leases{
		now: now, log: slog.New(slog.DiscardHandler), told: func(context.Context, string) error { told++; return nil },
		disabled: func(context.Context) (func(string) bool, error) {
			return func(service string) bool { return service == off }, nil
		},
		open: func(string) (leasing, secrets.Ref, error) {
			return &at, secrets.Ref{Backend: "v", Path: "creds/shop"}, nil
		},
	}
	got := map[string]secrets.Secret{}
	for _, service := range []string{"orders", "payments", "mail"} {
		if got[service], err = l.fetch(t.Context(), service, "db"); err != nil {
			t.Fatal(err)
		}
	}
	off, at.away = "orders", true
	l.renewAll(t.Context())
	if told != 0 || at.revoked != nil {
		t.Errorf("while Vault is away: told %d times, revoked %q", told, at.revoked)
	}
	at.away, skew = false, endEvery
	l.renewAll(t.Context())
	l.renewAll(t.Context())
	if diff := cmp.Diff([]string{got["orders"].User()}, at.revoked); diff != "" || told != 1 {
		t.Errorf("of the disabled service, readers told %d times: -want +got\n%s", told, diff)
	}
	if _, err := c.Database("database").Renew(t.Context(), got["orders"], time.Hour); err == nil {
		t.Error("the lease of the disabled service is there still")
	}
	skew, at.refused = 31*time.Minute, true
	if one, err := l.fetch(t.Context(), "payments", "db"); rampart.KindOf(err) != rampart.Denied || told != 2 {
		t.Errorf("refused by Vault: user %q, %v, readers told %d times", one.User(), err, told)
	}
	l.renewAll(t.Context())
	if _, err := l.fetch(t.Context(), "mail", "db"); rampart.KindOf(err) != rampart.Denied || told != 3 {
		t.Errorf("refused at a renewal: %v, readers told %d times", err, told)
	}
	at.refused = false
	if one, err := l.fetch(t.Context(), "payments", "db"); err != nil || one.Version() <= got["payments"].Version() {
		t.Errorf("when Vault allows it again: version %d, %v", one.Version(), err)
	}
}

// lent is Vault's database engine, which can refuse and be away.
type lent struct {
	*vault.Database
	away, refused bool
	revoked       []string
}

func (l *lent) answer() error {
	switch {
	case l.away:
		return rampart.Errorf(rampart.Unavailable, secretControl, "away")
	case l.refused:
		return rampart.Errorf(rampart.Denied, secretControl, "permission denied")
	}
	return nil
}

func (l *lent) Fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	if err := l.answer(); err != nil {
		return secrets.Secret{}, err
	}
	return l.Database.Fetch(ctx, ref)
}

func (l *lent) Renew(ctx context.Context, s secrets.Secret, by time.Duration) (secrets.Secret, error) {
	if err := l.answer(); err != nil {
		return secrets.Secret{}, err
	}
	return l.Database.Renew(ctx, s, by)
}

func (l *lent) Revoke(ctx context.Context, s secrets.Secret) error {
	if err := l.answer(); err != nil {
		return err
	}
	l.revoked = append(l.revoked, s.User())
	return l.Database.Revoke(ctx, s)
}

// TestLeasesEndWithTheLogin: Vault drops what was leased with a token when that
// ends. A new login gets services new users, and the end of this process leaves
// them what they have.
func TestLeasesEndWithTheLogin(t *testing.T) {
	s := vaulttest.Start(t)
	asRoot(t, s, "sys/mounts/database", `{"type":"database"}`)
	asRoot(t, s, "database/roles/shop", `{"default_ttl":"1h","max_ttl":"3h"}`)
	asRoot(t, s, "sys/auth/approle", `{"type":"approle"}`)
	asRoot(t, s, "sys/policies/acl/all", `{"policy":"{\"path\":{\"*\":{\"capabilities\":[\"read\",\"create\",\"update\"]}}}"}`)
	asRoot(t, s, "auth/approle/role/control", `{"token_policies":["all"],"token_ttl":"1h"}`)
	secretID := filepath.Join(t.TempDir(), "secret-id")
	if err := os.WriteFile(secretID, []byte(s.Admin(t, "POST", "auth/approle/role/control/secret-id", nil)["secret_id"].(string)), 0o600); err != nil {
		t.Fatal(err)
	}
	role := s.Admin(t, "GET", "auth/approle/role/control/role-id", nil)["role_id"].(string)
	c, err := vault.New(vault.Options{Name: "v", Address: s.URL, HTTP: s.Client(), Login: vault.Login{Method: "approle", Role: role, SecretFile: secretID}})
	if err != nil {
		t.Fatal(err)
	}
	told, at := 0, c.Database("database")
	l := &leases{
		now: time.Now, log: slog.New(slog.DiscardHandler), disabled: noneOff, told: func(context.Context, string) error { told++; return nil },
		open: func(string) (leasing, secrets.Ref, error) {
			return at, secrets.Ref{Backend: "v", Path: "creds/shop"}, nil
		},
	}
	first, err := l.fetch(t.Context(), "orders", "db")
	if err != nil {
		t.Fatal(err)
	}
	s.EndTokens()
	_, _ = c.KV("secret").Fetch(t.Context(), secrets.Ref{Path: "any"}) // is how we learn of it
	l.renewAll(t.Context())
	next, err := l.fetch(t.Context(), "orders", "db")
	if err != nil || next.User() == first.User() || told != 1 {
		t.Errorf("after another login: user %q, then %q, readers told %d times, %v", first.User(), next.User(), told, err)
	}
	if err := c.Close(t.Context()); err != nil || s.Tokens() != 1 {
		t.Errorf("closing with a lease leaves %d tokens, %v: want the one that it depends on", s.Tokens(), err)
	}
}

func asRoot(t *testing.T, s *vaulttest.Server, path, body string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.URL+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", s.Root())
	req.Header.Set("X-Vault-Request", "true")
	res, err := s.Client().Do(req)
	if err != nil || res.StatusCode/100 != 2 {
		t.Fatalf("%s: %v %v", path, res, err)
	}
	res.Body.Close()
}
