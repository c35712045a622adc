// Package ca is the internal certificate authority: a root that is trusted, an
// issuing certificate below it, and short-lived leaves for workloads (SPIFFE
// X.509-SVIDs) and for the local edge.
//
// Root and issuing certificate carry name constraints (RFC 5280 section
// 4.2.1.10): they can vouch for one trust domain, localhost and loopback
// addresses, and nothing else. Who trusts the root in a browser gives nothing
// more away, even if its key is stolen.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Lifetimes of the tiers.
const (
	rootLife    = 365 * 24 * time.Hour
	issuingLife = 90 * 24 * time.Hour // the root is online, yet a longer life makes backups usable
)

// Skew is how far the start of a certificate lies before its issue, for peers
// whose clocks run behind.
const Skew = time.Minute

// Authority issues certificates for one trust domain. Safe for concurrent use;
// keys are never printed.
type Authority struct {
	domain string
	now    func() time.Time
	root   tier

	mu      sync.RWMutex
	issuing tier
}

// tier is a CA certificate and its key.
type tier struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Format prints the trust domain under every verb, never a key.
func (a *Authority) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "ca.Authority(%s)", a.domain) }

// New makes an authority with new keys. trustDomain is a SPIFFE trust domain
// in its canonical form; now may be nil, which means time.Now.
func New(trustDomain string, now func() time.Time) (*Authority, error) {
	if err := checkDomain(trustDomain); err != nil {
		return nil, err
	}
	a := &Authority{domain: trustDomain, now: orNow(now)}
	root, err := a.newTier("root", 1, rootLife, tier{})
	if err != nil {
		return nil, err
	}
	a.root = root
	if a.issuing, err = a.newTier("issuing", 0, issuingLife, root); err != nil {
		return nil, err
	}
	return a, nil
}

func checkDomain(name string) error {
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil || td.Name() != name {
		return fmt.Errorf("ca: %.100q is not a trust domain", name)
	}
	return nil
}

func orNow(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}

// newTier makes a CA certificate signed by parent, or by itself without one.
func (a *Authority) newTier(name string, pathLen int, life time.Duration, parent tier) (tier, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tier{}, fmt.Errorf("ca: make the %s key: %v", name, err)
	}
	t, err := a.tierTemplate(name, pathLen, life)
	if err != nil {
		return tier{}, err
	}
	if parent.cert == nil {
		parent = tier{t, key}
	}
	if t.NotAfter.After(parent.cert.NotAfter) {
		t.NotAfter = parent.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent.cert, key.Public(), parent.key)
	if err != nil {
		return tier{}, fmt.Errorf("ca: sign the %s certificate: %v", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return tier{}, fmt.Errorf("ca: read the %s certificate back: %v", name, err)
	}
	return tier{cert, key}, nil
}

func (a *Authority) tierTemplate(name string, pathLen int, life time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := a.now()
	return &x509.Certificate{
		SerialNumber: serial,
		// Chains are built by subject; a suffix keeps two roots of one domain
		// apart in a browser's store.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Rampart %s %s %s", a.domain, name, serial.Text(36)[:6])},
		NotBefore:             now.Add(-Skew),
		NotAfter:              now.Add(life),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: a.domain}},

		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{a.domain},
		PermittedDNSDomains:         []string{"localhost", a.domain},
		PermittedIPRanges:           loopback(),
	}, nil
}

func loopback() []*net.IPNet {
	return []*net.IPNet{
		{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
		{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
	}
}

// newSerial returns 128 random bits (RFC 5280 section 4.1.2.2 allows 20
// bytes): serials tell nothing and never meet.
func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("ca: make a serial: %v", err)
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and always 16 bytes long
	return new(big.Int).SetBytes(b[:]), nil
}

// RenewIssuing replaces the issuing certificate and its key once half its life
// has passed, and reports whether it did: then the caller stores Marshal
// again. Leaves carry their issuing certificate, so those already issued stay
// valid. The root itself is not renewed here: that needs every plane's trust
// bundle to change first.
func (a *Authority) RenewIssuing() (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.issuing.cert
	half := c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
	if a.now().Before(half) {
		return false, nil
	}
	next, err := a.newTier("issuing", 0, issuingLife, a.root)
	if err != nil {
		return false, err
	}
	a.issuing = next
	return true, nil
}

// BundlePEM returns the trust bundle: the root, as PEM.
func (a *Authority) BundlePEM() []byte { return toPEM(a.root.cert) }

func toPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// TrustDomain returns the domain that the authority vouches for.
func (a *Authority) TrustDomain() string { return a.domain }

// Marshal returns the authority with its private keys, as PEM in the clear:
// the caller seals it.
func (a *Authority) Marshal() ([]byte, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var out []byte
	for _, t := range []tier{a.root, a.issuing} {
		key, err := x509.MarshalPKCS8PrivateKey(t.key)
		if err != nil {
			return nil, fmt.Errorf("ca: marshal a key: %v", err)
		}
		out = append(out, toPEM(t.cert)...)
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	}
	return out, nil
}

// Parse reads what Marshal wrote. It refuses keys that do not fit their
// certificates and an issuing certificate that the root did not sign. now may
// be nil, which means time.Now.
func Parse(data []byte, now func() time.Time) (*Authority, error) {
	a := &Authority{now: orNow(now)}
	var err error
	if a.root, data, err = parseTier(data); err != nil {
		return nil, err
	}
	if a.issuing, data, err = parseTier(data); err != nil {
		return nil, err
	}
	if len(data) != 0 {
		return nil, errors.New("ca: data after the issuing key")
	}
	if len(a.root.cert.URIs) != 1 {
		return nil, errors.New("ca: root names no trust domain")
	}
	a.domain = a.root.cert.URIs[0].Host
	if err := checkDomain(a.domain); err != nil {
		return nil, err
	}
	if err := a.issuing.cert.CheckSignatureFrom(a.root.cert); err != nil {
		return nil, fmt.Errorf("ca: issuing certificate is not by the root: %v", err)
	}
	return a, nil
}

func parseTier(data []byte) (tier, []byte, error) {
	certBlock, rest := pem.Decode(data)
	if certBlock == nil || certBlock.Type != "CERTIFICATE" {
		return tier{}, nil, errors.New("ca: certificate expected")
	}
	keyBlock, rest := pem.Decode(rest)
	if keyBlock == nil || keyBlock.Type != "PRIVATE KEY" {
		return tier{}, nil, errors.New("ca: private key expected")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return tier{}, nil, fmt.Errorf("ca: certificate: %v", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return tier{}, nil, errors.New("ca: private key is not PKCS #8")
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok || !signer.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return tier{}, nil, errors.New("ca: private key does not belong to its certificate")
	}
	return tier{cert, signer}, rest, nil
}
