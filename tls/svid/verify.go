package svid

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rampart-security/rampart"
)

// Bounds on what a peer may show.
const (
	maxChain = 5
	maxDER   = 16 << 10
	maxID    = 2048                         // bytes, SPIFFE-ID section 2.3
	maxLife  = 24*time.Hour + 5*time.Minute // of a leaf, NotBefore to NotAfter; some start before their issue
	maxRoots = 16
)

// Check holds what a certificate chain must satisfy. The zero Check refuses
// every chain.
type Check struct {
	Trust *Trust // nil refuses; the system's roots are never used
	// Domains are the trust domains whose names count. nil is that of Trust alone:
	// that another domain has a bundle is no reason yet to let its names in.
	Domains []string
	Usage   x509.ExtKeyUsage // of the peer's role
	At      time.Time        // the moment of judgement
	Denied  Denier           // nil denies nobody who is valid
}

// Denier refuses peers that are valid otherwise. It must not block.
type Denier func(Verified) error

// Verified is a peer whose chain is valid.
type Verified struct {
	ID      string            // SPIFFE ID
	Leaf    *x509.Certificate //
	Issuers []string          // key ids of the authorities above it, root last: see KeyID
	Root    string            // the last of them
}

// Issuer is the key id of the certificate that signed the leaf.
func (v Verified) Issuer() string {
	if len(v.Issuers) == 0 {
		return ""
	}
	return v.Issuers[0]
}

// Serial is the leaf's serial number in lower-case hex.
func (v Verified) Serial() string { return v.Leaf.SerialNumber.Text(16) }

// Verify returns who a chain, leaf first, speaks for, if it is valid: X509-SVID
// sections 2 to 5 and RFC 5280 section 6. Errors are of kind Unauthenticated and
// name mtls.required, or are those of Denied. It says nothing about what the ID
// may do.
func (c Check) Verify(chain []*x509.Certificate) (Verified, error) {
	if err := bounded(chain); err != nil {
		return Verified{}, err
	}
	leaf := chain[0]
	id, err := PeerID(leaf)
	if err != nil {
		return Verified{}, err
	}
	roots, err := c.rootsOf(id)
	if err != nil {
		return Verified{}, err
	}
	opts := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   c.At,
		KeyUsages:     []x509.ExtKeyUsage{c.Usage},
	}
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	paths, err := leaf.Verify(opts)
	if err != nil {
		e := refuse("peer %.200q shows a certificate that is not valid", id)
		e.Err = err
		return Verified{}, e
	}
	if err := workloadOnly(leaf); err != nil {
		return Verified{}, err
	}
	return c.undenied(id, paths)
}

// rootsOf picks the one bundle that vouches for the trust domain of an ID. Name
// constraints in it are the second line only: Go's admit subdomains.
func (c Check) rootsOf(id string) (*x509.CertPool, error) {
	domain, accepted := Domain(id), c.Domains
	if accepted == nil {
		accepted = []string{c.Trust.Domain()}
	}
	if domain == "" || !slices.Contains(accepted, domain) {
		return nil, refuse("peer %.200q is of another trust domain", id)
	}
	roots := c.Trust.pool(domain)
	if roots == nil || c.At.IsZero() {
		return nil, refuse("no trust bundle to verify the peer with")
	}
	return roots, nil
}

// undenied returns the first valid path on which nobody is denied: with
// cross-signed authorities one may be, and another still vouch.
func (c Check) undenied(id string, paths [][]*x509.Certificate) (Verified, error) {
	var refusal error
	for _, path := range paths {
		v := Verified{ID: id, Leaf: path[0]}
		for _, cert := range path[1:] {
			v.Issuers = append(v.Issuers, KeyID(cert))
		}
		if len(v.Issuers) == 0 {
			continue // a root that is its own leaf; workloadOnly refused it already
		}
		v.Root = v.Issuers[len(v.Issuers)-1]
		if c.Denied == nil {
			return v, nil
		}
		err := c.Denied(v)
		if err == nil {
			return v, nil
		}
		refusal = err
	}
	if refusal == nil {
		refusal = refuse("peer %.200q has no authority above it", id)
	}
	return Verified{}, refusal
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
