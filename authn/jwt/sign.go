package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"

	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
)

// keyBits is the size of an RSA signing key.
const keyBits = 2048

// Signer mints tokens with one key. It mints only what the verifiers of this
// package accept. Safe for concurrent use; the key is never printed.
type Signer struct {
	key    crypto.Signer
	id     string
	alg    Algorithm
	access jose.Signer // typ at+jwt
	plain  jose.Signer // typ JWT
}

// Format prints the key's id under every verb, never the key.
func (s *Signer) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "jwt.Signer(%s)", s.id) }

// NewSigner returns a signer for an Ed25519 key (EdDSA, internal tokens), a
// P-256 key (ES256, edge and ID tokens) or an RSA key of at least 2048 bits
// (RS256, ID tokens). The kid is the key's RFC 7638 thumbprint.
func NewSigner(key crypto.Signer) (*Signer, error) {
	alg, err := signingAlgorithm(key.Public())
	if err != nil {
		return nil, err
	}
	id, err := signed.Thumbprint(key.Public())
	if err != nil {
		return nil, fmt.Errorf("jwt: %v", err)
	}
	s := &Signer{key: key, id: id, alg: alg}
	if s.access, err = s.typed(typeAccess); err != nil {
		return nil, err
	}
	if s.plain, err = s.typed("JWT"); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Signer) typed(typ jose.ContentType) (jose.Signer, error) {
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.SignatureAlgorithm(s.alg), Key: jose.JSONWebKey{Key: s.key, KeyID: s.id}},
		new(jose.SignerOptions).WithType(typ))
	if err != nil {
		return nil, fmt.Errorf("jwt: signing key: %v", err)
	}
	return signer, nil
}

func signingAlgorithm(public crypto.PublicKey) (Algorithm, error) {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return EdDSA, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return ES256, nil
		}
	case *rsa.PublicKey:
		if k.N.BitLen() >= keyBits {
			return RS256, nil
		}
	}
	return "", fmt.Errorf("jwt: signing key must be Ed25519, P-256 or RSA of at least %d bits", keyBits)
}

// GenerateInternal returns a signer of internal tokens with a new key.
func GenerateInternal() (*Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("jwt: make a key: %v", err)
	}
	return NewSigner(key)
}

// GenerateEdge returns a signer of edge and ID tokens with a new key.
func GenerateEdge() (*Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("jwt: make a key: %v", err)
	}
	return NewSigner(key)
}

// GenerateRSA returns a signer, with a new key, of ID tokens for relying
// parties that know RS256 only. To sign so costs 40 times an EdDSA signature.
// No plane of ours takes a key set with an RSA key in it.
func GenerateRSA() (*Signer, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
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

// Algorithm returns the alg of the tokens that s signs.
func (s *Signer) Algorithm() Algorithm { return s.alg }

// SignInternal mints an internal token. Claims that the verifier would refuse
// in any case are refused here with the same rule.
func (s *Signer) SignInternal(c InternalClaims) (string, error) {
	if s.alg != EdDSA {
		return "", errors.New("jwt: internal tokens are signed with Ed25519")
	}
	if err := c.wellFormed(); err != nil {
		return "", err
	}
	return sign(s.access, c)
}

// SignEdge mints an access token for a client.
func (s *Signer) SignEdge(c EdgeClaims) (string, error) {
	if s.alg != ES256 {
		return "", errors.New("jwt: edge tokens are signed with P-256")
	}
	if err := c.wellFormed(); err != nil {
		return "", err
	}
	return sign(s.access, c)
}

// SignIDToken mints an ID token for a relying party.
func (s *Signer) SignIDToken(c IDClaims) (string, error) {
	if s.alg != ES256 && s.alg != RS256 {
		return "", errors.New("jwt: ID tokens are signed with P-256 or RSA")
	}
	if err := c.wellFormed(); err != nil {
		return "", err
	}
	return sign(s.plain, c)
}

func sign(signer jose.Signer, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("jwt: encode claims: %v", err)
	}
	object, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("jwt: sign: %v", err)
	}
	token, err := object.CompactSerialize()
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
