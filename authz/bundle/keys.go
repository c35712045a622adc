package bundle

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxKeys bounds a set of keys.
const maxKeys = 64

// Keys are the public keys of those who may sign policies, by kid. Several
// count at once, so that one can follow another without a bundle being refused.
// The zero Keys trusts nobody. It is read-only.
type Keys map[string]ed25519.PublicKey

// KeyID returns the kid of a key: its RFC 7638 thumbprint.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + FormatKey(key) + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// FormatKey renders a key as authz.bundle.keys has it: base64url.
func FormatKey(key ed25519.PublicKey) string { return base64.RawURLEncoding.EncodeToString(key) }

// ParseKeys reads keys as authz.bundle.keys has them.
func ParseKeys(texts []string) (Keys, error) {
	if len(texts) > maxKeys {
		return nil, fmt.Errorf("bundle: more than %d keys", maxKeys)
	}
	keys := Keys{}
	for _, text := range texts {
		if err := keys.add(text); err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
	}
	return keys, nil
}

func (k Keys) add(text string) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return errors.New("a policy key is an Ed25519 public key of 32 bytes in base64url")
	}
	k[KeyID(raw)] = raw
	return nil
}

// ParseJWKS reads the Ed25519 keys of a JWK set (RFC 7517, RFC 8037). A kid is
// the key's thumbprint whatever the set says, so that none can pose as another.
func ParseJWKS(jwks []byte) (Keys, error) {
	var set struct {
		Keys []struct {
			Kty string `json:"kty"`
			Crv string `json:"crv"`
			X   string `json:"x"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil || len(set.Keys) > maxKeys {
		return nil, errors.New("bundle: the key set does not parse")
	}
	keys := Keys{}
	for _, k := range set.Keys {
		if k.Kty != "OKP" || k.Crv != "Ed25519" {
			continue
		}
		if err := keys.add(k.X); err != nil {
			return nil, fmt.Errorf("bundle: key set: %w", err)
		}
	}
	return keys, nil
}

// texts lists the keys as authz.bundle.keys has them, sorted.
func (k Keys) texts() []string {
	out := []string{}
	for key := range maps.Values(k) {
		out = append(out, FormatKey(key))
	}
	slices.Sort(out)
	return out
}

// shownKeys bounds how many keys a message names.
const shownKeys = 8

// ids names the keys by kid, sorted, for operators.
func (k Keys) ids() string {
	ids := slices.Sorted(maps.Keys(k))
	if len(ids) == 0 {
		return "none"
	}
	more := ""
	if len(ids) > shownKeys {
		more = fmt.Sprintf(" and %d more", len(ids)-shownKeys)
	}
	return strings.Join(ids[:min(len(ids), shownKeys)], ", ") + more
}
