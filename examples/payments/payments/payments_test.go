package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

const (
	order  = "ord_0199a1b2c3d4e5f60718293a4b5c6d7e"
	theirs = "ord_ffffffffffffffffffffffffffffffff"
	honest = `{"order_id":"` + order + `","amount":2580,"email":"alice@example.com","card_token":"tok_visa","description":"Two <b>mugs</b>"}`
)

var (
	alice = rampart.Principal{Kind: rampart.KindHuman, Subject: "user:alice", Organizations: []string{"acme"}, Roles: []string{"customer"}, Team: "red"}
	carol = rampart.Principal{Kind: rampart.KindHuman, Subject: "user:carol", Organizations: []string{"acme"}, Roles: []string{"manager"}, Team: "red", ManagedTeams: []string{"red"}}
	bob   = rampart.Principal{Kind: rampart.KindHuman, Subject: "user:bob", Organizations: []string{"acme"}, Roles: []string{"customer"}, Team: "blue"}
)

// world is the payment service between a sidecar, an order service and a
// processor, all over real sockets.
type world struct {
	agent *sdktest.Agent
	store *db.DB
	svc   *sdk.Service
	*service

	mu      sync.Mutex
	charges map[string]int // idempotency key at the processor -> calls
	outage  bool           // of the processor
}

func start(t *testing.T, off ...string) *world {
	t.Helper()
	w := &world{charges: map[string]int{}}
	w.agent = &sdktest.Agent{
		Info: sdktest.Info{
			Name:        "payments",
			Off:         off,
			Encrypt:     map[string][]string{"payment": {"card_ref"}, "contact": {"email"}},
			Shred:       map[string]string{"contact": "subject"},
			Search:      map[string]map[string]string{"contact": {"email": "email"}},
			ServerOwned: map[string]sdktest.ServerOwned{"2": {Fields: []string{"amount"}, Mode: "compare"}},
			Stores: map[string]sdktest.Store{"payments_db": {
				Kind: "sqlite", Path: filepath.Join(t.TempDir(), "payments.db"), Pool: 8, AuditTable: "payment_audit",
			}},
		},
		Out: http.HandlerFunc(w.out),
	}
	d := policies(t, w.agent)
	w.agent.Check, w.agent.Filter = d.check, d.filter
	sdktest.Start(t, w.agent)
	var err error
	if w.svc, err = sdk.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.store, err = db.Open(t.Context(), w.svc, "payments_db"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	w.restart(t)
	return w
}

// restart makes a new service on the same database, as after a crash.
func (w *world) restart(t *testing.T) {
	t.Helper()
	var err error
	if w.service, err = newService(t.Context(), w.svc, w.store, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
}

// out is what the sidecar reaches: the order service and the processor.
func (w *world) out(rw http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/out/orders/orders/" + order:
		io.WriteString(rw, `{"id":"`+order+`","org":"acme","owner":"user:alice","team":"red","total":2580,"currency":"EUR"}`)
	case "/out/orders/orders/" + theirs:
		io.WriteString(rw, `{"id":"`+theirs+`","org":"acme","owner":"user:bob","team":"blue","total":2580,"currency":"EUR"}`)
	case "/out/processor/v1/payment_intents":
		w.process(rw, r)
	default:
		rw.WriteHeader(http.StatusNotFound)
	}
}

func (w *world) process(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.outage || r.Header.Get("Authorization") != "Bearer injected-by-sidecar" {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.charges[r.Header.Get("Idempotency-Key")]++
	rw.Header().Set("Content-Type", "application/json")
	if r.PostFormValue("payment_method") == "tok_chargeDeclined" {
		rw.WriteHeader(http.StatusPaymentRequired)
		io.WriteString(rw, `{"error":{"type":"card_error","code":"card_declined","message":"declined"}}`)
		return
	}
	io.WriteString(rw, `{"id":"pi_1","object":"payment_intent","status":"succeeded","amount":`+r.PostFormValue("amount")+`}`)
}

// as makes a request over flow 2; key is the idempotency key, "" for none.
func (w *world) as(t *testing.T, p rampart.Principal, method, target, body, key string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(sdktest.HeaderIdentity, w.agent.Identity(p, "2"))
	if key != "" {
		r.Header.Set(sdktest.HeaderIdem, key)
	}
	rec := httptest.NewRecorder()
	w.handler().ServeHTTP(rec, r)
	return rec.Code, rec.Body.String()
}

func (w *world) rows(t *testing.T) []payment {
	t.Helper()
	var found []payment
	err := w.store.View(t.Context(), func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(t.Context(), w.ledger.columns()+`ORDER BY id DESC`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			p, err := w.ledger.read(t.Context(), rows)
			if err != nil {
				return err
			}
			found = append(found, p)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (w *world) exec(t *testing.T, query string, args ...any) error {
	t.Helper()
	return w.store.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), query, args...)
		return err
	})
}

func TestPay(t *testing.T) {
	for name, tc := range map[string]struct {
		who    rampart.Principal
		body   string
		status int
		booked int
	}{
		"the price of the order":       {alice, honest, 201, 1},
		"one cent":                     {alice, strings.Replace(honest, "2580", "1", 1), 422, 0},
		"a cent more":                  {alice, strings.Replace(honest, "2580", "2581", 1), 422, 0},
		"minus the price":              {alice, strings.Replace(honest, "2580", "-2580", 1), 422, 0},
		"with a currency of one's own": {alice, strings.Replace(honest, "{", `{"currency":"VND",`, 1), 400, 0},
		"an order that is not there":   {alice, strings.Replace(honest, "7e", "7f", 1), 404, 0},
		"a path for an order":          {alice, strings.Replace(honest, order, "../../processor", 1), 422, 0},
		"another person's order":       {alice, strings.Replace(honest, order, theirs, 1), 422, 0},
		"for another person":           {bob, honest, 422, 0},
		"no address":                   {alice, strings.Replace(honest, "alice@", "", 1), 422, 0},
		"an address with a name":       {alice, strings.Replace(honest, "alice@example.com", "Alice <alice@example.com>", 1), 422, 0},
		"a card number":                {alice, strings.Replace(honest, "tok_visa", "4242424242424242", 1), 422, 0},
		"a refused card":               {alice, strings.Replace(honest, "tok_visa", "tok_chargeDeclined", 1), 422, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			if got, body := w.as(t, tc.who, "POST", "/payments", tc.body, ""); got != tc.status {
				t.Errorf("status %d, want %d: %s", got, tc.status, body)
			}
			if got := len(w.rows(t)); got != tc.booked {
				t.Errorf("%d rows, want %d", got, tc.booked)
			}
		})
	}
}

