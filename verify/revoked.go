package verify

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// closing is within which time a connection must be of no use any more after its
// certificate was revoked.
const closing = 5 * time.Second

func revocationProbes() []Probe {
	return []Probe{
		{ID: "P-056", Title: "a certificate that was revoked is refused, on a connection that is open as well", SeedRow: "tls: service to service", Controls: []string{"mtls.revocation"},
			Proves: []string{"owasp2021:A07"}, Vantage: asService, Safety: safe, Needs: needExchange, Run: revokedCertificate},
	}
}

// revokedCertificate has a certificate of its own revoked while a connection
// that it opened is in use.
func revokedCertificate(ctx context.Context, e *Env) (Result, error) {
	service := exchanged(e.sys)[0]
	w, token, err := e.insider(ctx, service)
	if err != nil {
		return Result{}, err
	}
	open := e.keep(w, service)
	defer open.close()
	if status, err := open.get(ctx, e.innerPath(service), token); err != nil || status >= 400 {
		return unsure("the connection is of no use before anything was revoked: %d, %v", status, err), nil
	}
	serial, err := serialOf(w.chain[0])
	if err != nil {
		return Result{}, err
	}
	if err := e.admin.revoke(ctx, wire.Revocation{Kind: wire.RevokedSerial, ID: serial}); err != nil {
		return Result{}, err
	}
	e.note("revoked %s, which this probe was given", serial)
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		status, err := open.get(ctx, e.innerPath(service), token)
		if err != nil || status >= 400 {
			e.note("the open connection ended after %v", time.Since(began).Round(100*time.Millisecond))
			break
		}
		if time.Since(began) > closing {
			return failed("the open connection is still served %v after its certificate was revoked", closing), nil
		}
	}
	return e.handshake(ctx, handshake{"a new connection with the revoked certificate", e.sidecarCall(w, service, token), nil, false, []string{"mtls.revocation"}})
}

// serialOf names a certificate as a revocation does: by its issuer's key and its
// serial.
func serialOf(der []byte) (string, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(leaf.AuthorityKeyId) + "." + hex.EncodeToString(leaf.SerialNumber.Bytes()), nil
}

// kept is one connection to a sidecar that is used again and never replaced.
type kept struct {
	tr    *http.Transport
	base  string
	dials int
}

// keep prepares a connection of a workload.
func (e *Env) keep(w *workload, service string) *kept {
	k := &kept{base: "https://" + e.running.Sidecars[service]}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: e.http.source}, Timeout: 5 * time.Second}
	config := e.clientTLS(w, e.sys.ServiceID(service))
	config.NextProtos = []string{"http/1.1"}
	k.tr = &http.Transport{TLSClientConfig: config, MaxConnsPerHost: 1, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if k.dials++; k.dials > 1 {
			return nil, fmt.Errorf("the connection was closed")
		}
		return d.DialContext(ctx, network, addr)
	}}
	return k
}

func (k *kept) close() { k.tr.CloseIdleConnections() }

func (k *kept) get(ctx context.Context, path, token string) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.base+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := k.tr.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	return res.StatusCode, err
}
