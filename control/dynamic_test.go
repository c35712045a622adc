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
		now: now, log: slog.New(slog.DiscardHandler), told: func(context.Context, string) error { told++; return nil },
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
