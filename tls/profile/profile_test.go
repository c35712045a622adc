package profile_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

const (
	orders   = "spiffe://shop.internal/service/orders"
	edge     = "spiffe://shop.internal/gateway/edge"
	payments = "spiffe://shop.internal/service/payments"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func authority(t testing.TB, now func() time.Time) *ca.Authority {
	t.Helper()
	a, err := ca.New("shop.internal", now)
	ok(t, err)
	return a
}

func issue(t testing.TB, a *ca.Authority, id string) svid.Snapshot {
	t.Helper()
	key, csr, err := svid.NewKeyAndCSR()
	ok(t, err)
	chain, _, err := a.Issue(csr, id, ca.IssueOptions{})
	ok(t, err)
	s, err := svid.NewSnapshot(chain, key, a.BundlePEM())
	ok(t, err)
	return s
}

func source(t testing.TB, a *ca.Authority, id string) *svid.Source {
	t.Helper()
	src := svid.NewSource()
	src.Set(issue(t, a, id))
	return src
}

// onlyEdge is the authorizer of a service that only the gateway may call.
func onlyEdge(id string) error {
	if id != edge {
		return errors.New("no such flow")
	}
	return nil
}

// serve runs an HTTP server that answers with the caller's ID, and returns its
// address and the refusals it reports.
func serve(t testing.TB, cfg *tls.Config) (addr string, refusals chan error) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	refusals = make(chan error, 100)
	l := profile.NewListener(inner, cfg, profile.ListenerOptions{
		OnRefuse: func(peer net.Addr, err error) { refusals <- err },
	})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _ := svid.PeerOf(r.TLS)
		io.WriteString(w, r.Proto+" "+peer.ID)
	})}
	done := make(chan struct{})
	go func() { srv.Serve(l); close(done) }()
	t.Cleanup(func() { srv.Close(); l.Close(); <-done })
	return inner.Addr().String(), refusals
}

func get(addr string, cfg *tls.Config) (string, error) {
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: slices.Contains(cfg.NextProtos, "h2")}
	defer tr.CloseIdleConnections()
	return getWith(tr, addr)
}

func getWith(tr *http.Transport, addr string) (string, error) {
	resp, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get("https://" + addr)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// raw is a client that shows whatever certificate it is given and believes
// any server.
func raw(cert ...tls.Certificate) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, Certificates: cert, NextProtos: []string{"http/1.1"}}
}

// TestServerRefusals is the matrix: who is refused at a service, and by which
// control.
func TestServerRefusals(t *testing.T) {
	a := authority(t, nil)
	stranger := authority(t, nil) // same trust domain, another root
	yesterday := authority(t, func() time.Time { return time.Now().Add(-24 * time.Hour) })
	caller := issue(t, a, edge)
	stolen := newMint(t) // an authority's key, to sign what ours never would

	tls12 := raw(caller.Certificate)
	tls12.MaxVersion = tls.VersionTLS12
	wrongALPN := raw(caller.Certificate)
	wrongALPN.NextProtos = []string{"acme-tls/1"}

	for _, tc := range []struct {
		name, control string
		client        *tls.Config
	}{
		{"the declared caller", "", profile.MTLSClient(source(t, a, edge), orders)},
		{"the declared caller, raw", "", raw(caller.Certificate)},
		{"TLS 1.2", "tls.min13", tls12},
		{"no certificate", "mtls.required", raw()},
		{"self-signed", "mtls.required", raw(selfSigned(t))},
		{"another CA, same name", "mtls.required", raw(issue(t, stranger, edge).Certificate)},
		{"expired", "mtls.required", raw(issueRaw(t, yesterday, edge))},
		{"two URI names", "mtls.required", raw(stolen.leaf(t, func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "shop.internal", Path: "/control"})
		}))},
		{"no URI name", "mtls.required", raw(stolen.leaf(t, func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"localhost"} }))},
		{"an authority as its own leaf", "mtls.required", raw(stolen.leaf(t, func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }))},
		{"the issuing certificate itself", "mtls.required", raw(stolen.issuing)},
		{"server certificate as client", "mtls.required", raw(stolen.leaf(t, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }))},
		{"a peer without a flow", "mtls.peer_declared", raw(issue(t, a, payments).Certificate)},
		{"undeclared peer by the real client", "mtls.peer_declared", profile.MTLSClient(source(t, a, payments), orders)},
		{"the service itself", "mtls.peer_declared", raw(issue(t, a, orders).Certificate)},
		{"a protocol that is not offered", "-", wrongALPN},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, refusals := serve(t, profile.MTLSServer(stolen.believed(t, a, orders), onlyEdge))
			body, err := get(addr, tc.client)
			if tc.control == "" {
				ok(t, err)
				if !strings.HasSuffix(body, edge) {
					t.Errorf("served %q", body)
				}
				return
			}
			if err == nil {
				t.Fatalf("was served %q", body)
			}
			refusedBy(t, next(t, refusals), strings.TrimPrefix(tc.control, "-"))
		})
	}
}