// The card is its owner's to see, and whoever sees it is on record.
func TestTheCardIsItsOwners(t *testing.T) {
	w := start(t)
	if status, body := w.as(t, alice, "POST", "/payments", honest, ""); status != 201 {
		t.Fatal(status, body)
	}
	target := "/payments/" + w.rows(t)[0].ID + "/card"
	before := len(w.agent.Events())
	for _, who := range []rampart.Principal{bob, carol} {
		if status, body := w.as(t, who, "GET", target, "", ""); status != 403 || strings.Contains(body, "tok_visa") {
			t.Errorf("%s: status %d: %s", who.Subject, status, body)
		}
	}
	if status, body := w.as(t, alice, "GET", target, "", ""); status != 200 || strings.TrimSpace(body) != `{"card_ref":"tok_visa"}` {
		t.Errorf("alice: status %d: %s", status, body)
	}
	if events := w.agent.Events()[before:]; len(events) != 1 || events[0].Action != "card.revealed" || events[0].Subject != "user:alice" {
		t.Errorf("events %v, want one of alice", events)
	}
}

func TestAPaymentIsBookedAuditedAndTold(t *testing.T) {
	w := start(t)
	status, body := w.as(t, alice, "POST", "/payments", honest, "k1")
	if status != 201 {
		t.Fatal(status, body)
	}
	if err := w.outbox.drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got payment
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := payment{ID: got.ID, OrderID: order, Owner: "user:alice", Amount: 2580, Currency: "EUR", Status: completed, Email: new("alice@example.com"), Description: "Two mugs", Created: got.Created}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	wantEvents := []sdktest.Event{{
		Class: "money", Action: "payment.created", Outcome: "allowed", Subject: "user:alice", Resource: "payment/" + got.ID,
		Trace: strings.Repeat("ab", 16), Detail: map[string]string{"order": order, "amount": "2580", "currency": "EUR"},
	}}
	if diff := cmp.Diff(wantEvents, w.agent.Events()); diff != "" {
		t.Error(diff)
	}
	payload := `{"payment_id":"` + got.ID + `","order_id":"` + order + `","amount":2580,"currency":"EUR","recipient":"user:alice"}`
	wantMessages := []sdktest.Message{{Store: "events", Topic: "payments.completed", Subject: "user:alice", Payload: json.RawMessage(payload)}}
	if diff := cmp.Diff(wantMessages, w.agent.Messages()); diff != "" {
		t.Error(diff)
	}
	for _, target := range []string{"/payments?order_id=" + order, "/payments/" + got.ID} {
		if status, body := w.as(t, alice, "GET", target, "", ""); status != 200 || !strings.Contains(body, got.ID) {
			t.Errorf("%s: status %d: %s", target, status, body)
		}
	}
	if _, body := w.as(t, bob, "GET", "/payments?order_id="+order, "", ""); strings.TrimSpace(body) != "[]" {
		t.Errorf("bob sees %s", body)
	}
	for status, who := range map[int]rampart.Principal{403: bob, 200: carol} {
		if got, body := w.as(t, who, "GET", "/payments/"+got.ID, "", ""); got != status {
			t.Errorf("%s reads the payment: %d, want %d: %s", who.Subject, got, status, body)
		}
	}
}

