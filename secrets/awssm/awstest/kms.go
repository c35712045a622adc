package awstest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
)

// blobHead begins what a key encrypted; KMS's own form is not public.
const blobHead = "\x01\x02awstest:"

type key struct {
	id       string
	material []cipher.AEAD // the last one encrypts
	state    string        // Enabled | Disabled | PendingDeletion
}

// NewKey makes a symmetric key and returns its id.
func (s *Server) NewKey() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := fmt.Sprintf("%08d-0000-4000-8000-%012x", len(s.keys)+1, 7)
	s.keys[id] = &key{id: id, state: "Enabled"}
	s.keys[id].rotate()
	return id
}

func (k *key) rotate() {
	raw := make([]byte, 32)
	rand.Read(raw)
	block, err := aes.NewCipher(raw)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	k.material = append(k.material, aead)
}

// RotateKey gives a key new material, as KMS does once a year: its id stays.
func (s *Server) RotateKey(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[id].rotate()
}

// SetState makes a key Enabled, Disabled or PendingDeletion.
func (s *Server) SetState(id, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[id].state = state
}

func keyARN(id string) string { return "arn:aws:kms:" + Region + ":111122223333:key/" + id }

// key finds a key by id or ARN and demands that it can be used.
func (s *Server) key(id string) (*key, *fault) {
	if strings.HasPrefix(id, "arn:") {
		id = id[strings.LastIndex(id, "/")+1:]
	}
	if s.denied[id] {
		return nil, bad("AccessDeniedException", "User is not authorized to perform this on "+id)
	}
	k := s.keys[id]
	switch {
	case k == nil:
		return nil, bad("NotFoundException", "Key does not exist")
	case k.state == "Disabled":
		return nil, bad("DisabledException", keyARN(id)+" is disabled.")
	case k.state == "PendingDeletion":
		return nil, bad("KMSInvalidStateException", keyARN(id)+" is pending deletion.")
	}
	return k, nil
}

// seal binds text to key and context. Go writes maps in order, so the same
// context gives the same bytes.
func (k *key) seal(text []byte, context map[string]string) []byte {
	aad, _ := json.Marshal(context)
	n := len(k.material) - 1
	head := fmt.Appendf(nil, "%s%s:%02d", blobHead, k.id, n)
	return k.material[n].Seal(head, nil, text, append(head[:len(head):len(head)], aad...))
}

// open finds the key in the blob, as KMS does.
func (s *Server) open(blob []byte, id string, context map[string]string) ([]byte, *key, *fault) {
	invalid := bad("InvalidCiphertextException", "")
	const idLen = 36
	rest, ok := bytes.CutPrefix(blob, []byte(blobHead))
	if !ok || len(rest) < idLen+3 || len(blob) > 6144 {
		return nil, nil, invalid
	}
	if s.keys[string(rest[:idLen])] == nil {
		return nil, nil, invalid
	}
	k, f := s.key(string(rest[:idLen]))
	if f != nil {
		return nil, nil, f
	}
	if id != "" && id != k.id && id != keyARN(k.id) {
		return nil, nil, bad("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
	}
	var n int
	if _, err := fmt.Sscanf(string(rest[idLen:idLen+3]), ":%02d", &n); err != nil || n >= len(k.material) {
		return nil, nil, invalid
	}
	head := len(blobHead) + idLen + 3
	aad, _ := json.Marshal(context)
	text, err := k.material[n].Open(nil, nil, blob[head:], append(bytes.Clone(blob[:head]), aad...))
	if err != nil {
		return nil, nil, invalid // KMS does not say that the context differs
	}
	return text, k, nil
}

func (s *Server) encrypt(body []byte) (any, *fault) {
	q, f := in[struct {
		KeyId             string
		Plaintext         []byte
		EncryptionContext map[string]string
	}](body)
	if f != nil {
		return nil, f
	}
	k, f := s.key(q.KeyId)
	if f != nil {
		return nil, f
	}
	if len(q.Plaintext) == 0 || len(q.Plaintext) > 4096 {
		return nil, bad("ValidationException", "plaintext has 1 to 4096 bytes")
	}
	return struct {
		CiphertextBlob             []byte
		KeyId, EncryptionAlgorithm string
	}{k.seal(q.Plaintext, q.EncryptionContext), keyARN(k.id), "SYMMETRIC_DEFAULT"}, nil
}

func (s *Server) decrypt(body []byte) (any, *fault) {
	q, f := in[struct {
		KeyId             string
		CiphertextBlob    []byte
		EncryptionContext map[string]string
	}](body)
	if f != nil {
		return nil, f
	}
	if len(q.CiphertextBlob) == 0 || len(q.CiphertextBlob) > 6144 {
		return nil, bad("ValidationException", "ciphertextBlob has 1 to 6144 bytes")
	}
	text, k, f := s.open(q.CiphertextBlob, q.KeyId, q.EncryptionContext)
	if f != nil {
		return nil, f
	}
	return struct {
		Plaintext                  []byte
		KeyId, EncryptionAlgorithm string
	}{text, keyARN(k.id), "SYMMETRIC_DEFAULT"}, nil
}

func (s *Server) reEncrypt(body []byte) (any, *fault) {
	q, f := in[struct {
		CiphertextBlob                                            []byte
		SourceKeyId, DestinationKeyId                             string
		SourceEncryptionContext, DestinationEncryptionContext     map[string]string
		SourceEncryptionAlgorithm, DestinationEncryptionAlgorithm string
	}](body)
	if f != nil {
		return nil, f
	}
	text, from, f := s.open(q.CiphertextBlob, q.SourceKeyId, q.SourceEncryptionContext)
	if f != nil {
		return nil, f
	}
	to, f := s.key(q.DestinationKeyId)
	if f != nil {
		return nil, f
	}
	return struct {
		CiphertextBlob     []byte
		SourceKeyId, KeyId string
	}{to.seal(text, q.DestinationEncryptionContext), keyARN(from.id), keyARN(to.id)}, nil
}

func (s *Server) describeKey(body []byte) (any, *fault) {
	q, f := in[struct{ KeyId string }](body)
	if f != nil {
		return nil, f
	}
	id := q.KeyId[strings.LastIndex(q.KeyId, "/")+1:]
	k := s.keys[id]
	if k == nil {
		return nil, bad("NotFoundException", "Key does not exist")
	}
	type meta struct {
		KeyId, Arn, KeyState, KeyUsage, KeySpec string
		Enabled                                 bool
	}
	return struct{ KeyMetadata meta }{meta{id, keyARN(id), k.state, "ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT", k.state == "Enabled"}}, nil
}
