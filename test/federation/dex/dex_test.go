// Package dex signs in at Dex: a provider that we did not write, from before
// PKCE, issuer parameters and key rotation were customary.
package dex

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dexidp/dex/server"
	"github.com/dexidp/dex/storage"
	"github.com/dexidp/dex/storage/memory"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/authn/oidc"
	"github.com/rampart-security/rampart/store/sqlite"
)

const (
	redirect = "https://shop.example/oidc/dex/callback"
	secret   = "of a client that exists in this test alone"
)

// start runs Dex behind TLS, with one client and the connector that signs one
// person in without asking.
func start(t *testing.T) *httptest.Server {
	t.Helper()
	quiet := logrus.New()
	quiet.Out = io.Discard
	store := memory.New(quiet)
	err := store.CreateClient(storage.Client{ID: "rampart", Secret: secret, RedirectURIs: []string{redirect}, Name: "Rampart"})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.CreateConnector(storage.Connector{ID: "mock", Type: "mockCallback", Name: "Mock", ResourceVersion: "1"}); err != nil {
		t.Fatal(err)
	}
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/dexidp/dex").Output()
	if err != nil {
		t.Fatal(err)
	}
	var handler http.Handler
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	handler, err = server.NewServer(t.Context(), server.Config{
		Issuer: srv.URL, Storage: store, SkipApprovalScreen: true, Logger: quiet,
		Web: server.WebConfig{Dir: filepath.Join(strings.TrimSpace(string(dir)), "web")}, PrometheusRegistry: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// TestLogin: discovery, code, nonce and claims at Dex. It knows no PKCE and
// answers with no iss, so those are what we send and do not get.
func TestLogin(t *testing.T) {
	dex := start(t)
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	rp := oidc.New(oidc.Options{
		Issuer: dex.URL, ClientID: "rampart", Redirect: redirect, Scopes: []string{"openid", "email", "groups"},
		Secret:     func(context.Context) (string, error) { return secret, nil },
		Algorithms: []jwt.Algorithm{jwt.RS256}, RoleClaim: "groups", Roles: map[string]string{"authors": "author"},
		Transport: dex.Client().Transport, Tickets: db, Log: slog.New(slog.DiscardHandler),
	})
	address, cookie, err := rp.Begin(t.Context(), oidc.Start{Next: "/orders"})
	if err != nil {
		t.Fatal(err)
	}
	query := visit(t, dex, address)
	id, start, err := rp.Finish(t.Context(), query, cookie.Value)
	if err != nil {
		t.Fatal(err)
	}
	if id.Issuer != dex.URL || id.Subject == "" || id.Email != "kilgore@kilgore.trout" || len(id.Roles) != 1 || id.Roles[0] != "author" || id.ACR != "aal1" || start.Next != "/orders" {
		t.Errorf("Dex says %+v", id)
	}
	if time.Since(id.AuthTime) < time.Hour {
		t.Error("Dex does not say when the person proved who they are, and that counts as just now")
	}
	t.Logf("signed in at Dex 2.13 as %s with role %v", id.Subject, id.Roles)

	_, _, err = rp.Finish(t.Context(), query, cookie.Value)
	if oidc.Rule(err) != "state" {
		t.Errorf("the same answer again: %v", err)
	}
	if _, cookie, err = rp.Begin(t.Context(), oidc.Start{}); err != nil {
		t.Fatal(err)
	}
	_, _, err = rp.Finish(t.Context(), query, cookie.Value)
	if oidc.Rule(err) != "state" {
		t.Errorf("the answer in another browser: %v", err)
	}
}

// visit plays a browser from the authorization endpoint to our callback.
func visit(t *testing.T, dex *httptest.Server, address string) (query string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	var back *url.URL
	c := http.Client{Jar: jar, Transport: dex.Client().Transport, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), redirect) {
			back = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	res, err := c.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if back == nil {
		text, _ := io.ReadAll(res.Body)
		t.Fatalf("Dex answers %s: %s", res.Status, text)
	}
	return back.RawQuery
}
