package gateway

import (
	"net/http"
	"testing"
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
