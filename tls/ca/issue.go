package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rampart-security/rampart"
)

// Bounds on what may be asked for.
const (
	maxCSR      = 16 << 10
	maxNames    = 16
	minTTL      = 10 * time.Second
	svidTTL     = time.Hour
	edgeTTL     = 7 * 24 * time.Hour
	minRSA      = 2048
	minExponent = 65537
)

// IssueOptions say what the certificate is for. They come from the control
// plane's own configuration, never from the applicant.
type IssueOptions struct {
	DNS        []string      // localhost, the trust domain, or names below them
	IPs        []net.IP      // loopback addresses
	TTL        time.Duration // 10 s to 1 h (edge: 7 d); zero is the maximum
	ServerOnly bool          // an edge certificate: serverAuth alone and no SPIFFE ID
}

// Issue signs a certificate for the key in a certificate request (RFC 2986,
// DER). The request contributes its public key and the proof that the
// applicant holds the private one; whatever names, usages or lifetime it asks
// for are ignored. id is the SPIFFE ID that the applicant was attested as,
// and "" for an edge certificate.
//
// The chain is leaf first, then the issuing certificate, as DER. Refusals are
// of kind Invalid.
func (a *Authority) Issue(csrDER []byte, id string, opt IssueOptions) (chain [][]byte, notAfter time.Time, err error) {
	public, err := provenKey(csrDER)
	if err != nil {
		return nil, time.Time{}, err
	}
	leaf, err := a.leaf(id, opt)
	if err != nil {
		return nil, time.Time{}, err
	}
	a.mu.RLock()
	issuing := a.issuing
	a.mu.RUnlock()
	if leaf.NotAfter.After(issuing.cert.NotAfter) {
		leaf.NotAfter = issuing.cert.NotAfter
	}
	if !a.now().Before(leaf.NotAfter) {
		return nil, time.Time{}, rampart.Errorf(rampart.Unavailable, "mtls.required", "ca: issuing certificate has expired")
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, issuing.cert, public, issuing.key)
	if err != nil {
		return nil, time.Time{}, refuse("certificate cannot be signed: %v", err)
	}
	return [][]byte{der, issuing.cert.Raw}, leaf.NotAfter, nil
}

func refuse(format string, args ...any) error {
	return rampart.Errorf(rampart.Invalid, "mtls.required", "ca: "+format, args...)
}

// provenKey returns the public key of a request whose signature shows
// possession of the private one.
func provenKey(der []byte) (crypto.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, refuse("certificate request is longer than %d bytes", maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, refuse("certificate request does not parse")
	}
	if err := checkKey(csr.PublicKey); err != nil { // before the signature: a huge key is a slow one
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, refuse("certificate request does not prove possession of its key")
	}
	return csr.PublicKey, nil
}

func checkKey(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if size := k.Curve.Params().BitSize; size == 256 || size == 384 {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= minRSA && n <= 2*minRSA && k.E >= minExponent {
			return nil
		}
	}
	return refuse("key must be P-256, P-384, Ed25519 or RSA of %d to %d bits", minRSA, 2*minRSA)
}

// leaf is the certificate to sign, without its key.
func (a *Authority) leaf(id string, opt IssueOptions) (*x509.Certificate, error) {
	ttl, err := opt.lifetime()
	if err != nil {
		return nil, err
	}
	if err := a.checkNames(opt); err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := a.now()
	leaf := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-Skew),
		NotAfter:              now.Add(ttl).Truncate(time.Second), // as the encoding does
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:              opt.DNS,
		IPAddresses:           opt.IPs,
	}
	if opt.ServerOnly {
		if id != "" || len(opt.DNS)+len(opt.IPs) == 0 {
			return nil, refuse("an edge certificate has host names and no SPIFFE ID")
		}
		return leaf, nil
	}
	uri, err := a.workload(id)
	if err != nil {
		return nil, err
	}
	leaf.URIs = []*url.URL{uri}
	leaf.ExtKeyUsage = append(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	return leaf, nil
}

func (o IssueOptions) lifetime() (time.Duration, error) {
	most := svidTTL
	if o.ServerOnly {
		most = edgeTTL
	}
	switch {
	case o.TTL == 0:
		return most, nil
	case o.TTL < minTTL || o.TTL > most:
		return 0, refuse("lifetime must be %s to %s", minTTL, most)
	}
	return o.TTL, nil
}

func (a *Authority) workload(id string) (*url.URL, error) {
	parsed, err := spiffeid.FromString(id)
	if err != nil || parsed.Path() == "" {
		return nil, refuse("%.200q is not a SPIFFE ID with a path", id)
	}
	if parsed.TrustDomain().Name() != a.domain {
		return nil, refuse("%.200q is not in trust domain %s", id, a.domain)
	}
	return parsed.URL(), nil
}

// checkNames refuses names that the authority's own constraints would make
// every verifier refuse.
func (a *Authority) checkNames(opt IssueOptions) error {
	if len(opt.DNS)+len(opt.IPs) > maxNames {
		return refuse("a certificate has at most %d host names", maxNames)
	}
	for _, name := range opt.DNS {
		if !below(name, "localhost") && !below(name, a.domain) {
			return refuse("%.100q is not below localhost or %s", name, a.domain)
		}
	}
	for _, ip := range opt.IPs {
		if !ip.IsLoopback() {
			return refuse("%s is not a loopback address", ip)
		}
	}
	return nil
}

func below(name, parent string) bool {
	return !strings.Contains(name, "*") && (name == parent || strings.HasSuffix(name, "."+parent))
}
