package sdk

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
)

// drain is how long requests in flight may take after a stop was asked for.
const drain = 10 * time.Second

// Serve listens on the loopback port in $PORT, where the sidecar expects the
// service, and serves h until ctx ends or SIGINT or SIGTERM arrives; then it
// lets requests in flight finish for up to 10 seconds. A clean stop is nil.
func Serve(ctx context.Context, h http.Handler) error {
	port := os.Getenv(agent.EnvPort)
	if port == "" {
		return fmt.Errorf("sdk: %s is not set: start the service with `rampart up`, or set it to a port of 127.0.0.1", agent.EnvPort)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return fmt.Errorf("sdk: %w", err)
	}
	return serve(ctx, ln, h)
}

func serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("sdk: %w", err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := srv.Shutdown(ctx)
	if s := <-served; !errors.Is(s, http.ErrServerClosed) {
		err = errors.Join(err, s)
	}
	if err != nil {
		return fmt.Errorf("sdk: stop: %w", err)
	}
	return nil
}
