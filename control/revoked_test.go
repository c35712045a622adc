package control_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

// certified is an identity with a certificate of its own, and connections of its
// own.
type certified struct {
	src *svid.Source
	*http.Client
}

func (h *house) certified(path string) certified {
	h.t.Helper()
	var tok wire.JoinToken
	h.mustAdmin(wire.AdminJoinToken, wire.JoinTokenRequest{Identity: path}, &tok)
	_, src, err := h.join(tok.Token)
	must(h.t, err)
	return h.shows(src)
}

func (h *house) shows(src *svid.Source) certified {
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: profile.MTLSClient(src, h.sys.ControlID()), ForceAttemptHTTP2: true}}
	h.t.Cleanup(c.CloseIdleConnections)
	return certified{src, c}
}

// renewed is the next certificate.
func (h *house) renewed(c certified) (certified, error) {
	h.t.Helper()
	key, csr, err := svid.NewKeyAndCSR()
	must(h.t, err)
	var id wire.Identity
	if err := call(h.t, c.Client, http.MethodPost, h.url(wire.PathRenew), wire.RenewRequest{CSR: csr}, &id); err != nil {
		return c, err
	}
	snap, err := svid.NewSnapshot(id.Chain, key, id.Bundle)
	must(h.t, err)
	src := svid.NewSource()
	src.Set(snap)
	return h.shows(src), nil
}

// dataKey is whether a certificate still opens anything.
func (h *house) dataKey(c certified) int {
	h.t.Helper()
	var k agent.DEK
	return statusOf(call(h.t, c.Client, http.MethodPost, h.url(wire.PathDEK), agent.DEKRequest{Item: "payment", Tenant: "acme"}, &k))
}

// begin sends a call up to the last byte of its body. finish sends that and
// returns the status, 0 if the connection was cut off.
func (h *house) begin(c certified, path string, body []byte) (finish func() int) {
	h.t.Helper()
	read, write := io.Pipe()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.url(path), read)
	must(h.t, err)
	req.ContentLength = int64(len(body))
	req.Header.Set("Content-Type", "application/json")
	done := make(chan int, 1)
	go func() {
		res, err := c.Do(req)
		if err != nil {
			done <- 0
			return
		}
		res.Body.Close()
		done <- res.StatusCode
	}()
	write.Write(body[:len(body)-1])
	return func() int {
		write.Write(body[len(body)-1:])
		write.Close()
		return <-done
	}
}

// TestRevokedWhileItsBodyArrives: a plane that sends a call slowly is judged when
// the call is there, by what counts then.
func TestRevokedWhileItsBodyArrives(t *testing.T) {
	_, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	renewal, err := json.Marshal(wire.RenewRequest{CSR: csr})
	must(t, err)
	key, err := json.Marshal(agent.DEKRequest{Item: "payment", Tenant: "acme"})
	must(t, err)
	for name, revoke := range map[string]func(*house, svid.Snapshot){
		"identity": func(h *house, own svid.Snapshot) {
			h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: "svid", ID: own.ID}, nil)
		},
		"certificate": func(h *house, own svid.Snapshot) {
			h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: wire.RevokedSerial, ID: own.Proof.Issuer() + "." + own.Proof.Serial()}, nil)
		},
		"issuer": func(h *house, own svid.Snapshot) {
			h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: wire.RevokedIssuer, ID: own.Proof.Issuer()}, nil)
		},
		"disabled": func(h *house, _ svid.Snapshot) {
			h.mustAdmin(wire.AdminServices+"/payments"+wire.SubDisable, nil, nil)
		},
		"disabled and enabled": func(h *house, _ svid.Snapshot) {
			h.mustAdmin(wire.AdminServices+"/payments"+wire.SubDisable, nil, nil)
			h.mustAdmin(wire.AdminServices+"/payments"+wire.SubEnable, nil, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, "")
			c := h.certified("service/payments")
			own, err := c.src.Current()
			must(t, err)
			calls := map[string]func() int{"renewal": h.begin(c, wire.PathRenew, renewal), "data key": h.begin(c, wire.PathDEK, key)}
			until(t, "both calls are there but for a byte", func() bool { return h.dataKey(c) == http.StatusOK })
			revoke(h, own)
			for call, finish := range calls {
				if got := finish(); got == http.StatusOK {
					t.Errorf("%s: it was answered", call)
				}
			}
			again := h.certifiedOnceAllowed("service/payments")
			if got := h.dataKey(again); got != http.StatusOK {
				t.Errorf("it joined anew: %d", got)
			}
			if _, err := h.renewed(again); err != nil {
				t.Errorf("what joined anew renews: %v", err)
			}
		})
	}
}

