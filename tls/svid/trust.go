package svid

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxFederated bounds how many other trust domains one Trust knows.
const maxFederated = 32

// Trust says whom to believe, as of one version: for each trust domain the roots
// that vouch for it, and for no other. The bundles are never merged: a partner's
// authority could mint our names. Immutable; a nil Trust believes nobody.
type Trust struct {
	version uint64
	domain  string
	bundles map[string]bundle
	sum     [32]byte // of all that it says but the version
}

// bundle is the roots of one trust domain.
type bundle struct {
	pool  *x509.CertPool
	certs []*x509.Certificate
}

// NewTrust reads the PEM of our own roots, which vouch for domain, and that of
// other trust domains by their names. Version 0 is a bundle that came with a
// certificate: any that is numbered replaces it.
func NewTrust(version uint64, domain string, roots []byte, federated map[string][]byte) (*Trust, error) {
	if len(federated) > maxFederated {
		return nil, fmt.Errorf("svid: more than %d federated trust domains", maxFederated)
	}
	if _, ok := federated[domain]; ok {
		return nil, errors.New("svid: our own trust domain is not federated")
	}
	all := maps.Clone(federated)
	if all == nil {
		all = map[string][]byte{}
	}
	all[domain] = roots
	t := &Trust{version: version, domain: domain, bundles: map[string]bundle{}}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		certs, err := parseBundle(name, all[name])
		if err != nil {
			return nil, err
		}
		b := bundle{x509.NewCertPool(), certs}
		fmt.Fprintf(h, "%s\n%d\n", name, len(certs))
		for _, c := range certs {
			b.pool.AddCert(c)
			h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(c.Raw))))
			h.Write(c.Raw)
		}
		t.bundles[name] = b
	}
	h.Sum(t.sum[:0])
	return t, nil
}

func parseBundle(domain string, pem []byte) ([]*x509.Certificate, error) {
	td, err := spiffeid.TrustDomainFromString(domain)
	if err != nil || td.Name() != domain {
		return nil, fmt.Errorf("svid: %.100q is not a trust domain", domain)
	}
	certs, err := parseRoots(pem)
	if err != nil {
		return nil, fmt.Errorf("svid: bundle of %s: %w", domain, err)
	}
	return certs, nil
}

// Version grows with every change; 0 is not numbered.
func (t *Trust) Version() uint64 {
	if t == nil {
		return 0
	}
	return t.version
}

// Domain is our own trust domain, "" of nil.
func (t *Trust) Domain() string {
	if t == nil {
		return ""
	}
	return t.domain
}

// Domains are all trust domains with a bundle, sorted, ours among them.
func (t *Trust) Domains() []string {
	if t == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(t.bundles))
}

// Roots are the roots that vouch for one trust domain; none for one without a
// bundle.
func (t *Trust) Roots(domain string) []*x509.Certificate {
	if t == nil {
		return nil
	}
	return slices.Clone(t.bundles[domain].certs)
}

// pool is what x509 verifies with; nil for a trust domain without a bundle.
func (t *Trust) pool(domain string) *x509.CertPool {
	if t == nil {
		return nil
	}
	return t.bundles[domain].pool
}

// Same reports whether two say the same, whatever their versions.
func (t *Trust) Same(other *Trust) bool {
	return t != nil && other != nil && t.sum == other.sum
}

// KeyID names the key of an authority as revocations do: its subject key id, or
// else the SHA-256 of its public key; lower-case hex.
func KeyID(cert *x509.Certificate) string {
	if len(cert.SubjectKeyId) > 0 {
		return hex.EncodeToString(cert.SubjectKeyId)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// ParseRoots reads the PEM of 1 to 16 CA certificates.
func ParseRoots(bundle []byte) (*x509.CertPool, error) {
	certs, err := parseRoots(bundle)
	if err != nil {
		return nil, fmt.Errorf("svid: %w", err)
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

func parseRoots(bundle []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := bytes.TrimSpace(bundle); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(out) == maxRoots || len(block.Bytes) > maxDER {
			return nil, fmt.Errorf("trust bundle must be PEM of 1 to %d certificates", maxRoots)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("trust bundle: certificate %d: %w", len(out)+1, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("trust bundle: certificate %d is no authority", len(out)+1)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, errors.New("trust bundle is empty")
	}
	return out, nil
}
