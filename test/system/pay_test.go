//go:build system

package system

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nonce is "unix-seconds.16 random bytes".
func nonce() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("%d.%s", time.Now().Unix(), base64.RawURLEncoding.EncodeToString(b[:]))
}

type order struct {
	ID    string `json:"id"`
	Total int64  `json:"total"`
}

func (r *running) order(c *http.Client, org string) order {
	r.t.Helper()
	status, body := r.call(c, http.MethodPost, "/orders", map[string]any{"org": org, "items": []map[string]any{{"sku": "MUG", "quantity": 1}}})
	if status != http.StatusCreated {
		r.t.Fatalf("order: %d %s", status, body)
	}
	var o order
	if err := json.Unmarshal([]byte(body), &o); err != nil {
		r.t.Fatal(err)
	}
	return o
}

// pay pays o and returns status and body.
func (r *running) pay(c *http.Client, o order, key string) (int, string, error) {
	return r.try(c, http.MethodPost, "/payments", map[string]any{"order_id": o.ID, "amount": o.Total, "email": "a@example.com", "card_token": "tok_visa", "description": "test"},
		"Idempotency-Key", key, "Rampart-Nonce", nonce())
}

// TestPatterns runs one payment, which crosses gateway, payments, orders and
// the processor, under each of the three ways to propagate identity.
func TestPatterns(t *testing.T) {
	for _, pattern := range []string{"exchange", "per_service", "gateway"} {
		t.Run(pattern, func(t *testing.T) {
			t.Parallel()
			r := start(t, variant(t, "authn: exchange }", "authn: "+pattern+" }", "authn: exchange #", "authn: "+pattern+" #",
				`authn: exchange, scope: ["orders:read"] }`, "authn: "+pattern+" }")) // a scope narrows an exchanged token
			alice := r.login("alice")
			o := r.order(alice, "acme")
			status, body, err := r.pay(alice, o, "key-1")
			if err != nil || status != http.StatusCreated {
				t.Fatalf("pay: %d %s %v", status, body, err)
			}
			var p struct{ ID string }
			if err := json.Unmarshal([]byte(body), &p); err != nil {
				t.Fatal(err)
			}
			if status, body := r.call(alice, http.MethodGet, "/payments/"+p.ID, nil); status != http.StatusOK {
				t.Errorf("own payment: %d %s", status, body)
			}
			if status, _ := r.call(r.login("bob"), http.MethodGet, "/payments/"+p.ID, nil); status != http.StatusForbidden {
				t.Errorf("another's payment: %d, want 403", status)
			}
			if status, _ := r.call(r.client(), http.MethodGet, "/orders", nil); status != http.StatusUnauthorized {
				t.Errorf("nobody's orders: %d, want 401", status)
			}
			r.mailArrives(p.ID)
		})
	}
}

// mailArrives waits for the notification, which came through the queue.
func (r *running) mailArrives(payment string) {
	r.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for time.Now().Before(deadline) {
		files, _ := filepath.Glob(filepath.Join(r.dir, "data", "notifications", "mail", "*"))
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), payment) {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.t.Errorf("no notification of payment %s after 15 seconds", payment)
}