// next waits for a refusal, and fails the test rather than hang without one.
func next(t *testing.T, refusals <-chan error) error {
	t.Helper()
	select {
	case err := <-refusals:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("no refusal was reported")
		return nil
	}
}

func refusedBy(t *testing.T, err error, control string) {
	t.Helper()
	e, typed := errors.AsType[*rampart.Error](err)
	if !typed || e.Control != control {
		t.Errorf("refusal %v by %q, want %q", err, e.Control, control)
	}
}

// TestPlainTCPIsRefused: who speaks no TLS is refused by its control, and told so
// if it is HTTP that he speaks; what comes after the first bytes is never read as
// a request.
func TestPlainTCPIsRefused(t *testing.T) {
	a := authority(t, nil)
	addr, refusals := serve(t, profile.MTLSServer(source(t, a, orders), onlyEdge))
	for name, tc := range map[string]struct {
		say  string
		want int // status; 0: no word
	}{
		"GET":                            {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"a head of which most is unread": {"GET /?" + strings.Repeat("x", 20<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"POST with two requests":         {"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"something else":                 {"HELO x\r\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", addr)
			ok(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, tc.say)
			ok(t, err)
			answer, err := io.ReadAll(conn)
			conn.Close()
			refusedBy(t, next(t, refusals), "tls.min13")
			if tc.want == 0 {
				if strings.Contains(string(answer), "HTTP") {
					t.Errorf("answer %q", answer)
				}
				return
			}
			ok(t, err)
			from := bufio.NewReader(bytes.NewReader(answer))
			resp, err := http.ReadResponse(from, nil)
			ok(t, err)
			body, err := io.ReadAll(resp.Body)
			ok(t, err)
			if resp.StatusCode != tc.want || !resp.Close || !strings.Contains(string(body), "HTTPS") || from.Buffered() != 0 {
				t.Errorf("answer %q", answer)
			}
		})
	}
}

// TestClientRefusals: what a calling plane does not believe.
func TestClientRefusals(t *testing.T) {
	a, stranger := authority(t, nil), authority(t, nil)
	bootstrap, err := profile.Bootstrap(a.BundlePEM(), orders)
	ok(t, err)
	edgeCert := issueEdge(t, a)
	anyone := func(string) error { return nil }
	for _, tc := range []struct {
		name   string
		server *tls.Config
		ok     bool
	}{
		{"the plane that was dialled", profile.ControlServer(source(t, a, orders), anyone), true},
		{"another plane", profile.ControlServer(source(t, a, payments), anyone), false},
		{"another CA", profile.ControlServer(source(t, stranger, orders), anyone), false},
		{"a certificate without SPIFFE ID", profile.Edge(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &edgeCert, nil }), false},
		{"self-signed", &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}, false},
		{"TLS 1.2", &tls.Config{Certificates: []tls.Certificate{issue(t, a, orders).Certificate}, MaxVersion: tls.VersionTLS12}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, _ := serve(t, tc.server)
			for name, client := range map[string]*tls.Config{
				"MTLSClient": profile.MTLSClient(source(t, a, edge), orders),
				"Bootstrap":  bootstrap,
			} {
				if _, err := get(addr, client); (err == nil) != tc.ok {
					t.Errorf("%s: %v, want believed %v", name, err, tc.ok)
				}
			}
		})
	}
}

