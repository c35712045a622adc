// Package profile is the only place that builds a tls.Config: one constructor
// per kind of segment, so that none can be put together half.
//
// Inside, everything is decided in VerifyConnection. It is the one callback
// that crypto/tls also runs on resumed sessions: VerifyPeerCertificate is
// skipped there, and stored chains are not judged by today's trust bundle. A
// configuration must not be changed after a constructor returned it; what
// changes (certificate, bundle, permission) is read at each handshake.
//
// Refusals are *rampart.Error and name tls.min13, mtls.required or
// mtls.peer_declared. Key exchange is left to the standard library, which
// offers the hybrid post-quantum group first.
package profile

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/svid"
)

// Control ids of refusals.
const (
	controlVersion  = "tls.min13"
	controlMTLS     = "mtls.required"
	controlDeclared = "mtls.peer_declared"
)

// protocols are what our HTTP servers and clients speak (RFC 7301).
func protocols() []string { return []string{"h2", "http/1.1"} }

// Edge is for the public listener: TLS 1.3 only, no client certificate. get is
// asked at each handshake for the certificate of the name that the client wants;
// nil without an error tells it that the name is not ours. extra are protocols
// offered beside HTTP's, such as that of RFC 8737, over which net/http serves no
// request. It panics if get is nil.
func Edge(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), extra ...string) *tls.Config {
	if get == nil {
		panic("profile: Edge needs a certificate")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: append(protocols(), extra...), GetCertificate: get}
}

// MTLSServer is for every listener inside: mutual TLS 1.3 with SVIDs of our own
// trust domain. allow says whether a SPIFFE ID has a flow to this plane; it is
// asked at each handshake, after the certificate was verified, and its error is
// the refusal. It panics if src or allow is nil.
//
// It judges handshakes alone. Who serves HTTP takes NewMTLSListener, which judges
// open connections too.
func MTLSServer(src *svid.Source, allow func(id string) error) *tls.Config {
	return newJudge(src, allow, time.Now).config(tls.RequireAnyClientCert)
}

// ControlServer is MTLSServer for the control plane, whose join call has no
// client certificate yet: none passes the handshake and the handler must
// decide (svid.PeerOf answers false); one that is shown must be valid and
// allowed.
func ControlServer(src *svid.Source, allow func(id string) error) *tls.Config {
	return newJudge(src, allow, time.Now).config(tls.RequestClientCert)
}

// MTLSClient is for calls to the one plane whose SPIFFE ID is want, of our own
// trust domain. It panics if src is nil or want is no SPIFFE ID.
func MTLSClient(src *svid.Source, want string) *tls.Config {
	if src == nil || svid.Domain(want) == "" {
		panic("profile: an mTLS client needs a source and the SPIFFE ID to call")
	}
	cfg := verifying(func(cs tls.ConnectionState) error {
		if _, err := src.Current(); err != nil {
			return err
		}
		check, _ := src.Check(x509.ExtKeyUsageServerAuth, time.Now())
		return verifyServer(check, want, cs)
	})
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return certificate(src)
	}
	return cfg
}

// RecheckServer judges anew the server of a connection that was made with
// MTLSClient, for when src has a new epoch. That the certificate has expired
// since is no refusal: such a connection may end what it does.
func RecheckServer(src *svid.Source, want string, cs tls.ConnectionState) error {
	check, _ := src.Check(x509.ExtKeyUsageServerAuth, time.Now())
	check.At = within(check.At, cs)
	return verifyServer(check, want, cs)
}

// RecheckClient judges anew the client of a connection that was made with
// MTLSServer(src, allow), for a server that is none of NewMTLSListener's and so has
// to follow the epochs of src by itself.
func RecheckClient(src *svid.Source, allow func(id string) error, cs tls.ConnectionState) error {
	j := newJudge(src, allow, time.Now)
	_, err := j.verify(cs.PeerCertificates, within(j.now(), cs))
	return err
}

// within is at, or the last moment of the peer's certificate if that is earlier.
func within(at time.Time, cs tls.ConnectionState) time.Time {
	if len(cs.PeerCertificates) == 0 || at.Before(cs.PeerCertificates[0].NotAfter) {
		return at
	}
	return cs.PeerCertificates[0].NotAfter
}

