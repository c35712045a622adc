package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart/internal/jws"
)

// Bounds on a key set.
const (
	maxKeySet = 256 << 10 // bytes
	maxKeys   = 50
)

// publicKey is one public key, pinned to one algorithm.
type publicKey struct {
	id     string
	alg    jose.SignatureAlgorithm
	public crypto.PublicKey
}

// KeySet is a read-only set of an issuer's public keys by kid. A nil KeySet
// has no keys.
type KeySet struct {
	keys map[string]*publicKey
}

// ParseKeySet reads a JWK set (RFC 7517 section 5) of at most 256 KiB and 50
// keys. One bad key refuses the whole set: a kid missing or used twice, a
// private or symmetric key, a use other than sig, key_ops without verify, or
// anything but Ed25519 for EdDSA and P-256 for ES256.
func ParseKeySet(data []byte) (*KeySet, error) {
	if len(data) > maxKeySet {
		return nil, fmt.Errorf("jwt: key set is longer than %d bytes", maxKeySet)
	}
	var doc struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := jws.Decode(data, &doc, maxDepth, false); err != nil {
		return nil, fmt.Errorf("jwt: key set %v", err)
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("jwt: key set has more than %d keys", maxKeys)
	}
	set := &KeySet{keys: make(map[string]*publicKey, len(doc.Keys))}
	for i, raw := range doc.Keys {
		key, err := parseKey(raw)
		if err != nil {
			return nil, fmt.Errorf("jwt: key %d of the set: %v", i+1, err)
		}
		if set.keys[key.id] != nil {
			return nil, fmt.Errorf("jwt: kid %.40q is used twice", key.id)
		}
		set.keys[key.id] = key
	}
	return set, nil
}

func parseKey(raw []byte) (*publicKey, error) {
	var use struct {
		Kid string   `json:"kid"`
		Use string   `json:"use"`
		Ops []string `json:"key_ops"`
		Alg string   `json:"alg"`
	}
	if err := jws.Decode(raw, &use, maxDepth, false); err != nil {
		return nil, err
	}
	switch {
	case use.Kid == "" || len(use.Kid) > maxKeyID:
		return nil, fmt.Errorf("kid must have 1 to %d bytes", maxKeyID)
	case use.Use != "" && use.Use != "sig":
		return nil, errors.New("use must be sig")
	case use.Ops != nil && !slices.Contains(use.Ops, "verify"):
		return nil, errors.New("key_ops must contain verify")
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(raw); err != nil {
		return nil, errors.New("is not a valid JWK")
	}
	alg, err := algorithmOf(key.Key)
	if err != nil {
		return nil, err
	}
	if use.Alg != "" && use.Alg != string(alg) {
		return nil, fmt.Errorf("alg must be %s", alg)
	}
	return &publicKey{id: use.Kid, alg: alg, public: key.Key}, nil
}

// algorithmOf pins a public key to the one algorithm it may be used with.
func algorithmOf(public crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return jose.EdDSA, nil
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize == 256 {
			return jose.ES256, nil
		}
	}
	return "", errors.New("must be a public Ed25519 or P-256 key")
}

func (s *KeySet) find(kid string) *publicKey {
	if s == nil {
		return nil
	}
	return s.keys[kid]
}

// holds reports whether the set still has this key.
func (s *KeySet) holds(key *publicKey) bool {
	now := s.find(key.id)
	if now == nil {
		return false
	}
	public, ok := now.public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(key.public)
}
