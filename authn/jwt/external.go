package jwt

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"
)

// ExternalClaims are the claims of an access token of an outside issuer (RFC
// 9068 section 2.2). Its subject is a name in the issuer's world, not in ours.
// Times are seconds since 1970.
type ExternalClaims struct {
	Issuer    string        `json:"iss"`
	Subject   string        `json:"sub"`
	Audience  Audience      `json:"aud"`
	Expires   int64         `json:"exp"`
	IssuedAt  int64         `json:"iat"`
	NotBefore int64         `json:"nbf,omitzero"`
	ID        string        `json:"jti"`
	Client    string        `json:"client_id"`
	AuthTime  int64         `json:"auth_time,omitzero"`
	ACR       string        `json:"acr,omitzero"`
	AMR       []string      `json:"amr,omitzero"`
	Scope     Scope         `json:"scope,omitzero"`
	Confirm   *Confirmation `json:"cnf,omitzero"`
}

// externalText is what is read of the token: the claims, and those that only a
// token of another kind has.
type externalText struct {
	ExternalClaims
	Nonce  jsontext.Value `json:"nonce"`
	AtHash jsontext.Value `json:"at_hash"`
	Events jsontext.Value `json:"events"`
}

func (c ExternalClaims) period() period {
	return period{issued: c.IssuedAt, notBefore: c.NotBefore, expires: c.Expires, most: maxEdgeLife}
}

func (c externalText) wellFormed() error {
	if err := checkNames(
		named{"iss", c.Issuer, false}, named{"sub", c.Subject, false}, named{"jti", c.ID, false},
		named{"client_id", c.Client, false},
	); err != nil {
		return err
	}
	for name, value := range map[string]jsontext.Value{"nonce": c.Nonce, "at_hash": c.AtHash, "events": c.Events} {
		if err := unexpected(name, value); err != nil {
			return err
		}
	}
	if err := checkLogin(c.AuthTime, c.ACR, c.AMR); err != nil {
		return err
	}
	if err := c.Scope.wellFormed(); err != nil {
		return err
	}
	if c.Confirm != nil {
		if err := c.Confirm.wellFormed(); err != nil {
			return err
		}
	}
	return c.period().wellFormed()
}

// External verifies access tokens of one outside issuer: typ at+jwt, one
// audience, at most 60 min. Safe for concurrent use.
type External struct {
	door foreignDoor
	opt  ForeignOptions
}

// NewExternal returns a verifier. It panics when a required option is missing.
func NewExternal(opt ForeignOptions) *External {
	opt = opt.withDefaults("NewExternal")
	return &External{newForeignDoor(opt.Algorithms, typeAccess), opt}
}

// Verify returns the claims of a bearer token. It refuses a bound one.
func (v *External) Verify(ctx context.Context, token string) (ExternalClaims, error) {
	return v.verify(ctx, token, bearer)
}

// VerifyBound returns the claims of a token bound to what the presenter has
// proved on this request, as Edge.VerifyBound does.
func (v *External) VerifyBound(ctx context.Context, token string, proof Confirmation) (ExternalClaims, error) {
	return v.verify(ctx, token, bound(proof))
}

func (v *External) verify(ctx context.Context, token string, held possession) (ExternalClaims, error) {
	var c externalText
	_, err := v.door.open(token, &c, func() error {
		if err := c.wellFormed(); err != nil {
			return err
		}
		if c.Issuer != v.opt.Issuer {
			return refuse("iss", "issuer is not accepted")
		}
		if err := c.Audience.only(v.opt.Audience); err != nil {
			return err
		}
		return c.period().covers(v.opt.Now())
	}, v.opt.keysFor(ctx))
	if err != nil {
		return ExternalClaims{}, err
	}
	if err := held(c.Confirm); err != nil {
		return ExternalClaims{}, err
	}
	return c.ExternalClaims, nil
}
