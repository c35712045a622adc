package control_test

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/svid"
)

// rotating is a house whose generated key is replaced by schedule.
func rotating(t *testing.T) *house {
	t.Helper()
	h := found(t, "")
	d := h.sys.Data["key"]
	d.Rotate = spec.Duration(24 * time.Hour)
	h.sys.Data["key"] = d
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

// beats has the payments' sidecar say which version of the key it uses.
func (h *house) beats(version int) {
	h.t.Helper()
	hb := wire.Heartbeat{Plane: "sidecar/payments", Instance: "i", Trust: wire.TrustState{Secrets: map[string]int{"key": version}}}
	must(h.t, h.call("service/payments", http.MethodPost, wire.PathHeartbeat, hb, nil))
}

// key is the version that the payments get.
func (h *house) key() int {
	h.t.Helper()
	var v agent.SecretValue
	must(h.t, h.call("service/payments", http.MethodGet, wire.PathSecret+"key", nil, &v))
	return v.Version
}

// untilRotation waits for a state of the one rotation, while beat is called.
func (h *house) untilRotation(what string, beat func(), ok func(wire.Rotation) bool) {
	h.t.Helper()
	var list []wire.Rotation
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		beat()
		must(h.t, h.admin(http.MethodGet, wire.AdminRotate, nil, &list))
		if len(list) == 1 && ok(list[0]) {
			return
		}
	}
	h.t.Fatalf("%s: %+v", what, list)
}

// TestARotationWaitsForPlanes that use the old version, through restarts, but not
// for ever.
func TestARotationWaitsForPlanes(t *testing.T) {
	h := rotating(t)
	quiet := func() {}
	idle := func(version int) func(wire.Rotation) bool {
		return func(r wire.Rotation) bool { return r.Step == "idle" && r.Version == version }
	}
	now := func() { must(t, h.admin(http.MethodPost, wire.AdminRotate, wire.RotateNow{Name: "data:key"}, nil)) }
	waits := func(on string) func(wire.Rotation) bool {
		return func(r wire.Rotation) bool { return r.Step == "drain" && slices.Contains(r.Waiting, on) }
	}
	h.untilRotation("it is known", quiet, idle(1))
	h.beats(1)
	now()
	h.untilRotation("the plane says that it uses the old one", func() { h.beats(1) }, waits("sidecar/payments uses version 1"))
	if got := h.key(); got != 2 {
		t.Errorf("readers get version %d, want 2", got)
	}
	h.stop()
	h.start()
	h.untilRotation("after a restart it still waits", quiet, func(r wire.Rotation) bool { return r.Step == "drain" && len(r.Waiting) == 1 })
	h.untilRotation("the plane uses the new one", func() { h.beats(2) }, idle(2))

	h.beats(2)
	now()
	h.untilRotation("the plane is silent", quiet, waits("sidecar/payments has not said what it uses"))
	h.pass(96 * time.Minute)
	h.untilRotation("no use can last that long", quiet, idle(3))
	h.pass(25 * time.Hour)
	h.untilRotation("it is due, and nobody has been heard of for long", quiet, idle(4))

	if err := h.admin(http.MethodPost, wire.AdminRotate, wire.RotateNow{Name: "store:none"}, nil); statusOf(err) != http.StatusNotFound || !strings.Contains(err.Error(), "data:key") {
		t.Errorf("what does not rotate: %v, want to be told what does", err)
	}
	for _, step := range []string{"create", "test", "publish", "drain", "revoke"} {
		if n := len(h.events("rotation." + step)); n != 3 {
			t.Errorf("%d records of %s, want one for each rotation", n, step)
		}
	}
}

// TestDatabaseCertificates: who has a flow to a database that asks for them gets
// one, for the role that the file says.
func TestDatabaseCertificates(t *testing.T) {
	h := found(t, "")
	h.sys.Stores["cdb"] = spec.Store{Kind: "postgres", URL: "postgres://app@localhost:5432/shop", ClientCert: true}
	h.sys.Stores["plain"] = spec.Store{Kind: "postgres", URL: "postgres://app@localhost:5432/shop"}
	h.sys.Flows = append(h.sys.Flows,
		spec.Flow{ID: "c1", From: "payments", To: "cdb", DB: &spec.DB{Role: "teller"}}, spec.Flow{ID: "c2", From: "orders", To: "cdb"}, spec.Flow{ID: "c3", From: "payments", To: "plain"})
	h.start()
	t.Cleanup(func() { h.stop() })
	for name, tc := range map[string]struct {
		service, store, role string
	}{
		"the role of the flow":                {"payments", "cdb", "teller"},
		"the user of the URL":                 {"orders", "cdb", "app"},
		"no flow leads there":                 {"mail", "cdb", ""},
		"the database asks for none":          {"payments", "plain", ""},
		"there is no such store":              {"payments", "none", ""},
		"a store that is no such database is": {"payments", "db", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var id wire.Identity
			err := h.call("service/"+tc.service, http.MethodPost, wire.PathDBCert+tc.store, wire.RenewRequest{CSR: newCSR(t)}, &id)
			if tc.role == "" {
				if statusOf(err) != http.StatusForbidden {
					t.Errorf("%v, want forbidden", err)
				}
				return
			}
			must(t, err)
			leaf := parseLeaf(t, id.Chain)
			if leaf.Subject.CommonName != tc.role || len(leaf.URIs)+len(leaf.DNSNames) != 0 || time.Until(leaf.NotAfter) > time.Hour {
				t.Errorf("a certificate of %s with %v until %v", leaf.Subject, fmt.Sprint(leaf.URIs, leaf.DNSNames), leaf.NotAfter)
			}
		})
	}
}

func newCSR(t *testing.T) []byte {
	t.Helper()
	_, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	return csr
}

func parseLeaf(t *testing.T, chain [][]byte) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(chain[0])
	must(t, err)
	return leaf
}
