package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/svid"
)

// Bounds of what comes from other authorities.
const (
	maxRoots = 8
	maxAbove = 3  // certificates between the issuing one and its root: a chain has 5 at most
	maxPast  = 64 // issuing certificates that are remembered
)

// Signer is an authority above ours.
type Signer interface {
	// SignIntermediate signs the certificate of an authority that issues leaves
	// (path length 0) for the key of a request (RFC 2986), and returns it with the
	// certificates above it, as DER; the root may be left out.
	SignIntermediate(ctx context.Context, csrDER []byte, life time.Duration) (chain [][]byte, err error)
}

// RenewIssuing replaces the issuing certificate and its key once half its life
// has passed, and reports whether it did. It changes a. Leaves carry their
// issuing certificate, so those already issued stay valid. Where the root's key
// is not here it does nothing: see Request.
func (a *Authority) RenewIssuing() (bool, error) {
	if a.signer().key == nil || a.issuing != nil && a.now().Before(halfLife(a.issuing.cert)) {
		return false, nil
	}
	return true, a.ReplaceIssuing()
}

// ReplaceIssuing replaces the issuing certificate and its key now. It changes
// a. Where the root's key is not here, it is a Conflict.
func (a *Authority) ReplaceIssuing() error {
	root := a.signer()
	if root.key == nil {
		return conflict("the key of root %s is not here; have the request signed: rampart ca sign", svid.KeyID(root.cert))
	}
	next, err := a.sign(root)
	if err != nil {
		return err
	}
	a.install(next)
	return nil
}

func halfLife(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
}

// WantsIssuing reports whether somebody else should sign an issuing certificate
// now: for an upstream authority at half its life, for an offline root 30 days
// before its end.
func (a *Authority) WantsIssuing() bool {
	switch {
	case a.signer().key != nil:
		return false
	case a.issuing == nil:
		return true
	case a.kind == Upstream:
		return !a.now().Before(halfLife(a.issuing.cert))
	}
	return !a.now().Before(a.issuing.cert.NotAfter.Add(-warnAhead))
}

// IssuingLife is for how long an issuing certificate should be signed.
func (a *Authority) IssuingLife() time.Duration { return a.issuingLife() }

// Request returns the request (DER) for the next issuing certificate, which
// somebody else signs. The first call makes its key and changes a; changed says
// so. Import ends it.
func (a *Authority) Request() (csrDER []byte, changed bool, err error) {
	if a.request == nil {
		if a.request, err = newKey(); err != nil {
			return nil, false, err
		}
		changed = true
	}
	uri := &url.URL{Scheme: "spiffe", Host: a.domain}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, a.request)
	if err != nil {
		return nil, false, fmt.Errorf("ca: make the request of the issuing certificate: %v", err)
	}
	return csr, changed, nil
}

// Import takes the chain (DER, issuing certificate first) that somebody signed
// for the key of Request, and issues with it from now on; while a new root is
// published, one below that root waits for Activate. It changes a. What would
// not verify later is refused now.
func (a *Authority) Import(chain [][]byte) error {
	next, err := a.imported(chain)
	if err != nil {
		return err
	}
	a.request = nil
	if a.step == StepPublish && next.root == svid.KeyID(a.roots[1].cert) {
		a.next = next
		return nil
	}
	if signer := svid.KeyID(a.signer().cert); a.kind != Upstream && next.root != signer {
		return refuse("the issuing certificate is below root %s; it is %s that signs", next.root, signer)
	}
	a.install(next)
	return nil
}

func (a *Authority) imported(chain [][]byte) (*issuing, error) {
	if a.request == nil {
		return nil, conflict("nothing was asked for; get a request first: rampart ca sign --request")
	}
	certs, err := parseDER(chain)
	if err != nil {
		return nil, err
	}
	if !samePublic(a.request.Public(), certs[0].PublicKey) {
		return nil, refuse("the certificate is not for the key of the pending request; a request is good for one certificate")
	}
	out := &issuing{tier: tier{certs[0], a.request}, above: certs[1:]}
	for i, cert := range certs { // a root at the end is not delivered
		if i > 0 && slices.ContainsFunc(a.roots, func(t tier) bool { return bytes.Equal(t.cert.Raw, cert.Raw) }) {
			out.above = certs[1:i]
			break
		}
	}
	if len(out.above) > maxAbove {
		return nil, refuse("more than %d certificates lie between the issuing certificate and its root", maxAbove)
	}
	if out.root, err = a.rootOf(out); err != nil {
		return nil, err
	}
	return out, a.proves(out)
}

// rootOf finds the root that a chain leads to.
func (a *Authority) rootOf(i *issuing) (string, error) {
	child := i.cert
	for _, parent := range i.above {
		if err := child.CheckSignatureFrom(parent); err != nil {
			return "", refuse("the chain is not in order: %s is not signed by %s", child.Subject, parent.Subject)
		}
		child = parent
	}
	for _, root := range a.roots {
		if bytes.Equal(child.RawIssuer, root.cert.RawSubject) && child.CheckSignatureFrom(root.cert) == nil {
			return svid.KeyID(root.cert), nil
		}
	}
	return "", refuse("%s is not signed by a root of ours", child.Subject)
}

// proves issues a certificate to nobody and has it verified as peers do: a path
// length, a name constraint or a usage that does not fit shows here, not in
// every handshake.
func (a *Authority) proves(i *issuing) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	leaf, err := a.leaf("spiffe://"+a.domain+"/control", IssueOptions{TTL: minTTL})
	if err != nil {
		return err
	}
	cert, err := create(leaf, i.tier, key.Public())
	if err != nil {
		return err
	}
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: a.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, root := range a.roots {
		opts.Roots.AddCert(root.cert)
	}
	for _, c := range append([]*x509.Certificate{i.cert}, i.above...) {
		opts.Intermediates.AddCert(c)
	}
	if _, err := cert.Verify(opts); err != nil {
		return refuse("what this issuing certificate signs would not verify: %v", err)
	}
	return nil
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// parseDER reads a bounded chain of authorities.
func parseDER(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > maxAbove+2 {
		return nil, refuse("a chain has 1 to %d certificates", maxAbove+2)
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil || len(der) > maxCSR {
			return nil, refuse("certificate %d of the chain does not parse", i+1)
		}
		if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
			return nil, refuse("certificate %d of the chain, %s, is no authority", i+1, cert.Subject)
		}
		certs[i] = cert
	}
	return certs, nil
}

// ParseChainPEM reads a chain of certificates, as DER, from PEM.
func ParseChainPEM(text []byte) ([][]byte, error) {
	certs, err := parseCerts(text, maxAbove+2)
	if err != nil {
		return nil, refuse("the chain: %v", err)
	}
	out := make([][]byte, len(certs))
	for i, c := range certs {
		out[i] = c.Raw
	}
	return out, nil
}

// parseCerts reads 1 to most CA certificates from PEM.
func parseCerts(text []byte, most int) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(out) == most {
			return nil, fmt.Errorf("want PEM of 1 to %d certificates", most)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d does not parse", len(out)+1)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("certificate %d, %s, is no authority", len(out)+1, cert.Subject)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return out, nil
}

func expired() error {
	return rampart.Errorf(rampart.Unavailable, "mtls.required", "ca: issuing certificate has expired")
}
