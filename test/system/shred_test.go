//go:build system

package system

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestShred: support finds alice by an address that no file of the database
// holds. Once she is shredded nobody reads it, bob's is as it was, and a copy of
// the database from before brings nothing back.
func TestShred(t *testing.T) {
	t.Parallel()
	r := start(t, variant(t))
	const hers, his = "alice.canary@example.com", "bob.canary@example.com"
	alice, bob := r.login("alice"), r.login("bob")
	a, b := r.payment(alice, hers), r.payment(bob, his)
	sam := r.login("sam")
	r.finds(sam, "Alice.Canary@Example.com", a)
	r.finds(sam, his, b)
	if status, body := r.call(bob, http.MethodPost, "/payments/find", map[string]any{"org": "acme", "email": hers}, once()...); status != http.StatusForbidden {
		t.Errorf("a customer looks an address up: %d %s", status, body)
	}
	r.unreadable(a, hers, his)
	before := r.database()

	out := must(t, "", binary, "dek", "shred", "--tenant", "acme", "--item", "contact", "--subject", "user:alice", "--yes", "user:alice", "--state", r.dir)
	if !strings.Contains(out, "1 key of user:alice at acme in contact destroyed") || strings.Contains(out, "not heard from") {
		t.Errorf("shred says %q", out)
	}
	r.erased(alice, bob, sam, a, b, hers, his)
	if status, body, err := r.pay(alice, r.order(alice, "acme"), "after"); err != nil || status != http.StatusConflict {
		t.Errorf("a new address of who was shredded: %d %s %v, want 409", status, body, err)
	}

	r.putBack(before)
	r.kill("payments")
	r.await("the service on the copy", time.Minute, func() bool {
		time.Sleep(time.Second) // bob has a limit, and would wait for its end
		status, _, err := r.try(bob, http.MethodGet, "/payments/"+b, nil)
		return err == nil && status == http.StatusOK
	})
	r.erased(alice, bob, sam, a, b, hers, his)
}

// paid books an order with an address, and returns the payment's id.
func (r *running) payment(c *http.Client, email string) string {
	r.t.Helper()
	o := r.order(c, "acme")
	status, body := r.call(c, http.MethodPost, "/payments", map[string]any{"order_id": o.ID, "amount": o.Total, "email": email, "card_token": "tok_visa"}, once()...)
	var p struct{ ID string }
	if err := json.Unmarshal([]byte(body), &p); status != http.StatusCreated || err != nil {
		r.t.Fatalf("pay: %d %s", status, body)
	}
	return p.ID
}

// once is the headers of a request that is made one time.
func once() []string {
	n := nonce()
	return []string{"Idempotency-Key", n, "Rampart-Nonce", n}
}

// finds demands that an address leads to one payment, none when it is "".
func (r *running) finds(c *http.Client, email, payment string) {
	r.t.Helper()
	status, body := r.call(c, http.MethodPost, "/payments/find", map[string]any{"org": "acme", "email": email}, once()...)
	var list []struct{ ID string }
	err := json.Unmarshal([]byte(body), &list)
	found := err == nil && len(list) == 1 && list[0].ID == payment || payment == "" && strings.TrimSpace(body) == "[]"
	if status != http.StatusOK || !found || strings.Contains(strings.ToLower(body), strings.ToLower(email)) {
		r.t.Errorf("%s leads to %d %s, want %q and no address", email, status, body, payment)
	}
}

// erased demands that what was paid is there, alice's address is nowhere, and
// bob's is.
func (r *running) erased(alice, bob, sam *http.Client, a, b, hers, his string) {
	r.t.Helper()
	for _, path := range []string{"/payments/" + a, "/payments"} {
		if status, body := r.call(alice, http.MethodGet, path, nil); status != http.StatusOK || !strings.Contains(body, a) || !strings.Contains(body, `"email":null,"erased":true`) {
			r.t.Errorf("%s of who was shredded: %d %s", path, status, body)
		}
		if status, body := r.call(bob, http.MethodGet, strings.Replace(path, a, b, 1), nil); status != http.StatusOK || !strings.Contains(body, `"email":"`+his+`","erased":false`) {
			r.t.Errorf("%s of bob: %d %s", path, status, body)
		}
	}
	r.finds(sam, hers, "")
	r.finds(sam, his, b)
}

// unreadable demands that the files that hold a payment hold no address.
func (r *running) unreadable(payment string, addresses ...string) {
	r.t.Helper()
	all := ""
	for _, text := range r.database() {
		all += text
	}
	if !strings.Contains(all, payment) {
		r.t.Error("the test looks in the wrong place")
	}
	all = strings.ToLower(all)
	for _, address := range append(addresses, "alice.canary", "bob.canary", "example.com") {
		for name, text := range map[string]string{"as text": address, "in hex": hex.EncodeToString([]byte(address)), "in base64": strings.ToLower(base64.RawStdEncoding.EncodeToString([]byte(address)))} {
			if strings.Contains(all, text) {
				r.t.Errorf("the database holds %s %s", address, name)
			}
		}
	}
}

// database copies the payments database while it is in use, as a thief of the
// disk would, once it stands still.
func (r *running) database() map[string]string {
	r.t.Helper()
	read := func() map[string]string {
		out := map[string]string{}
		for _, end := range []string{"", "-wal"} {
			if b, err := os.ReadFile(filepath.Join(r.dir, "data", "payments", "payments_db.db"+end)); err == nil {
				out[end] = string(b)
			}
		}
		return out
	}
	for range 100 {
		first := read()
		time.Sleep(20 * time.Millisecond)
		if second := read(); first[""] == second[""] && first["-wal"] == second["-wal"] {
			return second
		}
	}
	r.t.Fatal("the database does not stand still")
	return nil
}

// putBack puts other files in the place of the database. Who has it open keeps
// what it has until it is killed.
func (r *running) putBack(files map[string]string) {
	r.t.Helper()
	name := filepath.Join(r.dir, "data", "payments", "payments_db.db")
	fine(r.t, os.WriteFile(name+".copy", []byte(files[""]), 0o600))
	fine(r.t, os.Rename(name+".copy", name))
	for _, end := range []string{"-wal", "-shm"} {
		fine(r.t, os.RemoveAll(name+end))
		if text, ok := files[end]; ok {
			fine(r.t, os.WriteFile(name+end, []byte(text), 0o600))
		}
	}
}
