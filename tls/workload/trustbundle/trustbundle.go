// Package trustbundle reads and writes SPIFFE trust bundles: what one trust
// domain publishes of itself so that others believe its workloads (SPIFFE Trust
// Domain and Bundle section 4, X509-SVID section 6.1).
//
// A document does not say whose it is. The trust domain comes from our own
// configuration, and the keys count for that domain alone.
package trustbundle

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rampart-security/rampart/internal/jws"
)

// Bounds on the document of somebody else.
const (
	MaxSize  = 256 << 10 // bytes
	maxKeys  = 64        // of any kind
	maxRoots = 16
	maxJWT   = 32
	maxKeyID = 128
	maxDepth = 6
)

// Uses of a key (section 4.2.2).
const (
	useX509 = "x509-svid"
	useJWT  = "jwt-svid"
)

// Bundle is what one trust domain publishes.
type Bundle struct {
	Roots    []byte        // PEM of its X.509 authorities, in their order; nil: none
	JWT      []byte        // JWK set of the keys of its JWT-SVIDs, by kid; never nil after Parse
	Sequence uint64        // grows with every change; 0: not stated
	Hint     time.Duration // how often to look again; 0: not stated
}

// document is the JWK set with the members that SPIFFE adds (section 4.1).
type document struct {
	Keys     []jsontext.Value `json:"keys"`
	Sequence uint64           `json:"spiffe_sequence,omitzero"`
	Hint     int64            `json:"spiffe_refresh_hint,omitzero"` // seconds
}

// member is what is read of a JWK before the key itself counts.
type member struct {
	Kty string   `json:"kty"`
	Kid string   `json:"kid,omitzero"`
	Use string   `json:"use"`
	Alg string   `json:"alg,omitzero"`
	Crv string   `json:"crv,omitzero"`
	X   string   `json:"x,omitzero"`
	Y   string   `json:"y,omitzero"`
	N   string   `json:"n,omitzero"`
	E   string   `json:"e,omitzero"`
	X5c []string `json:"x5c,omitzero"`

	// A key that is published has neither.
	D jsontext.Value `json:"d,omitzero"`
	K jsontext.Value `json:"k,omitzero"`
}

// known reports whether the key counts at all: one of an unknown or missing kty
// or use is passed over (sections 4.2.1 and 4.2.2), and so is an authority
// without its certificate (X509-SVID section 6.2).
func (m member) known() bool {
	if m.Kty != "EC" && m.Kty != "RSA" {
		return false
	}
	return m.Use == useJWT || m.Use == useX509 && len(m.X5c) > 0
}

// sound refuses what no trust domain that is in control of its keys publishes.
func (m member) sound() error {
	switch {
	case m.D != nil || m.K != nil:
		return errors.New("is a private key")
	case m.Use == useJWT && (m.Kid == "" || len(m.Kid) > maxKeyID):
		return fmt.Errorf("must have a kid of 1 to %d bytes", maxKeyID)
	}
	return nil
}

// Parse reads the bundle of a trust domain. One bad key of a known kind refuses
// the whole: half a bundle would be a bundle that nobody published.
func Parse(domain string, data []byte) (Bundle, error) {
	b, err := parse(domain, data)
	if err != nil {
		return Bundle{}, fmt.Errorf("trustbundle: of %.100q: %w", domain, err)
	}
	return b, nil
}

func parse(domain string, data []byte) (Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(domain)
	if err != nil || td.Name() != domain {
		return Bundle{}, errors.New("not a trust domain")
	}
	if len(data) > MaxSize {
		return Bundle{}, fmt.Errorf("longer than %d bytes", MaxSize)
	}
	var doc document
	if err := jws.Decode(data, &doc, maxDepth, false); err != nil {
		return Bundle{}, fmt.Errorf("the document %v", err)
	}
	switch {
	case doc.Keys == nil: // section 4.1.3
		return Bundle{}, errors.New("the document has no keys member")
	case len(doc.Keys) > maxKeys:
		return Bundle{}, fmt.Errorf("more than %d keys", maxKeys)
	case doc.Hint < 0:
		return Bundle{}, errors.New("spiffe_refresh_hint is negative")
	}
	kept, tokens, err := sift(doc.Keys)
	if err != nil {
		return Bundle{}, err
	}
	roots, err := rootsOf(td, kept)
	if err != nil {
		return Bundle{}, err
	}
	set, err := json.Marshal(document{Keys: tokens})
	// A hint beyond a year is none that time.Duration need hold.
	hint := time.Duration(min(doc.Hint, 365*24*3600)) * time.Second
	return Bundle{Roots: roots, JWT: set, Sequence: doc.Sequence, Hint: hint}, err
}

