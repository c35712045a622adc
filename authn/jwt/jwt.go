// Package jwt answers "is this token one of ours, for me, now, and from this
// peer?" It is the only package that parses tokens.
//
// Each kind of token has its own verifier with its own claims type, so that
// one kind is never taken for another: Internal for tokens between planes,
// Edge for access tokens of clients. A zero verifier refuses everything.
// Verification is stricter than RFC 7519 asks: RFC 8725 and RFC 9068 with one
// pinned algorithm, one spelling per token, bounded size and depth, and no
// header member but alg, typ and kid.
//
// A token's text must never key a replay or deny list, for an ECDSA signature
// has a second valid form; jti, sid and sub do.
package jwt

import (
	"errors"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/jws"
)

// Bounds on every token, whatever its kind.
const (
	maxToken  = 8 << 10 // bytes
	maxDepth  = 8       // nesting of header and claims
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
)

// broken names the rule a token broke; it is the inner error of a refusal.
type broken string

func (b broken) Error() string { return "rule " + string(b) }

// Rule returns the short, stable name of the rule that refused a token, for
// audit and tests: size, segments, encoding, depth, dup, json, header, crit,
// typ, alg, kid, signature, a claim's name, lifetime, revoked, unconfigured.
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

// header has the members a token of ours may have, and the two that change
// what a signature means, to refuse them by name.
type header struct {
	Alg  string         `json:"alg"`
	Typ  string         `json:"typ"`
	Kid  string         `json:"kid"`
	Crit jsontext.Value `json:"crit"`
	B64  jsontext.Value `json:"b64"`
}

// door is what one kind of token must look like before its claims count.
type door struct {
	alg  jose.SignatureAlgorithm
	keys func() *KeySet
}

// open verifies form, header and signature, decodes the claims into the struct
// that claims points to, and returns the key that signed.
func (d door) open(token string, claims any) (key *publicKey, err error) {
	if d.keys == nil {
		return nil, refuse("unconfigured", "verifier is not configured")
	}
	parts, err := jws.Split(token, maxToken)
	if err != nil {
		return nil, malformed("token", err)
	}
	key, err = d.key(parts.Header)
	if err != nil {
		return nil, err
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{d.alg})
	if err != nil {
		return nil, refuse("signature", "signature does not parse")
	}
	payload, err := signed.Verify(key.public)
	if err != nil {
		return nil, refuse("signature", "signature is not valid")
	}
	if err := jws.Decode(payload, claims, maxDepth, false); err != nil {
		return nil, malformed("claims", err)
	}
	return key, nil
}

// key reads the header and finds the key it names.
func (d door) key(raw []byte) (*publicKey, error) {
	var h header
	if err := jws.Decode(raw, &h, maxDepth, true); err != nil {
		return nil, malformed("header", err)
	}
	if h.Crit != nil || h.B64 != nil {
		return nil, refuse("crit", "header extensions are not supported")
	}
	if h.Alg != string(d.alg) {
		return nil, refuse("alg", "alg must be %s", d.alg)
	}
	if strings.TrimPrefix(strings.ToLower(h.Typ), "application/") != typeAccess {
		return nil, refuse("typ", "typ must be %s", typeAccess)
	}
	if h.Kid == "" || len(h.Kid) > maxKeyID {
		return nil, refuse("kid", "kid must have 1 to %d bytes", maxKeyID)
	}
	key := d.keys().find(h.Kid)
	if key == nil {
		return nil, refuse("kid", "kid names no key of the issuer")
	}
	if key.alg != d.alg {
		return nil, refuse("alg", "key is not for %s", d.alg)
	}
	return key, nil
}

// malformed turns a complaint about form into a refusal.
func malformed(what string, err error) error {
	e, ok := errors.AsType[*jws.Error](err)
	if !ok {
		return refuse("json", "%s is malformed", what)
	}
	rule := e.Rule
	if rule == jws.RuleUnknown {
		rule = "header"
	}
	return refuse(rule, "%s %s", what, e.Msg)
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
