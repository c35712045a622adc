package sidecar

import (
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
)

// TestSecondLine: a sidecar asks for the step-up and the scope of a flow itself;
// whoever calls may have skipped the gateway's stages.
func TestSecondLine(t *testing.T) {
	h := open(t, []string{"stock"}, "carries: [order], authn: gateway }", `carries: [order], authn: gateway, scope: ["stock:*"], step_up: [{ routes: "GET /prices", acr: aal2, max_age: 5m }] }`)
	edge := h.as("gateway/edge")
	who := func(acr string, ago time.Duration, scope ...string) string {
		return encoded(rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Roles: []string{"customer"}, ACR: acr, AuthTime: time.Now().Add(-ago), Scope: scope})
	}
	for _, tc := range []struct {
		name, path, who string
		status          int
		control         string
		challenge       string
	}{
		{"strong and fresh", "/prices", who("aal2", time.Minute), 200, "", ""},
		{"strong and old", "/prices", who("aal2", 6*time.Minute), 401, "authn.step_up", `max_age="300"`},
		{"fresh and weak", "/prices", who("aal1", time.Minute), 401, "authn.step_up", `acr_values="aal2"`},
		{"a path that asks for nothing", "/mugs", who("", time.Hour), 200, "", ""},
		{"within the scope", "/mugs", who("aal1", time.Minute, "stock:read"), 200, "", ""},
		{"outside the scope", "/mugs", who("aal1", time.Minute, "shop:read"), 403, "authz.service", `error="insufficient_scope"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := h.call(edge, "stock", "GET", tc.path, "", wire.HeaderPrinc, tc.who)
			if res.StatusCode != tc.status || !strings.Contains(res.Header.Get("WWW-Authenticate"), tc.challenge) {
				t.Errorf("%d, challenge %q: %s", res.StatusCode, res.Header.Get("WWW-Authenticate"), res.body)
			}
			if tc.control != "" && h.newest("stock").Control != tc.control {
				t.Errorf("on record by %q", h.newest("stock").Control)
			}
		})
	}
	h.Revoke("sub", "user:ann")
	h.Until("a revoked login is refused under the gateway's word too", func() bool {
		return h.call(edge, "stock", "GET", "/mugs", "", wire.HeaderPrinc, who("aal1", time.Minute)).StatusCode == 401
	})
}

// TestPerService: a credential that travels is asked for once in ten seconds, and
// at once again after a revocation.
func TestPerService(t *testing.T) {
	h := open(t, []string{"stock"}, "carries: [order], authn: gateway }", "carries: [order], authn: per_service }")
	edge := h.as("gateway/edge")
	session := h.session(edge)
	mugs := func() int {
		return h.call(edge, "stock", "GET", "/mugs", "", wire.HeaderCred, wire.TypeSession+" "+session).StatusCode
	}
	if got := mugs(); got != 200 {
		t.Fatalf("a session: %d", got)
	}
	h.Stop()
	if got := mugs(); got != 200 {
		t.Errorf("while nobody can be asked: %d", got)
	}
	h.Restart()
	link := h.of["stock"].opt.Link
	h.Until("the control plane is heard", func() bool { return link.Age() < time.Second })
	if got := mugs(); got != 200 {
		t.Fatalf("afterwards: %d", got)
	}
	h.Revoke("sub", "user:ann")
	h.Until("the session is refused", func() bool { return mugs() == 401 })
}