// sift keeps the keys that count, and of those for JWT-SVIDs, by kid, the
// members that make a public key and no other.
func sift(keys []jsontext.Value) (kept, tokens []jsontext.Value, err error) {
	byKid := map[string]jsontext.Value{}
	kept, tokens = []jsontext.Value{}, []jsontext.Value{}
	for i, raw := range keys {
		var m member
		if err := jws.Decode(raw, &m, maxDepth, false); err != nil {
			return nil, nil, fmt.Errorf("key %d %v", i+1, err)
		}
		if !m.known() {
			continue
		}
		if err := m.sound(); err != nil {
			return nil, nil, fmt.Errorf("key %d %w", i+1, err)
		}
		m.X5c = m.X5c[:min(len(m.X5c), 1)] // all but the first do not count (X509-SVID section 6.2)
		if raw, err = json.Marshal(m); err != nil {
			return nil, nil, err
		}
		kept = append(kept, raw)
		if m.Use != useJWT {
			continue
		}
		if byKid[m.Kid] != nil || len(byKid) == maxJWT {
			return nil, nil, fmt.Errorf("key %d: kid is used twice, or more than %d keys for JWT-SVIDs", i+1, maxJWT)
		}
		m.X5c = nil
		if byKid[m.Kid], err = json.Marshal(m); err != nil {
			return nil, nil, err
		}
	}
	kids := make([]string, 0, len(byKid))
	for kid := range byKid {
		kids = append(kids, kid)
	}
	slices.Sort(kids)
	for _, kid := range kids {
		tokens = append(tokens, byKid[kid])
	}
	return kept, tokens, nil
}

// rootsOf reads the keys as go-spiffe does, which holds that each is one, and
// returns the authorities.
func rootsOf(td spiffeid.TrustDomain, kept []jsontext.Value) ([]byte, error) {
	text, err := json.Marshal(document{Keys: kept})
	if err != nil {
		return nil, err
	}
	read, err := spiffebundle.Parse(td, text)
	if err != nil {
		return nil, err
	}
	certs := read.X509Authorities()
	if len(certs) > maxRoots {
		return nil, fmt.Errorf("more than %d authorities", maxRoots)
	}
	var out []byte
	for _, cert := range certs {
		if err := authority(cert); err != nil {
			return nil, err
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return out, nil
}

// authority holds that a certificate may sign and bears no workload's name
// (X509-SVID sections 3.2 and 4.1). It may bear that of another trust domain:
// here it vouches for the one that published it.
func authority(cert *x509.Certificate) error {
	if !cert.IsCA || !cert.BasicConstraintsValid {
		return errors.New("a certificate is no authority")
	}
	for _, uri := range cert.URIs {
		if strings.EqualFold(uri.Scheme, "spiffe") && uri.Path != "" {
			return errors.New("an authority bears the name of a workload")
		}
	}
	return nil
}

// Marshal writes the bundle as others read it. Roots and JWT must be as Parse
// leaves them; a nil JWT has no keys.
func (b Bundle) Marshal(domain string) ([]byte, error) {
	td, err := spiffeid.TrustDomainFromString(domain)
	if err != nil {
		return nil, fmt.Errorf("trustbundle: %w", err)
	}
	keys, err := b.x509Keys(td)
	if err != nil {
		return nil, fmt.Errorf("trustbundle: %w", err)
	}
	if len(b.JWT) > 0 {
		var set document
		if err := jws.Decode(b.JWT, &set, maxDepth, false); err != nil {
			return nil, fmt.Errorf("trustbundle: keys of JWT-SVIDs: %w", err)
		}
		keys = append(keys, set.Keys...)
	}
	return json.Marshal(document{Keys: keys, Sequence: b.Sequence, Hint: int64(b.Hint / time.Second)})
}

func (b Bundle) x509Keys(td spiffeid.TrustDomain) ([]jsontext.Value, error) {
	certs, err := Certificates(b.Roots)
	if err != nil {
		return nil, err
	}
	text, err := spiffebundle.FromX509Authorities(td, certs).Marshal()
	if err != nil {
		return nil, err
	}
	var doc document
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	return append([]jsontext.Value{}, doc.Keys...), nil
}

// Certificates reads the PEM of at most 16 certificates.
func Certificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(out) == maxRoots {
			return nil, fmt.Errorf("roots must be PEM of at most %d certificates", maxRoots)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("a root does not parse: %w", err)
		}
		out = append(out, cert)
	}
	return out, nil
}
