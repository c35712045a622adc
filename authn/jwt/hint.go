package jwt

// HintOptions configure an IDHint verifier. All are required.
type HintOptions struct {
	Keys   func() *KeySet // our own keys of ID tokens, those that have been retired too
	Issuer string         // ourselves, compared byte for byte
}

// IDHint verifies ID tokens of our own that clients send back as id_token_hint
// (OpenID Connect RP-Initiated Logout section 2). A hint names a client and a
// login, and lets nobody in: an expired one still does. Safe for concurrent use.
type IDHint struct {
	door ownDoor
	opt  HintOptions
}

// NewIDHint returns a verifier. It panics when an option is missing.
func NewIDHint(opt HintOptions) *IDHint {
	if opt.Keys == nil || opt.Issuer == "" {
		panic("jwt: NewIDHint needs keys and issuer")
	}
	return &IDHint{ownDoor{door{types: typePlain(), algs: []Algorithm{ES256, RS256}, closed: true}, opt.Keys}, opt}
}

// Verify returns the claims of a hint. It has exactly one audience.
func (v *IDHint) Verify(token string) (IDClaims, error) {
	var c IDClaims
	if _, err := v.door.open(token, &c); err != nil {
		return IDClaims{}, err
	}
	if err := c.wellFormed(); err != nil {
		return IDClaims{}, err
	}
	if c.Issuer != v.opt.Issuer {
		return IDClaims{}, refuse("iss", "issuer is not accepted")
	}
	if len(c.Audience) != 1 {
		return IDClaims{}, refuse("aud", "a hint names one client")
	}
	return c, nil
}
