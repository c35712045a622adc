package control_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/postgres"
	"github.com/rampart-security/rampart/store/valkey"
	"github.com/rampart-security/rampart/test/pgtest"
	"github.com/rampart-security/rampart/test/valkeytest"
)

// atScale opens PostgreSQL for what stays, and Valkey for what passes.
func atScale(db pgtest.Server, cache *valkeytest.Server) func(context.Context) (store.Store, error) {
	secret := func(text string) func(context.Context) (secrets.Secret, error) {
		return func(context.Context) (secrets.Secret, error) { return secrets.New([]byte(text), 1), nil }
	}
	return func(ctx context.Context) (store.Store, error) {
		base, err := postgres.Open(ctx, postgres.Options{
			URL: fmt.Sprintf("postgres://%s@localhost:%s/postgres", pgtest.User, db.Port), CA: db.CA, Password: secret(pgtest.Password),
		})
		if err != nil {
			return nil, err
		}
		shared, err := valkey.Open(ctx, valkey.Options{URL: cache.URL, CA: cache.CA, Password: secret(valkeytest.Password)})
		if err != nil {
			return nil, errors.Join(err, base.Close())
		}
		return store.WithShared(base, shared), nil
	}
}

// replicas starts two control planes on the same stores, each with a state
// folder of its own and the same key file.
func replicas(t *testing.T, openDB func(context.Context) (store.Store, error)) (a, b *house) {
	t.Helper()
	until(t, "the database takes connections", func() bool {
		st, err := openDB(t.Context())
		return err == nil && st.Close() == nil
	})
	a, b = found(t, ""), found(t, "")
	for name, h := range map[string]*house{"a": a, "b": b} {
		h.replica, h.openDB = name, openDB
	}
	a.start()
	t.Cleanup(func() { a.stop() })
	kek, err := os.ReadFile(a.state.Path("kek"))
	must(t, err)
	must(t, os.WriteFile(b.state.Path("kek"), kek, 0o600))
	b.start()
	t.Cleanup(func() { b.stop() })
	return a, b
}

// link joins as the gateway and follows the stream.
func (h *house) link() *planelink.Link {
	h.t.Helper()
	var tok wire.JoinToken
	h.mustAdmin(wire.AdminJoinToken, wire.JoinTokenRequest{Identity: "gateway/edge"}, &tok)
	ctx, cancel := context.WithCancel(context.Background())
	link, err := planelink.Dial(ctx, planelink.Options{
		Control: h.plane.Addr(), Domain: h.sys.Info.TrustDomain, Roots: h.roots, Join: tok.Token, Plane: "gateway/edge", Logger: slog.New(slog.DiscardHandler),
	})
	must(h.t, err)
	done := make(chan struct{})
	go func() { defer close(done); link.Run(ctx) }()
	h.t.Cleanup(func() { cancel(); <-done })
	_, err = link.WaitSystem(h.t.Context())
	must(h.t, err)
	return link
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestReplicas: a login at one control plane counts at the other, and so does
// its end, a wrong guess, and where planes listen.
func TestReplicas(t *testing.T) {
	cache := valkeytest.Start(t)
	a, b := replicas(t, atScale(pgtest.Start(t), cache))
	a.addUser("ann", "customer")
	ann := a.browser()
	if got := ann.login("ann", password); got != http.StatusSeeOther {
		t.Fatalf("login: %d", got)
	}
	atA, err := a.resolve(wire.TypeSession, ann.cookie)
	must(t, err)
	atB, err := b.resolve(wire.TypeSession, ann.cookie)
	must(t, err)
	if atA.Principal.Session == "" || atA.Principal.Session != atB.Principal.Session || atB.Principal.ACR != "aal1" {
		t.Errorf("the session is %+v at one and %+v at the other", atA.Principal, atB.Principal)
	}

	link := b.link()
	must(t, a.call("service/orders", http.MethodPost, wire.PathHeartbeat, wire.Heartbeat{Plane: "sidecar/orders", Instance: "i", Listen: "127.0.0.1:4711"}, nil))
	until(t, "b's planes know where one of a's listens", func() bool { return link.State().Endpoints.Sidecars["orders"] == "127.0.0.1:4711" })

	cache.Kill()
	if _, err := b.resolve(wire.TypeSession, ann.cookie); statusOf(err) != http.StatusServiceUnavailable {
		t.Errorf("a session that cannot be looked up: %v, want 503", err)
	}
	cache.Run()
	until(t, "the shared store is back, the session with it", func() bool {
		_, err := b.resolve(wire.TypeSession, ann.cookie)
		return err == nil
	})

	epoch := link.State().Epoch
	a.mustAdmin(wire.AdminRevoke, map[string]string{"kind": "sub", "id": "user:ann"}, nil)
	if _, err := b.resolve(wire.TypeSession, ann.cookie); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("a session that was ended elsewhere: %v, want 401", err)
	}
	until(t, "b's planes hear of the revocation at a", func() bool { return link.State().Epoch > epoch })

	a.freeze()
	b.freeze()
	for i := range 5 {
		h := []*house{a, b}[i%2]
		if got := h.browser().login("ann", "a wrong password"); got != http.StatusUnauthorized {
			t.Fatalf("guess %d: %d, want 401", i, got)
		}
	}
	for name, h := range map[string]*house{"a": a, "b": b} {
		if got := h.browser().login("ann", password); got != http.StatusTooManyRequests {
			t.Errorf("a guess at %s in the pause that both counted up to: %d, want 429", name, got)
		}
		if files, _ := filepath.Glob(h.state.Path("audit", "control_"+name, "*.jsonl")); len(files) == 0 {
			t.Errorf("%s has no audit log of its own", name)
		}
	}
}

// TestReplicaThatIsBehind: a control plane that cannot hear the others does not
// tell its planes that they know every revocation.
func TestReplicaThatIsBehind(t *testing.T) {
	a, b := replicas(t, atScale(pgtest.Start(t), valkeytest.Start(t)))
	well, behind := a.link(), b.link()
	until(t, "beats arrive at both", func() bool { return well.Age() < time.Second && behind.Age() < time.Second })
	must(t, b.db.Close())
	until(t, "beats stay away", func() bool { return behind.Age() > 6*time.Second })
	until(t, "the other's go on", func() bool { return well.Age() < 2*time.Second })
}