// certifiedOnceAllowed enables the service first.
func (h *house) certifiedOnceAllowed(path string) certified {
	h.t.Helper()
	h.mustAdmin(wire.AdminServices+strings.TrimPrefix(path, "service")+wire.SubEnable, nil, nil)
	return h.certified(path)
}

// onOneFile starts two control planes on one SQLite file, the clock of b that far
// ahead.
func onOneFile(t *testing.T, ahead time.Duration) (a, b *house) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shared.db")
	a, b = found(t, ""), found(t, "")
	for name, h := range map[string]*house{"a": a, "b": b} {
		h.replica, h.openDB = name, func(ctx context.Context) (store.Store, error) { return sqlite.Open(ctx, path) }
	}
	a.start()
	t.Cleanup(func() { a.stop() })
	kek, err := os.ReadFile(a.state.Path("kek"))
	must(t, err)
	must(t, os.WriteFile(b.state.Path("kek"), kek, 0o600))
	b.pass(ahead)
	b.start()
	t.Cleanup(func() { b.stop() })
	return a, b
}

// TestRevokedAtAnotherReplica: whoever renews at one control plane without a pause
// is out soon after it was revoked at the other, also if the clock of the first is
// ahead; and comes back with a new proof, wherever that is shown.
func TestRevokedAtAnotherReplica(t *testing.T) {
	a, b := onOneFile(t, 3*time.Second)
	for name, revoke := range map[string]func(id string){
		"identity": func(id string) { a.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: "svid", ID: id}, nil) },
		"disabled": func(string) { a.mustAdmin(wire.AdminServices+"/payments"+wire.SubDisable, nil, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			last := b.certified("service/payments")
			stop, done := make(chan struct{}), make(chan certified)
			go func() {
				c := last
				for {
					select {
					case <-stop:
						done <- c
						return
					default:
						c, _ = b.renewed(c)
					}
				}
			}()
			revoke(a.sys.ServiceID("payments"))
			until(t, "b has heard of it", func() bool { return b.dataKey(last) != http.StatusOK })
			close(stop)
			thief := <-done
			for at, h := range map[string]*house{"a": a, "b": b} {
				if got := h.dataKey(h.shows(thief.src)); got == http.StatusOK {
					t.Errorf("the newest certificate that it got is good at %s", at)
				}
				if _, err := h.renewed(h.shows(thief.src)); err == nil {
					t.Errorf("it renews at %s", at)
				}
			}
			must(t, a.admin(http.MethodPost, wire.AdminServices+"/payments"+wire.SubEnable, nil, nil))
			back := b.certified("service/payments")
			for at, h := range map[string]*house{"a": a, "b": b} {
				if got := h.dataKey(h.shows(back.src)); got != http.StatusOK {
					t.Errorf("back at %s: %d", at, got)
				}
			}
		})
	}
}

// TestRevokedQueueAndGateway: they cannot be disabled; their certificates can be
// voided like a service's.
func TestRevokedQueueAndGateway(t *testing.T) {
	h := open(t, "")
	for _, path := range []string{"gateway/edge", "store/events"} {
		c := h.certified(path)
		own, err := c.src.Current()
		must(t, err)
		h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: "svid", ID: own.ID}, nil)
		if _, err := h.renewed(c); statusOf(err) != http.StatusUnauthorized {
			t.Errorf("%s renews: %v, want 401", path, err)
		}
		if _, err := h.renewed(h.certified(path)); err != nil {
			t.Errorf("%s joined anew: %v", path, err)
		}
	}
	if err := h.admin(http.MethodPost, wire.AdminRevoke, wire.Revocation{Kind: "svid", ID: h.sys.StoreID("db")}, nil); statusOf(err) != http.StatusBadRequest {
		t.Errorf("a database, which has no certificate: %v", err)
	}
}

// TestTrustFromTheFuture: after the database came back from a backup planes know
// versions that the authority does not remember. They have acknowledged nothing,
// and hear of what is newer.
func TestTrustFromTheFuture(t *testing.T) {
	h := open(t, "")
	must(t, h.step("prepare"))
	must(t, h.step("publish"))
	h.says("service/payments", "sidecar/payments", 99)
	if got := h.caStatus().Version; got != 100 {
		t.Errorf("version %d, want 100: one that a plane at 99 takes", got)
	}
	refusedWith(t, h.step("activate"), "sidecar/payments has not acknowledged")
	h.pass(2 * time.Second)
	h.says("service/payments", "sidecar/payments", 5000)
	if got := h.caStatus().Version; got != 100 {
		t.Errorf("a plane moves the version to %d as fast as it likes", got)
	}
	refusedWith(t, h.step("activate"), "sidecar/payments has not acknowledged")
	h.pass(2 * time.Second)
	h.says("service/payments", "sidecar/payments", 100)
	must(t, h.step("activate"))
}
