package svid

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rampart-security/rampart"
)

// Bounds on what a peer may show.
const (
	maxChain = 5
	maxDER   = 16 << 10
	maxID    = 2048           // bytes, SPIFFE-ID section 2.3
	maxLife  = 24 * time.Hour // of a leaf, NotBefore to NotAfter
	maxRoots = 16
)

// Check holds what a certificate chain must satisfy. The zero Check refuses
// every chain.
type Check struct {
	Roots  *x509.CertPool   // nil refuses; the system's roots are never used
	Domain string           // the one trust domain that Roots speak for, compared byte for byte
	Usage  x509.ExtKeyUsage // of the peer's role
	At     time.Time        // the moment of judgement
}

// Verify returns the SPIFFE ID of a chain, leaf first, if it is valid:
// X509-SVID sections 2 to 5 and RFC 5280 section 6. Errors are of kind
// Unauthenticated and name mtls.required. It says nothing about what the ID
// may do.
func (c Check) Verify(chain []*x509.Certificate) (string, error) {
	if err := bounded(chain); err != nil {
		return "", err
	}
	leaf := chain[0]
	id, err := PeerID(leaf)
	if err != nil {
		return "", err
	}
	// Name constraints are the second line only: Go's admit subdomains.
	if c.Domain == "" || Domain(id) != c.Domain {
		return "", refuse("peer %.200q is of another trust domain", id)
	}
	if c.Roots == nil || c.At.IsZero() {
		return "", refuse("no trust bundle to verify the peer with")
	}
	opts := x509.VerifyOptions{
		Roots:         c.Roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   c.At,
		KeyUsages:     []x509.ExtKeyUsage{c.Usage},
	}
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	if _, err := leaf.Verify(opts); err != nil {
		e := refuse("peer %.200q shows a certificate that is not valid", id)
		e.Err = err
		return "", e
	}
	if err := workloadOnly(leaf); err != nil {
		return "", err
	}
	return id, nil
}

func bounded(chain []*x509.Certificate) error {
	switch {
	case len(chain) == 0 || chain[0] == nil:
		return refuse("peer shows no certificate")
	case len(chain) > maxChain:
		return refuse("peer shows more than %d certificates", maxChain)
	}
	for _, cert := range chain {
		if len(cert.Raw) > maxDER {
			return refuse("peer shows a certificate of more than %d bytes", maxDER)
		}
	}
	return nil
}

// workloadOnly refuses a leaf that could sign certificates, or outlives what
// our authority would issue.
func workloadOnly(leaf *x509.Certificate) error {
	const signs = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	switch {
	case leaf.IsCA || leaf.KeyUsage&signs != 0:
		return refuse("peer shows a certificate authority as its own certificate")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return refuse("peer's certificate is not for digital signatures")
	case leaf.NotAfter.Sub(leaf.NotBefore) > maxLife:
		return refuse("peer's certificate lives longer than %s", maxLife)
	}
	return nil
}

func refuse(format string, args ...any) *rampart.Error {
	return rampart.Errorf(rampart.Unauthenticated, "mtls.required", "svid: "+format, args...)
}

// PeerID returns the SPIFFE ID in a certificate: exactly one URI SAN, valid,
// with a path (X509-SVID sections 2 and 3.1). It verifies nothing else.
func PeerID(cert *x509.Certificate) (string, error) {
	if len(cert.URIs) != 1 {
		return "", refuse("peer's certificate has %d URI names, must have one", len(cert.URIs))
	}
	text := cert.URIs[0].String()
	if len(text) > maxID {
		return "", refuse("peer's SPIFFE ID is longer than %d bytes", maxID)
	}
	id, err := spiffeid.FromString(text)
	if err != nil || id.Path() == "" {
		return "", refuse("peer's URI name is not a SPIFFE ID with a path")
	}
	return text, nil
}

// Domain returns the trust domain of a SPIFFE ID, or "" if it is none.
func Domain(id string) string {
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return ""
	}
	return parsed.TrustDomain().Name()
}

// Peer is the other end of a verified connection.
type Peer struct {
	ID          string
	Fingerprint [32]byte // SHA-256 of the leaf's DER
	NotBefore   time.Time
	NotAfter    time.Time
}

// PeerOf returns the peer of a connection made with a configuration of
// tls/profile, which is what makes the answer true; ok is false when the peer
// showed no certificate.
func PeerOf(state *tls.ConnectionState) (peer Peer, ok bool) {
	if state == nil || !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return Peer{}, false
	}
	leaf := state.PeerCertificates[0]
	id, err := PeerID(leaf)
	if err != nil {
		return Peer{}, false
	}
	return Peer{ID: id, Fingerprint: sha256.Sum256(leaf.Raw), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}, true
}

// ParseChain parses a bounded chain of DER certificates, leaf first.
func ParseChain(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, refuse("a chain has 1 to %d certificates", maxChain)
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		if len(der) > maxDER {
			return nil, refuse("a certificate has at most %d bytes", maxDER)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refuse("certificate %d of the chain does not parse", i+1)
		}
		certs[i] = cert
	}
	return certs, nil
}

// ParseRoots reads the PEM of 1 to 16 CA certificates.
func ParseRoots(bundle []byte) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for rest := bytes.TrimSpace(bundle); len(rest) > 0; n++ {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || n == maxRoots {
			return nil, errors.New("svid: trust bundle must be PEM of 1 to 16 certificates")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("svid: trust bundle: certificate %d: %v", n+1, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("svid: trust bundle: certificate %d is no authority", n+1)
		}
		pool.AddCert(cert)
		rest = bytes.TrimSpace(rest)
	}
	if n == 0 {
		return nil, errors.New("svid: trust bundle is empty")
	}
	return pool, nil
}
