package jwt

import (
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
)

// maxInternalLife bounds an internal token: long enough for one call, too
// short to be worth stealing.
const maxInternalLife = 300 * time.Second

// InternalClaims are the claims of a token between planes (RFC 9068 section
// 2.2, RFC 8693 section 4.1, RFC 8705 section 3.1). Times are seconds since
// 1970. Verified claims are shared by all callers: do not modify the slices.
type InternalClaims struct {
	Issuer       string       `json:"iss"`
	Subject      string       `json:"sub"`
	Audience     string       `json:"aud"` // SPIFFE ID of the callee; a list is refused
	Expires      int64        `json:"exp"`
	IssuedAt     int64        `json:"iat"`
	NotBefore    int64        `json:"nbf,omitzero"`
	ID           string       `json:"jti"`
	Client       string       `json:"client_id,omitzero"` // absent for a browser session and for a service of its own
	Scope        Scope        `json:"scope,omitzero"`
	Session      string       `json:"sid,omitzero"`
	AuthTime     int64        `json:"auth_time,omitzero"`
	ACR          string       `json:"acr,omitzero"`
	AMR          []string     `json:"amr,omitzero"`
	Tenant       string       `json:"tenant,omitzero"`
	Orgs         []string     `json:"orgs,omitzero"`
	Roles        []string     `json:"roles,omitzero"`
	Team         string       `json:"team,omitzero"`
	ManagedTeams []string     `json:"managed_teams,omitzero"`
	Transaction  string       `json:"txn,omitzero"`     // id of the first token of the chain, for the log
	MayAct       *Actor       `json:"may_act,omitzero"` // who alone may trade the token (RFC 8693 section 4.4); nil: whom the file lets
	Act          *Actor       `json:"act,omitzero"`     // nil on the first hop only
	Confirm      Confirmation `json:"cnf"`
}

// Actor is one link of the act chain, the current actor outermost.
type Actor struct {
	Subject string `json:"sub"`
	Act     *Actor `json:"act,omitzero"`
}

// ActorChain builds an act claim from SPIFFE IDs, current actor first.
func ActorChain(actors []string) *Actor {
	var chain *Actor
	for i := len(actors) - 1; i >= 0; i-- {
		chain = &Actor{Subject: actors[i], Act: chain}
	}
	return chain
}

// Actors returns the act chain, current actor first.
func (c InternalClaims) Actors() []string {
	var out []string
	for a := c.Act; a != nil; a = a.Act {
		out = append(out, a.Subject)
	}
	return out
}

// Principal returns the subject with the facts that policies may use.
func (c InternalClaims) Principal() rampart.Principal {
	p := rampart.Principal{
		Kind:          kindOf(c.Subject),
		Subject:       c.Subject,
		Tenant:        c.Tenant,
		Organizations: c.Orgs,
		Roles:         c.Roles,
		Team:          c.Team,
		ManagedTeams:  c.ManagedTeams,
		Client:        c.Client,
		Session:       c.Session,
		ACR:           c.ACR,
		AMR:           c.AMR,
		Scope:         c.Scope.permissions(),
		Actors:        c.Actors(),
	}
	if c.AuthTime != 0 {
		p.AuthTime = time.Unix(c.AuthTime, 0).UTC()
	}
	return p
}

// InternalFor returns claims that carry p; the rest is the issuer's. A
// principal limited to no permission at all gives claims that no signer mints.
func InternalFor(p rampart.Principal) InternalClaims {
	c := InternalClaims{
		Subject:      p.Subject,
		Tenant:       p.Tenant,
		Orgs:         p.Organizations,
		Roles:        p.Roles,
		Team:         p.Team,
		ManagedTeams: p.ManagedTeams,
		Client:       p.Client,
		Session:      p.Session,
		ACR:          p.ACR,
		AMR:          p.AMR,
		Scope:        p.Scope,
		Act:          ActorChain(p.Actors),
	}
	if !p.AuthTime.IsZero() {
		c.AuthTime = p.AuthTime.Unix()
	}
	return c
}

func (c InternalClaims) period() period {
	return period{issued: c.IssuedAt, notBefore: c.NotBefore, expires: c.Expires, most: maxInternalLife}
}

