package jwt

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// nonceSlot is how long one nonce is handed out. The nonce of the slot before
// is still taken, so one lasts between one slot and two.
const nonceSlot = 5 * time.Minute

// Nonces are server nonces for DPoP proofs (RFC 9449 section 8) that nobody
// must remember: an HMAC of the time. Whoever has the key, as all replicas of a
// plane do, takes the nonces of the others. Safe for concurrent use.
type Nonces struct {
	key []byte
}

// NewNonces returns the nonces of a key of 32 bytes.
func NewNonces(key []byte) (*Nonces, error) {
	if len(key) != sha256.Size {
		return nil, errors.New("jwt: nonce key must have 32 bytes")
	}
	return &Nonces{append([]byte(nil), key...)}, nil
}

// Format prints nothing of the key under any verb.
func (n *Nonces) Format(f fmt.State, _ rune) { fmt.Fprint(f, "jwt.Nonces") }

// Nonce returns the nonce to hand out now.
func (n *Nonces) Nonce(now time.Time) string { return n.at(now.Unix() / int64(nonceSlot/time.Second)) }

func (n *Nonces) at(slot int64) string {
	mac := hmac.New(sha256.New, n.key)
	mac.Write([]byte("rampart-dpop-nonce-v1\n"))
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(slot)))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

func (n *Nonces) valid(nonce string, now time.Time) bool {
	slot := now.Unix() / int64(nonceSlot/time.Second)
	current := hmac.Equal([]byte(nonce), []byte(n.at(slot)))
	previous := hmac.Equal([]byte(nonce), []byte(n.at(slot-1)))
	return current || previous
}