// What a manager sees of a payment tells nothing of the person who paid, in a
// list as on its own; a frozen one nobody sees.
func TestWhatIsShown(t *testing.T) {
	w := start(t)
	_, body := w.as(t, alice, "POST", "/payments", honest, "k1")
	var p payment
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatal(err)
	}
	dave := rampart.Principal{Kind: rampart.KindHuman, Subject: "user:dave", Organizations: []string{"acme"}, Roles: []string{"admin"}}
	frank := rampart.Principal{Kind: rampart.KindHuman, Subject: "user:frank", Organizations: []string{"globex"}, Roles: []string{"admin"}}
	shown := func(who rampart.Principal, status int, email string) {
		t.Helper()
		got, one := w.as(t, who, "GET", "/payments/"+p.ID, "", "")
		_, list := w.as(t, who, "GET", "/payments", "", "")
		if got != status || (status == 200) != strings.Contains(one, `"email":`+email) || (status == 200) != strings.Contains(list, `"email":`+email) || (status != 200) != (strings.TrimSpace(list) == "[]") {
			t.Errorf("%s: %d %s, list %s; want %d and %s", who.Subject, got, one, list, status, email)
		}
	}
	shown(alice, 200, `"alice@example.com"`)
	shown(dave, 200, `"alice@example.com"`)
	shown(carol, 200, `null`)
	shown(bob, 403, "")
	shown(frank, 403, "")
	full := w.rows(t)[0]
	full.Frozen = true
	mac, err := w.ledger.keys.RowMAC(t.Context(), item, full.Tenant, full.integrity()...)
	if err == nil {
		err = w.exec(t, `UPDATE payments SET frozen = 1, mac = $1`, mac)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []rampart.Principal{alice, carol, dave} {
		shown(who, 403, "")
	}
	if err := w.exec(t, `UPDATE payments SET frozen = 0`); err != nil {
		t.Fatal(err)
	}
	if got, body := w.as(t, alice, "GET", "/payments/"+p.ID, "", ""); got != 500 {
		t.Errorf("a payment that somebody else thawed: %d %s", got, body)
	}
}

// A claim that is not the price is on record, with both amounts.
func TestAmountMismatchIsOnRecord(t *testing.T) {
	w := start(t)
	w.as(t, alice, "POST", "/payments", strings.Replace(honest, "2580", "1", 1), "")
	events := w.agent.Events()
	if len(events) != 1 || events[0].Action != "amount_mismatch" || events[0].Control != "field.server_owned" || events[0].Detail["price"] != "2580" {
		t.Errorf("on record: %+v", events)
	}
}

