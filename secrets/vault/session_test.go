package vault_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/vault"
	"github.com/rampart-security/rampart/secrets/vault/vaulttest"
)

var key = secrets.Ref{Backend: "shop-vault", Path: "key"}

func kindOf(err error) string {
	if err == nil {
		return "ok"
	}
	return rampart.KindOf(err).String()
}

func fetchKey(t *testing.T, c *vault.Client, want string) {
	t.Helper()
	if _, err := c.KV("secret").Fetch(t.Context(), key); kindOf(err) != want {
		t.Errorf("got %s (%v), want %s", kindOf(err), err, want)
	}
}

func TestLogins(t *testing.T) {
	all := map[string]any{"policy": `{"path":{"secret/*":{"capabilities":["read"]}}}`}
	for name, c := range map[string]struct {
		method string
		login  func(t *testing.T, s *vaulttest.Server) vault.Login
		want   string
	}{
		"kubernetes, by the token of the pod": {"kubernetes", func(t *testing.T, s *vaulttest.Server) vault.Login {
			s.Admin(t, "POST", "auth/kubernetes/role/control", map[string]any{"token_policies": []string{"read"}, "jwts": []string{"pod-token"}})
			return vault.Login{Role: "control", TokenFile: write(t, "pod-token")}
		}, "ok"},
		"kubernetes, token of another pod": {"kubernetes", func(t *testing.T, s *vaulttest.Server) vault.Login {
			s.Admin(t, "POST", "auth/kubernetes/role/control", map[string]any{"token_policies": []string{"read"}, "jwts": []string{"pod-token"}})
			return vault.Login{Role: "control", TokenFile: write(t, "other")}
		}, "unauthenticated"},
		"certificate": {"cert", func(t *testing.T, s *vaulttest.Server) vault.Login {
			s.Admin(t, "POST", "auth/cert/certs/control", map[string]any{"token_policies": []string{"read"}})
			return vault.Login{Role: "control"}
		}, "ok"},
		"certificate, no such role": {"cert", func(*testing.T, *vaulttest.Server) vault.Login { return vault.Login{Role: "other"} }, "unauthenticated"},
		"token in a file": {"token", func(t *testing.T, s *vaulttest.Server) vault.Login {
			return vault.Login{SecretFile: write(t, s.Admin(t, "POST", "auth/token/create", map[string]any{"policies": []string{"read"}, "ttl": "1h"})["client_token"].(string))}
		}, "ok"},
		"token that ended": {"token", func(t *testing.T, s *vaulttest.Server) vault.Login {
			return vault.Login{SecretFile: write(t, "hvs.nothing")}
		}, "unauthenticated"},
		"token in a file that others may read": {"token", func(t *testing.T, s *vaulttest.Server) vault.Login {
			path := write(t, s.Root())
			os.Chmod(path, 0o644)
			return vault.Login{SecretFile: path}
		}, "unavailable"},
		"token behind a link": {"token", func(t *testing.T, s *vaulttest.Server) vault.Login {
			path := filepath.Join(t.TempDir(), "link")
			os.Symlink(write(t, s.Root()), path)
			return vault.Login{SecretFile: path}
		}, "unavailable"},
		"token in no file": {"token", func(t *testing.T, s *vaulttest.Server) vault.Login { return vault.Login{SecretFile: "/nowhere/token"} }, "unavailable"},
		"token that would add a header": {"token", func(t *testing.T, s *vaulttest.Server) vault.Login {
			return vault.Login{SecretFile: write(t, s.Root()+"\r\nX-Vault-Namespace: other")}
		}, "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			s := vaulttest.Start(t)
			set(t, s, "key", map[string]string{"": "v"})
			s.Admin(t, "PUT", "sys/policies/acl/read", all)
			if c.method != "token" {
				s.Admin(t, "POST", "sys/auth/"+c.method, map[string]any{"type": c.method})
			}
			login := c.login(t, s)
			login.Method = c.method
			fetchKey(t, open(t, vault.Options{Name: "shop-vault", Address: s.URL, HTTP: withCertificate(t, s), Login: login}), c.want)
		})
	}
}

// withCertificate is a client that shows a certificate, as control's does.
func withCertificate(t *testing.T, s *vaulttest.Server) *http.Client {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: "control"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	c := s.Client()
	c.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}
	return c
}

