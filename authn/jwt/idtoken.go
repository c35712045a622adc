package jwt

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
	"github.com/rampart-security/rampart/internal/jws"
)

// maxIDLife bounds an ID token. It is read once, at login, and the nonce makes
// it good for one login only, so the providers' own habits may stand.
const maxIDLife = 24 * time.Hour

// typePlain are the types of tokens from before there were types.
func typePlain() []string { return []string{"jwt", ""} }

// IDClaims are the claims of an ID token (OpenID Connect Core section 2). Its
// subject is a name in the issuer's world. Times are seconds since 1970.
type IDClaims struct {
	Issuer     string   `json:"iss"`
	Subject    string   `json:"sub"`
	Audience   Audience `json:"aud"`
	Authorized string   `json:"azp,omitzero"`
	Expires    int64    `json:"exp"`
	IssuedAt   int64    `json:"iat"`
	Nonce      string   `json:"nonce,omitzero"`
	AtHash     string   `json:"at_hash,omitzero"` // see AtHash
	AuthTime   int64    `json:"auth_time,omitzero"`
	ACR        string   `json:"acr,omitzero"`
	AMR        []string `json:"amr,omitzero"`
	Session    string   `json:"sid,omitzero"`
}

func (c IDClaims) period() period {
	return period{issued: c.IssuedAt, expires: c.Expires, most: maxIDLife}
}

func (c IDClaims) wellFormed() error {
	if err := checkNames(
		named{"iss", c.Issuer, false}, named{"sub", c.Subject, false}, named{"azp", c.Authorized, true},
		named{"nonce", c.Nonce, true}, named{"at_hash", c.AtHash, true}, named{"sid", c.Session, true},
	); err != nil {
		return err
	}
	if len(c.Audience) == 0 {
		return refuse("aud", "aud is required")
	}
	if err := checkLogin(c.AuthTime, c.ACR, c.AMR); err != nil {
		return err
	}
	return c.period().wellFormed()
}

// isFor holds that the token was minted for client (OpenID Connect Core
// section 3.1.3.7, steps 3 to 5).
func (c IDClaims) isFor(client string) error {
	switch {
	case !slices.Contains(c.Audience, client):
		return refuse("aud", "token is for another client")
	case len(c.Audience) > 1 && c.Authorized == "":
		return refuse("azp", "azp is required with several audiences")
	case c.Authorized != "" && c.Authorized != client:
		return refuse("azp", "token was issued to another client")
	}
	return nil
}

// Identity is a verified ID token.
type Identity struct {
	IDClaims

	alg     Algorithm
	payload []byte
}

// Decode reads further claims of the token into the struct or map that dst
// points to, as strictly as the token itself was read.
func (i Identity) Decode(dst any) error {
	if err := jws.Decode(i.payload, dst, signed.MaxDepth, false); err != nil {
		return malformed("claims", err)
	}
	return nil
}

// CheckAccessToken holds that the access token came with this ID token, by
// at_hash. In the code flow an issuer may leave at_hash out, for both come over
// the same connection; then there is nothing to check.
func (i Identity) CheckAccessToken(token string) error {
	if i.AtHash == "" {
		return nil
	}
	if subtle.ConstantTimeCompare([]byte(i.AtHash), []byte(AtHash(i.alg, token))) != 1 {
		return under(controlFederation, refuse("at_hash", "access token is not the one of the ID token"))
	}
	return nil
}

// AtHash is the at_hash of an access token in an ID token signed with alg: the
// left half of a hash (OpenID Connect Core section 3.1.3.6), SHA-512 for
// Ed25519, SHA-256 for the others.
func AtHash(alg Algorithm, accessToken string) string {
	if alg == EdDSA || alg == Ed25519 {
		sum := sha512.Sum512([]byte(accessToken))
		return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
	}
	sum := sha256.Sum256([]byte(accessToken))
	return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
}

// IDToken verifies ID tokens of one provider for us as its client: typ JWT or
// none. Safe for concurrent use.
type IDToken struct {
	door foreignDoor
	opt  ForeignOptions
}

// NewIDToken returns a verifier. It panics when a required option is missing.
func NewIDToken(opt ForeignOptions) *IDToken {
	opt = opt.withDefaults("NewIDToken")
	return &IDToken{newForeignDoor(opt.Algorithms, typePlain()...), opt}
}

// Verify returns the identity that a login with this nonce brought. Without a
// nonce every token is refused.
func (v *IDToken) Verify(ctx context.Context, token, nonce string) (Identity, error) {
	identity, err := v.verify(ctx, token, nonce)
	if err != nil {
		return Identity{}, under(controlFederation, err)
	}
	return identity, nil
}

func (v *IDToken) verify(ctx context.Context, token, nonce string) (Identity, error) {
	var c struct {
		IDClaims
		Events jsontext.Value `json:"events"`
	}
	text, err := v.door.open(token, &c, func() error {
		if err := unexpected("events", c.Events); err != nil {
			return err
		}
		if err := c.wellFormed(); err != nil {
			return err
		}
		if c.Issuer != v.opt.Issuer {
			return refuse("iss", "issuer is not accepted")
		}
		if err := c.isFor(v.opt.Audience); err != nil {
			return err
		}
		if nonce == "" || subtle.ConstantTimeCompare([]byte(c.Nonce), []byte(nonce)) != 1 {
			return refuse("nonce", "token is of another login")
		}
		return c.period().covers(v.opt.Now())
	}, v.opt.keysFor(ctx))
	if err != nil {
		return Identity{}, err
	}
	return Identity{c.IDClaims, text.Header.Alg, text.Parts.Payload}, nil
}
