package control_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/control"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store/sqlite"
)

func TestUnsafeNeedsAThrowawayFolder(t *testing.T) {
	h := open(t, "")
	path := filepath.Join(t.TempDir(), "rampart.yaml")
	must(t, os.WriteFile(path, []byte(file+"unsafe: { disable: [limit.login] }\n"), 0o600))
	sys, err := spec.Load(path)
	must(t, err)
	_, err = control.New(control.Options{System: sys, State: h.state, Store: h.db, Audit: h, Logger: slog.New(slog.DiscardHandler), Listen: "127.0.0.1:0"})
	if err == nil || !strings.Contains(err.Error(), "throw-away") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestForeignStateFolderIsRefused(t *testing.T) {
	h := open(t, "")
	path := filepath.Join(t.TempDir(), "rampart.yaml")
	must(t, os.WriteFile(path, []byte(strings.Replace(file, "name: pay ", "name: other ", 1)), 0o600))
	sys, err := spec.Load(path)
	must(t, err)
	_, err = control.New(control.Options{System: sys, State: h.state, Store: h.db, Audit: h, Logger: slog.New(slog.DiscardHandler), Listen: "127.0.0.1:0"})
	if err == nil || !strings.Contains(err.Error(), "pay.internal") {
		t.Errorf("got %v, want a refusal that names the folder's domain", err)
	}
}

func TestLostKeyFileIsNotReplaced(t *testing.T) {
	h := open(t, "")
	h.stop()
	kek := h.state.Path("kek")
	must(t, os.Rename(kek, kek+".away"))
	db, err := sqlite.Open(t.Context(), h.state.Path("control.db"))
	must(t, err)
	_, err = control.New(control.Options{System: h.sys, State: h.state, Store: db, Audit: nowhere{}, Logger: slog.New(slog.DiscardHandler), Listen: "127.0.0.1:0"})
	if err == nil || !strings.Contains(err.Error(), "put it back") {
		t.Errorf("got %v, want a refusal that asks for the file", err)
	}
	must(t, db.Close())
	must(t, os.Rename(kek+".away", kek))
	h.start()
}

type nowhere struct{}

func (nowhere) Record(context.Context, audit.Event) error { return nil }

// TestNothingReadableAtRest: the database and the audit log hold no key,
// password or credential in the clear.
func TestNothingReadableAtRest(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	h.mustAdmin(wire.AdminClients, wire.Client{ID: "shop", Principal: "merchant"}, nil)
	var key wire.APIKey
	h.mustAdmin(wire.AdminAPIKeys, wire.APIKeyRequest{Client: "shop"}, &key)
	var tok wire.JoinToken
	h.mustAdmin(wire.AdminJoinToken, wire.JoinTokenRequest{Identity: "service/orders"}, &tok)
	b := h.browser()
	b.login("ann", password)
	var sec agent.SecretValue
	must(t, h.call("service/payments", http.MethodGet, wire.PathSecret+"key", nil, &sec))
	x, code := h.exchange("gateway/edge", wire.TypeSession, b.cookie, "orders")
	if code != "" {
		t.Fatal(code)
	}
	var dek agent.DEK
	must(t, h.call("service/payments", http.MethodPost, wire.PathDEK, agent.DEKRequest{Item: "payment", Tenant: "acme"}, &dek))
	h.stop()
	defer h.start()
	canaries := map[string][]byte{
		"password": []byte(password), "API key": []byte(key.Key[20:]), "join token": []byte(tok.Token[4:]), "session": []byte(b.cookie),
		"secret": sec.Value, "internal token": []byte(x.AccessToken), "data key": dek.Key, "address of a person": []byte(b.ip), "private key": []byte("PRIVATE KEY"),
	}
	err := filepath.WalkDir(h.state.Path(), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "kek" {
			return err
		}
		data, err := os.ReadFile(path)
		for name, value := range canaries {
			logged := name == "address of a person" && strings.HasSuffix(path, ".jsonl") // the audit log says from where somebody came
			if !logged && bytes.Contains(data, value) {
				t.Errorf("%s holds the %s", d.Name(), name)
			}
		}
		return err
	})
	must(t, err)
}

// TestRealPlane runs the link that every plane uses.
func TestRealPlane(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	b := h.browser()
	b.login("ann", password)
	var tok wire.JoinToken
	h.mustAdmin(wire.AdminJoinToken, wire.JoinTokenRequest{Identity: "gateway/edge"}, &tok)
	link, err := planelink.Dial(t.Context(), planelink.Options{
		Control: h.plane.Addr(), Domain: h.sys.Info.TrustDomain, Roots: h.roots, Join: tok.Token, Plane: "gateway/edge", Logger: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- link.Run(ctx) }()
	defer func() { cancel(); <-done }()
	sys, err := link.WaitSystem(t.Context())
	must(t, err)
	if sys.Bundle().Digest != h.sys.Bundle().Digest {
		t.Error("the plane enforces another configuration")
	}
	if _, err := link.Now().Token(t.Context(), wire.TypeSession, b.cookie, sys.ServiceID("orders")); err != nil {
		t.Errorf("exchange: %v", err)
	}
	if _, err := link.Now().Token(t.Context(), wire.TypeSession, "x", sys.ServiceID("orders")); rampart.KindOf(err) != rampart.Unauthenticated {
		t.Errorf("a bad session: %v, want unauthenticated", err)
	}
	if _, err := link.Now().Token(t.Context(), wire.TypeSession, b.cookie, sys.StoreID("events")); rampart.KindOf(err) != rampart.Denied {
		t.Errorf("an undeclared audience: %v, want denied", err)
	}
}

// TestKeysSurviveARestart: what was issued before a kill still works after it.
func TestKeysSurviveARestart(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	b := h.browser()
	b.login("ann", password)
	before, code := h.exchange("gateway/edge", wire.TypeSession, b.cookie, "payments")
	if code != "" {
		t.Fatal(code)
	}
	roots := h.roots
	h.stop()
	h.start()
	if !bytes.Equal(roots, h.roots) {
		t.Error("the CA changed")
	}
	if _, err := h.resolve(wire.TypeSession, b.cookie); err != nil {
		t.Errorf("the session: %v", err)
	}
	if _, code := h.exchange("service/payments", wire.TypeJWT, before.AccessToken, "orders"); code != "" {
		t.Errorf("the token: %s", code)
	}
	report, err := audit.VerifyDir(h.state.Path("audit"), nil)
	must(t, err)
	if !report.OK() {
		t.Errorf("audit log: %+v", report.Problems)
	}
}

func BenchmarkResolve(b *testing.B) {
	h := open(b, "")
	h.addUser("ann", "customer")
	who := h.browser()
	who.login("ann", password)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.resolve(wire.TypeSession, who.cookie); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExchangeOverTLS(b *testing.B) {
	h := open(b, "")
	h.addUser("ann", "customer")
	who := h.browser()
	who.login("ann", password)
	b.ReportAllocs()
	for b.Loop() {
		if _, code := h.exchange("gateway/edge", wire.TypeSession, who.cookie, "orders"); code != "" {
			b.Fatal(code)
		}
	}
}