func TestControlServerTakesNoneButNoBadCertificate(t *testing.T) {
	a, stranger := authority(t, nil), authority(t, nil)
	addr, refusals := serve(t, profile.ControlServer(source(t, a, orders), onlyEdge))
	body, err := get(addr, raw())
	ok(t, err)
	if body != "HTTP/1.1 " {
		t.Errorf("a caller without a certificate was taken for %q", body)
	}
	body, err = get(addr, raw(issue(t, a, edge).Certificate))
	ok(t, err)
	if body != "HTTP/1.1 "+edge {
		t.Errorf("served %q", body)
	}
	for control, cert := range map[string]tls.Certificate{
		"mtls.required":      issue(t, stranger, edge).Certificate,
		"mtls.peer_declared": issue(t, a, payments).Certificate,
	} {
		if body, err := get(addr, raw(cert)); err == nil {
			t.Errorf("was served %q", body)
		}
		refusedBy(t, next(t, refusals), control)
	}
}

func TestNoIdentityNoHandshake(t *testing.T) {
	a := authority(t, nil)
	empty := svid.NewSource()
	addr, refusals := serve(t, profile.MTLSServer(empty, onlyEdge))
	if _, err := get(addr, profile.MTLSClient(source(t, a, edge), orders)); err == nil {
		t.Error("a server without an identity answered")
	}
	if err := next(t, refusals); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("refusal %v", err)
	}
	addr, _ = serve(t, profile.MTLSServer(source(t, a, orders), onlyEdge))
	if _, err := get(addr, profile.MTLSClient(empty, orders)); err == nil {
		t.Error("a client without an identity was served")
	}
}

// TestResumptionIsNoWayBackIn: a peer that was allowed once and holds a ticket
// is refused after the authorizer changed its mind, or the root was replaced,
// even if somebody turned tickets on.
func TestResumptionIsNoWayBackIn(t *testing.T) {
	a := authority(t, nil)
	for _, tickets := range []bool{false, true} {
		var banned atomic.Bool
		allow := func(id string) error {
			if banned.Load() {
				return errors.New("flow removed")
			}
			return nil
		}
		src := source(t, a, orders)
		cfg := profile.MTLSServer(src, allow)
		if tickets {
			cfg.SessionTicketsDisabled = false
		}
		addr, refusals := serve(t, cfg)
		client := raw(issue(t, a, edge).Certificate)
		client.ClientSessionCache = tls.NewLRUClientSessionCache(8)

		dial := func() (resumed bool, err error) {
			conn, err := tls.Dial("tcp", addr, client)
			if err != nil {
				return false, err
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
				return false, err
			}
			answer, err := io.ReadAll(conn)
			if err == nil && !strings.Contains(string(answer), "200 OK") {
				err = errors.New("not served")
			}
			return conn.ConnectionState().DidResume, err
		}
		_, err := dial()
		ok(t, err)
		resumed, err := dial()
		ok(t, err)
		if resumed != tickets {
			t.Fatalf("resumed %v with tickets %v", resumed, tickets)
		}
		banned.Store(true)
		if _, err := dial(); err == nil {
			t.Errorf("tickets %v: served after the flow was removed", tickets)
		}
		refusedBy(t, next(t, refusals), "mtls.peer_declared")

		banned.Store(false)
		src.Set(issue(t, authority(t, nil), orders))
		if _, err := dial(); err == nil {
			t.Errorf("tickets %v: served after its root was withdrawn", tickets)
		}
		refusedBy(t, next(t, refusals), "mtls.required")
	}
}

