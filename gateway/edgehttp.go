package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/netutil"
)

// maxPlain bounds connections without TLS, each of which is answered once.
const maxPlain = 512

// servePlain answers on the listener without TLS: challenges of the public
// authority, and for everything else where it is to be found. Nothing is read
// but the head of a request.
func (g *Gateway) servePlain(ctx context.Context, src edgeSource) error {
	inner, err := net.Listen("tcp", g.opt.HTTP)
	if err != nil {
		return fmt.Errorf("gateway: http: %w", err)
	}
	addr := inner.Addr().String()
	g.plain.Store(&addr)
	h := http.Handler(http.HandlerFunc(g.toTLS))
	if a, ok := src.(acmeCert); ok {
		h = a.edge.Handler(h)
	}
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: headerTimeout, MaxHeaderBytes: 8 << 10,
		DisableGeneralOptionsHandler: true, ErrorLog: slog.NewLogLogger(g.opt.Logger.Handler(), slog.LevelDebug),
	}
	srv.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(g.framed(netutil.LimitListener(inner, maxPlain))); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("gateway: http: %w", err)
	}
	return nil
}

// PlainAddr returns the address of the listener without TLS once Run has opened
// it; "" if there is none.
func (g *Gateway) PlainAddr() string {
	if a := g.plain.Load(); a != nil {
		return *a
	}
	return ""
}

// toTLS sends a client to the same place over TLS (RFC 9110 section 15.4.9), at
// one of our own names: the Host header leads nobody elsewhere.
func (g *Gateway) toTLS(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	host, port := g.publicHost(r.Host)
	if host == "" || !strings.HasPrefix(r.URL.Path, "/") {
		w.WriteHeader(http.StatusMisdirectedRequest)
		return
	}
	if port != "" && port != "443" {
		host = net.JoinHostPort(host, port)
	}
	to := url.URL{Scheme: "https", Host: host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	h.Set("Location", to.String())
	w.WriteHeader(http.StatusPermanentRedirect)
}

// publicHost is the name of ours that a Host header asks for, "" if it is none,
// and the port of the public address.
func (g *Gateway) publicHost(asked string) (host, port string) {
	if h, _, err := net.SplitHostPort(asked); err == nil {
		asked = h
	}
	host = strings.ToLower(strings.TrimSuffix(asked, "."))
	names := g.table.Load().sys.Services[g.opt.Name].Names
	if len(names) == 0 {
		names = []string{"localhost"}
	}
	if !slices.Contains(names, host) {
		return "", ""
	}
	if issuer, err := url.Parse(g.opt.Link.State().Keys.Issuer); err == nil {
		port = issuer.Port()
	}
	return host, port
}
