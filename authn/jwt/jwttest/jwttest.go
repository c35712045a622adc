// Package jwttest lets public test vectors reach the strict parser and the
// signature checks of package jwt, which knows no bare JWS: only kinds of token.
package jwttest

import (
	"errors"

	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
)

// maxText bounds a vector, in bytes, as it bounds a token.
const maxText = 8 << 10

// VerifyJWS returns the payload of a compact JWS signed with alg by the key of
// a JWK. A payload says nothing about who may do what: no plane calls this.
func VerifyJWS(text string, jwk []byte, alg string) ([]byte, error) {
	key, err := signed.ParseKey(jwk)
	if err != nil {
		return nil, err
	}
	if key.Alg == "" {
		key.Alg = signed.Algorithm(alg)
	}
	if string(key.Alg) != alg {
		return nil, errors.New("the key is for another algorithm")
	}
	parsed, err := signed.Parse(text, maxText, false)
	if err != nil {
		return nil, err
	}
	if err := parsed.Verify(key); err != nil {
		return nil, err
	}
	return parsed.Parts.Payload, nil
}
