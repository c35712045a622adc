package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
)

// Signer mints tokens with one key. It mints only what the verifiers of this
// package accept. Safe for concurrent use; the key is never printed.
type Signer struct {
	key  crypto.Signer
	id   string
	alg  jose.SignatureAlgorithm
	jose jose.Signer
}

// Format prints the key's id under every verb, never the key.
func (s *Signer) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "jwt.Signer(%s)", s.id) }

// NewSigner returns a signer for an Ed25519 key (EdDSA, internal tokens) or a
// P-256 key (ES256, edge tokens). The kid is the key's RFC 7638 thumbprint.
func NewSigner(key crypto.Signer) (*Signer, error) {
	alg, err := algorithmOf(key.Public())
	if err != nil {
		return nil, fmt.Errorf("jwt: signing key %v", err)
	}
	jwk := jose.JSONWebKey{Key: key.Public()}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("jwt: thumbprint: %v", err)
	}
	id := base64.RawURLEncoding.EncodeToString(sum)
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: id}},
		new(jose.SignerOptions).WithType(typeAccess))
	if err != nil {
		return nil, fmt.Errorf("jwt: signing key: %v", err)
	}
	return &Signer{key: key, id: id, alg: alg, jose: signer}, nil
}

// GenerateInternal returns a signer of internal tokens with a new key.
func GenerateInternal() (*Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("jwt: make a key: %v", err)
	}
	return NewSigner(key)
}

// GenerateEdge returns a signer of edge tokens with a new key.
func GenerateEdge() (*Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("jwt: make a key: %v", err)
	}
	return NewSigner(key)
}

// ParseSigner reads what MarshalKey wrote.
func ParseSigner(pkcs8 []byte) (*Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, errors.New("jwt: signing key is not PKCS #8")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("jwt: signing key cannot sign")
	}
	return NewSigner(signer)
}

// MarshalKey returns the private key in PKCS #8, in the clear: the caller
// seals it.
func (s *Signer) MarshalKey() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		return nil, fmt.Errorf("jwt: marshal the signing key: %v", err)
	}
	return der, nil
}

// KeyID returns the kid.
func (s *Signer) KeyID() string { return s.id }

// SignInternal mints an internal token. Claims that the verifier would refuse
// in any case are refused here with the same rule.
func (s *Signer) SignInternal(c InternalClaims) (string, error) {
	if s.alg != jose.EdDSA {
		return "", errors.New("jwt: internal tokens are signed with Ed25519")
	}
	if err := c.wellFormed(); err != nil {
		return "", err
	}
	return s.sign(c)
}

// SignEdge mints an access token for a client.
func (s *Signer) SignEdge(c EdgeClaims) (string, error) {
	if s.alg != jose.ES256 {
		return "", errors.New("jwt: edge tokens are signed with P-256")
	}
	if err := c.wellFormed(); err != nil {
		return "", err
	}
	return s.sign(c)
}

func (s *Signer) sign(claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("jwt: encode claims: %v", err)
	}
	signed, err := s.jose.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("jwt: sign: %v", err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("jwt: serialize: %v", err)
	}
	if len(token) > maxToken {
		return "", refuse("size", "token would be longer than %d bytes", maxToken)
	}
	return token, nil
}

// PublicJWKS returns the JWK set of the signers' public keys, ordered by kid.
func PublicJWKS(signers ...*Signer) ([]byte, error) {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, s := range signers {
		set.Keys = append(set.Keys, jose.JSONWebKey{
			Key: s.key.Public(), KeyID: s.id, Algorithm: string(s.alg), Use: "sig",
		})
	}
	slices.SortFunc(set.Keys, func(a, b jose.JSONWebKey) int { return strings.Compare(a.KeyID, b.KeyID) })
	out, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("jwt: encode key set: %v", err)
	}
	return out, nil
}
