package message

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/jws"
	"github.com/rampart-security/rampart/tls/svid"
)

// Bounds of the replay memory of one verifier: about 60 MiB when full, enough
// for 500 messages a second at a window of ten minutes.
const (
	maxRemembered = 1 << 20
	disorder      = 5 * time.Minute // by how much a broker may deliver out of order
)

// VerifierOptions say what a consumer accepts.
type VerifierOptions struct {
	Source *svid.Source    // whom to believe about producers, and who is denied; required
	Accept map[string]bool // SPIFFE IDs whose signature counts; nil accepts nobody
	Topic  string          // required, compared byte for byte
	Window time.Duration   // most that may pass between signing and storing; required, positive
	After  *Verifier       // of the same topic, whose place this one takes; it shares what that one remembers. nil: begins with nothing
}

// Verifier checks the messages of one topic. The zero Verifier refuses
// everything. Safe for concurrent use.
type Verifier struct {
	opt VerifierOptions

	past *past
}

// past is what verifiers of one topic, one after the other, have seen.
type past struct {
	mu     sync.Mutex
	memory memory
}

// NewVerifier returns a verifier. It panics when a required option is missing.
func NewVerifier(opt VerifierOptions) *Verifier {
	if opt.Source == nil || opt.Topic == "" || opt.Window <= 0 {
		panic("message: NewVerifier needs a source, topic and window")
	}
	keep, v := opt.Window+ahead+disorder, &Verifier{opt: opt}
	if opt.After == nil {
		v.past = &past{memory: memory{keep: keep, young: make(map[sighting]int64)}}
		return v
	}
	v.past, v.opt.After = opt.After.past, nil // of which nothing else is kept
	v.past.mu.Lock()
	defer v.past.mu.Unlock()
	v.past.memory.keep = max(v.past.memory.keep, keep)
	return v
}

// Verify returns the message in raw, which the broker stored at the given
// time.
//
// A message is a replay if the same producer's message with the same id was
// stored at another time before. The same store time is the broker delivering
// the one message again, and passes: keep the store time exact. The memory
// holds as long as this process; after a restart, copies stored within the
// window of the original's signing can pass once.
//
// Refusals name message.signature (kind Unauthenticated, or Denied for a
// producer that is not accepted) or message.replay (kind Conflict; Unavailable
// when the memory is full, so that the broker tries again).
func (v *Verifier) Verify(raw []byte, stored time.Time) (Message, error) {
	if v.opt.Source == nil {
		return Message{}, unsigned("verifier is not configured")
	}
	msg, err := v.authentic(string(raw))
	if err != nil {
		return Message{}, err
	}
	if err := v.fresh(msg, stored); err != nil {
		return Message{}, err
	}
	return msg, nil
}

// Authentic returns the message in raw if its form, signature, certificate,
// producer and topic are right. Unlike Verify it asks not when or how often the
// message came: it is for who passes a message on, not for who acts on it.
func (v *Verifier) Authentic(raw []byte) (Message, error) {
	if v.opt.Source == nil {
		return Message{}, unsigned("verifier is not configured")
	}
	return v.authentic(string(raw))
}

// authentic checks form, signature, certificate, producer and topic.
func (v *Verifier) authentic(raw string) (Message, error) {
	parts, err := jws.Split(raw, maxMessage)
	if err != nil {
		return Message{}, malformed(err)
	}
	chain, err := signers(parts.Header)
	if err != nil {
		return Message{}, err
	}
	if !signedBy(chain[0], parts) {
		return Message{}, unsigned("signature is not valid")
	}
	var b body
	if err := jws.Decode(parts.Payload, &b, maxDepth, true); err != nil {
		return Message{}, malformed(err)
	}
	if err := b.wellFormed(); err != nil {
		return Message{}, err
	}
	issued := time.Unix(b.Issued, 0).UTC()
	// The producer's role is that of a client: it dials the broker.
	check, _ := v.opt.Source.Check(x509.ExtKeyUsageClientAuth, issued)
	peer, err := check.Verify(chain)
	if err != nil {
		e := unsigned("certificate is not valid at the time of signing")
		e.Err = err
		return Message{}, e
	}
	if !v.opt.Accept[peer.ID] {
		return Message{}, rampart.Errorf(rampart.Denied, controlSignature, "message: %.200q may not publish here", peer.ID)
	}
	if b.Topic != v.opt.Topic {
		return Message{}, unsigned("is for topic %.100q", b.Topic)
	}
	return Message{ID: b.ID, Topic: b.Topic, Subject: b.Subject, Producer: peer.ID, Payload: b.Payload, IssuedAt: issued}, nil
}

func malformed(err error) error {
	e := unsigned("is malformed")
	e.Err = err
	return e
}

// signers reads the header and the certificates in it. Nothing else in a
// header may say where a key comes from.
func signers(raw []byte) ([]*x509.Certificate, error) {
	var h header
	if err := jws.Decode(raw, &h, maxDepth, true); err != nil {
		return nil, malformed(err)
	}
	switch {
	case h.Alg != alg:
		return nil, unsigned("alg must be %s", alg)
	case h.Typ != typ:
		return nil, unsigned("typ must be %s", typ)
	}
	chain, err := svid.ParseChain(h.X5C)
	if err != nil {
		e := unsigned("x5c holds no certificate chain")
		e.Err = err
		return nil, e
	}
	return chain, nil
}

func signedBy(leaf *x509.Certificate, parts jws.Compact) bool {
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !isP256(key) || len(parts.Signature) != 64 {
		return false
	}
	digest := sha256.Sum256([]byte(parts.Signed))
	r, s := new(big.Int).SetBytes(parts.Signature[:32]), new(big.Int).SetBytes(parts.Signature[32:])
	return ecdsa.Verify(key, digest[:], r, s)
}

// fresh checks the window and the replay memory.
func (v *Verifier) fresh(msg Message, stored time.Time) error {
	switch {
	case msg.IssuedAt.Before(stored.Add(-v.opt.Window)):
		return replayed(rampart.Conflict, "was stored more than %s after it was signed", v.opt.Window)
	case msg.IssuedAt.After(stored.Add(ahead)):
		return replayed(rampart.Conflict, "was signed after it was stored")
	}
	v.past.mu.Lock()
	defer v.past.mu.Unlock()
	return v.past.memory.see(msg, stored)
}