// TestControlsAreNeeded switches one control off and demands that the attack it
// stops succeeds: a check that cannot fail proves nothing.
func TestControlsAreNeeded(t *testing.T) {
	t.Run("field.server_owned", func(t *testing.T) {
		w := start(t, "field.server_owned")
		if status, body := w.as(t, alice, "POST", "/payments", strings.Replace(honest, "2580", "1", 1), ""); status != 201 || w.rows(t)[0].Amount != 1 {
			t.Error(status, body)
		}
	})
	t.Run("idempotency.key", func(t *testing.T) {
		w := start(t)
		for range 2 { // the gateway passes no key on
			w.as(t, alice, "POST", "/payments", honest, "")
		}
		if got := len(w.rows(t)); got != 2 {
			t.Errorf("%d rows, want 2", got)
		}
	})
	t.Run("db.row_mac", func(t *testing.T) {
		w := start(t, "db.row_mac")
		w.as(t, alice, "POST", "/payments", honest, "")
		if err := w.exec(t, `UPDATE payments SET amount = 1`); err != nil {
			t.Fatal(err)
		}
		if status, body := w.as(t, alice, "GET", "/payments", "", ""); status != 200 || !strings.Contains(body, `"amount":1,`) {
			t.Error(status, body)
		}
	})
	t.Run("db.check", func(t *testing.T) {
		w := start(t, "db.check")
		w.as(t, alice, "POST", "/payments", honest, "")
		if err := w.exec(t, `UPDATE payments SET amount = -1, status = 'free'`); err != nil {
			t.Error(err)
		}
	})
	t.Run("data.envelope", func(t *testing.T) {
		w := start(t, "data.envelope")
		w.as(t, alice, "POST", "/payments", honest, "")
		if !strings.Contains(w.stored(t, "email"), "alice@example.com") {
			t.Error("the address is not readable")
		}
	})
	t.Run("db.audit_log", func(t *testing.T) {
		w := start(t, "db.audit_log")
		w.as(t, alice, "POST", "/payments", honest, "")
		if err := w.exec(t, `DELETE FROM payment_audit`); err != nil {
			t.Error(err)
		}
	})
}

