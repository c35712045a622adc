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
	"regexp"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/svid"
)

// Bounds on what may be asked for.
const (
	maxCSR      = 16 << 10
	maxNames    = 16
	minTTL      = 10 * time.Second
	svidTTL     = time.Hour
	maxSVID     = 24 * time.Hour // NotBefore to NotAfter: no verifier of ours takes more
	databaseTTL = time.Hour
	edgeTTL     = 7 * 24 * time.Hour
	minRSA      = 2048
	minExponent = 65537
)

var roleForm = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// IssueOptions say what the certificate is for. They come from the control
// plane's own configuration, never from the applicant.
type IssueOptions struct {
	DNS        []string      // localhost, the trust domain, or names below them
	IPs        []net.IP      // loopback addresses
	TTL        time.Duration // workloads: 10 s to 24 h, zero is 1 h; servers: 10 s to 7 d, zero is 7 d
	After      time.Time     // workloads: a cut-off that the certificate is to count after; zero is none
	ServerOnly bool          // a server of the house that is no workload, the edge or a database: serverAuth alone and no SPIFFE ID
}

// Certificate is one that was issued.
type Certificate struct {
	Chain    [][]byte  // DER, leaf first, up to the one below the root
	Issued   time.Time // as its dates say; cut-offs of its owner go by it
	NotAfter time.Time
	Serial   string // hex
	Issuer   string // key id
	Root     string // key id
}

// Issue signs a certificate for the key in a certificate request (RFC 2986,
// DER). The request contributes its public key and the proof that the
// applicant holds the private one; whatever names, usages or lifetime it asks
// for are ignored. id is the SPIFFE ID that the applicant was attested as,
// and "" for an edge certificate.
//
// The chain is leaf first, then the issuing certificate and what is between it
// and its root, as DER. Refusals are of kind Invalid.
func (a *Authority) Issue(csrDER []byte, id string, opt IssueOptions) (chain [][]byte, notAfter time.Time, err error) {
	c, err := a.Sign(csrDER, id, opt)
	return c.Chain, c.NotAfter, err
}

// Sign is Issue, and tells what to write down.
func (a *Authority) Sign(csrDER []byte, id string, opt IssueOptions) (Certificate, error) {
	public, err := provenKey(csrDER)
	if err != nil {
		return Certificate{}, err
	}
	leaf, err := a.leaf(id, opt)
	if err != nil {
		return Certificate{}, err
	}
	return a.signLeaf(leaf, public)
}

// IssueDatabaseClient is Sign for a service that logs in at a database of the
// house: the common name is the role, and the certificate is good for nothing
// else. ttl is 10 s to 1 h; zero is 1 h.
func (a *Authority) IssueDatabaseClient(csrDER []byte, role string, ttl time.Duration) (Certificate, error) {
	public, err := provenKey(csrDER)
	if err != nil {
		return Certificate{}, err
	}
	// A name with a dot would be read as a host by verifiers that look for one in
	// the common name.
	if !roleForm.MatchString(role) {
		return Certificate{}, refuse("%.100q is no role of a database: want lower-case letters, digits and _", role)
	}
	if ttl == 0 {
		ttl = databaseTTL
	}
	if ttl < minTTL || ttl > databaseTTL {
		return Certificate{}, refuse("lifetime must be %s to %s", minTTL, databaseTTL)
	}
	leaf, err := a.template(a.now(), ttl)
	if err != nil {
		return Certificate{}, err
	}
	leaf.Subject.CommonName = role
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.signLeaf(leaf, public)
}

func (a *Authority) signLeaf(leaf *x509.Certificate, public crypto.PublicKey) (Certificate, error) {
	by := a.issuing
	if by == nil {
		return Certificate{}, rampart.Errorf(rampart.Unavailable, "mtls.required", "ca: no issuing certificate yet; the upstream authority has not signed one")
	}
	if leaf.NotAfter.After(by.cert.NotAfter) {
		leaf.NotAfter = by.cert.NotAfter
	}
	if !a.now().Before(leaf.NotAfter) {
		return Certificate{}, expired()
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, by.cert, public, by.key)
	if err != nil {
		return Certificate{}, refuse("certificate cannot be signed: %v", err)
	}
	chain := [][]byte{der, by.cert.Raw}
	for _, c := range by.above {
		chain = append(chain, c.Raw)
	}
	issued := leaf.NotBefore.Truncate(time.Second).Add(Skew) // as the encoding has it
	return Certificate{Chain: chain, Issued: issued, NotAfter: leaf.NotAfter, Serial: leaf.SerialNumber.Text(16), Issuer: svid.KeyID(by.cert), Root: by.root}, nil
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
	issued, err := a.issuedAfter(opt.After)
	if err != nil {
		return nil, err
	}
	leaf, err := a.template(issued, ttl)
	if err != nil {
		return nil, err
	}
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leaf.DNSNames, leaf.IPAddresses = opt.DNS, opt.IPs
	if opt.ServerOnly {
		if id != "" || len(opt.DNS)+len(opt.IPs) == 0 {
			return nil, refuse("an edge certificate has host names and no SPIFFE ID")
		}
		return leaf, nil
	}
	if most := leaf.NotBefore.Add(maxSVID); leaf.NotAfter.After(most) {
		leaf.NotAfter = most
	}
	uri, err := a.workload(id)
	if err != nil {
		return nil, err
	}
	leaf.URIs = []*url.URL{uri}
	leaf.ExtKeyUsage = append(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	return leaf, nil
}

// issuedAfter is when a certificate counts as issued: now or, if a cut-off of its
// owner lies ahead, just after that. Certificates begin Skew before their issue,
// so one that is dated ahead is good at once; a cut-off further ahead is a clock
// that is wrong.
func (a *Authority) issuedAfter(cutoff time.Time) (time.Time, error) {
	now := a.now()
	if now.Truncate(time.Second).After(cutoff) {
		return now, nil
	}
	issued := cutoff.Truncate(time.Second).Add(time.Second)
	if issued.Sub(now) > Skew {
		return time.Time{}, rampart.Errorf(rampart.Unavailable, "mtls.required", "ca: certificates of this identity are revoked up to %s, which is too far ahead; look at the clocks of the control planes", clock(cutoff))
	}
	return issued, nil
}

// template is what all leaves have.
func (a *Authority) template(issued time.Time, ttl time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             issued.Add(-Skew),
		NotAfter:              issued.Add(ttl).Truncate(time.Second), // as the encoding does
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}, nil
}

func (o IssueOptions) lifetime() (time.Duration, error) {
	usual, most := svidTTL, maxSVID
	if o.ServerOnly {
		usual, most = edgeTTL, edgeTTL
	}
	switch {
	case o.TTL == 0:
		return usual, nil
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