// TestTokenEnds: a 403 may only mean that our token ended. One login for all
// who wait tells, and spends one use of the secret id.
func TestTokenEnds(t *testing.T) {
	s, c := start(t, 2)
	set(t, s, "key", map[string]string{"": "v"})
	fetchKey(t, c, "ok")
	s.EndTokens()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { fetchKey(t, c, "ok") })
	}
	wg.Wait()
	if n := s.Count("POST auth/approle/login"); n != 2 {
		t.Errorf("%d logins, want two", n)
	}
	s.EndTokens() // and the secret id has no use left
	fetchKey(t, c, "unauthenticated")
}

// TestForbiddenIsNoReasonToLogIn: a path that is forbidden for good must not
// use up a secret id.
func TestForbiddenIsNoReasonToLogIn(t *testing.T) {
	s, c := start(t, 1, "secret/data/key")
	set(t, s, "key", map[string]string{"": "v"})
	for range 5 {
		fetchKey(t, c, "denied")
	}
	if n := s.Count("POST auth/approle/login"); n != 1 {
		t.Errorf("%d logins, want one", n)
	}
}

// TestLoginOutage: a login that does not get through is an outage, not a refusal.
func TestLoginOutage(t *testing.T) {
	s, c := start(t, 0)
	set(t, s, "key", map[string]string{"": "v"})
	s.Fault(vaulttest.Faults{Down: true})
	fetchKey(t, c, "unavailable")
	s.Fault(vaulttest.Faults{Sealed: true})
	fetchKey(t, c, "unavailable")
	s.Fault(vaulttest.Faults{Status: 429})
	fetchKey(t, c, "limited")
}

func TestWrappedSecretID(t *testing.T) {
	s := vaulttest.Start(t)
	opt := options(t, s, 0)
	opt.HTTP = s.Client()
	set(t, s, "key", map[string]string{"": "v"})
	wrapping := wrap(t, s, "auth/approle/role/control/secret-id")
	opt.Login.SecretFile = write(t, "wrapped:"+wrapping)
	c := open(t, opt)
	fetchKey(t, c, "ok")
	s.EndTokens()
	fetchKey(t, c, "ok") // it was unwrapped once and kept
	late := open(t, opt)
	if _, err := late.KV("secret").Fetch(t.Context(), key); kindOf(err) != "unauthenticated" || !strings.Contains(err.Error(), "used before") {
		t.Errorf("whoever comes second: %v", err)
	}
}

// wrap has the server wrap what a call answers.
func wrap(t *testing.T, s *vaulttest.Server, path string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/v1/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"X-Vault-Token": {s.Root()}, "X-Vault-Request": {"true"}, "X-Vault-Wrap-Ttl": {"60s"}}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct {
		Info struct{ Token string } `json:"wrap_info"`
	}
	decode(t, resp.Body, &out)
	return out.Info.Token
}

func TestCloseRevokesWhatALoginGave(t *testing.T) {
	s, c := start(t, 0)
	set(t, s, "key", map[string]string{"": "v"})
	fetchKey(t, c, "ok")
	if s.Tokens() != 1 {
		t.Fatalf("%d tokens", s.Tokens())
	}
	if err := c.Close(t.Context()); err != nil || s.Tokens() != 0 {
		t.Errorf("%v, %d tokens are left", err, s.Tokens())
	}
	fetchKey(t, c, "unavailable")
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	given := s.Admin(t, "POST", "auth/token/create", map[string]any{"policies": []string{"rampart"}, "ttl": "1h"})["client_token"].(string)
	c = open(t, vault.Options{Address: s.URL, HTTP: s.Client(), Login: vault.Login{Method: "token", SecretFile: write(t, given)}})
	fetchKey(t, c, "ok")
	if err := c.Close(t.Context()); err != nil || s.Tokens() != 1 {
		t.Errorf("the token of a file is its giver's: %v, %d tokens are left", err, s.Tokens())
	}
}

