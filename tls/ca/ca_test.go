package ca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

const orders = "spiffe://shop.internal/service/orders"

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newAuthority(t testing.TB, now func() time.Time) *ca.Authority {
	t.Helper()
	a, err := ca.New("shop.internal", now)
	ok(t, err)
	return a
}

func request(t testing.TB) []byte {
	t.Helper()
	_, csr, err := svid.NewKeyAndCSR()
	ok(t, err)
	return csr
}

func parse(t testing.TB, chain [][]byte) []*x509.Certificate {
	t.Helper()
	certs, err := svid.ParseChain(chain)
	ok(t, err)
	return certs
}

// TestGreedyRequestGetsNothing holds that a request contributes its key alone.
func TestGreedyRequestGetsNothing(t *testing.T) {
	a := newAuthority(t, nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "admin"},
		DNSNames:    []string{"evil.example"},
		IPAddresses: []net.IP{net.IPv4(8, 8, 8, 8)},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "shop.internal", Path: "/control"}},
		ExtraExtensions: []pkix.Extension{
			{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}, // CA: true
		},
	}, key)
	ok(t, err)
	chain, notAfter, err := a.Issue(csr, orders, ca.IssueOptions{DNS: []string{"orders.shop.internal"}})
	ok(t, err)
	leaf := parse(t, chain)[0]
	uris := fmt.Sprint(leaf.URIs)
	for what, good := range map[string]bool{
		"the attested SPIFFE ID alone":  uris == "["+orders+"]",
		"no subject":                    len(leaf.Subject.Names) == 0,
		"names of the file alone":       fmt.Sprint(leaf.DNSNames) == "[orders.shop.internal]" && len(leaf.IPAddresses) == 0,
		"no authority":                  !leaf.IsCA && leaf.BasicConstraintsValid,
		"digital signature alone":       leaf.KeyUsage == x509.KeyUsageDigitalSignature,
		"both roles of TLS":             fmt.Sprint(leaf.ExtKeyUsage) == fmt.Sprint([]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}),
		"one hour":                      leaf.NotAfter.Sub(leaf.NotBefore) <= time.Hour+time.Minute,
		"notAfter is the certificate's": leaf.NotAfter.Equal(notAfter),
		"random serial of 128 bits":     leaf.SerialNumber.BitLen() == 127,
		"the applicant's key":           key.PublicKey.Equal(leaf.PublicKey),
	} {
		if !good {
			t.Errorf("certificate has not %s: %+v", what, leaf)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	a := newAuthority(t, nil)
	good := request(t)
	spoiled := append([]byte(nil), good...)
	spoiled[len(spoiled)-1] ^= 1
	made := func(key crypto.Signer, err error) []byte {
		t.Helper()
		ok(t, err)
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		ok(t, err)
		return csr
	}
	edKey := func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	edge := ca.IssueOptions{ServerOnly: true, DNS: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}}
	for _, tc := range []struct {
		name string
		csr  []byte
		id   string
		opt  ca.IssueOptions
		ok   bool
	}{
		{"P-256", good, orders, ca.IssueOptions{}, true},
		{"P-384", made(wrap(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))), orders, ca.IssueOptions{}, true},
		{"Ed25519", made(edKey()), orders, ca.IssueOptions{}, true},
		{"RSA 2048", made(wrap(rsa.GenerateKey(rand.Reader, 2048))), orders, ca.IssueOptions{}, true},
		{"edge", good, "", edge, true},
		{"ten seconds", good, orders, ca.IssueOptions{TTL: 10 * time.Second}, true},

		{"P-224", made(wrap(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))), orders, ca.IssueOptions{}, false},
		{"P-521", made(wrap(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))), orders, ca.IssueOptions{}, false},
		{"RSA 1024", weakRSA(t), orders, ca.IssueOptions{}, false},
		{"no proof of possession", spoiled, orders, ca.IssueOptions{}, false},
		{"garbage", []byte("x"), orders, ca.IssueOptions{}, false},
		{"huge", make([]byte, 1<<20), orders, ca.IssueOptions{}, false},
		{"foreign trust domain", good, "spiffe://evil.internal/service/orders", ca.IssueOptions{}, false},
		{"subdomain of the trust domain", good, "spiffe://a.shop.internal/service/orders", ca.IssueOptions{}, false},
		{"trust domain in another case", good, "spiffe://SHOP.internal/service/orders", ca.IssueOptions{}, false},
		{"no path", good, "spiffe://shop.internal", ca.IssueOptions{}, false},
		{"dots in the path", good, "spiffe://shop.internal/service/../control", ca.IssueOptions{}, false},
		{"query", good, orders + "?a=b", ca.IssueOptions{}, false},
		{"no identity", good, "", ca.IssueOptions{}, false},
		{"edge with an identity", good, orders, edge, false},
		{"edge without a name", good, "", ca.IssueOptions{ServerOnly: true}, false},
		{"foreign host name", good, "", ca.IssueOptions{ServerOnly: true, DNS: []string{"bank.example"}}, false},
		{"wildcard", good, "", ca.IssueOptions{ServerOnly: true, DNS: []string{"*.localhost"}}, false},
		{"name that ends like ours", good, "", ca.IssueOptions{ServerOnly: true, DNS: []string{"evil-localhost"}}, false},
		{"public address", good, "", ca.IssueOptions{ServerOnly: true, IPs: []net.IP{net.IPv4(8, 8, 8, 8)}}, false},
		{"nine seconds", good, orders, ca.IssueOptions{TTL: 9 * time.Second}, false},
		{"a day", good, orders, ca.IssueOptions{TTL: 24 * time.Hour}, true},
		{"more than a day", good, orders, ca.IssueOptions{TTL: 25 * time.Hour}, false},
		{"edge for eight days", good, "", ca.IssueOptions{ServerOnly: true, DNS: edge.DNS, TTL: 192 * time.Hour}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			chain, _, err := a.Issue(tc.csr, tc.id, tc.opt)
			if (err == nil) != tc.ok {
				t.Fatalf("error %v, want issued %v", err, tc.ok)
			}
			if err != nil {
				if rampart.KindOf(err) != rampart.Invalid {
					t.Errorf("kind of %v is %v", err, rampart.KindOf(err))
				}
				return
			}
			verifyByGo(t, a, parse(t, chain), tc.opt)
		})
	}
}

