package jwt

import (
	"errors"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// maxAssertionLife is how far ahead an assertion may expire: as long as its
// jti must be remembered.
const maxAssertionLife = 5 * time.Minute

// AssertionClaims are the claims by which a client authenticates itself (RFC
// 7523 section 3). Times are seconds since 1970.
type AssertionClaims struct {
	Issuer    string   `json:"iss"`
	Client    string   `json:"sub"`
	Audience  Audience `json:"aud"`
	Expires   int64    `json:"exp"`
	IssuedAt  int64    `json:"iat,omitzero"`
	NotBefore int64    `json:"nbf,omitzero"`
	ID        string   `json:"jti"`
}

type assertionText struct {
	AssertionClaims
	Nonce  jsontext.Value `json:"nonce"`
	AtHash jsontext.Value `json:"at_hash"`
	Events jsontext.Value `json:"events"`
}

func (c assertionText) wellFormed() error {
	if err := checkNames(
		named{"iss", c.Issuer, false}, named{"sub", c.Client, false}, named{"jti", c.ID, false},
	); err != nil {
		return err
	}
	if c.Issuer != c.Client {
		return refuse("iss", "iss and sub must both be the client")
	}
	for name, value := range map[string]jsontext.Value{"nonce": c.Nonce, "at_hash": c.AtHash, "events": c.Events} {
		if err := unexpected(name, value); err != nil {
			return err
		}
	}
	switch {
	case c.Expires <= 0:
		return refuse("exp", "exp is required")
	case c.IssuedAt < 0:
		return refuse("iat", "iat must be positive")
	case c.NotBefore < 0:
		return refuse("nbf", "nbf must be positive")
	}
	return nil
}

// ends holds that the assertion has not expired and will soon.
func (c AssertionClaims) ends(now time.Time) error {
	if c.Expires-now.Unix() > int64((maxAssertionLife+pastLeeway)/time.Second) {
		return refuse("lifetime", "assertion expires more than %s ahead", maxAssertionLife)
	}
	return period{issued: c.IssuedAt, notBefore: c.NotBefore, expires: c.Expires}.covers(now)
}

// ClientAssertionOptions configure a ClientAssertion verifier.
type ClientAssertionOptions struct {
	Audiences []string         // the issuer and the token endpoint: the assertion names one; required
	Now       func() time.Time // nil: time.Now
}

// ClientAssertion verifies what a client signs to authenticate itself by
// private_key_jwt (OpenID Connect Core section 9). Safe for concurrent use.
type ClientAssertion struct {
	door foreignDoor
	opt  ClientAssertionOptions
}

// NewClientAssertion returns a verifier. It panics without an audience.
func NewClientAssertion(opt ClientAssertionOptions) *ClientAssertion {
	if len(opt.Audiences) == 0 {
		panic("jwt: NewClientAssertion needs audiences")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	types := append(typePlain(), "client-authentication+jwt")
	return &ClientAssertion{newForeignDoor(foreignAlgorithms(), types...), opt}
}

// Verify returns the claims of an assertion. It asks keys for those registered
// for the client that the assertion says it is from; an error of keys is
// returned as it is, and a nil set refuses. The caller lets no jti of a client
// come twice before Expires plus 5 s.
func (v *ClientAssertion) Verify(assertion string, keys func(client string) (*KeySet, error)) (AssertionClaims, error) {
	var c assertionText
	_, err := v.door.open(assertion, &c, func() error {
		if err := c.wellFormed(); err != nil {
			return err
		}
		if err := c.Audience.only(v.opt.Audiences...); err != nil {
			return err
		}
		return c.ends(v.opt.Now())
	}, func(string) (*KeySet, error) { return keys(c.Client) })
	if err != nil {
		return AssertionClaims{}, under(controlClientAuth, err)
	}
	return c.AssertionClaims, nil
}

// ParseClientKeySet reads the JWK set that a client registers for its
// assertions: ParseForeignKeySet with the algorithms that assertions may have. A
// set of which no key counts is an error: its client could never come in, and
// would not learn why.
func ParseClientKeySet(data []byte) (*KeySet, error) {
	set, err := ParseForeignKeySet(data, foreignAlgorithms()...)
	if err == nil && len(set.keys) == 0 {
		return nil, errors.New("jwt: key set has no key that counts: each needs a kid, and to be for signatures by RS256, PS256, ES256 or EdDSA")
	}
	return set, err
}
