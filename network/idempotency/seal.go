package idempotency

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"

	"github.com/rampart-security/rampart"
)

// sealer encrypts an answer while it waits to be repeated. An answer may hold
// personal data, and the edge has no key that outlives it. But whoever may have
// the answer repeats the very request, so the key is made of that: of the
// client's key and body. What lies on disk opens for nobody who does not have
// both.
func sealer(call Call, id ID) (cipher.AEAD, error) {
	secret := append([]byte(call.Key+"\x00"), call.Body...)
	key, err := hkdf.Key(sha256.New, secret, id[:], "rampart idempotency answer v1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func seal(call Call, id ID, r Response) (Response, error) {
	aead, err := sealer(call, id)
	if err != nil {
		return Response{}, err
	}
	r.Body = aead.Seal(nil, nil, r.Body, id[:])
	return r, nil
}

func unseal(call Call, id ID, r Response) (Response, error) {
	aead, err := sealer(call, id)
	if err != nil {
		return Response{}, err
	}
	if r.Body, err = aead.Open(nil, nil, r.Body, id[:]); err != nil {
		return Response{}, &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "the stored answer cannot be read", Err: err}
	}
	return r, nil
}
