package gateway

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/test/valkeytest"
)

// TestSharedKeys: a retry that meets another gateway, with a disk of its own, gets the
// first answer. While the store is away nothing runs that has a key, and all else does.
func TestSharedKeys(t *testing.T) {
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	file := controltest.File(t, "rampart: v1\n", "rampart: v1\nlimits: { store: \""+server.URL+"\", ca: store-ca.pem, gateways: 2 }\n")
	must(t, os.WriteFile(filepath.Join(filepath.Dir(file), "store-ca.pem"), server.CA, 0o600))
	h := openFile(t, file)
	pem, err := os.ReadFile(h.State.Path("ca.pem"))
	must(t, err)
	server.Trust(pem)
	h.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.Write([]byte("booked")) })
	ann := h.token("ann", "app")
	order := func(key string) answer {
		return h.do("POST", "/orders", good, "Authorization", ann, "Idempotency-Key", key, "Rampart-Nonce", freshNonce())
	}
	if res := order("k1"); res.StatusCode != 201 || h.served() != 1 {
		t.Fatalf("first: %d %s, %d calls", res.StatusCode, res.body, h.served())
	}
	h.stop()
	h.gw = h.again()
	h.stop = run(t, h.gw.Run)
	h.Until("another edge is up", func() bool { return h.gw.Addr() != "" })
	h.client = h.newClient()
	h.Until("the other takes nonces", func() bool { return order("k1").StatusCode != 401 && h.newest().Control != "nonce.window" })
	if res := order("k1"); res.StatusCode != 201 || res.body != "booked" || res.Header.Get("Idempotency-Replayed") != "true" || h.served() != 1 {
		t.Errorf("the retry: %d %s %v, %d calls", res.StatusCode, res.body, res.Header, h.served())
	}
	server.Kill()
	if res := order("k2"); res.StatusCode != 503 || h.newest().Control != "idempotency.key" || h.served() != 1 {
		t.Errorf("without the store: %d by %q, %d calls", res.StatusCode, h.newest().Control, h.served())
	}
	if res := h.do("GET", "/orders/o1", "", "Authorization", ann); res.StatusCode != 201 || h.served() != 2 {
		t.Errorf("a request without a key, without the store: %d", res.StatusCode)
	}
	server.Run()
	h.Until("the store is back", func() bool { return order("k2").StatusCode == 201 })
	if h.served() != 3 {
		t.Errorf("%d calls, want 3", h.served())
	}
}
