// Package svid answers "who am I, and who is at the other end?" with SPIFFE
// X.509-SVIDs: it holds a plane's own certificate and checks those of peers.
//
// The private key is born in the process that uses it and never leaves it.
package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
)

// Snapshot is one identity at one moment. It is read-only once it has been
// given to a Source.
type Snapshot struct {
	Certificate tls.Certificate
	Roots       *x509.CertPool // whom to believe about peers
	ID          string         // SPIFFE ID of Certificate
	NotAfter    time.Time
	Fingerprint [32]byte // SHA-256 of the leaf's DER: what cnf.x5t#S256 binds a token to (RFC 8705 section 3.1)
	Generation  uint64   // set by Source.Set; grows when the certificate changes
}

// NewSnapshot builds a Snapshot from an issued chain (DER, leaf first), the
// key it was issued for, and the PEM of the roots. It refuses a chain that its
// own roots would not accept now, so that a bad answer of the issuer never
// replaces a good identity.
func NewSnapshot(chain [][]byte, key crypto.Signer, rootsPEM []byte) (Snapshot, error) {
	certs, err := ParseChain(chain)
	if err != nil {
		return Snapshot{}, err
	}
	leaf := certs[0]
	public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return Snapshot{}, errors.New("svid: certificate is for another key")
	}
	roots, err := ParseRoots(rootsPEM)
	if err != nil {
		return Snapshot{}, err
	}
	id, err := PeerID(leaf)
	if err != nil {
		return Snapshot{}, err
	}
	check := Check{Roots: roots, Domain: Domain(id), Usage: x509.ExtKeyUsageClientAuth, At: time.Now()}
	if _, err := check.Verify(certs); err != nil {
		return Snapshot{}, err
	}
	return Snapshot{
		Certificate: tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf},
		Roots:       roots,
		ID:          id,
		NotAfter:    leaf.NotAfter,
		Fingerprint: sha256.Sum256(leaf.Raw),
	}, nil
}

// Source holds the current Snapshot. Rotation replaces it: new handshakes use
// the new certificate, open connections live on. The zero Source has no
// identity and every handshake that needs one fails. Safe for concurrent use;
// not to be copied.
type Source struct {
	mu      sync.RWMutex
	current Snapshot
	changed chan struct{}
}

// NewSource returns a Source without an identity.
func NewSource() *Source { return new(Source) }

// Set replaces the identity and wakes those who wait on Changed. To change the
// roots alone, set a copy of Current with other Roots.
func (s *Source) Set(next Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next.Generation = s.current.Generation
	if next.Fingerprint != s.current.Fingerprint {
		next.Generation++
	}
	s.current = next
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Current returns the identity, or an error of kind Unavailable before the
// first Set.
func (s *Source) Current() (Snapshot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.current.ID == "" {
		return Snapshot{}, rampart.Errorf(rampart.Unavailable, "mtls.required", "svid: this plane has no identity yet")
	}
	return s.current, nil
}

// Changed returns a channel that is closed at the next Set. Take it before
// Current, or a change in between goes unseen.
func (s *Source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// NewKeyAndCSR makes a P-256 key and a certificate request (DER) that proves
// possession of it and asks for nothing: names and lifetimes are the issuer's.
func NewKeyAndCSR() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("svid: make a key: %v", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("svid: sign the certificate request: %v", err)
	}
	return key, csr, nil
}
