// Package federation signs people in at providers that Rampart did not write,
// and at one that lies, through a running gateway and control plane.
package federation

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"html"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/gateway"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/spec"
)

const (
	edge     = "https://localhost:8443"
	password = "correct horse battery"
)

// house is a control plane and a gateway, and a provider that both know under
// the name that the test gave it.
type house struct {
	*controltest.House
	t        *testing.T
	gw       *gateway.Gateway
	provider string // 127.0.0.1:PORT
	roots    *x509.CertPool
}

// open starts a system whose people may sign in at provider, which shows a
// certificate of ca. keys are the rest of what rampart.yaml says of it.
func open(t *testing.T, issuer, provider string, ca []byte, keys string) *house {
	t.Helper()
	file := controltest.File(t,
		"principals:\n", "identity: { providers: { corp: { issuer: \""+issuer+"\", client_id: rampart, client_secret: corp_secret, title: Corp, ca: corp.pem, stand_in: \""+provider+"\", "+keys+" } } }\nprincipals:\n",
		"data:\n", "data:\n  corp_secret: { class: secret, kind: credential, source: \"secret://embedded/corp/secret\" }\n",
	)
	must(t, os.WriteFile(filepath.Join(filepath.Dir(file), "corp.pem"), ca, 0o600))
	h := &house{House: controltest.Start(t, file), t: t, provider: provider, roots: x509.NewCertPool()}
	h.roots.AppendCertsFromPEM(ca)
	own, err := os.ReadFile(h.State.Path("ca.pem"))
	must(t, err)
	h.roots.AppendCertsFromPEM(own)
	link := h.Link(h.Options("gateway/edge", "gateway/edge"))
	store, err := idempotency.NewFile(filepath.Join(t.TempDir(), "keys"))
	must(t, err)
	t.Cleanup(func() { store.Close() })
	h.gw, err = gateway.New(gateway.Options{Name: "edge", Listen: "127.0.0.1:0", Link: link, Audit: h.Log("gateway/edge"), Idem: store, State: h.State, Logger: h.Logger})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.gw.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("gateway: %v", err)
		}
	})
	h.Until("the edge is up", func() bool { return h.gw.Addr() != "" })
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// secret stores what client and provider share.
func (h *house) secret(text string) {
	h.Admin(wire.AdminSecrets, wire.SecretOp{Op: "put", Path: "corp/secret", Value: []byte(text)}, nil)
}

func (h *house) user(name string, roles ...string) {
	h.Admin(wire.AdminUsers, wire.User{Name: name, Password: password, Facts: spec.DemoUser{Roles: roles, Organizations: []string{"acme"}}}, nil)
}

// last returns the control plane's newest record of an action.
func (h *house) last(action string) audit.Event {
	h.t.Helper()
	list := h.Events("control")
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Action == action {
			return list[i]
		}
	}
	h.t.Fatalf("no record of %s", action)
	return audit.Event{}
}

// count returns how often an action is on the control plane's record.
func (h *house) count(action string) int {
	h.t.Helper()
	n := 0
	for _, e := range h.Events("control") {
		if e.Action == action {
			n++
		}
	}
	return n
}

// browser is one person's: it keeps cookies and follows redirects and pages
// that send it on, between the edge and the provider.
type browser struct {
	h     *house
	http  *http.Client
	trail []string // addresses that it came through, the last one newest
}

func (h *house) browser() *browser {
	jar, err := cookiejar.New(nil)
	must(h.t, err)
	b := &browser{h: h}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.roots, MinVersion: tls.VersionTLS12}, DialContext: b.dial}
	h.t.Cleanup(tr.CloseIdleConnections)
	b.http = &http.Client{Jar: jar, Transport: tr, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		b.trail = append(b.trail, r.URL.String())
		if len(via) > 20 {
			h.t.Fatalf("a circle of redirects: %q", b.trail)
		}
		return nil
	}}
	return b
}

// dial knows where the two hosts of this world are.
func (b *browser) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	to := b.h.provider
	if addr == "localhost:8443" {
		to = b.h.gw.Addr()
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

// page is where a browser arrived.
type page struct {
	*http.Response
	text string
}

func (b *browser) get(address string) page {
	b.h.t.Helper()
	req, err := http.NewRequest(http.MethodGet, b.absolute(address), nil)
	must(b.h.t, err)
	return b.do(req)
}

func (b *browser) post(address string, form url.Values) page {
	b.h.t.Helper()
	req, err := http.NewRequest(http.MethodPost, b.absolute(address), strings.NewReader(form.Encode()))
	must(b.h.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.do(req)
}

func (b *browser) absolute(address string) string {
	if strings.HasPrefix(address, "/") {
		return edge + address
	}
	return address
}

var refresh = regexp.MustCompile(`http-equiv="refresh" content="0;url=([^"]+)"`)

func (b *browser) do(req *http.Request) page {
	b.h.t.Helper()
	b.trail = append(b.trail, req.URL.String())
	res, err := b.http.Do(req)
	must(b.h.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(b.h.t, err)
	if m := refresh.FindSubmatch(text); m != nil {
		return b.get(html.UnescapeString(string(m[1])))
	}
	return page{res, string(text)}
}

// signIn uses the password form.
func (b *browser) signIn(name string) {
	b.h.t.Helper()
	b.post("/login", url.Values{"username": {name}, "password": {password}, "next": {"/session"}})
	if who := b.who(); who.Subject != "user:"+name {
		b.h.t.Fatalf("signed in as %q", who.Subject)
	}
}

// who is signed in; nobody is the zero answer.
func (b *browser) who() (who struct {
	Subject string
	Roles   []string
}) {
	b.h.t.Helper()
	p := b.get("/session")
	if p.StatusCode == http.StatusOK {
		must(b.h.t, json.Unmarshal([]byte(p.text), &who))
	}
	return who
}

// authority signs certificates for the hosts of a test.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the company's own CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return authority{t, key, cert}
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// issue returns a certificate and key for host, PEM.
func (a authority) issue(host string) (cert, key string) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, a.cert, &private.PublicKey, a.key)
	must(a.t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	must(a.t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

// output collects what a process prints while a test reads along.
type output struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
