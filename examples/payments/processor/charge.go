package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

const (
	maxForm  = 64 << 10
	declined = "tok_chargeDeclined" // Stripe's own test token of a card that is refused
)

// charge gives the mock's fixture of a payment intent the outcome that the
// processor would: charged in full, or a refused card.
func charge(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/v1/payment_intents" {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
		if err != nil {
			http.Error(w, "the form is too large", http.StatusRequestEntityTooLarge)
			return
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			http.Error(w, "the form is not readable", http.StatusBadRequest)
			return
		}
		if form.Get("payment_method") == declined {
			answer(w, http.StatusPaymentRequired, map[string]any{
				"error": map[string]any{"type": "card_error", "code": "card_declined", "message": "Your card was declined."},
			})
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		fixture := &recorder{header: http.Header{}, status: http.StatusOK}
		next.ServeHTTP(fixture, r)
		settle(w, fixture, form)
	})
}

func settle(w http.ResponseWriter, fixture *recorder, form url.Values) {
	var intent map[string]any
	amount, err := strconv.ParseInt(form.Get("amount"), 10, 64)
	if err != nil || fixture.status != http.StatusOK || json.Unmarshal(fixture.body.Bytes(), &intent) != nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(fixture.status)
		w.Write(fixture.body.Bytes())
		return
	}
	intent["amount"], intent["currency"] = amount, form.Get("currency")
	if form.Get("confirm") == "true" {
		intent["status"], intent["amount_received"] = "succeeded", amount
	}
	answer(w, http.StatusOK, intent)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// recorder keeps an answer in memory.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