// TestRenewal lives through a day: the token is renewed at half of its life,
// replaced when it nears the most that it may have, and nobody notices.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := vaulttest.New()
		s.URL = "https://vault.example"
		opt := options(t, s, 0)
		opt.HTTP = &http.Client{Transport: inMemory{s}}
		c := open(t, opt)
		set(t, s, "key", map[string]string{"": "v"})
		for range 24 * 6 {
			fetchKey(t, c, "ok")
			time.Sleep(10 * time.Minute)
		}
		logins, renewals := s.Count("POST auth/approle/login"), s.Count("POST auth/token/renew-self")
		if logins < 6 || logins > 9 || renewals < 35 || renewals > 60 {
			t.Errorf("%d logins and %d renewals in a day, at 1 h of life and 4 h at most", logins, renewals)
		}
		s.Fault(vaulttest.Faults{Sealed: true})
		time.Sleep(40 * time.Minute)
		s.Fault(vaulttest.Faults{})
		fetchKey(t, c, "ok")
		if n := s.Count("POST auth/approle/login"); n > logins+1 {
			t.Errorf("%d logins after an outage", n-logins)
		}
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func TestNamespace(t *testing.T) {
	s := vaulttest.Start(t)
	s.Admin(t, "POST", "sys/namespaces/team", nil)
	s.Admin(t, "POST", "team//sys/mounts/secret", map[string]any{"type": "kv-v2"})
	s.Admin(t, "POST", "team//secret/data/key", map[string]any{"data": map[string]string{"value": "ours"}})
	token := s.Admin(t, "POST", "team//auth/token/create", map[string]any{"policies": []string{"root"}, "ttl": "1h"})["client_token"].(string)
	for ns, want := range map[string]string{"team": "ok", "": "unauthenticated", "nowhere": "unauthenticated"} {
		fetchKey(t, open(t, vault.Options{Address: s.URL, HTTP: s.Client(), Namespace: ns, Login: vault.Login{Method: "token", SecretFile: write(t, token)}}), want)
	}
}

func TestOptionsAreRefused(t *testing.T) {
	good := vault.Options{Address: "https://vault.example:8200", HTTP: http.DefaultClient, Login: vault.Login{Method: "cert", Role: "control"}}
	for name, change := range map[string]func(*vault.Options){
		"plain http":        func(o *vault.Options) { o.Address = "http://vault.example" },
		"a path":            func(o *vault.Options) { o.Address += "/v1" },
		"a user":            func(o *vault.Options) { o.Address = "https://u:p@vault.example" },
		"no host":           func(o *vault.Options) { o.Address = "https:///" },
		"no http client":    func(o *vault.Options) { o.HTTP = nil },
		"odd namespace":     func(o *vault.Options) { o.Namespace = "a//b" },
		"no method":         func(o *vault.Options) { o.Login.Method = "" },
		"unknown method":    func(o *vault.Options) { o.Login.Method = "userpass" },
		"approle, no file":  func(o *vault.Options) { o.Login.Method = "approle" },
		"mount that climbs": func(o *vault.Options) { o.Login.Mount = "../sys" },
	} {
		opt := good
		change(&opt)
		if _, err := vault.New(opt); rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := vault.New(good); err != nil {
		t.Error(err)
	}
}

func TestSignIntermediate(t *testing.T) {
	s, c := start(t, 0)
	s.Admin(t, "POST", "sys/mounts/pki", map[string]any{"type": "pki"})
	s.Admin(t, "POST", "pki/root/generate/internal", map[string]any{"common_name": "corporate root", "ttl": "720h"})
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "rampart issuing"}}, private)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := c.PKI("pki").SignIntermediate(t.Context(), csr, 7*24*time.Hour)
	if err != nil || len(chain) != 2 {
		t.Fatalf("%d certificates, %v", len(chain), err)
	}
	got, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(chain[1])
	if err != nil {
		t.Fatal(err)
	}
	if got.CheckSignatureFrom(root) != nil || !got.IsCA || !got.MaxPathLenZero || got.Subject.CommonName != "rampart issuing" {
		t.Errorf("got CA %v, path length zero %v, subject %v", got.IsCA, got.MaxPathLenZero, got.Subject)
	}
	for name, bad := range map[string][]byte{"nothing": nil, "no request": chain[0]} {
		if _, err := c.PKI("pki").SignIntermediate(t.Context(), bad, time.Hour); rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Fault(vaulttest.Faults{Status: 200, Body: `{"data":{"certificate":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----","ca_chain":[]}}`})
	if _, err := c.PKI("pki").SignIntermediate(t.Context(), csr, time.Hour); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("a reply without a certificate: %v", err)
	}
}
