package idempotency

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"

	"github.com/rampart-security/rampart"
)

// sealer encrypts an answer while it waits to be repeated. An answer may hold
// personal data, and the edge has no key that outlives it. But whoever may have
// the answer repeats the very request, so the key is made of that: of the
// client's key and body. What lies on disk opens for nobody who does not have
// both. Beside the answer lies what its caller might do: whoever may do something else
// now gets it no more.
func sealer(call Call, id ID) (cipher.AEAD, error) {
	secret := append([]byte(call.Key+"\x00"), call.Body...)
	key, err := hkdf.Key(sha256.New, secret, id[:], "rampart idempotency answer v3", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal leaves the status to be read, and nothing else.
func seal(call Call, id ID, r Response) (Response, error) {
	aead, err := sealer(call, id)
	if err != nil {
		return Response{}, err
	}
	header, err := json.Marshal(r.Header)
	if err != nil {
		return Response{}, err
	}
	rights := sha256.Sum256([]byte(call.Rights))
	plain := binary.BigEndian.AppendUint32(rights[:], uint32(len(header)))
	plain = append(append(plain, header...), r.Body...)
	return Response{Status: r.Status, TooLarge: r.TooLarge, Body: aead.Seal(nil, nil, plain, id[:])}, nil
}

func unseal(call Call, id ID, r Response) (Response, error) {
	aead, err := sealer(call, id)
	if err != nil {
		return Response{}, err
	}
	plain, err := aead.Open(nil, nil, r.Body, id[:])
	if err != nil {
		return Response{}, unreadable(err)
	}
	rights := sha256.Sum256([]byte(call.Rights))
	plain, same := bytes.CutPrefix(plain, rights[:])
	if !same {
		return Response{}, rampart.Errorf(rampart.Conflict, control, "the request was carried out before; its answer is not repeated, since what you may do has changed")
	}
	if len(plain) < 4 || uint64(binary.BigEndian.Uint32(plain)) > uint64(len(plain)-4) {
		return Response{}, unreadable(nil)
	}
	header, body := plain[4:4+binary.BigEndian.Uint32(plain)], plain[4+binary.BigEndian.Uint32(plain):]
	if err := json.Unmarshal(header, &r.Header); err != nil {
		return Response{}, unreadable(err)
	}
	r.Body = body
	return r, nil
}

func unreadable(err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "the stored answer cannot be read", Err: err}
}
