package svid_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

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

func authority(t testing.TB) *ca.Authority {
	t.Helper()
	a, err := ca.New("shop.internal", nil)
	ok(t, err)
	return a
}

func snapshot(t testing.TB, a *ca.Authority, id string) svid.Snapshot {
	t.Helper()
	key, csr, err := svid.NewKeyAndCSR()
	ok(t, err)
	chain, _, err := a.Issue(csr, id, ca.IssueOptions{})
	ok(t, err)
	s, err := svid.NewSnapshot(chain, key, a.BundlePEM())
	ok(t, err)
	return s
}

func TestSource(t *testing.T) {
	var zero svid.Source
	if _, err := zero.Current(); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("zero source: %v", err)
	}
	a, src := authority(t), svid.NewSource()
	changed := src.Changed()
	select {
	case <-changed:
		t.Fatal("changed before the first Set")
	default:
	}
	src.Set(snapshot(t, a, orders))
	<-changed
	first, err := src.Current()
	ok(t, err)
	if first.ID != orders || first.Generation != 1 || first.Fingerprint != sha256.Sum256(first.Certificate.Certificate[0]) {
		t.Errorf("snapshot %s generation %d", first.ID, first.Generation)
	}
	src.Set(first)
	src.Set(snapshot(t, a, orders))
	second, err := src.Current()
	ok(t, err)
	if second.Generation != 2 {
		t.Errorf("generation %d after one more certificate", second.Generation)
	}
}

func TestSnapshotRefusesABadAnswer(t *testing.T) {
	a, stranger := authority(t), authority(t)
	key, csr, err := svid.NewKeyAndCSR()
	ok(t, err)
	otherKey, _, err := svid.NewKeyAndCSR()
	ok(t, err)
	chain, _, err := a.Issue(csr, orders, ca.IssueOptions{})
	ok(t, err)
	for name, try := range map[string]func() (svid.Snapshot, error){
		"another key":      func() (svid.Snapshot, error) { return svid.NewSnapshot(chain, otherKey, a.BundlePEM()) },
		"another root":     func() (svid.Snapshot, error) { return svid.NewSnapshot(chain, key, stranger.BundlePEM()) },
		"no issuing":       func() (svid.Snapshot, error) { return svid.NewSnapshot(chain[:1], key, a.BundlePEM()) },
		"no chain":         func() (svid.Snapshot, error) { return svid.NewSnapshot(nil, key, a.BundlePEM()) },
		"garbage chain":    func() (svid.Snapshot, error) { return svid.NewSnapshot([][]byte{{1}}, key, a.BundlePEM()) },
		"no roots":         func() (svid.Snapshot, error) { return svid.NewSnapshot(chain, key, nil) },
		"garbage in roots": func() (svid.Snapshot, error) { return svid.NewSnapshot(chain, key, append(a.BundlePEM(), 'x')) },
	} {
		if _, err := try(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// mint is a root of the test's own that signs whatever a row wants.
type mint struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newMint(t testing.TB) mint {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	tmpl.Subject.CommonName = "mint"
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	ok(t, err)
	root, err := x509.ParseCertificate(der)
	ok(t, err)
	return mint{root, key}
}

// trust believes the mint alone.
func (m mint) trust(t testing.TB, domain string) *svid.Trust {
	t.Helper()
	trust, err := svid.NewTrust(1, domain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.root.Raw}), nil)
	ok(t, err)
	return trust
}

func (m mint) leaf(t testing.TB, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        uris(t, orders),
	}
	change(tmpl)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, m.root, &key.PublicKey, m.key)
	ok(t, err)
	cert, err := x509.ParseCertificate(der)
	ok(t, err)
	return cert
}

func uris(t testing.TB, list ...string) []*url.URL {
	t.Helper()
	var out []*url.URL
	for _, s := range list {
		u, err := url.Parse(s)
		ok(t, err)
		out = append(out, u)
	}
	return out
}

