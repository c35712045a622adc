package valkey

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/rampart-security/rampart/network/idempotency"
)

// derive makes keys of what every gateway that may get the request has, and the
// store has not: the client's key within its scope.
func derive(id idempotency.ID, what string) ([]byte, error) {
	return hkdf.Key(sha256.New, id[:], nil, "rampart idempotency store v1 "+what, sha256.Size)
}

// nameOf is what an entry is found by.
func nameOf(id idempotency.ID) (string, error) {
	b, err := derive(id, "name")
	return base64.RawURLEncoding.EncodeToString(b), err
}

// markOf tells bodies apart without being a hash of one: bodies of payments can be
// guessed, and a plain hash would say who guessed right.
func markOf(id idempotency.ID, hash [sha256.Size]byte) (string, error) {
	key, err := derive(id, "mark")
	if err != nil {
		return "", err
	}
	h := hmac.New(sha256.New, key)
	h.Write(hash[:])
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)), nil
}

func sealer(id idempotency.ID) (cipher.AEAD, error) {
	key, err := derive(id, "answer")
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal hides status and header, too. The body comes sealed from the Guard, under the
// client's key and the request's body.
func seal(id idempotency.ID, r idempotency.Response) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	aead, err := sealer(id)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, text, nil), nil
}

func unseal(id idempotency.ID, sealed []byte) (r idempotency.Response, err error) {
	aead, err := sealer(id)
	if err != nil {
		return r, err
	}
	text, err := aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return r, fmt.Errorf("the answer is damaged: %w", err)
	}
	return r, json.Unmarshal(text, &r)
}
