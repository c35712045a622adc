package rotate

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// Of SCRAM-SHA-256 as PostgreSQL does it. RFC 7677 section 4 asks for 4096
// rounds at least; a password of 256 random bits gains nothing from more.
const (
	scramRounds = 4096
	scramSalt   = 16
)

// Verifier returns what PostgreSQL stores of a password: the server can verify
// with it and not log in. Sent in its place, no password reaches the server's
// log or its memory (RFC 5803, as "SCRAM-SHA-256$rounds:salt$stored:server").
func Verifier(password []byte) (string, error) {
	salt := make([]byte, scramSalt)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	return verifier(password, salt, scramRounds)
}

// verifier is RFC 5802 section 3: StoredKey is H(HMAC(salted, "Client Key")),
// ServerKey is HMAC(salted, "Server Key").
func verifier(password, salt []byte, rounds int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, string(password), salt, rounds, sha256.Size)
	if err != nil {
		return "", err
	}
	defer clear(salted)
	client := mac(salted, "Client Key")
	defer clear(client)
	stored := sha256.Sum256(client)
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", rounds, b64(salt), b64(stored[:]), b64(mac(salted, "Server Key"))), nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
