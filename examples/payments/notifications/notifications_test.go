package main

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const message = `{"payment_id":"pay_0199a1b2c3d4e5f60718293a4b5c6d7e","order_id":"ord_0199a1b2c3d4e5f60718293a4b5c6d7e","amount":2580,"currency":"EUR","recipient":"user:alice"}`

func TestDeliver(t *testing.T) {
	dir := t.TempDir()
	h := routes(slog.New(slog.DiscardHandler), mailbox(dir))
	for _, tc := range []struct {
		name, path, body string
		status           int
	}{
		{"a message", "payments.completed", message, 204},
		{"the same message again", "payments.completed", message, 204},
		{"the same payment with another amount", "payments.completed", strings.Replace(message, "2580", "1", 1), 204},
		{"a path for an id", "payments.completed", strings.Replace(message, "pay_0199", "../x", 1), 400},
		{"no JSON", "payments.completed", "paid", 400},
		{"another topic", "payments.refunded", message, 404},
	} {
		r := httptest.NewRequest("POST", "/_rampart/messages/"+tc.path, strings.NewReader(tc.body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.status {
			t.Errorf("%s: status %d, want %d", tc.name, w.Code, tc.status)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v: want one mail", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var got mail
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	want := mail{To: "user:alice", PaymentID: "pay_0199a1b2c3d4e5f60718293a4b5c6d7e", Amount: 2580, Currency: "EUR"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
