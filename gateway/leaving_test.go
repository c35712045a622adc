package gateway

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

// TestGonePrincipal: the clients of a principal that the file lets in no more do not
// come in by the flow of another, and least of all with less than they had to show
// before.
func TestGonePrincipal(t *testing.T) {
	const merchants = "  - { id: 1, from: merchant, subject: customer, to: edge, carries: [order], authn: { all: [api_key, jwt], bind: \"jwt.azp == api_key.client\" }, limit: { ip: 100000/m, user: 1000/m } }\n"
	for name, change := range map[string][]string{
		"its flow is gone": {merchants, ""},
		"it is gone":       {merchants, "", "  merchant: { kind: client, plan: small }\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			shop, app := h.token("ann", "shop"), h.token("ann", "app")
			get := func(token string) int {
				return h.do(http.MethodGet, "/stock/", "", "Authorization", token).StatusCode
			}
			if got := get(shop); got != http.StatusUnauthorized {
				t.Fatalf("a merchant without its API key: %d", got)
			}
			h.apply(change...)
			if got := get(shop); got != http.StatusUnauthorized {
				t.Errorf("a merchant after no flow leads from it any more: %d, want 401", got)
			}
			if got := get(app); got != http.StatusOK {
				t.Errorf("a customer's client: %d, want 200", got)
			}
		})
	}
}

// TestStreamsEndInside: what stays open ends when the service's own plane would refuse
// it now, though the gateway, which asks less, still lets it in.
func TestStreamsEndInside(t *testing.T) {
	file := controltest.File(t, shopFlow("    stream: sse\n")...)
	doc := filepath.Join(filepath.Dir(file), "shop.openapi.yaml")
	text, err := os.ReadFile(doc)
	must(t, err)
	of := strings.Replace(string(text), `{ permission: "shop:read" }`, `{ permission: "shop:read", tenant: path.id }`, 1)
	must(t, os.WriteFile(doc, []byte(of), 0o600))
	h := openFile(t, file)
	h.serve(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	h.Admin(wire.AdminUsers, wire.User{Name: "two", Password: password, Facts: spec.DemoUser{Roles: []string{"viewer@o1", "customer@o2"}, Organizations: []string{"o1", "o2"}}}, nil)
	two := h.token("two", "app")
	ended := h.stream("Authorization", two)
	yaml, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte(strings.Replace(string(yaml), `viewer: ["shop:read"]`, `viewer: ["stock:read"]`, 1)), 0o600))
	sys, err := spec.Load(file)
	must(t, err)
	h.Admin(wire.AdminConfig, wire.Apply{Bundle: sys.Bundle()}, nil)
	select {
	case <-ended:
	case <-time.After(15 * time.Second):
		t.Error("a stream of an organization where its caller may do nothing any more stays open")
	}
	if !slices.ContainsFunc(h.Events("sidecar_shop"), func(e audit.Event) bool { return e.Control == "authz.service" && e.Subject == "user:two" }) {
		t.Error("that it ended is not on record")
	}
	if got := h.do(http.MethodGet, "/orders/o1", "", "Authorization", two).StatusCode; got != http.StatusForbidden {
		t.Errorf("a new request: %d, want 403", got)
	}
}
