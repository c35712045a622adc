package signed

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart/internal/jws"
)

// Algorithm is the alg of RFC 7518 section 3.1, RFC 8037 or RFC 9864. There
// are no symmetric ones: a key to verify with must not be one to sign with.
type Algorithm string

// The algorithms.
const (
	EdDSA   Algorithm = "EdDSA"   // with an Ed25519 key
	Ed25519 Algorithm = "Ed25519" // the same by its RFC 9864 name
	ES256   Algorithm = "ES256"
	RS256   Algorithm = "RS256"
	RS384   Algorithm = "RS384"
	RS512   Algorithm = "RS512"
	PS256   Algorithm = "PS256"
	PS384   Algorithm = "PS384"
	PS512   Algorithm = "PS512"
)

// IsRSA reports whether a is used with RSA keys.
func (a Algorithm) IsRSA() bool {
	switch a {
	case RS256, RS384, RS512, PS256, PS384, PS512:
		return true
	}
	return false
}

func (a Algorithm) hash() crypto.Hash {
	switch a {
	case RS384, PS384:
		return crypto.SHA384
	case RS512, PS512:
		return crypto.SHA512
	}
	return crypto.SHA256
}

// Bounds on keys.
const (
	maxKeyID    = 128   // bytes
	minRSA      = 2048  // bits; RFC 7518 section 3.3
	maxRSA      = 8192  // bits; with a larger one, to make us verify is an attack
	minExponent = 65537 // smaller ones forgive a broken padding check
)

// Errors of ParseKey that callers tell apart.
var (
	// ErrForeign is a sound key of a kind that no algorithm here uses.
	ErrForeign = errors.New("is not an Ed25519, P-256 or RSA key")
	// ErrPurpose is a key that its owner does not mean to verify signatures.
	ErrPurpose = errors.New("is not for signatures")
)

// Key is one public key, pinned to one algorithm.
type Key struct {
	ID     string // kid; may be empty
	Alg    Algorithm
	Public crypto.PublicKey
}

// Equal reports whether both are the same key for the same algorithm.
func (k *Key) Equal(other *Key) bool {
	public, ok := k.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Alg == other.Alg && public.Equal(other.Public)
}

// Thumbprint is the RFC 7638 thumbprint, SHA-256 in base64url.
func Thumbprint(public crypto.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("thumbprint: %v", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// member are the members of a JWK that are read. Certificates and addresses
// of certificates are not.
type member struct {
	Kty string   `json:"kty"`
	Kid string   `json:"kid"`
	Use string   `json:"use"`
	Ops []string `json:"key_ops"`
	Alg string   `json:"alg"`
	Crv string   `json:"crv"`
	X   string   `json:"x"`
	Y   string   `json:"y"`
	N   string   `json:"n"`
	E   string   `json:"e"`

	// A public key has none of these (RFC 7518 section 6).
	D   jsontext.Value `json:"d"`
	P   jsontext.Value `json:"p"`
	Q   jsontext.Value `json:"q"`
	DP  jsontext.Value `json:"dp"`
	DQ  jsontext.Value `json:"dq"`
	QI  jsontext.Value `json:"qi"`
	Oth jsontext.Value `json:"oth"`
	K   jsontext.Value `json:"k"`
}

func (m member) isSecret() bool {
	return m.Kty == "oct" || m.D != nil || m.P != nil || m.Q != nil || m.DP != nil || m.DQ != nil || m.QI != nil || m.Oth != nil || m.K != nil
}

// ParseKey reads one JWK (RFC 7517 section 4). An RSA key of 2048 to 8192 bits
// that names no alg has none: the caller pins one.
func ParseKey(raw []byte) (*Key, error) { return parseKey(raw, "", "sig") }

// UseSVID is the use of a key in a SPIFFE trust bundle that signs JWT-SVIDs
// (SPIFFE Trust Domain and Bundle section 4.2.2).
const UseSVID = "jwt-svid"

// ParseSVIDKey is ParseKey for the keys of a SPIFFE trust bundle: those of
// another use, and those of none, are ErrPurpose.
func ParseSVIDKey(raw []byte) (*Key, error) { return parseKey(raw, UseSVID) }

// parseKey reads a JWK whose use is one of these.
func parseKey(raw []byte, uses ...string) (*Key, error) {
	var m member
	if err := jws.Decode(raw, &m, MaxDepth, false); err != nil {
		return nil, err
	}
	switch {
	case m.isSecret():
		return nil, errors.New("must be a public key")
	case len(m.Kid) > maxKeyID:
		return nil, fmt.Errorf("kid is longer than %d bytes", maxKeyID)
	case !slices.Contains(uses, m.Use), m.Ops != nil && !slices.Contains(m.Ops, "verify"):
		return nil, ErrPurpose
	}
	public, algs, err := m.public()
	if err != nil {
		return nil, err
	}
	key := &Key{ID: m.Kid, Public: public}
	switch alg := Algorithm(m.Alg); {
	case slices.Contains(algs, alg):
		key.Alg = alg
	case alg != "":
		return nil, ErrPurpose
	case !algs[0].IsRSA():
		key.Alg = algs[0]
	}
	return key, nil
}

// public returns the key and the algorithms that may use it.
func (m member) public() (crypto.PublicKey, []Algorithm, error) {
	switch {
	case m.Kty == "OKP" && m.Crv == "Ed25519":
		x, err := decode(m.X)
		if err != nil || len(x) != ed25519.PublicKeySize {
			return nil, nil, errors.New("x must be 32 bytes")
		}
		return ed25519.PublicKey(x), []Algorithm{EdDSA, Ed25519}, nil
	case m.Kty == "EC" && m.Crv == "P-256":
		public, err := m.point()
		return public, []Algorithm{ES256}, err
	case m.Kty == "RSA":
		public, err := m.rsa()
		return public, []Algorithm{RS256, PS256, RS384, RS512, PS384, PS512}, err
	}
	return nil, nil, ErrForeign
}

func (m member) point() (*ecdsa.PublicKey, error) {
	x, errX := decode(m.X)
	y, errY := decode(m.Y)
	if errX != nil || errY != nil || len(x) != 32 || len(y) != 32 {
		return nil, errors.New("x and y must be 32 bytes each")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, errors.New("is not a point of P-256")
	}
	return public, nil
}

func (m member) rsa() (*rsa.PublicKey, error) {
	n, errN := decode(m.N)
	e, errE := decode(m.E)
	if errN != nil || errE != nil {
		return nil, errors.New("n and e must be base64url")
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minRSA || bits > maxRSA {
		return nil, fmt.Errorf("RSA modulus must have %d to %d bits", minRSA, maxRSA)
	}
	if exponent.BitLen() > 31 || exponent.Int64() < minExponent || exponent.Bit(0) == 0 {
		return nil, fmt.Errorf("RSA exponent must be odd and at least %d", minExponent)
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

func decode(text string) ([]byte, error) { return base64.RawURLEncoding.Strict().DecodeString(text) }
