package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/rampart-security/rampart/tls/svid"
)

// format is the version of what Marshal writes.
const format = 2

// maxState bounds what Parse reads.
const maxState = 1 << 20

// stored is an Authority as it is kept.
type stored struct {
	Format     int       `json:"format"`
	Domain     string    `json:"domain"`
	Kind       Kind      `json:"kind"`
	Version    uint64    `json:"version"`
	Step       Step      `json:"step"`
	Since      time.Time `json:"since"`
	Published  uint64    `json:"published,omitempty"`
	Roots      []sealed  `json:"roots"`
	Issuing    *sealed   `json:"issuing,omitempty"`
	Previous   *sealed   `json:"previous,omitempty"`
	Next       *sealed   `json:"next,omitempty"`
	Request    []byte    `json:"request,omitempty"` // PKCS #8
	Past       []Issuer  `json:"past,omitempty"`
	Unrecorded time.Time `json:"unrecorded,omitzero"`
}

// sealed is a tier as it is kept: DER, and the key as PKCS #8.
type sealed struct {
	Cert  []byte   `json:"cert"`
	Key   []byte   `json:"key,omitempty"`
	Above [][]byte `json:"above,omitempty"`
}

// Marshal returns the authority with its private keys in the clear: the caller
// seals it.
func (a *Authority) Marshal() ([]byte, error) {
	s := stored{
		Format: format, Domain: a.domain, Kind: a.kind, Version: a.version, Step: a.step, Since: a.since, Published: a.published,
		Past: a.past, Unrecorded: a.unrecorded,
	}
	var err error
	for _, t := range a.roots {
		kept, e := keep(&issuing{tier: t})
		s.Roots, err = append(s.Roots, *kept), errors.Join(err, e)
	}
	for to, from := range map[**sealed]*issuing{&s.Issuing: a.issuing, &s.Previous: a.previous, &s.Next: a.next} {
		if from != nil {
			var e error
			*to, e = keep(from)
			err = errors.Join(err, e)
		}
	}
	if a.request != nil {
		var e error
		s.Request, e = x509.MarshalPKCS8PrivateKey(a.request)
		err = errors.Join(err, e)
	}
	if err != nil {
		return nil, fmt.Errorf("ca: marshal: %v", err)
	}
	return json.Marshal(s)
}

func keep(i *issuing) (*sealed, error) {
	out := &sealed{Cert: i.cert.Raw}
	for _, c := range i.above {
		out.Above = append(out.Above, c.Raw)
	}
	if i.key == nil {
		return out, nil
	}
	var err error
	out.Key, err = x509.MarshalPKCS8PrivateKey(i.key)
	return out, err
}

// Parse reads what Marshal wrote, also that of the first release, which was PEM
// of one root and one issuing certificate. It refuses keys that do not fit their
// certificates and issuing certificates that no root signed. now may be nil,
// which means time.Now.
func Parse(data []byte, now func() time.Time) (*Authority, error) {
	if len(data) > maxState {
		return nil, errors.New("ca: the authority is longer than it can be")
	}
	if bytes.HasPrefix(data, []byte("-----BEGIN ")) {
		return parseFirst(data, now)
	}
	var s stored
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return nil, errors.New("ca: this is no authority")
	}
	if d.More() {
		return nil, errors.New("ca: data after the authority")
	}
	if s.Format != format {
		return nil, fmt.Errorf("ca: the authority has format %d, this program knows %d: use the newer program", s.Format, format)
	}
	return s.open(now)
}