// TestRotation: new certificates are for new handshakes, open connections
// live on.
func TestRotation(t *testing.T) {
	a := authority(t, nil)
	server, client := source(t, a, orders), source(t, a, edge)
	addr, _ := serve(t, profile.MTLSServer(server, onlyEdge))
	seen := make(chan [32]byte, 100)
	cfg := profile.MTLSClient(client, orders)
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		cs.HandshakeComplete = true
		peer, _ := svid.PeerOf(&cs)
		seen <- peer.Fingerprint
		return verify(cs)
	}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	for range 5 {
		body, err := getWith(tr, addr)
		ok(t, err)
		if body != "HTTP/2.0 "+edge {
			t.Fatalf("served %q", body)
		}
		server.Set(issue(t, a, orders))
		client.Set(issue(t, a, edge))
	}
	if len(seen) != 1 {
		t.Errorf("%d handshakes, want the first connection to live on", len(seen))
	}
	first := <-seen
	tr.CloseIdleConnections()
	_, err := getWith(tr, addr)
	ok(t, err)
	if second := <-seen; second == first {
		t.Error("a new handshake showed the old certificate")
	}
}

func TestEdge(t *testing.T) {
	a := authority(t, nil)
	cert := issueEdge(t, a)
	addr, refusals := serve(t, profile.Edge(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }))
	roots, err := svid.ParseRoots(a.BundlePEM())
	ok(t, err)
	body, err := get(addr, profile.External("localhost", roots, tls.VersionTLS12))
	ok(t, err)
	if body != "HTTP/2.0 " {
		t.Errorf("served %q", body)
	}
	database, err := profile.Database(a.BundlePEM(), "localhost")
	ok(t, err)
	if _, err := get(addr, database); err != nil {
		t.Errorf("database profile: %v", err)
	}
	for name, cfg := range map[string]*tls.Config{
		"system roots": profile.External("localhost", nil, 0),
		"another name": profile.External("bank.example", roots, 0),
	} {
		if _, err := get(addr, cfg); err == nil {
			t.Errorf("%s: believed the edge", name)
		}
		next(t, refusals)
	}
	old := raw()
	old.MaxVersion = tls.VersionTLS12
	if _, err := get(addr, old); err == nil {
		t.Error("TLS 1.2 was served at the edge")
	}
	refusedBy(t, next(t, refusals), "tls.min13")
}

// TestHybridKeyExchange: two of ours agree on the post-quantum group.
func TestHybridKeyExchange(t *testing.T) {
	a := authority(t, nil)
	addr, _ := serve(t, profile.MTLSServer(source(t, a, orders), onlyEdge))
	conn, err := tls.Dial("tcp", addr, profile.MTLSClient(source(t, a, edge), orders))
	ok(t, err)
	defer conn.Close()
	if got := conn.ConnectionState().CurveID; got != tls.X25519MLKEM768 {
		t.Errorf("key exchange %v", got)
	}
}

