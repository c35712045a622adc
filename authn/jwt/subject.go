package jwt

// VerifySubject is Verify for the token service, to which the token's audience
// hands it in for an exchange (RFC 8693 section 2.1). The certificate that cnf
// names is the previous caller's and proves nothing about the presenter; what
// does is the audience, so v must have been made for the presenter's own ID.
func (v *Internal) VerifySubject(token string) (InternalClaims, error) {
	c, _, err := v.open(token)
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

// VerifySubject is Verify for the token service, to which a plane hands in
// what a client has shown it. Whether the client proved possession the plane
// has judged: the proof was made for its request, not for this one.
func (v *Edge) VerifySubject(token string) (EdgeClaims, error) {
	return v.verify(token, func(*Confirmation) error { return nil })
}
