package vaulttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net/http"
	"time"
)

// pki is a PKI engine with one authority.
type pki struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func (p *pki) serve(s *Server, c *call) *response {
	switch c.op + " " + c.path {
	case "write root/generate/internal":
		return p.generate(s, c)
	case "write root/sign-intermediate":
		return p.sign(s, c)
	}
	return fail(http.StatusNotFound, "unsupported path")
}

func (p *pki) generate(s *Server, c *call) *response {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(http.StatusInternalServerError, "no key")
	}
	cert := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(s.bytes(16)), Subject: pkix.Name{CommonName: c.text("common_name")}, IsCA: true, BasicConstraintsValid: true,
		MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: s.now().Add(-30 * time.Second), NotAfter: s.now().Add(c.duration("ttl", 32*24*time.Hour)),
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return fail(http.StatusInternalServerError, "no certificate")
	}
	p.key = key
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return fail(http.StatusInternalServerError, "no certificate")
	}
	return &response{data: map[string]any{"certificate": inPEM(der), "issuing_ca": inPEM(der), "serial_number": p.cert.SerialNumber.Text(16)}}
}

func inPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// sign makes an intermediate. With use_csr_values names and extensions are the
// request's, basic constraints aside. A life beyond the authority's is cut.
func (p *pki) sign(s *Server, c *call) *response {
	block, _ := pem.Decode([]byte(c.text("csr")))
	if block == nil || p.key == nil {
		return fail(http.StatusBadRequest, "csr contains no data")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return fail(http.StatusBadRequest, "certificate request could not be parsed")
	}
	cert := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(s.bytes(16)), IsCA: true, BasicConstraintsValid: true, MaxPathLen: -1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: s.now().Add(-30 * time.Second), NotAfter: s.now().Add(c.duration("ttl", 24*time.Hour)),
		Subject: pkix.Name{CommonName: c.text("common_name")},
	}
	if n, ok := c.body["max_path_length"].(float64); ok && n >= 0 {
		cert.MaxPathLen, cert.MaxPathLenZero = int(n), n == 0
	}
	if cert.NotAfter.After(p.cert.NotAfter) {
		cert.NotAfter = p.cert.NotAfter
	}
	if use, _ := c.body["use_csr_values"].(bool); use {
		cert.Subject = csr.Subject
		for _, e := range csr.Extensions {
			if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 19}) && !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 15}) {
				cert.ExtraExtensions = append(cert.ExtraExtensions, e)
			}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, p.cert, csr.PublicKey, p.key)
	if err != nil {
		return fail(http.StatusBadRequest, "the certificate cannot be made")
	}
	ca := inPEM(p.cert.Raw)
	return &response{data: map[string]any{
		"certificate": inPEM(der), "issuing_ca": ca, "ca_chain": []string{ca}, "serial_number": cert.SerialNumber.Text(16), "expiration": cert.NotAfter.Unix(),
	}}
}
