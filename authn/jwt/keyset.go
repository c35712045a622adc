package jwt

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
	"github.com/rampart-security/rampart/internal/jws"
)

// Bounds on a key set.
const (
	maxKeySet = 256 << 10 // bytes
	maxKeys   = 50
)

// KeySet is a read-only set of an issuer's public keys by kid. A nil KeySet
// has no keys.
type KeySet struct {
	keys map[string]*signed.Key
}

// ParseKeySet reads our own JWK set (RFC 7517 section 5) of at most 256 KiB
// and 50 keys. One bad key refuses the whole set: a kid missing or used twice,
// a private or symmetric key, a use other than sig, key_ops without verify, or
// anything but Ed25519 for EdDSA and P-256 for ES256.
func ParseKeySet(data []byte) (*KeySet, error) {
	return parseKeySet(data, signed.ParseKey, func(key *signed.Key) (bool, error) {
		if key.ID == "" {
			return false, errors.New("has no kid")
		}
		if !slices.Contains([]Algorithm{EdDSA, Ed25519, ES256}, key.Alg) {
			return false, errors.New("must be a public Ed25519 or P-256 key")
		}
		return true, nil
	}, nil)
}

// ParseForeignKeySet reads the JWK set of somebody else: an outside issuer, or
// a client for its assertions. Of its keys those count that one of algs can
// use; an RSA key that names no alg is pinned to the first RSA algorithm of
// algs. Keys for other purposes, of other kinds and without a kid are passed
// over. A private, symmetric or weak key, a kid used twice and a document over
// the bounds of ParseKeySet refuse the whole set: whoever publishes these has
// lost control of it.
func ParseForeignKeySet(data []byte, algs ...Algorithm) (*KeySet, error) {
	return parseKeySet(data, signed.ParseKey, usableBy(algs), []error{signed.ErrForeign, signed.ErrPurpose})
}

// usableBy keeps the keys with a kid that one of algs can use.
func usableBy(algs []Algorithm) func(*signed.Key) (bool, error) {
	return func(key *signed.Key) (bool, error) {
		if key.Alg == "" {
			if i := slices.IndexFunc(algs, Algorithm.IsRSA); i >= 0 {
				key.Alg = algs[i]
			}
		}
		return key.ID != "" && slices.Contains(algs, key.Alg), nil
	}
}

// parseKeySet reads each key with parse, keeps those that keep wants, and passes
// over those whose error is among spared.
func parseKeySet(data []byte, parse func([]byte) (*signed.Key, error), keep func(*signed.Key) (bool, error), spared []error) (*KeySet, error) {
	if len(data) > maxKeySet {
		return nil, fmt.Errorf("jwt: key set is longer than %d bytes", maxKeySet)
	}
	var doc struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := jws.Decode(data, &doc, signed.MaxDepth, false); err != nil {
		return nil, fmt.Errorf("jwt: key set %v", err)
	}
	if doc.Keys == nil {
		return nil, errors.New("jwt: key set has no keys member")
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("jwt: key set has more than %d keys", maxKeys)
	}
	set := &KeySet{keys: make(map[string]*signed.Key, len(doc.Keys))}
	for i, raw := range doc.Keys {
		key, err := parse(raw)
		if slices.ContainsFunc(spared, func(e error) bool { return errors.Is(err, e) }) {
			continue
		}
		wanted := false
		if err == nil {
			wanted, err = keep(key)
		}
		if err != nil {
			return nil, fmt.Errorf("jwt: key %d of the set: %v", i+1, err)
		}
		if !wanted {
			continue
		}
		if set.keys[key.ID] != nil {
			return nil, fmt.Errorf("jwt: kid %.40q is used twice", key.ID)
		}
		set.keys[key.ID] = key
	}
	return set, nil
}

// Has reports whether the set has a key of this id.
func (s *KeySet) Has(kid string) bool { return s.find(kid) != nil }

func (s *KeySet) find(kid string) *signed.Key {
	if s == nil {
		return nil
	}
	return s.keys[kid]
}

// holds reports whether the set still has this key.
func (s *KeySet) holds(key *signed.Key) bool {
	now := s.find(key.ID)
	return now != nil && (now == key || now.Equal(key)) // nearly always the set is the one that key came from
}
