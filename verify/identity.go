package verify

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// workload is an identity inside: what a compromised service holds.
type workload struct {
	path  string // "service/orders"
	chain [][]byte
	key   *ecdsa.PrivateKey
}

func (w *workload) certificate() tls.Certificate {
	return tls.Certificate{Certificate: w.chain, PrivateKey: w.key}
}

// join plays a service of the system: it gets a certificate as the service
// itself would.
func (e *Env) join(ctx context.Context, path string) (*workload, error) {
	token, err := e.admin.joinToken(ctx, path)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(wire.JoinRequest{Token: token, CSR: csr})
	if err != nil {
		return nil, err
	}
	res, err := e.inside(ctx, call{method: http.MethodPost, addr: e.running.Control, want: e.sys.ControlID(), path: wire.PathJoin, body: body, media: "application/json"})
	if err != nil {
		return nil, fmt.Errorf("join as %s: %w", path, err)
	}
	var id wire.Identity
	if err := json.Unmarshal(res.body, &id); err != nil || res.status != http.StatusOK || len(id.Chain) == 0 {
		return nil, fmt.Errorf("join as %s was answered %d: %.200s", path, res.status, res.body)
	}
	return &workload{path: path, chain: id.Chain, key: key}, nil
}

// foreign makes a certificate that names a service of the system, under a CA
// of our own.
func foreign(id string) (*workload, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(id)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "somebody else"}, URIs: []*url.URL{uri},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another CA"}, NotBefore: tpl.NotBefore, NotAfter: tpl.NotAfter, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, ca, key.Public(), caKey)
	return &workload{path: "foreign", chain: [][]byte{der, caDER}, key: key}, err
}

// clientTLS verifies that the other end is the plane whose SPIFFE ID is want.
// A nil w shows no certificate.
func (t *target) clientTLS(w *workload, want string) *tls.Config {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // SPIFFE IDs are no host names: VerifyConnection compares instead
		VerifyConnection:   func(cs tls.ConnectionState) error { return t.verifyPeer(cs, want) },
	}
	if w != nil {
		cert := w.certificate()
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return cfg
}

func (t *target) verifyPeer(cs tls.ConnectionState, want string) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the server showed no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := cs.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return err
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != want {
		return fmt.Errorf("the server is not %s", want)
	}
	return nil
}

// call is one request inside.
type call struct {
	as     *workload // nil shows no certificate
	addr   string
	want   string // SPIFFE ID of the other end
	method string
	path   string
	header http.Header
	media  string
	body   []byte
	config *tls.Config // nil: that of as and want
}

// inside makes a call on a connection of its own. After an error the answer
// still holds our address, by which the refusal is found.
func (e *Env) inside(ctx context.Context, c call) (response, error) {
	if c.config == nil {
		c.config = e.clientTLS(c.as, c.want)
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: e.http.source}, Timeout: 5 * time.Second}
	out := response{trace: randomID(16)}
	tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: c.config, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, addr)
		if err == nil {
			out.peer = conn.LocalAddr().String()
		}
		return conn, err
	}}
	return out.from(ctx, tr, "https://"+c.addr, c)
}

// plainly makes a call without TLS, from an address of our own.
func (e *Env) plainly(ctx context.Context, c call) (response, error) {
	out := response{trace: randomID(16)}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { out.peer = i.Conn.LocalAddr().String() }})
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: e.http.source}, Timeout: 5 * time.Second}
	return out.from(ctx, &http.Transport{DisableKeepAlives: true, DialContext: d.DialContext}, "http://"+c.addr, c)
}

func (r *response) from(ctx context.Context, tr *http.Transport, base string, c call) (response, error) {
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, c.method, base+c.path, bytes.NewReader(c.body))
	if err != nil {
		return *r, err
	}
	for name, v := range c.header {
		req.Header[name] = v
	}
	if c.media != "" {
		req.Header.Set("Content-Type", c.media)
	}
	req.Header.Set("Traceparent", traceparent(r.trace))
	res, err := tr.RoundTrip(req)
	if err != nil {
		return *r, err
	}
	defer res.Body.Close()
	r.status, r.header = res.StatusCode, res.Header
	r.body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return *r, err
}

// exchange asks the token service, as a workload, for an internal token.
func (e *Env) exchange(ctx context.Context, as *workload, kind, subject, audience string) (string, response, error) {
	f := url.Values{"grant_type": {wire.GrantExchange}, "subject_token_type": {kind}, "audience": {audience}}
	if subject != "" {
		f.Set("subject_token", subject)
	}
	res, err := e.inside(ctx, call{as: as, addr: e.running.Control, want: e.sys.ControlID(), method: http.MethodPost, path: wire.PathToken, body: []byte(f.Encode()), media: "application/x-www-form-urlencoded"})
	if err != nil {
		return "", res, err
	}
	var x wire.Exchanged
	if err := json.Unmarshal(res.body, &x); err != nil && res.status == http.StatusOK {
		return "", res, err
	}
	return x.AccessToken, res, nil
}
