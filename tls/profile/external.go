package profile

import (
	"crypto/tls"
	"crypto/x509"

	"github.com/rampart-security/rampart/tls/svid"
)

// ExternalWithCert is External for a party that wants to see a certificate: src
// says which at each handshake. It panics if serverName is empty or src is nil.
func ExternalWithCert(serverName string, roots *x509.CertPool, lowest uint16, src *svid.Source) *tls.Config {
	if src == nil {
		panic("profile: ExternalWithCert needs a certificate")
	}
	cfg := External(serverName, roots, lowest)
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate(src) }
	return cfg
}
