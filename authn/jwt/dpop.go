package jwt

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
	"github.com/rampart-security/rampart/internal/jws"
)

// dpopWindow is how far a proof's iat may be from our clock, either way.
const dpopWindow = 60 * time.Second

// DPoPClaims are the claims of a proof of possession (RFC 9449 section 4.2),
// and the key that was proved. Times are seconds since 1970.
type DPoPClaims struct {
	ID       string `json:"jti"`
	Method   string `json:"htm"`
	URL      string `json:"htu"`
	IssuedAt int64  `json:"iat"`
	AtHash   string `json:"ath,omitzero"`
	Nonce    string `json:"nonce,omitzero"`

	// JKT is the RFC 7638 thumbprint of the key that signed.
	JKT string `json:"-"`
}

// Confirmation returns what the proof proves, for VerifyBound.
func (c DPoPClaims) Confirmation() Confirmation { return Confirmation{JKT: c.JKT} }

// DPoPRequest is the request that came with a proof.
type DPoPRequest struct {
	Method      string // as sent
	URL         string // absolute; query and fragment do not count
	AccessToken string // the token in the request; "" where there is none, as at the token endpoint
}

// DPoPOptions configure a DPoPProof verifier.
type DPoPOptions struct {
	Nonces *Nonces          // a proof must have one of these; nil: none is asked for
	Now    func() time.Time // nil: time.Now
}

// DPoPProof verifies proofs of possession: typ dpop+jwt, ES256 or EdDSA. This
// is the one kind of token whose key is in its own header, because it proves
// that key and no identity. Safe for concurrent use.
type DPoPProof struct {
	door door
	opt  DPoPOptions
}

// NewDPoPProof returns a verifier.
func NewDPoPProof(opt DPoPOptions) *DPoPProof {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &DPoPProof{door{types: []string{"dpop+jwt"}, algs: []Algorithm{ES256, EdDSA, Ed25519}}, opt}
}

// Verify returns the claims of a proof for this very request (RFC 9449 section
// 4.3). Rule is "nonce" when the client must try again with a nonce of ours.
// The caller lets no proof come twice, by Replays or by a store that it shares
// with others, before Expires.
func (v *DPoPProof) Verify(proof string, r DPoPRequest) (DPoPClaims, error) {
	c, err := v.verify(proof, r)
	if err != nil {
		return DPoPClaims{}, under(controlDPoP, err)
	}
	return c, nil
}

// Expires is when a proof verified now can no longer be verified again.
func (c DPoPClaims) Expires() time.Time {
	return time.Unix(c.IssuedAt, 0).Add(dpopWindow + time.Second)
}

func (v *DPoPProof) verify(proof string, r DPoPRequest) (DPoPClaims, error) {
	text, err := v.door.parse(proof)
	if err != nil {
		return DPoPClaims{}, err
	}
	key, err := embeddedKey(text)
	if err != nil {
		return DPoPClaims{}, err
	}
	if err := text.Verify(key); err != nil {
		return DPoPClaims{}, malformed("proof", err)
	}
	var c DPoPClaims
	if err := decodeClaims(text, &c); err != nil {
		return DPoPClaims{}, err
	}
	if err := c.fits(r); err != nil {
		return DPoPClaims{}, err
	}
	if err := v.fresh(c); err != nil {
		return DPoPClaims{}, err
	}
	if c.JKT, err = signed.Thumbprint(key.Public); err != nil {
		return DPoPClaims{}, refuse("jwk", "key has no thumbprint")
	}
	return c, nil
}

// embeddedKey reads the key that a proof is about.
func embeddedKey(text signed.Text) (*signed.Key, error) {
	var h struct {
		JWK jsontext.Value `json:"jwk"`
	}
	if err := jws.Decode(text.Parts.Header, &h, signed.MaxDepth, false); err != nil {
		return nil, malformed("header", err)
	}
	if h.JWK.Kind() != '{' {
		return nil, refuse("jwk", "jwk is required")
	}
	key, err := signed.ParseKey(h.JWK)
	if err != nil {
		return nil, refuse("jwk", "jwk must be a public Ed25519 or P-256 key for signatures")
	}
	// The two names of one algorithm: the key need not say which it goes by.
	if key.Alg == EdDSA && text.Header.Alg == Ed25519 {
		key.Alg = Ed25519
	}
	return key, nil
}

// fits holds that the proof was made for this request.
func (c DPoPClaims) fits(r DPoPRequest) error {
	if err := checkNames(named{"jti", c.ID, false}, named{"nonce", c.Nonce, true}); err != nil {
		return err
	}
	if c.Method == "" || c.Method != r.Method {
		return refuse("htm", "proof is for another method")
	}
	want, ok := normalURL(r.URL)
	if got, fine := normalURL(c.URL); !ok || !fine || got != want {
		return refuse("htu", "proof is for another URL")
	}
	if r.AccessToken == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(r.AccessToken))
	if subtle.ConstantTimeCompare([]byte(c.AtHash), []byte(base64.RawURLEncoding.EncodeToString(sum[:]))) != 1 {
		return refuse("ath", "proof is for another access token")
	}
	return nil
}

// fresh holds that the proof was made now.
func (v *DPoPProof) fresh(c DPoPClaims) error {
	now := v.opt.Now()
	if c.IssuedAt <= 0 {
		return refuse("iat", "iat is required")
	}
	if age := now.Unix() - c.IssuedAt; age > int64(dpopWindow/time.Second) || -age > int64(dpopWindow/time.Second) {
		return refuse("iat", "proof is not of the last %s", dpopWindow)
	}
	if v.opt.Nonces != nil && !v.opt.Nonces.valid(c.Nonce, now) {
		return refuse("nonce", "proof needs a nonce of this server")
	}
	return nil
}

// normalURL brings an absolute URL into the one form in which two are compared
// (RFC 3986 sections 6.2.2 and 6.2.3), without query and fragment. Dot segments
// stay as they are: no request that reaches us has any.
func normalURL(text string) (string, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Opaque != "" {
		return "", false
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	default:
		return "", false
	}
	path := normalEscapes(u.EscapedPath())
	if path == "" {
		path = "/"
	}
	return scheme + "://" + host + path, true
}

// normalEscapes writes percent-encodings in upper case, and what needs none
// without. The path is one that url.Parse took: each % has two digits after it.
func normalEscapes(path string) string {
	var out strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			out.WriteByte(path[i])
			continue
		}
		code := strings.ToUpper(path[i : i+3])
		i += 2
		plain, err := url.PathUnescape(code)
		if err == nil && len(plain) == 1 && unreserved(plain[0]) {
			code = plain
		}
		out.WriteString(code)
	}
	return out.String()
}

func unreserved(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
		return true
	}
	return false
}