func wrap[K crypto.Signer](key K, err error) (crypto.Signer, error) { return key, err }

// weakRSA makes a request for a 1024-bit key, which the standard library
// generates only in tests that say so.
func weakRSA(t *testing.T) []byte {
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	ok(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	ok(t, err)
	return csr
}

func verifyByGo(t *testing.T, a *ca.Authority, certs []*x509.Certificate, opt ca.IssueOptions) {
	t.Helper()
	roots, err := svid.ParseRoots(a.BundlePEM())
	ok(t, err)
	inter := x509.NewCertPool()
	inter.AddCert(certs[1])
	vo := x509.VerifyOptions{Roots: roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if len(opt.DNS) > 0 {
		vo.DNSName = opt.DNS[0]
	}
	_, err = certs[0].Verify(vo)
	ok(t, err)
	vo.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := certs[0].Verify(vo); (err == nil) == opt.ServerOnly {
		t.Errorf("as a client: %v, want accepted %v", err, !opt.ServerOnly)
	}
}

// TestStolenIssuingKey shows what the name constraints are for: certificates
// that the issuing key should never sign are refused by Go and by OpenSSL.
func TestStolenIssuingKey(t *testing.T) {
	a := newAuthority(t, nil)
	stolen := kept(t, a).Issuing
	issuing, err := x509.ParseCertificate(stolen.Cert)
	ok(t, err)
	key, err := x509.ParsePKCS8PrivateKey(stolen.Key)
	ok(t, err)
	roots, err := svid.ParseRoots(a.BundlePEM())
	ok(t, err)
	inter := x509.NewCertPool()
	inter.AddCert(issuing)
	uri := func(s string) []*url.URL {
		u, err := url.Parse(s)
		ok(t, err)
		return []*url.URL{u}
	}
	for _, tc := range []struct {
		name string
		leaf x509.Certificate
		good bool
	}{
		{"our workload", x509.Certificate{URIs: uri(orders)}, true},
		{"localhost", x509.Certificate{DNSNames: []string{"localhost"}}, true},
		{"loopback", x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}}, true},
		{"a bank's host", x509.Certificate{DNSNames: []string{"bank.example"}}, false},
		{"a public address", x509.Certificate{IPAddresses: []net.IP{net.IPv4(8, 8, 8, 8)}}, false},
		{"another trust domain", x509.Certificate{URIs: uri("spiffe://evil.internal/service/orders")}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			ok(t, err)
			leaf := tc.leaf
			leaf.SerialNumber, leaf.NotBefore, leaf.NotAfter = big.NewInt(7), issuing.NotBefore, issuing.NotAfter
			leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			der, err := x509.CreateCertificate(rand.Reader, &leaf, issuing, &leafKey.PublicKey, key)
			ok(t, err)
			cert, err := x509.ParseCertificate(der)
			ok(t, err)
			_, err = cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter})
			if (err == nil) != tc.good {
				t.Errorf("Go: %v, want accepted %v", err, tc.good)
			}
			if out, err := openssl(t, a.BundlePEM(), [][]byte{der, issuing.Raw}, "sslserver"); (err == nil) != tc.good {
				t.Errorf("OpenSSL: %v, want accepted %v\n%s", err, tc.good, out)
			}
		})
	}
}

