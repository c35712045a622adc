// Package ca is the internal certificate authority: roots that are trusted, an
// issuing certificate below one of them, and short-lived leaves for workloads
// (SPIFFE X.509-SVIDs), for databases and for the local edge.
//
// Our own roots and what they sign carry name constraints (RFC 5280 section
// 4.2.1.10): they can vouch for one trust domain, localhost and loopback
// addresses, and nothing else. Who trusts the root in a browser gives nothing
// more away, even if its key is stolen.
//
// An Authority changes as a value: Clone it, call what changes it, Marshal the
// clone, and put it in force once it is stored. A crash in between leaves the
// authority as it was.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/svid"
)

// Lifetimes of the tiers.
const (
	rootLife    = 365 * 24 * time.Hour
	onlineLife  = 7 * 24 * time.Hour  // of an issuing certificate that can be renewed without a person
	offlineLife = 90 * 24 * time.Hour // of one that a person signs
	warnAhead   = 30 * 24 * time.Hour // a person is asked that long before the end
)

// Skew is how far the start of a certificate lies before its issue, for peers
// whose clocks run behind.
const Skew = time.Minute

// Kind says where the key of the root is.
type Kind string

// Kinds of authority.
const (
	Embedded Kind = "embedded" // here
	Offline  Kind = "offline"  // taken out, or about to be: a person signs issuing certificates
	Upstream Kind = "upstream" // with another authority, which signs issuing certificates
)

// Authority issues certificates for one trust domain. Methods that change it
// say so and are for its one owner, a Clone; all others may be called
// concurrently. Keys are never printed.
type Authority struct {
	domain string
	now    func() time.Time
	kind   Kind

	version   uint64    // of the trust bundle
	step      Step      // of a rotation
	since     time.Time // of the step, or of the last change of the bundle
	published uint64    // version with which the new root came in
	roots     []tier    // the old one first; keys may be elsewhere

	issuing  *issuing // signs; nil before an upstream authority signed the first
	previous *issuing // what signed before StepActivate, to go back to
	next     *issuing // signed by the new root elsewhere, for StepActivate
	request  crypto.Signer
	past     []Issuer // issuing certificates that are replaced and not expired

	unrecorded time.Time // until then certificates may be out that nobody wrote down
}

// tier is a CA certificate and its key, which is nil when it is elsewhere.
type tier struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issuing is the certificate that signs leaves, and what lies between it and
// its root.
type issuing struct {
	tier
	above []*x509.Certificate
	root  string // key id
}

// Issuer is an issuing certificate by what is needed to void it.
type Issuer struct {
	KeyID    string    `json:"key_id"`
	Root     string    `json:"root"`   // key id
	Serial   string    `json:"serial"` // hex
	NotAfter time.Time `json:"not_after"`
}

// Format prints the trust domain under every verb, never a key.
func (a *Authority) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "ca.Authority(%s)", a.domain) }

// New makes an authority with keys of its own. trustDomain is a SPIFFE trust
// domain in its canonical form; now may be nil, which means time.Now.
func New(trustDomain string, now func() time.Time) (*Authority, error) {
	if err := checkDomain(trustDomain); err != nil {
		return nil, err
	}
	a := &Authority{domain: trustDomain, now: orNow(now), kind: Embedded, version: 1}
	a.since = a.now().UTC()
	root, err := a.newRoot()
	if err != nil {
		return nil, err
	}
	a.roots = []tier{root}
	if a.issuing, err = a.sign(root); err != nil {
		return nil, err
	}
	return a, nil
}

// NewUpstream makes an authority below another one, whose roots are given as
// PEM. It cannot issue until Import took a chain for its Request.
func NewUpstream(trustDomain string, rootsPEM []byte, now func() time.Time) (*Authority, error) {
	if err := checkDomain(trustDomain); err != nil {
		return nil, err
	}
	roots, err := parseCerts(rootsPEM, maxRoots)
	if err != nil {
		return nil, fmt.Errorf("ca: roots of the upstream authority: %w", err)
	}
	a := &Authority{domain: trustDomain, now: orNow(now), kind: Upstream, version: 1}
	a.since = a.now().UTC()
	a.roots = keyless(roots)
	return a, nil
}

func keyless(certs []*x509.Certificate) []tier {
	out := make([]tier, len(certs))
	for i, c := range certs {
		out[i] = tier{cert: c}
	}
	return out
}

