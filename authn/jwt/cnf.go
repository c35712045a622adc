package jwt

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
)

// Confirmation is what binds a token to its holder (RFC 7800 section 3.1): in
// a token, what the presenter must prove; handed to a verifier, what the
// presenter has proved. The zero value proves nothing.
type Confirmation struct {
	Thumbprint string `json:"x5t#S256,omitzero"` // base64url of SHA-256 over the leaf's DER (RFC 8705 section 3.1)
	JKT        string `json:"jkt,omitzero"`      // RFC 7638 thumbprint of the DPoP key (RFC 9449 section 6.1)
}

// Confirm returns the confirmation for a certificate's fingerprint.
func Confirm(fingerprint [32]byte) Confirmation {
	return Confirmation{Thumbprint: base64.RawURLEncoding.EncodeToString(fingerprint[:])}
}

// wellFormed holds that c names a certificate, a key, or both.
func (c Confirmation) wellFormed() error {
	size := base64.RawURLEncoding.EncodedLen(sha256.Size)
	for _, hash := range []string{c.Thumbprint, c.JKT} {
		if hash != "" && len(hash) != size {
			return refuse("cnf", "cnf must hold SHA-256 thumbprints")
		}
	}
	if c == (Confirmation{}) {
		return refuse("cnf", "cnf names no method that is known here")
	}
	return nil
}

// provedBy holds that the presenter proved all that c demands. A DPoP proof
// counts for a token bound to a key only (RFC 9449 section 7.1): its key must
// be the token's, not just any.
func (c Confirmation) provedBy(proof Confirmation) error {
	if c.JKT != "" && subtle.ConstantTimeCompare([]byte(c.JKT), []byte(proof.JKT)) != 1 {
		return refuse("cnf", "token is bound to a key that was not proved")
	}
	if c.JKT == "" && proof.JKT != "" {
		return refuse("cnf", "token is not bound to a key")
	}
	if c.Thumbprint != "" && subtle.ConstantTimeCompare([]byte(c.Thumbprint), []byte(proof.Thumbprint)) != 1 {
		return refuse("cnf", "token is bound to another peer's certificate")
	}
	return nil
}