func (s stored) open(now func() time.Time) (*Authority, error) {
	a := &Authority{
		domain: s.Domain, now: orNow(now), kind: s.Kind, version: s.Version, step: s.Step, since: s.Since, published: s.Published,
		past: s.Past, unrecorded: s.Unrecorded,
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	for _, kept := range s.Roots {
		t, err := kept.open()
		if err != nil {
			return nil, err
		}
		a.roots = append(a.roots, t.tier)
	}
	for to, from := range map[**issuing]*sealed{&a.issuing: s.Issuing, &a.previous: s.Previous, &a.next: s.Next} {
		if from == nil {
			continue
		}
		i, err := from.open()
		if err != nil {
			return nil, err
		}
		if i.key == nil {
			return nil, errors.New("ca: an issuing certificate has no key")
		}
		if i.root, err = a.rootOf(i); err != nil {
			return nil, fmt.Errorf("ca: issuing certificate: %w", err)
		}
		*to = i
	}
	if len(s.Request) == 0 {
		return a, nil
	}
	var err error
	a.request, err = parseKey(s.Request)
	return a, err
}

// check holds what must be true of every authority.
func (s stored) check() error {
	if err := checkDomain(s.Domain); err != nil {
		return err
	}
	rotating := s.Step == StepPrepare || s.Step == StepPublish || s.Step == StepActivate
	own := s.Kind == Embedded || s.Kind == Offline
	switch {
	case !own && s.Kind != Upstream, !rotating && s.Step != StepNone, s.Version == 0:
		return errors.New("ca: the authority's kind, step or version is unknown")
	case own && rotating != (len(s.Roots) == 2), own && !rotating && len(s.Roots) != 1:
		return errors.New("ca: the number of roots does not fit the step")
	case !own && (rotating || len(s.Roots) == 0 || len(s.Roots) > maxRoots):
		return errors.New("ca: the roots of an upstream authority do not rotate here")
	case own && s.Issuing == nil, (s.Step == StepActivate) != (s.Previous != nil), s.Next != nil && s.Step != StepPublish:
		return errors.New("ca: the issuing certificates do not fit the step")
	case len(s.Past) > maxPast:
		return errors.New("ca: too many past issuing certificates")
	}
	return nil
}

func (s sealed) open() (*issuing, error) {
	cert, err := x509.ParseCertificate(s.Cert)
	if err != nil || !cert.IsCA {
		return nil, errors.New("ca: a certificate of the authority does not parse, or is none of an authority")
	}
	out := &issuing{tier: tier{cert: cert}}
	if len(s.Above) > maxAbove {
		return nil, errors.New("ca: too many certificates above the issuing one")
	}
	for _, der := range s.Above {
		above, err := x509.ParseCertificate(der)
		if err != nil || !above.IsCA {
			return nil, errors.New("ca: a certificate above the issuing one does not parse")
		}
		out.above = append(out.above, above)
	}
	if len(s.Key) == 0 {
		return out, nil
	}
	out.key, err = parseKey(s.Key)
	if err == nil && !samePublic(out.key.Public(), cert.PublicKey) {
		err = errors.New("ca: private key does not belong to its certificate")
	}
	return out, err
}

func parseKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("ca: private key is not PKCS #8")
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("ca: private key is not ECDSA")
	}
	return signer, nil
}

// parseFirst reads the format of the first release.
func parseFirst(data []byte, now func() time.Time) (*Authority, error) {
	a := &Authority{now: orNow(now), kind: Embedded, version: 1}
	root, rest, err := parseTier(data)
	if err != nil {
		return nil, err
	}
	sub, rest, err := parseTier(rest)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, errors.New("ca: data after the issuing key")
	}
	if len(root.cert.URIs) != 1 {
		return nil, errors.New("ca: root names no trust domain")
	}
	a.domain = root.cert.URIs[0].Host
	if err := checkDomain(a.domain); err != nil {
		return nil, err
	}
	if err := sub.cert.CheckSignatureFrom(root.cert); err != nil {
		return nil, fmt.Errorf("ca: issuing certificate is not by the root: %v", err)
	}
	a.since = root.cert.NotBefore
	a.roots, a.issuing = []tier{root}, &issuing{tier: sub, root: svid.KeyID(root.cert)}
	a.unrecorded = a.now().Add(edgeTTL).UTC()
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
	i, err := sealed{Cert: certBlock.Bytes, Key: keyBlock.Bytes}.open()
	if err != nil {
		return tier{}, nil, err
	}
	return i.tier, rest, nil
}
