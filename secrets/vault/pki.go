package vault

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rampart-security/rampart"
)

const maxChain = 8 // certificates

// PKI is an authority in a PKI engine.
type PKI struct {
	c     *Client
	mount string
}

// SignIntermediate has the authority sign a certificate request for an issuing
// authority that signs leaves only. Its names and extensions, such as name
// constraints, are those of the request. It returns the certificate and those
// above it, in DER, the new one first. The authority may shorten life.
func (p *PKI) SignIntermediate(ctx context.Context, csr []byte, life time.Duration) ([][]byte, error) {
	path := p.mount + "/root/sign-intermediate"
	if _, err := x509.ParseCertificateRequest(csr); err != nil {
		return nil, invalid("the certificate request cannot be read")
	}
	body := map[string]any{
		"csr":             string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		"use_csr_values":  true,
		"max_path_length": 0,
		"ttl":             fmt.Sprintf("%ds", int64(life/time.Second)),
		"format":          "pem",
	}
	var out struct {
		Data struct {
			Certificate string   `json:"certificate"`
			Issuing     string   `json:"issuing_ca"`
			Chain       []string `json:"ca_chain"`
		} `json:"data"`
	}
	if err := p.c.fetch(ctx, request{method: http.MethodPost, path: path, body: body}, &out); err != nil {
		return nil, err
	}
	above := out.Data.Chain
	if len(above) == 0 {
		above = []string{out.Data.Issuing}
	}
	return p.chain(path, append([]string{out.Data.Certificate}, above...))
}

// chain reads certificates in PEM, one each.
func (p *PKI) chain(path string, texts []string) ([][]byte, error) {
	if len(texts) > maxChain {
		return nil, p.c.fail(rampart.Unavailable, path, fmt.Errorf("the chain has more than %d certificates", maxChain))
	}
	var out [][]byte
	for _, text := range texts {
		block, _ := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, p.c.fail(rampart.Unavailable, path, errors.New("the reply holds no certificate"))
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, p.c.fail(rampart.Unavailable, path, errors.New("the reply holds no certificate"))
		}
		out = append(out, block.Bytes)
	}
	return out, nil
}