func TestCheck(t *testing.T) {
	m, stranger := newMint(t), newMint(t)
	check := svid.Check{Trust: m.trust(t, "shop.internal"), Usage: x509.ExtKeyUsageClientAuth, At: time.Now()}
	keep := func(*x509.Certificate) {}
	withURI := func(list ...string) []*x509.Certificate {
		return []*x509.Certificate{m.leaf(t, func(c *x509.Certificate) { c.URIs = uris(t, list...) })}
	}
	with := func(change func(*x509.Certificate)) []*x509.Certificate {
		return []*x509.Certificate{m.leaf(t, change)}
	}
	good := with(keep)
	for _, tc := range []struct {
		name  string
		check svid.Check
		chain []*x509.Certificate
		ok    bool
	}{
		{"a workload", check, good, true},
		{"no certificate", check, nil, false},
		{"a nil certificate", check, []*x509.Certificate{nil}, false},
		{"six certificates", check, append(good, good[0], good[0], good[0], good[0], good[0]), false},
		{"another CA", check, []*x509.Certificate{stranger.leaf(t, keep)}, false},
		{"no URI name", check, withURI(), false},
		{"two URI names", check, withURI(orders, "spiffe://shop.internal/service/payments"), false},
		{"an https URI", check, withURI("https://shop.internal/service/orders"), false},
		{"no path", check, withURI("spiffe://shop.internal"), false},
		{"another trust domain, our CA", check, withURI("spiffe://evil.internal/service/orders"), false},
		{"subdomain of ours", check, withURI("spiffe://a.shop.internal/service/orders"), false},
		{"escaped path", check, withURI("spiffe://shop.internal/service/%6frders"), false},
		{"dot segments", check, withURI("spiffe://shop.internal/service/../control"), false},
		{"port in the domain", check, withURI("spiffe://shop.internal:1/service/orders"), false},
		{"user info", check, withURI("spiffe://x@shop.internal/service/orders"), false},
		{"expired", check, with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), false},
		{"not valid yet", check, with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), false},
		{"server only, shown as client", check, with(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), false},
		{"an authority", check, with(func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }), false},
		{"may sign certificates", check, with(func(c *x509.Certificate) { c.IsCA = true }), false},
		{"may sign revocation lists", check, with(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }), false},
		{"no digital signature", check, with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), false},
		{"lives 25 hours", check, with(func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(25 * time.Hour) }), false},
		{"no roots", svid.Check{Usage: check.Usage, At: check.At}, good, false},
		{"no trust domain", svid.Check{Trust: check.Trust, Domains: []string{}, Usage: check.Usage, At: check.At}, good, false},
		{"a trust domain without a bundle", svid.Check{Trust: check.Trust, Domains: []string{"evil.internal"}, Usage: check.Usage, At: check.At}, withURI("spiffe://evil.internal/service/orders"), false},
		{"no clock", svid.Check{Trust: check.Trust, Usage: check.Usage}, good, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.check.Verify(tc.chain)
			if (err == nil) != tc.ok || (got.ID != "") != tc.ok {
				t.Fatalf("%q %v, want accepted %v", got.ID, err, tc.ok)
			}
			if err != nil && rampart.KindOf(err) != rampart.Unauthenticated {
				t.Errorf("kind %v", rampart.KindOf(err))
			}
		})
	}
}

func TestPeerOfNobody(t *testing.T) {
	for _, state := range []*tls.ConnectionState{nil, {}, {HandshakeComplete: true}} {
		if peer, ok := svid.PeerOf(state); ok {
			t.Errorf("a connection without a certificate has peer %v", peer)
		}
	}
}

func FuzzPeerID(f *testing.F) {
	for _, s := range []string{orders, "spiffe://a", "spiffe://a/b?c", "SPIFFE://a/b", "spiffe://a/b#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		id, err := svid.PeerID(&x509.Certificate{URIs: []*url.URL{u}})
		if err == nil && (svid.Domain(id) == "" || len(id) > 2048) {
			t.Fatalf("accepted %q", id)
		}
	})
}
