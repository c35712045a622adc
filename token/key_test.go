package token_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"testing"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/token"
)

var b64 = base64.RawURLEncoding

// key is a client's own, made without any code of ours.
type key struct {
	t    testing.TB
	priv *ecdsa.PrivateKey
	kid  string
}

func newKey(t testing.TB, kid string) key {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key{t, priv, kid}
}

// jwk is the public key (RFC 7518 section 6.2.1), members in the order of a
// thumbprint.
func (k key) jwk() map[string]string {
	point, err := k.priv.PublicKey.Bytes()
	if err != nil {
		k.t.Fatal(err)
	}
	return map[string]string{"crv": "P-256", "kty": "EC", "x": b64.EncodeToString(point[1:33]), "y": b64.EncodeToString(point[33:])}
}

func (k key) jwks() []byte {
	jwk := k.jwk()
	jwk["kid"], jwk["alg"], jwk["use"] = k.kid, "ES256", "sig"
	return k.json(map[string]any{"keys": []any{jwk}})
}

// jkt is the RFC 7638 thumbprint: encoding/json sorts a map's members.
func (k key) jkt() string {
	sum := sha256.Sum256(k.json(k.jwk()))
	return b64.EncodeToString(sum[:])
}

func (k key) json(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		k.t.Fatal(err)
	}
	return b
}

func (k key) sign(header, claims map[string]any) string {
	k.t.Helper()
	text := b64.EncodeToString(k.json(header)) + "." + b64.EncodeToString(k.json(claims))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, k.priv, sum[:])
	if err != nil {
		k.t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + b64.EncodeToString(sig)
}

// proof is a DPoP proof for the token endpoint.
func (k key) proof(h *house, change ...func(map[string]any)) string {
	claims := map[string]any{"jti": rand.Text(), "htm": "POST", "htu": issuer + "oauth2/token", "iat": h.clock.Unix(), "nonce": h.Nonce()}
	for _, f := range change {
		f(claims)
	}
	return k.sign(map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": k.jwk()}, claims)
}

// assertion is what a client proves itself with.
func (k key) assertion(h *house, client string, change ...func(map[string]any)) string {
	claims := map[string]any{"iss": client, "sub": client, "aud": issuer, "jti": rand.Text(), "iat": h.clock.Unix(), "exp": h.clock.Unix() + 60}
	for _, f := range change {
		f(claims)
	}
	return k.sign(map[string]any{"typ": "JWT", "alg": "ES256", "kid": k.kid}, claims)
}

// set changes one claim.
func set(name string, value any) func(map[string]any) {
	return func(claims map[string]any) { claims[name] = value }
}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// with adds an assertion to a form.
func with(form url.Values, assertion string) url.Values {
	form.Set("client_assertion_type", assertionType)
	form.Set("client_assertion", assertion)
	return form
}

func (h *house) register(clients ...token.Client) {
	h.t.Helper()
	for _, c := range clients {
		c.Principal = "users"
		if err := h.db.PutClient(h.t.Context(), c); err != nil {
			h.t.Fatal(err)
		}
	}
}

func asItself() url.Values { return url.Values{"grant_type": {"client_credentials"}} }

// edge verifies a client's token as the gateway would, with what was proved.
func (h *house) edge(text string, proved ...jwt.Confirmation) (jwt.EdgeClaims, error) {
	h.t.Helper()
	set, err := jwt.ParseKeySet(h.Keys().Edge)
	if err != nil {
		h.t.Fatal(err)
	}
	v := jwt.NewEdge(jwt.EdgeOptions{Keys: func() *jwt.KeySet { return set }, Issuer: issuer, Audience: issuer, Now: h.now})
	if len(proved) > 0 {
		return v.VerifyBound(text, proved[0])
	}
	return v.Verify(text)
}

// hash is the ath of an access token (RFC 9449 section 4.2).
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return b64.EncodeToString(sum[:])
}
