// Package message signs and verifies what travels through a queue, so that a
// consumer need trust neither the broker nor anybody who can reach it.
//
// A message is a compact JWS (RFC 7515) signed with the producer's SVID key,
// whose chain is in the header. It names its topic, the subject the producer
// acted for, and its time. The certificate is judged at that time, as it may
// have expired by the time a slow consumer reads, and that time is held
// against the broker's own record of when it stored the message.
package message

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart"
)

// Control ids of refusals.
const (
	controlSignature = "message.signature"
	controlReplay    = "message.replay"
)

// Form of a message.
const (
	typ        = "rampart-msg+jwt"
	alg        = "ES256"
	maxMessage = 256 << 10 // bytes, encoded
	maxDepth   = 32        // nesting of header and payload
	maxName    = 256       // bytes of id and topic
	maxSubject = 2048      // bytes
	ahead      = time.Minute
)

// Message is a verified message.
type Message struct {
	ID       string // 128 random bits by the producer
	Topic    string
	Subject  string // for whom the producer acted; "" for itself
	Producer string // SPIFFE ID of who signed
	Payload  []byte // one JSON value, as signed
	IssuedAt time.Time
}

type header struct {
	Alg string   `json:"alg"`
	Typ string   `json:"typ"`
	X5C [][]byte `json:"x5c"` // standard base64 of DER, leaf first (RFC 7515 section 4.1.6)
}

type body struct {
	ID      string         `json:"id"`
	Topic   string         `json:"topic"`
	Issued  int64          `json:"iat"` // seconds since 1970
	Subject string         `json:"sub"`
	Payload jsontext.Value `json:"payload"`
}

// wellFormed checks what sender and receiver must agree on.
func (b body) wellFormed() error {
	switch {
	case b.ID == "" || len(b.ID) > maxName:
		return unsigned("id must have 1 to %d bytes", maxName)
	case b.Topic == "" || len(b.Topic) > maxName:
		return unsigned("topic must have 1 to %d bytes", maxName)
	case len(b.Subject) > maxSubject:
		return unsigned("sub is longer than %d bytes", maxSubject)
	case b.Issued <= 0:
		return unsigned("iat is required")
	case b.Payload == nil:
		return unsigned("payload is required")
	}
	return nil
}

func unsigned(format string, args ...any) *rampart.Error {
	return rampart.Errorf(rampart.Unauthenticated, controlSignature, "message: "+format, args...)
}

func replayed(kind rampart.Kind, format string, args ...any) *rampart.Error {
	return rampart.Errorf(kind, controlReplay, "message: "+format, args...)
}
