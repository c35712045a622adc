package db

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/tls/svid"
)

// clientCert is the certificate by which this service logs in at a database. Its
// key is born here and never leaves. Safe for concurrent use.
type clientCert struct {
	svc   *sdk.Service
	store string

	mu   sync.Mutex // held while it is renewed, too: connections wait for one
	cert *tls.Certificate
}

// renew gets a certificate when there is none that is younger than half its life.
// One that cannot be replaced is shown until its end.
func (c *clientCert) renew(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert != nil {
		leaf := c.cert.Leaf
		if time.Now().Before(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)) {
			return nil
		}
	}
	fresh, err := c.ask(ctx)
	if err == nil {
		c.cert = fresh
		return nil
	}
	if c.cert != nil && time.Now().Before(c.cert.Leaf.NotAfter) {
		return nil
	}
	return err
}

func (c *clientCert) ask(ctx context.Context) (*tls.Certificate, error) {
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		return nil, err
	}
	var got agent.DBCert
	if err := c.svc.Call(ctx, http.MethodPost, agent.PathDBCert+url.PathEscape(c.store), agent.DBCertRequest{CSR: csr}, &got); err != nil {
		return nil, err
	}
	if len(got.Chain) == 0 {
		return nil, fmt.Errorf("the sidecar gave no certificate")
	}
	leaf, err := x509.ParseCertificate(got.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("the sidecar gave no certificate: %w", err)
	}
	return &tls.Certificate{Certificate: got.Chain, PrivateKey: key, Leaf: leaf}, nil
}

// current is the certificate that handshakes show.
func (c *clientCert) current() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert == nil {
		return nil, fmt.Errorf("there is no certificate yet")
	}
	return c.cert, nil
}
