package control_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/control"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store/sqlite"
)

// tries opens a control plane that need not come up.
func (h *house) tries() error {
	h.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	db, err := sqlite.Open(h.t.Context(), h.state.Path("control.db"))
	must(h.t, err)
	defer db.Close()
	log, err := audit.Open(h.state.Path("audit"), "control", audit.Options{Logger: quiet})
	must(h.t, err)
	defer log.Close()
	_, err = control.New(control.Options{System: h.sys, State: h.state, Store: db, Audit: log, Logger: quiet, Now: h.now, Listen: "127.0.0.1:0", Issuer: issuer, Resolver: here{}})
	return err
}

// where is what the database says of the place of the key.
func (h *house) where(change func(db *sqlite.Store)) string {
	h.t.Helper()
	db, err := sqlite.Open(h.t.Context(), h.state.Path("control.db"))
	must(h.t, err)
	defer db.Close()
	if change != nil {
		change(db)
	}
	text, err := db.Sealed(h.t.Context(), "kek:where")
	must(h.t, err)
	return string(text)
}

// A key that is written wrong stops one start, and changes nothing: neither the
// right one nor the old one is in the way of a move that never began.
func TestAWrongKEKChangesNothing(t *testing.T) {
	s, h := newCloud(t), found(t, "")
	s.reads(t, h, inFile)
	h.start()
	want, err := h.value("service/payments", "key")
	must(t, err)
	h.stop()
	was := h.where(nil)
	for name, kek := range map[string]string{
		"no such key":    "{ kind: aws, backend: cloud, key: 00000000-0000-0000-0000-000000000000 }",
		"no such module": "{ kind: pkcs11, module: /nonexistent/module.so, slot: rampart, key: typo, pin_file: /nonexistent/pin }",
	} {
		s.reads(t, h, kek)
		if err := h.tries(); err == nil {
			t.Errorf("%s: the control plane started", name)
		}
		if now := h.where(nil); now != was {
			t.Errorf("%s: it is on record: %s", name, now)
		}
	}
	right := "{ kind: aws, backend: cloud, key: " + s.NewKey() + " }"
	for _, kek := range []string{right, inFile} {
		s.reads(t, h, kek)
		h.start()
		if got, err := h.value("service/payments", "key"); err != nil || got != want {
			t.Errorf("%s: %q, %v", kek, got, err)
		}
		h.stop()
	}
}

// Back from a key that has gone: what is under the old one opens, and what the
// other wrapped does not, until it is there again.
func TestBackFromAKEKThatIsGone(t *testing.T) {
	s, h := newCloud(t), found(t, "")
	s.reads(t, h, inFile)
	h.start()
	kept := h.mustDEK(acme)
	h.stop()
	s.reads(t, h, "{ kind: aws, backend: cloud, key: "+s.NewKey()+" }")
	h.start()
	globex := agent.DEKRequest{Tenant: "globex"}
	other := h.mustDEK(globex)
	h.stop()
	s.reads(t, h, inFile)
	s.Down(true)
	h.start()
	if got := h.mustDEK(acme); string(got.Key) != string(kept.Key) {
		t.Error("another key for the same tenant")
	}
	if _, err := h.dek(globex); err == nil {
		t.Error("opens without its key")
	}
	if err := h.admin(http.MethodPost, wire.AdminKEK, wire.KEKOp{Op: "rewrap"}, nil); err == nil {
		t.Error("rewrap says that it is done")
	}
	h.stop()
	s.Down(false)
	h.start()
	defer func() { h.stop() }()
	if got := h.mustDEK(globex); string(got.Key) != string(other.Key) {
		t.Error("another key after the return")
	}
	var info wire.KEKInfo
	for range 20 {
		if h.mustAdmin(wire.AdminKEK, wire.KEKOp{Op: "rewrap"}, &info); info.Left == 0 {
			break
		}
	}
	if info.Left != 0 || info.Before != "" {
		t.Errorf("rewrap does not end: %+v", info)
	}
}

// A key file that is gone is missed where something is under it, and not before.
func TestAKeyFileThatIsGone(t *testing.T) {
	h := found(t, "")
	text, err := json.Marshal(map[string]any{"current": map[string]any{"kek": spec.KEK{Kind: "file"}}})
	must(t, err)
	h.where(func(db *sqlite.Store) { // killed at the very first start, before there was a key
		_, err = db.SwapSealed(t.Context(), "kek:where", nil, text)
		must(t, err)
	})
	h.start()
	h.stop()
	must(t, os.Rename(h.state.Path("kek"), h.state.Path("kek.away")))
	if err := h.tries(); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("without the key file: %v", err)
	}
	if _, err := os.Stat(h.state.Path("kek")); err == nil {
		t.Error("a new key stands in the way of the old one's return")
	}
	must(t, os.Rename(h.state.Path("kek.away"), h.state.Path("kek")))
	h.start()
	h.stop()
}