// stored returns a column of the only payment as it is in the database.
func (w *world) stored(t *testing.T, column string) string {
	t.Helper()
	var b []byte
	err := w.store.View(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRowContext(t.Context(), `SELECT `+column+` FROM payments`).Scan(&b)
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPersonalFieldsAreSealed(t *testing.T) {
	w := start(t)
	w.as(t, alice, "POST", "/payments", honest, "")
	for column, text := range map[string]string{"email": "alice", "card_ref": "tok_visa"} {
		if b := w.stored(t, column); strings.Contains(b, text) || b[0] != 1 || len(b) < 33 {
			t.Errorf("%s is stored as %q", column, b)
		}
	}
}

// Support finds payments by an address that the database cannot read, and an
// erased person is found no more: what was paid stays, how to reach them is gone.
func TestFindAndErase(t *testing.T) {
	w := start(t)
	sam := rampart.Principal{Kind: rampart.KindHuman, Subject: "user:sam", Organizations: []string{"acme"}, Roles: []string{"support"}}
	find := func(who rampart.Principal, email, want string) {
		t.Helper()
		status, body := w.as(t, who, "POST", "/payments/find", `{"org":"acme","email":"`+email+`"}`, "")
		if status != 200 || strings.Count(body, `"id":`) != len(want)/36 || !strings.Contains(body, want) || strings.Contains(body, "example.com") {
			t.Errorf("%s finds %s: %d %s, want %q", who.Subject, email, status, body, want)
		}
	}
	w.as(t, alice, "POST", "/payments", honest, "k1")
	id := w.rows(t)[0].ID
	find(sam, "alice@example.com", id)
	find(sam, "Alice@Example.COM", id)
	find(sam, "bob@example.com", "")
	find(alice, "alice@example.com", "")
	if last := w.agent.Events(); last[len(last)-1].Action != "payments.found" {
		t.Errorf("on record: %+v", last[len(last)-1])
	}
	if status, body := w.as(t, sam, "POST", "/payments/find", `{"org":"acme","email":"nobody"}`, ""); status != 422 {
		t.Errorf("no address: %d %s", status, body)
	}

	w.agent.ShredDEKs("contact", "acme", "user:alice")
	for end := time.Now().Add(10 * time.Second); !w.agent.Forgotten() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for _, target := range []string{"/payments", "/payments/" + id} {
		if status, body := w.as(t, alice, "GET", target, "", ""); status != 200 || !strings.Contains(body, `"email":null,"erased":true`) {
			t.Errorf("%s of the erased: %d %s", target, status, body)
		}
	}
	if status, body := w.as(t, alice, "GET", "/payments/"+id+"/card", "", ""); status != 200 || !strings.Contains(body, "tok_visa") {
		t.Errorf("the card is the tenant's: %d %s", status, body)
	}
	find(sam, "alice@example.com", "")
	if status, body := w.as(t, alice, "POST", "/payments", honest, "k2"); status != 409 || len(w.charges) != 1 {
		t.Errorf("a new address of the erased: %d %s, %d charges", status, body, len(w.charges))
	}
	if err := w.ledger.forget(t.Context()); err != nil || w.stored(t, "email_idx") != "" {
		t.Errorf("the index still says who it was: %v", err)
	}
}

// The database refuses what the service would never write.
func TestTheDatabaseRefuses(t *testing.T) {
	w := start(t)
	w.as(t, alice, "POST", "/payments", honest, "k1")
	for name, query := range map[string]string{
		"no amount":            `UPDATE payments SET amount = 0`,
		"a negative amount":    `UPDATE payments SET amount = -1`,
		"an unknown state":     `UPDATE payments SET status = 'free'`,
		"another currency":     `UPDATE payments SET currency = 'VND'`,
		"an address in clear":  `UPDATE payments SET email = 'alice@example.com, who has a long address'`,
		"a short blob":         `UPDATE payments SET email = x'0102'`,
		"a card in clear":      `UPDATE payments SET card_ref = CAST('tok_visa_tok_visa_tok_visa_tok_visa' AS BLOB)`,
		"one key twice":        `INSERT INTO payments SELECT id || 'x', order_id, tenant, owner, team, amount, currency, status, email, card_ref, description, idem_key, created, mac, frozen FROM payments`,
		"changing the record":  `UPDATE payment_audit SET amount = 1`,
		"deleting the record":  `DELETE FROM payment_audit`,
		"replacing the record": `INSERT OR REPLACE INTO payment_audit SELECT seq, payment_id, status, 1, at, checksum FROM payment_audit`,
	} {
		if err := w.exec(t, query); err == nil {
			t.Errorf("%s: the database took it", name)
		}
	}
}

// A row that somebody changed in the database is served to nobody, and that is
// on record.
func TestTamperedRowsAreNotServed(t *testing.T) {
	for name, query := range map[string]string{
		"the amount":              `UPDATE payments SET amount = 1`,
		"the order":               `UPDATE payments SET order_id = '` + theirs + `'`,
		"the state":               `UPDATE payments SET status = 'failed'`,
		"the tenant":              `UPDATE payments SET tenant = 'globex'`,
		"the checksum":            `UPDATE payments SET mac = x''`,
		"the address's cell":      `UPDATE payments SET email = card_ref`,
		"an address of one's own": `UPDATE payments SET email = x'0100000001` + strings.Repeat("00", 40) + `'`,
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			if status, body := w.as(t, alice, "POST", "/payments", honest, ""); status != 201 {
				t.Fatal(status, body)
			}
			id := w.rows(t)[0].ID
			if err := w.exec(t, query); err != nil {
				t.Fatal(err)
			}
			for _, target := range []string{"/payments", "/payments/" + id} {
				status, body := w.as(t, alice, "GET", target, "", "")
				if name == "the tenant" && target == "/payments" && strings.TrimSpace(body) == "[]" {
					continue // it is in nobody's list whom the policies knew before
				}
				if status != 500 || !strings.Contains(body, "integrity_error") || strings.Contains(body, "alice@") {
					t.Errorf("%s: status %d: %s", target, status, body)
				}
			}
			events := w.agent.Events()
			last := events[len(events)-1]
			if last.Control != "db.row_mac" || last.Outcome != "refused" || last.Action != "record_tampered" || last.Resource != "payment/"+id {
				t.Errorf("on record: %+v", last)
			}
		})
	}
}

func TestOneKeyBooksOnce(t *testing.T) {
	w := start(t)
	bodies := make(chan string, 8)
	for range cap(bodies) {
		go func() {
			status, body := w.as(t, alice, "POST", "/payments", honest, "k1")
			if status == 409 { // settled by another at the same moment
				status, body = w.as(t, alice, "POST", "/payments", honest, "k1")
			}
			if status != 201 {
				t.Errorf("status %d: %s", status, body)
			}
			bodies <- body
		}()
	}
	first := <-bodies
	for range cap(bodies) - 1 {
		if again := <-bodies; again != first {
			t.Errorf("answered %s, then %s", first, again)
		}
	}
	if got := len(w.rows(t)); got != 1 {
		t.Errorf("%d rows, want 1", got)
	}
	if len(w.charges) != 1 {
		t.Errorf("the processor saw %d payments, want 1", len(w.charges))
	}
	if status, _ := w.as(t, alice, "POST", "/payments", honest, "k2"); status != 201 {
		t.Errorf("a new key: status %d", status)
	}
}