// Clone returns a copy that can be changed without an effect on a.
func (a *Authority) Clone() *Authority {
	b := *a
	b.roots, b.past = slices.Clone(a.roots), slices.Clone(a.past)
	return &b
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

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("ca: make a key: %v", err)
	}
	return key, nil
}

// newRoot makes a root that signs itself.
func (a *Authority) newRoot() (tier, error) {
	key, err := newKey()
	if err != nil {
		return tier{}, err
	}
	t, err := tierTemplate(a.domain, "root", a.now(), rootLife)
	if err != nil {
		return tier{}, err
	}
	t.MaxPathLen = 1
	cert, err := create(t, tier{t, key}, key.Public())
	return tier{cert, key}, err
}

// sign makes an issuing certificate below a root whose key is here.
func (a *Authority) sign(root tier) (*issuing, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	cert, err := signIssuing(a.domain, root, key.Public(), a.now(), a.issuingLife())
	if err != nil {
		return nil, err
	}
	return &issuing{tier: tier{cert, key}, root: svid.KeyID(root.cert)}, nil
}

func signIssuing(domain string, root tier, public crypto.PublicKey, now time.Time, life time.Duration) (*x509.Certificate, error) {
	t, err := tierTemplate(domain, "issuing", now, life)
	if err != nil {
		return nil, err
	}
	t.MaxPathLenZero = true
	if t.NotAfter.After(root.cert.NotAfter) {
		t.NotAfter = root.cert.NotAfter
	}
	return create(t, root, public)
}

func create(t *x509.Certificate, parent tier, public crypto.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent.cert, public, parent.key)
	if err != nil {
		return nil, fmt.Errorf("ca: sign %s: %v", t.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("ca: read %s back: %v", t.Subject.CommonName, err)
	}
	return cert, nil
}

func (a *Authority) issuingLife() time.Duration {
	if a.kind == Offline {
		return offlineLife
	}
	return onlineLife
}

func tierTemplate(domain, name string, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		// Chains are built by subject; a suffix keeps two roots of one domain
		// apart in a browser's store.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Rampart %s %s %s", domain, name, serial.Text(36)[:6])},
		NotBefore:             now.Add(-Skew),
		NotAfter:              now.Add(life),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: domain}},

		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{domain},
		PermittedDNSDomains:         []string{"localhost", domain},
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

