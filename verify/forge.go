package verify

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

var b64 = base64.RawURLEncoding

// jws is a compact JWS taken apart. Headers and claims are maps, so that a
// forger can put anything in.
type jws struct {
	header map[string]any
	claims map[string]any
}

func parseJWS(text string) (jws, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return jws{}, errors.New("not a compact JWS")
	}
	var j jws
	for i, into := range []*map[string]any{&j.header, &j.claims} {
		b, err := b64.DecodeString(parts[i])
		if err != nil {
			return jws{}, err
		}
		if err := json.Unmarshal(b, into); err != nil {
			return jws{}, err
		}
	}
	return j, nil
}

// signing returns what a signature covers.
func (j jws) signing() (string, error) {
	head, err := json.Marshal(j.header)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(j.claims)
	return b64.EncodeToString(head) + "." + b64.EncodeToString(body), err
}

// unsigned is the token with alg none and no signature.
func (j jws) unsigned() (string, error) {
	text, err := j.as("none").signing()
	return text + ".", err
}

// hs256 signs with a shared secret.
func (j jws) hs256(secret []byte) (string, error) {
	text, err := j.as("HS256").signing()
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(text))
	return text + "." + b64.EncodeToString(m.Sum(nil)), err
}

// es256 signs with a P-256 key (RFC 7518 section 3.4).
func (j jws) es256(key *ecdsa.PrivateKey) (string, error) {
	text, err := j.as("ES256").signing()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "", err
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + b64.EncodeToString(sig[:]), nil
}

// as returns a copy with another alg.
func (j jws) as(alg string) jws {
	h := map[string]any{}
	for k, v := range j.header {
		h[k] = v
	}
	h["alg"] = alg
	return jws{h, j.claims}
}

// claim returns a copy with one claim changed.
func (j jws) claim(name string, value any) jws {
	c := map[string]any{}
	for k, v := range j.claims {
		c[k] = v
	}
	c[name] = value
	return jws{j.header, c}
}

// number reads a numeric claim.
func (j jws) number(name string) int64 {
	v, _ := j.claims[name].(float64)
	return int64(v)
}

// withPayload keeps header and signature of a token and puts other claims
// between them.
func withPayload(text string, j jws) (string, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return "", errors.New("not a compact JWS")
	}
	body, err := json.Marshal(j.claims)
	return parts[0] + "." + b64.EncodeToString(body) + "." + parts[2], err
}

// publicPoint returns the uncompressed point of the first P-256 key of a JWK
// set: bytes that everybody knows, which a confused verifier takes for a
// shared secret.
func publicPoint(jwks []byte) ([]byte, error) {
	var set struct {
		Keys []struct {
			Kty, Crv, X, Y string
		} `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, fmt.Errorf("the key set does not parse: %w", err)
	}
	for _, k := range set.Keys {
		x, errX := b64.DecodeString(k.X)
		y, errY := b64.DecodeString(k.Y)
		if k.Kty == "EC" && k.Crv == "P-256" && errX == nil && errY == nil {
			out := make([]byte, 65)
			out[0] = 4
			new(big.Int).SetBytes(x).FillBytes(out[1:33])
			new(big.Int).SetBytes(y).FillBytes(out[33:])
			return out, nil
		}
	}
	return nil, errors.New("the key set has no P-256 key")
}

// queued is a message for a queue, in the signed form of the house.
type queued struct {
	id      string
	topic   string
	issued  int64
	subject string
	payload any
}

// sign makes the message as a workload would. A nil signer leaves the
// signature out.
func (q queued) sign(w *workload) (string, error) {
	chain := make([]string, len(w.chain))
	for i, der := range w.chain {
		chain[i] = base64.StdEncoding.EncodeToString(der)
	}
	return q.jws(chain).es256(w.key)
}

func (q queued) jws(chain []string) jws {
	return jws{
		header: map[string]any{"typ": "rampart-msg+jwt", "x5c": chain},
		claims: map[string]any{"id": q.id, "topic": q.topic, "iat": q.issued, "sub": q.subject, "payload": q.payload},
	}
}
