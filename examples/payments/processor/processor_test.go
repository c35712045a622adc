package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v85"
)

// What the mock would print of a charge, the card's token above all, reaches no log.
func TestProcessorLogsNoBodies(t *testing.T) {
	dir := t.TempDir()
	printed, err := os.Create(filepath.Join(dir, "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = printed
	defer func() { os.Stdout = stdout }()
	t.Setenv("PORT", "0")
	t.Setenv("RAMPART_STANDIN_CA", filepath.Join(dir, "ca.pem"))
	logs, into := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, slog.New(slog.NewJSONHandler(into, nil))) }()
	var line struct{ Address string }
	if err := json.NewDecoder(logs).Decode(&line); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}}}
	req, err := http.NewRequest("POST", "https://"+line.Address+"/v1/payment_intents", strings.NewReader("amount=2580&currency=eur&payment_method=tok_canary&description=canary"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Bearer sk_test_x")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	stop()
	if err := <-ended; err != nil || resp.StatusCode != 200 {
		t.Errorf("status %d, %v", resp.StatusCode, err)
	}
	if b, err := os.ReadFile(printed.Name()); err != nil || len(b) > 0 {
		t.Errorf("printed %q, %v", b, err)
	}
}

// The stand-in answers a verified TLS client with a test key, and nobody else.
func TestProcessor(t *testing.T) {
	ca, leaf, err := newIdentity(host, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	h, err := stripeMock()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, ln, leaf, h) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := func(name string, roots *x509.CertPool) *http.Client {
		return &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: name},
		}}
	}
	pay := func(c *http.Client, key string) (int, string, error) {
		req, err := http.NewRequest("POST", "https://"+ln.Addr().String()+"/v1/payment_intents", strings.NewReader("amount=2580&currency=eur"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Authorization", key)
		resp, err := c.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
	for key, want := range map[string]int{"Bearer sk_test_canary": 200, "Bearer injected-by-sidecar": 401, "Bearer sk_test_": 401, "": 401} {
		got, body, err := pay(client(host, roots), key)
		if err != nil || got != want {
			t.Errorf("%q: status %d, want %d: %v", key, got, want, err)
		}
		if strings.Contains(body, "canary") || strings.Contains(body, "injected") {
			t.Errorf("the answer repeats the key: %s", body)
		}
	}
	stripeClient(t, client(host, roots), "https://"+ln.Addr().String())
	if _, _, err := pay(client("other.example", roots), "Bearer sk_test_x"); err == nil {
		t.Error("another name was accepted")
	}
	if _, _, err := pay(client(host, x509.NewCertPool()), "Bearer sk_test_x"); err == nil {
		t.Error("another CA was accepted")
	}
}

func TestWriteFileReplacesWhole(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ca.pem")
	for _, text := range []string{"first", "second"} {
		if err := writeFile(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(name); err != nil || string(b) != text {
			t.Errorf("read %q, %v", b, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(name), "*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// stripeClient charges as the payment service does, with Stripe's own client.
func stripeClient(t *testing.T, c *http.Client, url string) {
	t.Helper()
	backends := stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		HTTPClient: c, URL: stripe.String(url), MaxNetworkRetries: stripe.Int64(0), LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
	})
	sc := stripe.NewClient("sk_test_canary", stripe.WithBackends(backends))
	params := func(card string) *stripe.PaymentIntentCreateParams {
		p := &stripe.PaymentIntentCreateParams{
			Amount: stripe.Int64(2580), Currency: stripe.String("eur"), PaymentMethod: stripe.String(card), Confirm: stripe.Bool(true),
			AutomaticPaymentMethods: &stripe.PaymentIntentCreateAutomaticPaymentMethodsParams{Enabled: stripe.Bool(true), AllowRedirects: stripe.String("never")},
		}
		p.AddMetadata("payment", "pay_1")
		return p
	}
	intent, err := sc.V1PaymentIntents.Create(t.Context(), params("tok_visa"))
	if err != nil || intent.Status != stripe.PaymentIntentStatusSucceeded || intent.Amount != 2580 {
		t.Errorf("charged %+v: %v", intent, err)
	}
	_, err = sc.V1PaymentIntents.Create(t.Context(), params(declined))
	if e, ok := errors.AsType[*stripe.Error](err); !ok || e.Type != stripe.ErrorTypeCard {
		t.Errorf("a refused card: %v", err)
	}
}
