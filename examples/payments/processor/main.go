// Command processor stands in for the payment processor on a developer's
// machine: Stripe's own mock server, behind TLS for the processor's host name.
//
// Its CA is born with it and dies with it; $RAMPART_STANDIN_CA says where the
// certificate goes, so that the sidecar verifies this TLS like any other.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/server"
)

// host is the name in rampart.yaml (external.processor.url).
const host = "api.stripe.example"

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(context.Background(), log); err != nil {
		log.Error("processor ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	port, caFile := os.Getenv("PORT"), os.Getenv("RAMPART_STANDIN_CA")
	if port == "" || caFile == "" {
		return errors.New("PORT or RAMPART_STANDIN_CA is not set: start the processor with `rampart up`")
	}
	// The mock prints what it makes of bodies, card tokens too, to standard output.
	quiet, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer quiet.Close()
	os.Stdout = quiet
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ca, leaf, err := newIdentity(host, time.Now())
	if err != nil {
		return err
	}
	h, err := stripeMock()
	if err != nil {
		return err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	// Whoever sees the CA may connect: it is written once the port is open.
	if err := writeFile(caFile, ca); err != nil {
		return errors.Join(err, ln.Close())
	}
	log.Info("processor listens", "address", ln.Addr().String(), "host", host)
	return serve(ctx, ln, leaf, h)
}

func serve(ctx context.Context, ln net.Listener, leaf tls.Certificate, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{leaf}},
	}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(ln, "", "") }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return srv.Shutdown(ctx)
}

// stripeMock checks requests against Stripe's OpenAPI document and answers with
// its fixtures, made into the outcome of the charge. It keeps nothing.
func stripeMock() (http.Handler, error) {
	spec, err := server.LoadSpec(embedded.OpenAPISpec, "")
	if err != nil {
		return nil, err
	}
	fixtures, err := server.LoadFixtures(embedded.OpenAPIFixtures, "")
	if err != nil {
		return nil, err
	}
	stub, err := server.NewStubServer(fixtures, spec, false, false)
	if err != nil {
		return nil, err
	}
	return requireKey(charge(http.HandlerFunc(stub.HandleRequest))), nil
}

// requireKey refuses calls without a test key of Stripe's form, itself: the
// mock's own refusal would repeat the key in its answer.
func requireKey(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer sk_test_")
		if !ok || key == "" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintln(w, `{"error":{"type":"invalid_request_error","message":"no test key"}}`)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// writeFile replaces a file in one step, so that a reader never sees half.
func writeFile(name string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return os.Rename(tmp.Name(), name)
}