// wellFormed checks everything that depends neither on the clock nor on who
// verifies; the signer applies it too.
func (c InternalClaims) wellFormed() error {
	if err := checkNames(
		named{"iss", c.Issuer, false}, named{"jti", c.ID, false},
		named{"client_id", c.Client, true}, named{"sid", c.Session, true}, named{"txn", c.Transaction, true},
	); err != nil {
		return err
	}
	if c.Audience == "" {
		return refuse("aud", "aud is required")
	}
	if err := checkSubject("sub", c.Subject); err != nil {
		return err
	}
	if err := checkLogin(c.AuthTime, c.ACR, c.AMR); err != nil {
		return err
	}
	if err := c.Scope.wellFormed(); err != nil {
		return err
	}
	if err := c.checkActors(); err != nil {
		return err
	}
	// The binding between planes is the certificate and nothing else.
	if c.Confirm.Thumbprint == "" || c.Confirm.JKT != "" {
		return refuse("cnf", "token must be bound to a certificate")
	}
	if err := c.Confirm.wellFormed(); err != nil {
		return err
	}
	return c.period().wellFormed()
}

func (c InternalClaims) checkActors() error {
	if c.MayAct != nil {
		if err := checkSubject("may_act", c.MayAct.Subject); err != nil {
			return err
		}
	}
	n := 0
	for a := c.Act; a != nil; a = a.Act {
		if n++; n > maxActors {
			return refuse("act", "act chain is longer than %d", maxActors)
		}
		if err := checkSubject("act", a.Subject); err != nil {
			return err
		}
	}
	return nil
}

// InternalOptions configure an Internal verifier.
type InternalOptions struct {
	Keys     func() *KeySet            // the issuer's current keys; required, may return nil (refuses)
	Issuer   string                    // required, compared byte for byte
	Audience string                    // this plane's SPIFFE ID, required
	Revoked  func(InternalClaims) bool // nil: nothing is revoked
	Now      func() time.Time          // nil: time.Now
}

// Internal verifies tokens between planes: typ at+jwt, EdDSA, one audience,
// bound to the caller's certificate, at most 300 s. Safe for concurrent use.
type Internal struct {
	door ownDoor
	opt  InternalOptions
}

// NewInternal returns a verifier. It panics when a required option is missing.
func NewInternal(opt InternalOptions) *Internal {
	if opt.Keys == nil || opt.Issuer == "" || opt.Audience == "" {
		panic("jwt: NewInternal needs keys, issuer and audience")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Internal{ownDoor{accessDoor(EdDSA, Ed25519), opt.Keys}, opt}
}

// Verify returns the claims of a token presented by the peer whose certificate
// has this fingerprint (SHA-256 of the leaf's DER).
func (v *Internal) Verify(token string, peer [32]byte) (InternalClaims, error) {
	claims, _, err := v.open(token)
	if err != nil {
		return InternalClaims{}, err
	}
	if err := v.admit(claims, peer); err != nil {
		return InternalClaims{}, err
	}
	return claims, nil
}

// open does what holds for the life of the token.
func (v *Internal) open(token string) (InternalClaims, *signed.Key, error) {
	var c InternalClaims
	key, err := v.door.open(token, &c)
	if err != nil {
		return InternalClaims{}, nil, err
	}
	switch err := c.wellFormed(); {
	case err != nil:
		return InternalClaims{}, nil, err
	case c.Issuer != v.opt.Issuer:
		return InternalClaims{}, nil, refuse("iss", "issuer is not accepted")
	case c.Audience != v.opt.Audience:
		return InternalClaims{}, nil, refuse("aud", "token is for another audience")
	}
	return c, key, nil
}

// admit does what must be asked at every use: time, binding, revocation.
func (v *Internal) admit(c InternalClaims, peer [32]byte) error {
	if err := c.period().covers(v.opt.Now()); err != nil {
		return err
	}
	if err := c.Confirm.provedBy(Confirm(peer)); err != nil {
		return err
	}
	return unlessRevoked(v.opt.Revoked, c)
}

func unlessRevoked[C any](revoked func(C) bool, c C) error {
	if revoked != nil && revoked(c) {
		return refuse("revoked", "token has been revoked")
	}
	return nil
}
