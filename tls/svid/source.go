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
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
)

// Snapshot is one identity at one moment. It is read-only once it has been
// given to a Source.
type Snapshot struct {
	Certificate tls.Certificate
	Trust       *Trust   // that came with the certificate
	ID          string   // SPIFFE ID of Certificate
	Proof       Verified // how it was verified
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
	id, err := PeerID(leaf)
	if err != nil {
		return Snapshot{}, err
	}
	trust, err := NewTrust(0, Domain(id), rootsPEM, nil)
	if err != nil {
		return Snapshot{}, err
	}
	proof, err := Check{Trust: trust, Usage: x509.ExtKeyUsageClientAuth, At: time.Now()}.Verify(certs)
	if err != nil {
		return Snapshot{}, err
	}
	return Snapshot{
		Certificate: tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf},
		Trust:       trust,
		ID:          id,
		Proof:       proof,
		NotAfter:    leaf.NotAfter,
		Fingerprint: sha256.Sum256(leaf.Raw),
	}, nil
}

// Source holds the current certificate, whom to believe about peers, and which
// peers are denied. Rotation replaces the certificate: new handshakes use the
// new one, open connections live on. Trust and denials count at once, for open
// connections too: each change of them begins a new epoch.
//
// The zero Source has no identity and believes nobody: every handshake fails.
// Reading takes no lock. Safe for concurrent use; not to be copied.
type Source struct {
	own     atomic.Pointer[Snapshot]
	beliefs atomic.Pointer[beliefs]
	follows *Source // of a pinned one: whose beliefs count

	mu      sync.Mutex // held by writers, and guards changed
	changed chan struct{}
}

// beliefs is what a Source holds about peers. Immutable.
type beliefs struct {
	trust  *Trust
	denied Denier
	epoch  uint64
}

// NewSource returns a Source without an identity.
func NewSource() *Source { return new(Source) }

// Pinned returns a Source that shows one certificate for good and believes what
// s believes, now and later. Setting anything on it but a certificate changes
// nothing.
func (s *Source) Pinned(snap Snapshot) *Source {
	p := &Source{follows: s.root()}
	p.own.Store(&snap)
	return p
}

func (s *Source) root() *Source {
	if s.follows != nil {
		return s.follows
	}
	return s
}

func (s *Source) view() beliefs {
	if b := s.root().beliefs.Load(); b != nil {
		return *b
	}
	return beliefs{}
}

// Set replaces the identity and wakes those who wait on Changed. The trust that
// came with it counts until SetTrust brought one with a number.
func (s *Source) Set(next Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.own.Load(); old != nil {
		next.Generation = old.Generation
		if next.Fingerprint == old.Fingerprint {
			next.Generation--
		}
	}
	next.Generation++
	s.own.Store(&next)
	if b := s.view(); s.follows == nil && next.Trust != nil && b.trust.Version() == 0 && !b.trust.Same(next.Trust) {
		s.believe(next.Trust, b.denied)
	}
	s.wake()
}

// SetTrust replaces whom to believe. It refuses a version that is not newer, as
// of kind Conflict, and one without a root that the certificate in use chains to,
// as of kind Denied: the peers of this plane would refuse it, and it them.
func (s *Source) SetTrust(t *Trust) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.view()
	older := t.Version() < b.trust.Version() || t.Version() == b.trust.Version() && !t.Same(b.trust)
	if t == nil || b.trust != nil && older {
		return rampart.Errorf(rampart.Conflict, "", "svid: trust of version %d is not newer than %d", t.Version(), b.trust.Version())
	}
	if own := s.own.Load(); own != nil && own.Certificate.Leaf != nil && !t.vouches(own) {
		return rampart.Errorf(rampart.Denied, "mtls.required", "svid: trust of version %d has no root of the certificate in use", t.Version())
	}
	if t.Same(b.trust) && t.version == b.trust.version {
		return nil
	}
	s.believe(t, b.denied)
	s.wake()
	return nil
}

// vouches reports whether t has a root for own, whatever its dates.
func (t *Trust) vouches(own *Snapshot) bool {
	certs, err := ParseChain(own.Certificate.Certificate)
	if err != nil {
		return false
	}
	at := certs[0].NotAfter.Add(-time.Second)
	_, err = Check{Trust: t, Usage: x509.ExtKeyUsageClientAuth, At: at}.Verify(certs)
	return err == nil
}

// Deny replaces the judgement of peers that are valid otherwise: d is asked at
// every handshake and again, once, for every open connection. nil denies nobody.
func (s *Source) Deny(d Denier) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.believe(s.view().trust, d)
	s.wake()
}

// Touch begins a new epoch without a change of its own: who may call this plane
// changed elsewhere.
func (s *Source) Touch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.view()
	s.believe(b.trust, b.denied)
	s.wake()
}

// believe begins a new epoch; the caller holds the lock.
func (s *Source) believe(t *Trust, d Denier) {
	s.beliefs.Store(&beliefs{trust: t, denied: d, epoch: s.view().epoch + 1})
}

// wake tells waiters; the caller holds the lock.
func (s *Source) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Current returns the identity, or an error of kind Unavailable before the
// first Set.
func (s *Source) Current() (Snapshot, error) {
	own := s.own.Load()
	if own == nil || own.ID == "" {
		return Snapshot{}, rampart.Errorf(rampart.Unavailable, "mtls.required", "svid: this plane has no identity yet")
	}
	return *own, nil
}

// Trust returns whom to believe; nil, which believes nobody, before the first.
func (s *Source) Trust() *Trust { return s.view().trust }

// Epoch grows with every change of whom to believe, or whom to deny: what was
// judged in an older one must be judged anew. One atomic load.
func (s *Source) Epoch() uint64 {
	if b := s.root().beliefs.Load(); b != nil {
		return b.epoch
	}
	return 0
}

// Check returns what peers in the given role must satisfy at one moment, and the
// epoch that it speaks for.
func (s *Source) Check(usage x509.ExtKeyUsage, at time.Time) (Check, uint64) {
	b := s.view()
	return Check{Trust: b.trust, Denied: b.denied, Usage: usage, At: at}, b.epoch
}

// Changed returns a channel that is closed at the next change. Take it before
// reading, or a change in between goes unseen.
func (s *Source) Changed() <-chan struct{} {
	s = s.root()
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
