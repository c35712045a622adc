package gateway

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// TestKeyOfAnotherMeaning: what a document or the file lets a service read belongs to
// what is asked, and a key is for one such request; what is made for each try does not.
func TestKeyOfAnotherMeaning(t *testing.T) {
	file := controltest.File(t, "policy: shop.cedar }", "policy: shop.cedar, headers: [X-Branch] }", "header: Rampart-Nonce", "header: X-Nonce")
	doc := filepath.Join(filepath.Dir(file), "shop.openapi.yaml")
	text, err := os.ReadFile(doc)
	must(t, err)
	declared := strings.Replace(string(text), "      requestBody:\n", `      parameters:
        - { name: X-Currency, in: header, schema: { type: string, maxLength: 3 } }
        - { name: X-Nonce, in: header, schema: { type: string, maxLength: 64 } }
        - { name: X-Request-Id, in: header, schema: { type: string, maxLength: 16 } }
        - { name: region, in: cookie, schema: { type: string, maxLength: 8 } }
      requestBody:
`, 1)
	must(t, os.WriteFile(doc, []byte(declared), 0o600))
	h := openFile(t, file)
	h.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })
	ann := h.token("ann", "app")
	order := func(header ...string) answer {
		fixed := []string{"Authorization", ann, "Idempotency-Key", "k", "X-Nonce", freshNonce()}
		return h.do("POST", "/orders", good, append(fixed, header...)...)
	}
	first := []string{"X-Currency", "EUR", "X-Branch", "1", "X-Request-Id", "a", "Cookie", "region=eu", "Accept", "application/json", "If-Match", `"1"`}
	if res := order(first...); res.StatusCode != http.StatusCreated || res.Header.Get("Idempotency-Replayed") != "" {
		t.Fatalf("the first: %s %s", res.Status, res.body)
	}
	for name, tc := range map[string]struct {
		header []string // in the place of the first one's
		status int
	}{
		"the same again":           {nil, 201},
		"of another currency":      {[]string{"X-Currency", "USD"}, 422},
		"of a branch of the file":  {[]string{"X-Branch", "2"}, 422},
		"of another cookie":        {[]string{"Cookie", "region=us"}, 422},
		"if it is another's state": {[]string{"If-Match", `"2"`}, 422},
		"another try by its id":    {[]string{"X-Request-Id", "b"}, 201},
		"in another look":          {[]string{"Accept", "*/*"}, 201},
		"what no service gets":     {[]string{"X-Other", "1"}, 201},
	} {
		t.Run(name, func(t *testing.T) {
			res := order(append(append([]string{}, first...), tc.header...)...)
			if res.StatusCode != tc.status || (res.Header.Get("Idempotency-Replayed") == "true") != (tc.status == 201) || h.served() != 1 {
				t.Errorf("%s %s, want %d; the service was asked %d times", res.Status, res.body, tc.status, h.served())
			}
		})
	}
}

// TestAnswerOfOtherRights: an answer is repeated to who may do now what they might do
// then. A right that the gateway asks for refuses; one that only the service's policies
// ask for has the answer kept back. Nothing runs again either way.
func TestAnswerOfOtherRights(t *testing.T) {
	h := open(t)
	h.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })
	order := func() answer {
		return h.do("POST", "/orders", good, "Authorization", h.token("ann", "app"), "Idempotency-Key", "k", "Rampart-Nonce", freshNonce())
	}
	if res := order(); res.StatusCode != http.StatusCreated {
		t.Fatalf("the first: %s %s", res.Status, res.body)
	}
	for _, tc := range []struct {
		name   string
		facts  spec.DemoUser
		status int
	}{
		{"the same, after another login", spec.DemoUser{Roles: []string{"customer"}, Organizations: []string{"acme"}, Team: "red"}, 201},
		{"no member of the organization", spec.DemoUser{Roles: []string{"customer"}, Organizations: []string{"globex"}, Team: "red"}, 409},
		{"without the role", spec.DemoUser{Roles: []string{"viewer"}, Organizations: []string{"acme"}, Team: "red"}, 403},
		{"as before", spec.DemoUser{Roles: []string{"customer"}, Organizations: []string{"acme"}, Team: "red"}, 201},
	} {
		h.Admin(wire.AdminUsers, wire.User{Name: "ann", Facts: tc.facts}, nil)
		if res := order(); res.StatusCode != tc.status || (res.Header.Get("Idempotency-Replayed") == "true") != (tc.status == 201) || h.served() != 1 {
			t.Errorf("%s: %s %s, want %d; the service was asked %d times", tc.name, res.Status, res.body, tc.status, h.served())
		}
	}
}
