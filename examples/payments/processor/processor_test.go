package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

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
