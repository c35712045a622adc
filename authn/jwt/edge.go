package jwt

import (
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
)

// maxEdgeLife bounds a client's access token.
const maxEdgeLife = 60 * time.Minute

// EdgeClaims are the claims of a client's access token (RFC 9068 section 2.2).
// Times are seconds since 1970.
type EdgeClaims struct {
	Issuer       string   `json:"iss"`
	Subject      string   `json:"sub"`
	Audience     string   `json:"aud"` // a list is refused
	Expires      int64    `json:"exp"`
	IssuedAt     int64    `json:"iat"`
	NotBefore    int64    `json:"nbf,omitzero"`
	ID           string   `json:"jti"`
	Client       string   `json:"client_id"` // the azp of OpenID Connect
	Session      string   `json:"sid,omitzero"`
	AuthTime     int64    `json:"auth_time,omitzero"`
	ACR          string   `json:"acr,omitzero"`
	AMR          []string `json:"amr,omitzero"`
	Scope        Scope    `json:"scope,omitzero"`
	Tenant       string   `json:"tenant,omitzero"`
	Orgs         []string `json:"orgs,omitzero"`
	Roles        []string `json:"roles,omitzero"`
	Team         string   `json:"team,omitzero"`
	ManagedTeams []string `json:"managed_teams,omitzero"`

	// ClientPrincipal is what rampart.yaml calls the client: a key of principals.
	ClientPrincipal string `json:"client_principal,omitzero"`

	// Confirm is nil for a bearer token only, which Verify takes; what is bound
	// to a key or a certificate opens with VerifyBound alone.
	Confirm *Confirmation `json:"cnf,omitzero"`
}

// EdgeFor returns claims that carry p; the rest is the issuer's. A principal
// limited to no permission at all gives claims that no signer mints.
func EdgeFor(p rampart.Principal) EdgeClaims {
	c := InternalFor(p)
	return EdgeClaims{
		Subject: c.Subject, Client: c.Client, Session: c.Session, AuthTime: c.AuthTime,
		ACR: c.ACR, AMR: c.AMR, Scope: c.Scope,
		Tenant: c.Tenant, Orgs: c.Orgs, Roles: c.Roles, Team: c.Team, ManagedTeams: c.ManagedTeams,
	}
}

// Principal returns the subject with the facts of the moment of issue.
func (c EdgeClaims) Principal() rampart.Principal {
	return InternalClaims{
		Subject: c.Subject, Client: c.Client, Session: c.Session, AuthTime: c.AuthTime,
		ACR: c.ACR, AMR: c.AMR, Scope: c.Scope,
		Tenant: c.Tenant, Orgs: c.Orgs, Roles: c.Roles, Team: c.Team, ManagedTeams: c.ManagedTeams,
	}.Principal()
}

func (c EdgeClaims) period() period {
	return period{issued: c.IssuedAt, notBefore: c.NotBefore, expires: c.Expires, most: maxEdgeLife}
}

func (c EdgeClaims) wellFormed() error {
	if err := checkNames(
		named{"iss", c.Issuer, false}, named{"aud", c.Audience, false}, named{"jti", c.ID, false},
		named{"client_id", c.Client, false}, named{"sid", c.Session, true},
		named{"client_principal", c.ClientPrincipal, true},
	); err != nil {
		return err
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
	if c.Confirm != nil {
		if err := c.Confirm.wellFormed(); err != nil {
			return err
		}
	}
	return c.period().wellFormed()
}

// EdgeOptions configure an Edge verifier.
type EdgeOptions struct {
	Keys     func() *KeySet        // the issuer's current keys; required, may return nil (refuses)
	Issuer   string                // required, compared byte for byte
	Audience string                // required, compared byte for byte
	Revoked  func(EdgeClaims) bool // nil: nothing is revoked
	Now      func() time.Time      // nil: time.Now
}

// Edge verifies access tokens of clients: typ at+jwt, ES256, at most 60 min.
// Safe for concurrent use.
type Edge struct {
	door ownDoor
	opt  EdgeOptions
}

// NewEdge returns a verifier. It panics when a required option is missing.
func NewEdge(opt EdgeOptions) *Edge {
	if opt.Keys == nil || opt.Issuer == "" || opt.Audience == "" {
		panic("jwt: NewEdge needs keys, issuer and audience")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Edge{ownDoor{accessDoor(ES256), opt.Keys}, opt}
}

// Verify returns the claims of a bearer token. It refuses a bound one: who
// presents that without a proof may have stolen it.
func (v *Edge) Verify(token string) (EdgeClaims, error) {
	return v.verify(token, bearer)
}

// VerifyBound returns the claims of a token bound to what the presenter has
// proved on this request: the JKT of a DPoP proof that opened, the fingerprint
// of the TLS client's certificate, or both. It refuses a bearer token, and with
// a DPoP key one that is not bound to that key.
func (v *Edge) VerifyBound(token string, proof Confirmation) (EdgeClaims, error) {
	return v.verify(token, bound(proof))
}

// possession judges whether the presenter may use a token with this cnf.
type possession func(cnf *Confirmation) error

func bearer(cnf *Confirmation) error {
	if cnf != nil {
		return refuse("cnf", "token is bound and needs a proof of possession")
	}
	return nil
}

func bound(proof Confirmation) possession {
	return func(cnf *Confirmation) error {
		if cnf == nil {
			return refuse("cnf", "token is not bound")
		}
		return cnf.provedBy(proof)
	}
}

// verify opens a token and asks what must be asked at every use.
func (v *Edge) verify(token string, held possession) (EdgeClaims, error) {
	claims, _, err := v.open(token)
	if err != nil {
		return EdgeClaims{}, err
	}
	if err := v.admit(claims, held); err != nil {
		return EdgeClaims{}, err
	}
	return claims, nil
}

func (v *Edge) open(token string) (EdgeClaims, *signed.Key, error) {
	var c EdgeClaims
	key, err := v.door.open(token, &c)
	if err != nil {
		return EdgeClaims{}, nil, err
	}
	switch err := c.wellFormed(); {
	case err != nil:
		return EdgeClaims{}, nil, err
	case c.Issuer != v.opt.Issuer:
		return EdgeClaims{}, nil, refuse("iss", "issuer is not accepted")
	case c.Audience != v.opt.Audience:
		return EdgeClaims{}, nil, refuse("aud", "token is for another audience")
	}
	return c, key, nil
}

// admit does what must be asked at every use: time, binding, revocation.
func (v *Edge) admit(c EdgeClaims, held possession) error {
	if err := c.period().covers(v.opt.Now()); err != nil {
		return err
	}
	if err := held(c.Confirm); err != nil {
		return err
	}
	return unlessRevoked(v.opt.Revoked, c)
}