// When the processor's answer is lost nothing was promised; the retry asks for
// the same payment, which the processor charges once.
func TestARetryFinishesWhatAnOutageLeft(t *testing.T) {
	w := start(t)
	w.outage = true
	if status, _ := w.as(t, alice, "POST", "/payments", honest, "k1"); status != 503 {
		t.Fatalf("status %d, want 503", status)
	}
	if got := w.rows(t); len(got) != 1 || got[0].Status != pending {
		t.Fatalf("rows %+v", got)
	}
	w.outage = false
	w.restart(t)
	if status, body := w.as(t, alice, "POST", "/payments", honest, "k1"); status != 201 {
		t.Fatal(status, body)
	}
	if got := w.rows(t); len(got) != 1 || got[0].Status != completed || w.charges[got[0].ID] != 1 {
		t.Errorf("rows %+v, charges %v", got, w.charges)
	}
}

// A crash between the commit and the queue loses no message.
func TestTheOutboxSurvivesACrash(t *testing.T) {
	w := start(t)
	down := true
	w.agent.Publish = func(m sdktest.Message) int {
		if down {
			return http.StatusServiceUnavailable
		}
		return http.StatusNoContent
	}
	w.as(t, alice, "POST", "/payments", honest, "k1")
	if err := w.outbox.drain(t.Context()); rampart.KindOf(err) != rampart.Unavailable {
		t.Fatalf("got %v", err)
	}
	w.restart(t)
	down = false
	for range 2 { // once sent, it is not sent again
		if err := w.outbox.drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.agent.Messages(); len(got) != 1 || got[0].Subject != "user:alice" {
		t.Errorf("sent %+v", got)
	}
}

func TestDailyLimit(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	p := payment{ID: "pay_1", OrderID: order, Tenant: "acme", Owner: "user:alice", Amount: dailyLimit - 2579, Currency: "EUR", Status: pending, Email: new("a@b"), CardRef: "tok_x"}
	p.Created = p.Created.AddDate(2025, 0, 0)
	if _, err := w.ledger.reserve(ctx, p); err != nil {
		t.Fatal(err)
	}
	for after, ok := range map[time.Duration]bool{day - time.Minute: false, day: true} {
		next := p
		next.ID, next.Amount = "pay_"+after.String(), 2580
		next.Created = p.Created.Add(after)
		if _, err := w.ledger.reserve(ctx, next); (err == nil) != ok {
			t.Errorf("after %s: %v", after, err)
		}
	}
}

// The chain of payment_audit shows every change of its rows, with the triggers
// out of the way, as an attacker with the database's owner would have them.
func TestTheChainShowsEdits(t *testing.T) {
	for name, tc := range map[string]struct {
		query string
		ok    bool
	}{
		"nothing":          {`SELECT 1`, true},
		"an amount":        {`UPDATE payment_audit SET amount = 1 WHERE seq = 2`, false},
		"a state":          {`UPDATE payment_audit SET status = 'failed' WHERE seq = 4`, false},
		"the first row":    {`DELETE FROM payment_audit WHERE seq = 1`, false},
		"a row in between": {`DELETE FROM payment_audit WHERE seq = 3`, false},
		"the last row":     {`DELETE FROM payment_audit WHERE seq = 6`, false},
		"all rows":         {`DELETE FROM payment_audit`, false},
		"exchanging two":   {`UPDATE payment_audit SET seq = CASE seq WHEN 3 THEN 1000 ELSE seq END; UPDATE payment_audit SET seq = 3 WHERE seq = 4; UPDATE payment_audit SET seq = 4 WHERE seq = 1000`, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			for range 3 {
				w.as(t, alice, "POST", "/payments", honest, "")
			}
			if err := w.ledger.verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := w.exec(t, `DROP TRIGGER payment_audit_update; DROP TRIGGER payment_audit_delete; `+tc.query); err != nil {
				t.Fatal(err)
			}
			err := w.ledger.verify(t.Context())
			if err == nil { // an edit below what the last walk saw shows at the next start
				w.restart(t)
				err = w.ledger.verify(t.Context())
			}
			if (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
			if events := w.agent.Events(); !tc.ok && events[len(events)-1].Control != "db.audit_log" {
				t.Errorf("on record: %+v", events[len(events)-1])
			}
		})
	}
}

func TestNothingSecretInTheFile(t *testing.T) {
	w := start(t)
	w.as(t, alice, "POST", "/payments", honest, "k1")
	file := w.agent.Info.Stores["payments_db"].Path
	for _, name := range []string{file, file + "-wal"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"alice@example.com", "tok_visa"} {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s holds %q", filepath.Base(name), secret)
			}
		}
	}
}