// Bootstrap is for the join call, before a plane has an identity: no client
// certificate, and the server must show the SPIFFE ID want below one of the
// roots. It panics if want is no SPIFFE ID.
func Bootstrap(rootPEM []byte, want string) (*tls.Config, error) {
	if svid.Domain(want) == "" {
		panic("profile: Bootstrap needs the SPIFFE ID to call")
	}
	trust, err := svid.NewTrust(0, svid.Domain(want), rootPEM, nil)
	if err != nil {
		return nil, err
	}
	return verifying(func(cs tls.ConnectionState) error {
		return verifyServer(svid.Check{Trust: trust, Usage: x509.ExtKeyUsageServerAuth, At: time.Now()}, want, cs)
	}), nil
}

// Federated is for the bundle endpoint of another trust domain (SPIFFE Federation
// section 5.2, profile https_spiffe): the server must show the SPIFFE ID want
// below the roots that trust has for its domain, asked at each handshake; no
// client certificate. It panics if trust is nil or want is no SPIFFE ID.
func Federated(want string, trust func() *svid.Trust) *tls.Config {
	if trust == nil || svid.Domain(want) == "" {
		panic("profile: Federated needs the SPIFFE ID to call and whom to believe")
	}
	return verifying(func(cs tls.ConnectionState) error {
		check := svid.Check{
			Trust: trust(), Domains: []string{svid.Domain(want)}, Usage: x509.ExtKeyUsageServerAuth, At: time.Now(),
		}
		return verifyServer(check, want, cs)
	})
}

// verifying is a client whose peer verify alone judges: SVIDs have no host name
// to compare.
func verifying(verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         protocols(),
		InsecureSkipVerify: true, // VerifyConnection verifies instead
		VerifyConnection:   verify,
	}
}

// External is for calls to a party outside the system. roots nil means the
// system's; lowest is tls.VersionTLS12 or tls.VersionTLS13, and anything else
// means the latter. It panics if serverName is empty.
func External(serverName string, roots *x509.CertPool, lowest uint16) *tls.Config {
	if serverName == "" {
		panic("profile: External needs the host name to verify")
	}
	if lowest != tls.VersionTLS12 {
		lowest = tls.VersionTLS13
	}
	return &tls.Config{MinVersion: lowest, ServerName: serverName, RootCAs: roots, NextProtos: protocols()}
}

// Database is for connections to a database: TLS 1.3, its certificate
// verified against the given roots alone, host name included ("verify-full").
// It panics if serverName is empty.
func Database(rootsPEM []byte, serverName string) (*tls.Config, error) {
	if serverName == "" {
		panic("profile: Database needs the host name to verify")
	}
	roots, err := svid.ParseRoots(rootsPEM)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, ServerName: serverName, RootCAs: roots}, nil
}

// DatabaseWithCert is Database for one that asks for a client certificate; get is
// asked at each handshake. It panics if get is nil.
func DatabaseWithCert(rootsPEM []byte, serverName string, get func() (*tls.Certificate, error)) (*tls.Config, error) {
	if get == nil {
		panic("profile: DatabaseWithCert needs a certificate")
	}
	cfg, err := Database(rootsPEM, serverName)
	if err != nil {
		return nil, err
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return get() }
	return cfg, nil
}

func certificate(src *svid.Source) (*tls.Certificate, error) {
	current, err := src.Current()
	if err != nil {
		return nil, err
	}
	return &current.Certificate, nil
}

// verifyServer judges the plane that was called.
func verifyServer(check svid.Check, want string, cs tls.ConnectionState) error {
	if err := negotiated(cs); err != nil {
		return err
	}
	peer, err := check.Verify(cs.PeerCertificates)
	if err != nil {
		return err
	}
	if peer.ID != want {
		return rampart.Errorf(rampart.Denied, controlDeclared, "tls: server is %.200q, not %.200q", peer.ID, want)
	}
	return nil
}

// negotiated checks what was agreed before any certificate counts.
func negotiated(cs tls.ConnectionState) error {
	if cs.Version != tls.VersionTLS13 {
		return rampart.Errorf(rampart.Unauthenticated, controlVersion, "tls: TLS 1.3 is required")
	}
	if p := cs.NegotiatedProtocol; p != "" && !slices.Contains(protocols(), p) {
		return rampart.Errorf(rampart.Unauthenticated, controlMTLS, "tls: protocol %.20q was not offered", p)
	}
	return nil
}

// undeclared keeps an authorizer's own refusal and gives any other error the
// control's name.
func undeclared(id string, err error) error {
	if e, ok := errors.AsType[*rampart.Error](err); ok {
		return e
	}
	e := rampart.Errorf(rampart.Denied, controlDeclared, "tls: peer %.200q has no declared flow to this plane", id)
	e.Err = err
	return e
}
