// Command web serves the page of the example shop: three static files and who
// is asking. Everything else the page gets from the APIs of orders and payments,
// through the same gateway.
package main

import (
	"bytes"
	"context"
	"embed"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/httpguard"
	"github.com/rampart-security/rampart/sdk/rest"
)

//go:embed static
var static embed.FS

// csp lets the page run its own files and nothing else: no inline script or
// style, no other origin, no frame around it.
const csp = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(context.Background(), log); err != nil {
		log.Error("web ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	svc, err := sdk.Connect(ctx)
	if err != nil {
		return err
	}
	return sdk.Serve(ctx, httpguard.New(svc).Wrap(routes(log)))
}

func routes(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", file("index.html", "text/html; charset=utf-8"))
	mux.Handle("GET /receipt", file("receipt.html", "text/html; charset=utf-8"))
	mux.Handle("GET /app.js", file("app.js", "text/javascript; charset=utf-8"))
	mux.Handle("GET /style.css", file("style.css", "text/css; charset=utf-8"))
	mux.Handle("GET /icon.svg", file("icon.svg", "image/svg+xml"))
	mux.Handle("GET /me", rest.Handler(log, me))
	return mux
}

func file(name, media string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := static.ReadFile("static/" + name)
		if err != nil {
			http.Error(w, "not found", http.StatusNotFound)
			return
		}
		h := w.Header()
		h.Set("Content-Type", media)
		h.Set("Content-Security-Policy", csp)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(b))
	})
}

// me tells the page which organizations it may order for.
func me(w http.ResponseWriter, r *http.Request) error {
	p := rampart.PrincipalFrom(r.Context())
	return rest.Write(w, http.StatusOK, struct {
		Subject       string   `json:"subject"`
		Team          string   `json:"team"`
		Organizations []string `json:"organizations"`
	}{p.Subject, p.Team, append([]string{}, p.Organizations...)})
}
