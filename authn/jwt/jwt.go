// Package jwt answers "is this token of the kind I take, for me, now, and from
// this peer?" It is the only package that parses tokens.
//
// Each kind of token has its own verifier with its own claims type, so that
// one kind is never taken for another: Internal for tokens between planes, Edge
// for access tokens of clients, External for those of an outside issuer,
// IDToken and LogoutToken for what a login provider sends, ClientAssertion and
// DPoPProof for what a client proves itself and its key with. There is no
// verifier for any token, and a zero one refuses everything.
//
// Verification is stricter than RFC 7519 asks: RFC 8725 and RFC 9068 with one
// algorithm pinned to each key, one spelling per token, bounded size and depth,
// and no key from a token but the one that a DPoP proof is about.
//
// A token's text must never key a replay or deny list, for an ECDSA signature
// has a second valid form; jti, sid and sub do.
package jwt

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
	"github.com/rampart-security/rampart/internal/jws"
)

// Algorithm is the alg of a token. Each key is pinned to one.
type Algorithm = signed.Algorithm

// The algorithms that some kind of token may be signed with.
const (
	EdDSA   = signed.EdDSA
	Ed25519 = signed.Ed25519 // EdDSA by its RFC 9864 name
	ES256   = signed.ES256
	RS256   = signed.RS256
	PS256   = signed.PS256
)

// Bounds on every token, whatever its kind.
const (
	maxToken  = 8 << 10 // bytes
	maxKeyID  = 128     // bytes
	maxClaim  = 256     // bytes of jti, client_id and sid
	maxID     = 2048    // bytes of sub and act.sub
	maxActors = 4
	maxAMR    = 16 // values

	typeAccess = "at+jwt" // RFC 9068 section 2.1

	pastLeeway   = 5 * time.Second  // exp may be this long ago
	futureLeeway = 60 * time.Second // iat may be this far ahead
)

// Control ids of refusals.
const (
	controlJWT      = "authn.jwt"
	controlAudience = "token.audience"
	controlBinding  = "token.binding"
	controlDPoP     = "authn.dpop"

	controlClientAuth = "token.client_auth"
	controlFederation = "authn.federation"
)

// broken names the rule a token broke; it is the inner error of a refusal.
type broken string

func (b broken) Error() string { return "rule " + string(b) }

// Rule returns the short, stable name of the rule that refused a token, for
// audit and tests: size, segments, encoding, depth, dup, json, header, crit,
// typ, alg, kid, jwk, signature, a claim's name, lifetime, revoked, replay,
// unconfigured.
// It returns "" when err is not a refusal of this package.
func Rule(err error) string {
	b, _ := errors.AsType[broken](err)
	return string(b)
}

func refuse(rule, format string, args ...any) error {
	control := controlJWT
	switch rule {
	case "aud":
		control = controlAudience
	case "cnf":
		control = controlBinding
	}
	e := rampart.Errorf(rampart.Unauthenticated, control, "jwt: "+format, args...)
	e.Err = broken(rule)
	return e
}

// under returns err as a refusal by another control, unless it has one more
// particular than the verifier's default already.
func under(control string, err error) error {
	e, ok := errors.AsType[*rampart.Error](err)
	if !ok || e.Control != controlJWT {
		return err
	}
	moved := *e
	moved.Control = control
	return &moved
}

// door is what one kind of token must look like before its claims count. The
// zero door opens for nothing.
type door struct {
	types  []string    // values of typ in lower case; "" is a missing one
	algs   []Algorithm // the key has one of these, and the token the key's
	closed bool        // the header has alg, typ and kid alone
}

// parse takes a token apart and checks its header.
func (d door) parse(token string) (signed.Text, error) {
	if len(d.types) == 0 {
		return signed.Text{}, refuse("unconfigured", "verifier is not configured")
	}
	text, err := signed.Parse(token, maxToken, d.closed)
	if err != nil {
		return signed.Text{}, malformed("token", err)
	}
	if !slices.Contains(d.algs, text.Header.Alg) {
		return signed.Text{}, refuse("alg", "alg must be one of %v", d.algs)
	}
	if !slices.Contains(d.types, text.Header.Type()) {
		return signed.Text{}, refuse("typ", "typ must be one of %q", d.types)
	}
	return text, nil
}

