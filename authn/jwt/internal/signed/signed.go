// Package signed answers "did this key sign this text?" for a compact JWS
// (RFC 7515): one algorithm pinned to one key, one spelling per text, and no
// key from the text itself. What the payload means is for its callers.
package signed

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"strings"

	// The hashes that RSA signatures name.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart/internal/jws"
)

// MaxDepth bounds the nesting of a header, a payload and a key.
const MaxDepth = 8

// Rules beyond those of package jws, by which a text is refused.
const (
	RuleHeader    = "header"    // a member that our own tokens do not have
	RuleExtension = "crit"      // crit or b64 change what a signature means
	RuleAlgorithm = "alg"       // not the one algorithm of the key
	RuleSignature = "signature" // not signed by the key
)

// Header are the members of a header that anyone may read. No key and no
// address of a key is among them, except for the DPoP proof, which is about
// the key it carries (RFC 9449 section 4.2).
type Header struct {
	Alg  Algorithm      `json:"alg"`
	Typ  string         `json:"typ"`
	Kid  string         `json:"kid"`
	Crit jsontext.Value `json:"crit"`
	B64  jsontext.Value `json:"b64"`
}

// Type returns typ in lower case and without "application/", which RFC 7515
// section 4.1.9 lets a sender leave out.
func (h Header) Type() string {
	return strings.TrimPrefix(strings.ToLower(h.Typ), "application/")
}

// Text is a compact JWS taken apart. Nothing in it is to be believed before
// Verify.
type Text struct {
	Header Header
	Parts  jws.Compact
}

// Parse takes text of at most limit bytes apart. If closed is set, a header
// with any other member than alg, typ and kid is refused. The error is a
// *jws.Error.
func Parse(text string, limit int, closed bool) (Text, error) {
	parts, err := jws.Split(text, limit)
	if err != nil {
		return Text{}, err
	}
	t := Text{Parts: parts}
	if err := jws.Decode(parts.Header, &t.Header, MaxDepth, closed); err != nil {
		return Text{}, headerError(err)
	}
	if t.Header.Crit != nil || t.Header.B64 != nil {
		return Text{}, &jws.Error{Rule: RuleExtension, Msg: "has header extensions, which are not supported"}
	}
	return t, nil
}

func headerError(err error) error {
	e, ok := errors.AsType[*jws.Error](err)
	if !ok {
		return &jws.Error{Rule: jws.RuleJSON, Msg: "header is malformed"}
	}
	rule := e.Rule
	if rule == jws.RuleUnknown {
		rule = RuleHeader
	}
	return &jws.Error{Rule: rule, Msg: "header " + e.Msg}
}

// Verify holds that key signed the text, with the key's own algorithm. The
// error is a *jws.Error.
func (t Text) Verify(key *Key) error {
	if t.Header.Alg != key.Alg {
		return &jws.Error{Rule: RuleAlgorithm, Msg: fmt.Sprintf("alg must be %s", key.Alg)}
	}
	if !t.signedBy(key) {
		return &jws.Error{Rule: RuleSignature, Msg: "signature is not valid"}
	}
	return nil
}

// signedBy checks the signature over the bytes that were taken apart above, by
// the standard library: a general JOSE library would read the text once more in
// its own way, and takes a PSS salt of any length.
func (t Text) signedBy(key *Key) bool {
	switch public := key.Public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(public, []byte(t.Parts.Signed), t.Parts.Signature)
	case *ecdsa.PublicKey:
		return t.verifyES256(public)
	case *rsa.PublicKey:
		return t.verifyRSA(public, key.Alg)
	}
	return false
}

func (t Text) digest(hash crypto.Hash) []byte {
	h := hash.New()
	h.Write([]byte(t.Parts.Signed))
	return h.Sum(nil)
}

// verifyES256 reads r and s in 32 bytes each (RFC 7518 section 3.4).
func (t Text) verifyES256(public *ecdsa.PublicKey) bool {
	const size = 32
	if len(t.Parts.Signature) != 2*size {
		return false
	}
	r := new(big.Int).SetBytes(t.Parts.Signature[:size])
	s := new(big.Int).SetBytes(t.Parts.Signature[size:])
	return ecdsa.Verify(public, t.digest(crypto.SHA256), r, s)
}

// verifyRSA demands of PSS a salt as long as the hash (RFC 7518 section 3.5).
func (t Text) verifyRSA(public *rsa.PublicKey, alg Algorithm) bool {
	hash := alg.hash()
	switch alg {
	case RS256, RS384, RS512:
		return rsa.VerifyPKCS1v15(public, hash, t.digest(hash), t.Parts.Signature) == nil
	case PS256, PS384, PS512:
		opt := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
		return rsa.VerifyPSS(public, hash, t.digest(hash), t.Parts.Signature, opt) == nil
	}
	return false
}