func TestConstructorsPanicHalfConfigured(t *testing.T) {
	src := svid.NewSource()
	for name, f := range map[string]func(){
		"no authorizer":         func() { profile.MTLSServer(src, nil) },
		"control no authorizer": func() { profile.ControlServer(src, nil) },
		"no source":             func() { profile.MTLSServer(nil, onlyEdge) },
		"client no source":      func() { profile.MTLSClient(nil, orders) },
		"client to nobody":      func() { profile.MTLSClient(src, "") },
		"join nobody":           func() { profile.Bootstrap(nil, "") },
		"no edge certificate":   func() { profile.Edge(nil) },
		"external without name": func() { profile.External("", nil, 0) },
		"database without name": func() { profile.Database(nil, "") },
		"listener of nothing":   func() { profile.NewListener(nil, nil, profile.ListenerOptions{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

func TestListenerBounds(t *testing.T) {
	a := authority(t, nil)
	cert := issueEdge(t, a)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	refusals := make(chan error, 10)
	l := profile.NewListener(inner, profile.Edge(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }), profile.ListenerOptions{
		MaxConns: 3, MaxPerIP: 2, OnRefuse: func(_ net.Addr, err error) { refusals <- err },
	})
	defer l.Close()
	addr := inner.Addr().String()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", addr)
		ok(t, err)
		return conn
	}
	// Two that never send a byte hold their places, and Accept is not held up.
	silent, other := dial(), dial()
	defer other.Close()
	third := dial()
	defer third.Close()
	refusedBy(t, next(t, refusals), "limit.ip")
	silent.Close()
	if err := next(t, refusals); rampart.KindOf(err) != rampart.Unauthenticated {
		t.Errorf("a client that went away: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, isTLS := conn.(*tls.Conn)
			if !isTLS {
				err = errors.New("not a *tls.Conn")
			}
			conn.Close()
		}
		got <- err
	}()
	conn, err := tls.Dial("tcp", addr, raw())
	ok(t, err)
	conn.Close()
	ok(t, <-got)
	ok(t, l.Close())
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}

// mint is an authority of the test's own, which signs whatever a row wants.
type mint struct {
	cert    *x509.Certificate
	key     crypto.PrivateKey
	issuing tls.Certificate
}

func newMint(t testing.TB) mint {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
		Subject: pkix.Name{CommonName: "mint"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "shop.internal", Path: "/gateway/edge"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	ok(t, err)
	cert, err := x509.ParseCertificate(der)
	ok(t, err)
	return mint{cert, key, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

// believed is a source of a plane of a's that believes the mint too.
func (m mint) believed(t testing.TB, a *ca.Authority, id string) *svid.Source {
	t.Helper()
	roots := append(a.BundlePEM(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw})...)
	key, csr, err := svid.NewKeyAndCSR()
	ok(t, err)
	chain, _, err := a.Issue(csr, id, ca.IssueOptions{})
	ok(t, err)
	snap, err := svid.NewSnapshot(chain, key, roots)
	ok(t, err)
	src := svid.NewSource()
	src.Set(snap)
	return src
}

func (m mint) leaf(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "shop.internal", Path: "/gateway/edge"}},
	}
	change(tmpl)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, m.cert, &key.PublicKey, m.key)
	ok(t, err)
	return tls.Certificate{Certificate: [][]byte{der, m.cert.Raw}, PrivateKey: key}
}

func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(3), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "shop.internal", Path: "/gateway/edge"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	ok(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// issueRaw issues without the checks of svid.NewSnapshot.
func issueRaw(t testing.TB, a *ca.Authority, id string) tls.Certificate {
	t.Helper()
	key, csr, err := svid.NewKeyAndCSR()
	ok(t, err)
	chain, _, err := a.Issue(csr, id, ca.IssueOptions{})
	ok(t, err)
	return tls.Certificate{Certificate: chain, PrivateKey: key}
}

func issueEdge(t testing.TB, a *ca.Authority) tls.Certificate {
	t.Helper()
	key, csr, err := svid.NewKeyAndCSR()
	ok(t, err)
	chain, _, err := a.Issue(csr, "", ca.IssueOptions{ServerOnly: true, DNS: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}})
	ok(t, err)
	return tls.Certificate{Certificate: chain, PrivateKey: key}
}

// BenchmarkHandshakeMTLS is one full mutual handshake, both ends.
func BenchmarkHandshakeMTLS(b *testing.B) {
	a := authority(b, nil)
	benchmarkHandshake(b, profile.MTLSServer(source(b, a, orders), onlyEdge), profile.MTLSClient(source(b, a, edge), orders))
}

// BenchmarkHandshakeBare is the same by crypto/tls alone, for the ratio.
func BenchmarkHandshakeBare(b *testing.B) {
	a := authority(b, nil)
	roots, err := svid.ParseRoots(a.BundlePEM())
	ok(b, err)
	server := &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
		Certificates: []tls.Certificate{issueEdge(b, a)}, SessionTicketsDisabled: true,
	}
	client := &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{issueRaw(b, a, edge)}}
	benchmarkHandshake(b, server, client)
}

func benchmarkHandshake(b *testing.B, server, client *tls.Config) {
	b.ReportAllocs()
	for b.Loop() {
		left, right := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- tls.Server(right, server).HandshakeContext(context.Background()) }()
		if err := tls.Client(left, client).Handshake(); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		left.Close()
		right.Close()
	}
}
