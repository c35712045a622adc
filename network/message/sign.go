package message

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/jws"
	"github.com/rampart-security/rampart/tls/svid"
)

// Signer signs messages with a plane's current SVID. Safe for concurrent use.
type Signer struct {
	Source *svid.Source     // required
	Now    func() time.Time // nil: time.Now
}

// Sign returns the message for topic, made on behalf of subject ("" for the
// plane itself). payload must be one JSON value; what cannot be a message is
// of kind Invalid.
func (s *Signer) Sign(topic, subject string, payload []byte) ([]byte, error) {
	current, err := s.Source.Current()
	if err != nil {
		return nil, err
	}
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	b := body{ID: rand.Text(), Topic: topic, Issued: now().Unix(), Subject: subject, Payload: payload}
	if err := b.wellFormed(); err != nil {
		return nil, invalid(err)
	}
	if err := canCarry(payload); err != nil {
		return nil, invalid(err)
	}
	signed, err := encode(header{Alg: alg, Typ: typ, X5C: current.Certificate.Certificate}, b)
	if err != nil {
		return nil, invalid(err)
	}
	key, ok := current.Certificate.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, rampart.Errorf(rampart.Internal, controlSignature, "message: SVID key cannot sign")
	}
	signature, err := es256(key, signed)
	if err != nil {
		return nil, err
	}
	out := append(append(signed, '.'), base64.RawURLEncoding.EncodeToString(signature)...)
	if len(out) > maxMessage {
		return nil, rampart.Errorf(rampart.Invalid, controlSignature, "message: longer than %d bytes", maxMessage)
	}
	return out, nil
}

func invalid(err error) error {
	return &rampart.Error{Kind: rampart.Invalid, Control: controlSignature, Msg: "message: cannot be sent", Err: err}
}

// canCarry refuses a payload that the receiver's strict parser would refuse.
func canCarry(payload []byte) error {
	if len(payload) > maxMessage {
		return fmt.Errorf("payload is longer than %d bytes", maxMessage)
	}
	var v struct {
		V jsontext.Value `json:"v"`
	}
	return jws.Decode(fmt.Appendf(nil, `{"v":%s}`, payload), &v, maxDepth, true)
}

// encode returns what is signed: header and body, base64url, joined by a dot.
func encode(h header, b body) ([]byte, error) {
	head, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	out := base64.RawURLEncoding.AppendEncode(nil, head)
	return base64.RawURLEncoding.AppendEncode(append(out, '.'), text), nil
}

// es256 signs as RFC 7518 section 3.4 says: R and S, 32 bytes each.
func es256(key crypto.Signer, signed []byte) ([]byte, error) {
	if !isP256(key.Public()) {
		return nil, rampart.Errorf(rampart.Internal, controlSignature, "message: SVID key is not P-256")
	}
	digest := sha256.Sum256(signed)
	der, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, &rampart.Error{Control: controlSignature, Msg: "message: cannot be signed", Err: err}
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 {
		return nil, &rampart.Error{Control: controlSignature, Msg: "message: SVID key makes no ECDSA signature", Err: err}
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out, nil
}

func isP256(public crypto.PublicKey) bool {
	key, ok := public.(*ecdsa.PublicKey)
	return ok && key.Curve.Params().BitSize == 256
}