// openssl verifies a chain with the OpenSSL command in strict mode.
func openssl(t *testing.T, root []byte, chain [][]byte, purpose string) (string, error) {
	t.Helper()
	command, err := exec.LookPath("openssl")
	if err != nil {
		t.Skipf("the openssl command is not installed: %v", err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		ok(t, os.WriteFile(path, data, 0o600))
		return path
	}
	asPEM := func(der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	out, err := exec.Command(command, "verify", "-x509_strict", "-purpose", purpose,
		"-CAfile", write("root.pem", root), "-untrusted", write("issuing.pem", asPEM(chain[1])), write("leaf.pem", asPEM(chain[0]))).CombinedOutput()
	return string(out), err
}

func TestOpenSSLAccepts(t *testing.T) {
	a := newAuthority(t, nil)
	workload, _, err := a.Issue(request(t), orders, ca.IssueOptions{DNS: []string{"orders.shop.internal"}})
	ok(t, err)
	edge, _, err := a.Issue(request(t), "", ca.IssueOptions{ServerOnly: true, DNS: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}})
	ok(t, err)
	for _, tc := range []struct {
		name, purpose string
		chain         [][]byte
		good          bool
	}{
		{"workload as server", "sslserver", workload, true},
		{"workload as client", "sslclient", workload, true},
		{"edge as server", "sslserver", edge, true},
		{"edge as client", "sslclient", edge, false},
	} {
		if out, err := openssl(t, a.BundlePEM(), tc.chain, tc.purpose); (err == nil) != tc.good {
			t.Errorf("%s: %v, want accepted %v\n%s", tc.name, err, tc.good, out)
		}
	}
}

// TestGoSPIFFEAccepts has the independent SPIFFE library judge our SVIDs.
func TestGoSPIFFEAccepts(t *testing.T) {
	a := newAuthority(t, nil)
	chain, _, err := a.Issue(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	bundle, err := x509bundle.Parse(spiffeid.RequireTrustDomainFromString("shop.internal"), a.BundlePEM())
	ok(t, err)
	id, _, err := x509svid.Verify(parse(t, chain), bundle)
	ok(t, err)
	if id.String() != orders {
		t.Errorf("id %s", id)
	}
}

func TestRenewIssuing(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a := newAuthority(t, func() time.Time { return now })
	old, _, err := a.Issue(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	step := func(hours int, want bool) {
		t.Helper()
		now = now.Add(time.Duration(hours) * time.Hour)
		got, err := a.RenewIssuing()
		ok(t, err)
		if got != want {
			t.Fatalf("at %s renewed %v, want %v", now, got, want)
		}
	}
	step(83, false)
	step(1, true)
	step(0, false)
	fresh, _, err := a.Issue(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	if string(old[1]) == string(fresh[1]) {
		t.Error("issuing certificate has not changed")
	}
	if got := len(a.Issuers()); got != 2 {
		t.Errorf("%d issuing certificates are remembered, want the old one too", got)
	}
	// The root ends after a year: nothing may outlive it.
	now = time.Date(2026, 12, 31, 23, 59, 30, 0, time.UTC)
	step(0, true)
	_, notAfter, err := a.Issue(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	if end := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC); notAfter.After(end) {
		t.Errorf("leaf ends %s, after the root", notAfter)
	}
	now = now.AddDate(1, 0, 0)
	if _, _, err := a.Issue(request(t), orders, ca.IssueOptions{}); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("an expired authority answered %v", err)
	}
}

func TestBadTrustDomains(t *testing.T) {
	for _, name := range []string{"", "Shop.internal", "shop internal", "spiffe://shop.internal", "shop/internal", "shop.internal:8443"} {
		if _, err := ca.New(name, nil); err == nil {
			t.Errorf("%q became a trust domain", name)
		}
	}
}

func FuzzIssue(f *testing.F) {
	a := newAuthority(f, nil)
	f.Add(request(f), orders)
	f.Add([]byte("x"), "spiffe://shop.internal")
	f.Fuzz(func(t *testing.T, csr []byte, id string) {
		chain, _, err := a.Issue(csr, id, ca.IssueOptions{})
		if err != nil {
			return
		}
		certs, err := svid.ParseChain(chain)
		ok(t, err)
		if got, err := svid.PeerID(certs[0]); err != nil || got != id {
			t.Fatalf("issued %q for %q: %v", got, id, err)
		}
	})
}
func BenchmarkIssue(b *testing.B) {
	a := newAuthority(b, nil)
	csr := request(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := a.Issue(csr, orders, ca.IssueOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