// key finds the key that the header names.
func (d door) key(text signed.Text, set *KeySet) (*signed.Key, error) {
	if kid := text.Header.Kid; kid == "" || len(kid) > maxKeyID {
		return nil, refuse("kid", "kid must have 1 to %d bytes", maxKeyID)
	}
	key := set.find(text.Header.Kid)
	if key == nil {
		return nil, refuse("kid", "kid names no key of the issuer")
	}
	return key, nil
}

// ownDoor is the door for tokens that Rampart itself mints.
type ownDoor struct {
	door
	keys func() *KeySet
}

// open verifies form, header and signature, decodes the claims into the struct
// that claims points to, and returns the key that signed.
func (d ownDoor) open(token string, claims any) (*signed.Key, error) {
	text, err := d.parse(token)
	if err != nil {
		return nil, err
	}
	key, err := d.key(text, d.keys())
	if err != nil {
		return nil, err
	}
	if err := text.Verify(key); err != nil {
		return nil, malformed("token", err)
	}
	return key, decodeClaims(text, claims)
}

// accessDoor is the door for our own access tokens.
func accessDoor(algs ...Algorithm) door {
	return door{types: []string{typeAccess}, algs: algs, closed: true}
}

func decodeClaims(text signed.Text, claims any) error {
	if err := jws.Decode(text.Parts.Payload, claims, signed.MaxDepth, false); err != nil {
		return malformed("claims", err)
	}
	return nil
}

// malformed turns a complaint about form or signature into a refusal.
func malformed(what string, err error) error {
	e, ok := errors.AsType[*jws.Error](err)
	if !ok {
		return refuse("json", "%s is malformed", what)
	}
	return refuse(e.Rule, "%s: %s", what, e.Msg)
}

// period are the time claims of a token, in seconds since 1970.
type period struct {
	issued, notBefore, expires int64
	most                       time.Duration // from issued to expires
}

// wellFormed checks what does not depend on the clock.
func (p period) wellFormed() error {
	switch {
	case p.expires <= 0:
		return refuse("exp", "exp is required")
	case p.issued <= 0:
		return refuse("iat", "iat is required")
	case p.notBefore < 0:
		return refuse("nbf", "nbf must be positive")
	case p.expires <= p.issued:
		return refuse("exp", "exp must be after iat")
	case p.expires-p.issued > int64(p.most/time.Second):
		return refuse("lifetime", "token lives longer than %s", p.most)
	}
	return nil
}

// covers checks p against the clock.
func (p period) covers(now time.Time) error {
	t := now.Unix()
	switch {
	case t-p.expires > int64(pastLeeway/time.Second):
		return refuse("exp", "token has expired")
	case p.issued-t > int64(futureLeeway/time.Second):
		return refuse("iat", "token is from the future")
	case p.notBefore > t:
		return refuse("nbf", "token is not valid yet")
	}
	return nil
}

// named is a claim that must be there, or may be empty, within a bound.
type named struct {
	name, value string
	optional    bool
}

func checkNames(claims ...named) error {
	for _, c := range claims {
		if c.value == "" && !c.optional {
			return refuse(c.name, "%s is required", c.name)
		}
		if len(c.value) > maxClaim {
			return refuse(c.name, "%s is longer than %d bytes", c.name, maxClaim)
		}
	}
	return nil
}

// kindOf tells the kind of a subject by its namespace. People, clients and
// services have separate ones, so that none can pose as another (RFC 9700
// section 4.15).
func kindOf(subject string) rampart.PrincipalKind {
	space, rest, _ := strings.Cut(subject, ":")
	switch {
	case rest == "":
		return ""
	case space == "user":
		return rampart.KindHuman
	case space == "client":
		return rampart.KindClient
	case space == "spiffe" && strings.HasPrefix(rest, "//"):
		return rampart.KindService
	}
	return ""
}

func checkSubject(name, subject string) error {
	if len(subject) > maxID || kindOf(subject) == "" {
		return refuse(name, "%s must be user:ID, client:ID or a SPIFFE ID of at most %d bytes", name, maxID)
	}
	return nil
}

// checkLogin checks the claims that say when and how a person logged in.
func checkLogin(authTime int64, acr string, amr []string) error {
	if authTime < 0 {
		return refuse("auth_time", "auth_time must be positive")
	}
	if len(acr) > maxClaim {
		return refuse("acr", "acr is longer than %d bytes", maxClaim)
	}
	if len(amr) > maxAMR {
		return refuse("amr", "amr has more than %d values", maxAMR)
	}
	for _, method := range amr {
		if method == "" || len(method) > maxClaim {
			return refuse("amr", "amr must be values of 1 to %d bytes", maxClaim)
		}
	}
	return nil
}
