package jwt

import (
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// ExchangeOptions configure an Exchange verifier.
type ExchangeOptions struct {
	Keys    func() *KeySet            // the issuer's current keys; required, may return nil (refuses)
	Issuer  string                    // required, compared byte for byte
	Revoked func(InternalClaims) bool // nil: nothing is revoked
	Now     func() time.Time          // nil: time.Now
}

// Exchange verifies the subject token of a token exchange (RFC 8693 section
// 2.1): an internal token that the caller received. There the token's cnf
// names the previous caller, so it is the audience that shows that the caller
// did not merely overhear it. Only the token service may use this door. Safe
// for concurrent use.
type Exchange struct {
	door door
	opt  ExchangeOptions
}

// NewExchange returns a verifier. It panics when a required option is missing.
func NewExchange(opt ExchangeOptions) *Exchange {
	if opt.Keys == nil || opt.Issuer == "" {
		panic("jwt: NewExchange needs keys and issuer")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Exchange{door{jose.EdDSA, opt.Keys}, opt}
}

// Verify returns the claims of a subject token that caller, the SPIFFE ID of
// the authenticated peer, hands in.
func (v *Exchange) Verify(token, caller string) (InternalClaims, error) {
	c, _, err := openInternal(v.door, token, v.opt.Issuer, caller)
	if err != nil {
		return InternalClaims{}, err
	}
	if err := c.period().covers(v.opt.Now()); err != nil {
		return InternalClaims{}, err
	}
	if err := unlessRevoked(v.opt.Revoked, c); err != nil {
		return InternalClaims{}, err
	}
	return c, nil
}