// Serial is the serial number of a certificate in lower-case hex.
func Serial(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

// SetKind tells where the root's key is meant to be, and reports whether that is
// news. It changes a. An authority whose key is not here cannot be Embedded, and
// none becomes Upstream or stops to be: their roots have nothing in common.
func (a *Authority) SetKind(k Kind) (bool, error) {
	switch {
	case a.kind == k:
		return false, nil
	case a.kind == Upstream || k == Upstream:
		return false, fmt.Errorf("ca: this authority is %s and cannot become %s; take a new state folder", a.kind, k)
	case k == Embedded && a.signer().key == nil:
		return false, fmt.Errorf("ca: the key of root %s was taken out; write trust: { root: offline }", svid.KeyID(a.signer().cert))
	}
	a.kind = k
	return true, nil
}

// SetRoots replaces the roots of an upstream authority by those in PEM, and
// reports whether they differ. It changes a. Roots below which we issue, or of
// which a certificate is alive, must stay.
func (a *Authority) SetRoots(rootsPEM []byte, live []Live) (bool, error) {
	roots, err := parseCerts(rootsPEM, maxRoots)
	if err != nil {
		return false, fmt.Errorf("ca: roots of the upstream authority: %w", err)
	}
	if a.kind != Upstream {
		return false, fmt.Errorf("ca: this authority is %s and has roots of its own", a.kind)
	}
	if slices.EqualFunc(roots, a.roots, func(c *x509.Certificate, t tier) bool { return bytes.Equal(c.Raw, t.cert.Raw) }) {
		return false, nil
	}
	for _, old := range a.roots {
		id := svid.KeyID(old.cert)
		if slices.ContainsFunc(roots, func(c *x509.Certificate) bool { return svid.KeyID(c) == id }) {
			continue
		}
		if a.issuing != nil && a.issuing.root == id {
			return false, fmt.Errorf("ca: root %s is gone, but our issuing certificate is below it; keep the old root in the file until the new one signs", id)
		}
		if held := named(live, id); len(held) > 0 {
			return false, fmt.Errorf("ca: root %s is gone, but is needed still; keep it in the file until then: %s", id, strings.Join(held, "; "))
		}
	}
	a.roots = keyless(roots)
	a.changed()
	return true, nil
}

// Touch makes a new version of the trust bundle: something beside the roots has
// changed. It changes a.
func (a *Authority) Touch() { a.version++ }

// Raise makes a version of the trust bundle that is newer than seen, which a peer
// has from a life that this authority does not remember: its database came back
// from a backup. A root that is under way counts as published anew, as that peer
// knows another bundle. It changes a, and reports false if its version is newer.
func (a *Authority) Raise(seen uint64) bool {
	if seen <= a.version {
		return false
	}
	a.version = seen
	a.changed()
	if a.step == StepPublish || a.step == StepActivate {
		a.published = a.version
	}
	return true
}

// changed notes that the bundle is another one.
func (a *Authority) changed() {
	a.version++
	a.since = a.now().UTC()
}

// signer is the root below which new certificates are.
func (a *Authority) signer() tier {
	if a.step == StepActivate {
		return a.roots[len(a.roots)-1]
	}
	return a.roots[0]
}

// BundlePEM returns the trust bundle: the roots that peers shall believe, as PEM.
func (a *Authority) BundlePEM() []byte {
	var out []byte
	for _, t := range a.trusted() {
		out = append(out, PEM(t.cert)...)
	}
	return out
}

func (a *Authority) trusted() []tier {
	if a.step == StepPrepare {
		return a.roots[:1]
	}
	return a.roots
}

// PEM writes a certificate.
func PEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// TrustDomain returns the domain that the authority vouches for.
func (a *Authority) TrustDomain() string { return a.domain }

// Kind tells where the root's key is.
func (a *Authority) Kind() Kind { return a.kind }

// Version is that of the trust bundle. It grows with each change of it.
func (a *Authority) Version() uint64 { return a.version }

// Published is the Version with which the new root of a rotation came in.
func (a *Authority) Published() uint64 { return a.published }

// Step is where a rotation of the root stands, and since when.
func (a *Authority) Step() (Step, time.Time) { return a.step, a.since }

// Cert describes a certificate of the authority.
type Cert struct {
	*x509.Certificate
	Signs bool // new certificates are below it
	Key   bool // its key is here
}

// Roots returns the roots, the old one first.
func (a *Authority) Roots() []Cert {
	out := make([]Cert, len(a.roots))
	for i, t := range a.roots {
		signs := a.issuing != nil && a.issuing.root == svid.KeyID(t.cert)
		out[i] = Cert{t.cert, signs, t.key != nil}
	}
	return out
}

// Issuing returns the issuing certificate; false before there is one.
func (a *Authority) Issuing() (Cert, bool) {
	if a.issuing == nil {
		return Cert{}, false
	}
	return Cert{a.issuing.cert, true, true}, true
}

// Issuers returns every issuing certificate that is not expired, that in use
// first.
func (a *Authority) Issuers() []Issuer {
	var out []Issuer
	for _, i := range []*issuing{a.issuing, a.previous, a.next} {
		if i != nil {
			out = append(out, issuerOf(i))
		}
	}
	for _, p := range a.past {
		if p.NotAfter.After(a.now()) && !slices.ContainsFunc(out, func(o Issuer) bool { return o.KeyID == p.KeyID }) {
			out = append(out, p)
		}
	}
	return out
}

func issuerOf(i *issuing) Issuer {
	return Issuer{KeyID: svid.KeyID(i.cert), Root: i.root, Serial: Serial(i.cert), NotAfter: i.cert.NotAfter}
}

// install puts another issuing certificate in use.
func (a *Authority) install(next *issuing) {
	now := a.now()
	a.past = slices.DeleteFunc(a.past, func(p Issuer) bool { return !p.NotAfter.After(now) })
	if a.issuing != nil {
		a.past = append(a.past, issuerOf(a.issuing))
	}
	if over := len(a.past) - maxPast; over > 0 {
		a.past = a.past[over:]
	}
	a.issuing = next
}

func conflict(format string, args ...any) error {
	return rampart.Errorf(rampart.Conflict, "mtls.required", "ca: "+format, args...)
}
