package vaulttest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// transit is a transit engine with keys of the kind aes256-gcm96.
type transit struct{ keys map[string]*transitKey }

type transitKey struct {
	derived  bool
	versions [][]byte
	min      int // version that still decrypts
}

func (e *transit) serve(s *Server, c *call) *response {
	verb, name, _ := strings.Cut(c.path, "/")
	name, more, _ := strings.Cut(name, "/")
	k := e.keys[name]
	if k == nil && more != "" {
		return fail(http.StatusBadRequest, "encryption key not found")
	}
	switch c.op + " " + strings.TrimSuffix(verb+" "+more, " ") {
	case "write keys":
		if k == nil {
			derived, _ := c.body["derived"].(bool)
			e.keys[name] = &transitKey{derived: derived, versions: [][]byte{s.bytes(32)}, min: 1}
		}
		return &response{}
	case "read keys":
		if k == nil {
			return notFound()
		}
		return &response{data: map[string]any{"name": name, "type": "aes256-gcm96", "derived": k.derived, "latest_version": len(k.versions), "min_decryption_version": k.min}}
	case "write keys rotate":
		k.versions = append(k.versions, s.bytes(32))
		return &response{}
	case "write keys config":
		k.min = max(c.number("min_decryption_version"), 1)
		return &response{}
	case "write encrypt":
		if k == nil { // a token that may create gets the key that it asks for
			k = &transitKey{derived: c.text("context") != "", versions: [][]byte{s.bytes(32)}, min: 1}
			e.keys[name] = k
		}
		return k.encrypt(s, c)
	case "write decrypt":
		plain, resp := k.decrypt(c)
		if resp != nil {
			return resp
		}
		return &response{data: map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plain)}}
	case "write rewrap":
		return k.rewrap(s, c)
	}
	return fail(http.StatusNotFound, "unsupported path")
}

// aead is the cipher of a version, derived for a context if the key is.
func (k *transitKey) aead(version int, context []byte) cipher.AEAD {
	key := k.versions[version-1]
	if k.derived {
		mac := hmac.New(sha256.New, key)
		mac.Write(context)
		key = mac.Sum(nil)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // 32 bytes
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}

// inputs reads what all verbs take.
func (k *transitKey) inputs(c *call) (context, associated []byte, resp *response) {
	if k == nil {
		return nil, nil, fail(http.StatusBadRequest, "encryption key not found")
	}
	context, err := base64.StdEncoding.DecodeString(c.text("context"))
	if err != nil {
		return nil, nil, fail(http.StatusBadRequest, "failed to base64-decode context")
	}
	if k.derived && len(context) == 0 {
		return nil, nil, fail(http.StatusBadRequest, "missing 'context' for key derivation; the key was created using a derived key, which means additional, per-request information must be included in order to perform operations with the key")
	}
	associated, err = base64.StdEncoding.DecodeString(c.text("associated_data"))
	if err != nil {
		return nil, nil, fail(http.StatusBadRequest, "failed to base64-decode associated_data")
	}
	return context, associated, nil
}

func (k *transitKey) encrypt(s *Server, c *call) *response {
	context, associated, resp := k.inputs(c)
	if resp != nil {
		return resp
	}
	plain, err := base64.StdEncoding.DecodeString(c.text("plaintext"))
	if err != nil {
		return fail(http.StatusBadRequest, "failed to base64-decode plaintext")
	}
	return k.seal(s, plain, context, associated)
}

func (k *transitKey) seal(s *Server, plain, context, associated []byte) *response {
	version := len(k.versions)
	aead := k.aead(version, context)
	nonce := s.bytes(aead.NonceSize())
	box := aead.Seal(nonce, nonce, plain, associated)
	return &response{data: map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(box)), "key_version": version}}
}

func (k *transitKey) decrypt(c *call) ([]byte, *response) {
	context, associated, resp := k.inputs(c)
	if resp != nil {
		return nil, resp
	}
	rest, ok := strings.CutPrefix(c.text("ciphertext"), "vault:v")
	number, text, _ := strings.Cut(rest, ":")
	version, err := strconv.Atoi(number)
	if !ok || err != nil || version < 1 || version > len(k.versions) {
		return nil, fail(http.StatusBadRequest, "invalid ciphertext: no prefix")
	}
	if version < k.min {
		return nil, fail(http.StatusBadRequest, "ciphertext or signature version is disallowed by policy (too old)")
	}
	aead := k.aead(version, context)
	box, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(box) < aead.NonceSize() {
		return nil, fail(http.StatusBadRequest, "invalid ciphertext: could not decode base64")
	}
	plain, err := aead.Open(nil, box[:aead.NonceSize()], box[aead.NonceSize():], associated)
	if err != nil {
		return nil, fail(http.StatusBadRequest, "cipher: message authentication failed")
	}
	return plain, nil
}

// rewrap takes no associated data: what was made with some does not open here.
func (k *transitKey) rewrap(s *Server, c *call) *response {
	delete(c.body, "associated_data")
	plain, resp := k.decrypt(c)
	if resp != nil {
		return resp
	}
	context, _, _ := k.inputs(c)
	return k.seal(s, plain, context, nil)
}
