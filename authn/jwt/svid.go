package jwt

import (
	"slices"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
	"github.com/rampart-security/rampart/internal/jws"
)

// SVIDLife is how long our own JWT-SVIDs hold. They are bearer tokens: whoever
// reads one has it for so long.
const SVIDLife = 5 * time.Minute

// maxSVIDLife bounds how far ahead a JWT-SVID of anybody may expire.
const maxSVIDLife = time.Hour

// svidAlgorithms are those of JWT-SVID section 2.1 that this package knows: no
// Ed25519, and of the curves P-256 alone. An RSA key that names no alg is for
// the first.
func svidAlgorithms() []Algorithm {
	return []Algorithm{RS256, signed.RS384, signed.RS512, PS256, signed.PS384, signed.PS512, ES256}
}

// SVIDClaims are the claims of a JWT-SVID (SPIFFE JWT-SVID section 3). Times are
// seconds since 1970.
type SVIDClaims struct {
	Subject   string   `json:"sub"` // SPIFFE ID
	Audience  Audience `json:"aud"`
	Expires   int64    `json:"exp"`
	IssuedAt  int64    `json:"iat,omitzero"`
	NotBefore int64    `json:"nbf,omitzero"`
}

// wellFormed checks what does not depend on the clock, and returns the trust
// domain of the subject.
func (c SVIDClaims) wellFormed() (domain string, err error) {
	id, err := spiffeid.FromString(c.Subject)
	switch {
	case len(c.Subject) > maxID, err != nil, id.Path() == "", id.String() != c.Subject:
		return "", refuse("sub", "sub must be a SPIFFE ID with a path, of at most %d bytes", maxID)
	case len(c.Audience) == 0, len(c.Audience) > maxAudiences:
		return "", refuse("aud", "aud must have 1 to %d values", maxAudiences)
	case slices.Contains(c.Audience, ""):
		return "", refuse("aud", "aud must not be empty")
	case c.Expires <= 0:
		return "", refuse("exp", "exp is required")
	case c.IssuedAt < 0:
		return "", refuse("iat", "iat must be positive")
	case c.NotBefore < 0:
		return "", refuse("nbf", "nbf must be positive")
	}
	return id.TrustDomain().Name(), nil
}

// holds checks the claims against the clock.
func (c SVIDClaims) holds(now time.Time) error {
	if c.Expires-now.Unix() > int64((maxSVIDLife+pastLeeway)/time.Second) {
		return refuse("lifetime", "token expires more than %s ahead", maxSVIDLife)
	}
	return period{issued: c.IssuedAt, notBefore: c.NotBefore, expires: c.Expires}.covers(now)
}

// SignSVID mints a JWT-SVID. Its header has alg, kid and typ alone (JWT-SVID
// section 2).
func (s *Signer) SignSVID(c SVIDClaims) (string, error) {
	if s.alg != ES256 {
		return "", refuse("alg", "JWT-SVIDs are signed with P-256")
	}
	if _, err := c.wellFormed(); err != nil {
		return "", err
	}
	return sign(s.plain, c)
}

// PublicSVIDs returns the keys of the ring as a trust bundle has them: the JWK
// set of its JWT-SVIDs, in the order in which they sign.
func (r *Ring) PublicSVIDs() ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, key := range r.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.signer.key.Public(), KeyID: key.signer.id, Use: signed.UseSVID})
	}
	return json.Marshal(set)
}

// ParseSVIDKeySet reads the keys of a trust bundle that sign JWT-SVIDs; those of
// another use or kind are passed over, as section 4.2.2 of SPIFFE Trust Domain
// and Bundle has it. What refuses a set of ParseForeignKeySet refuses it here.
func ParseSVIDKeySet(data []byte) (*KeySet, error) {
	return parseKeySet(data, signed.ParseSVIDKey, usableBy(svidAlgorithms()), []error{signed.ErrForeign, signed.ErrPurpose})
}

// VerifiedSVID is a JWT-SVID that was verified.
type VerifiedSVID struct {
	SVIDClaims

	payload []byte
}

// Decode reads all claims into the struct or map that dst points to.
func (s VerifiedSVID) Decode(dst any) error {
	if err := jws.Decode(s.payload, dst, signed.MaxDepth, false); err != nil {
		return malformed("claims", err)
	}
	return nil
}

// SVIDOptions configure an SVID verifier.
type SVIDOptions struct {
	// Keys returns the keys of one trust domain; required. Nil refuses: the domain
	// is not known.
	Keys func(domain string) *KeySet
	Now  func() time.Time // nil: time.Now
}

// SVID verifies JWT-SVIDs, ours and those of federated trust domains (SPIFFE
// JWT-SVID section 4). Safe for concurrent use.
type SVID struct {
	door foreignDoor
	opt  SVIDOptions
}

// NewSVID returns a verifier. It panics without keys.
func NewSVID(opt SVIDOptions) *SVID {
	if opt.Keys == nil {
		panic("jwt: NewSVID needs keys")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &SVID{foreignDoor{door{types: []string{"jwt", "jose", ""}, algs: svidAlgorithms(), closed: true}}, opt}
}

// Verify returns the claims of a JWT-SVID that names audience among others. The
// keys are those of the subject's own trust domain and no other's.
func (v *SVID) Verify(token, audience string) (VerifiedSVID, error) {
	var c SVIDClaims
	var domain string
	text, err := v.door.open(token, &c, func() (err error) {
		if domain, err = c.wellFormed(); err != nil {
			return err
		}
		if audience == "" || !slices.Contains(c.Audience, audience) {
			return refuse("aud", "token is for another audience")
		}
		return c.holds(v.opt.Now())
	}, func(string) (*KeySet, error) { return v.opt.Keys(domain), nil })
	if err != nil {
		return VerifiedSVID{}, err
	}
	// Upper case alone, unlike in other tokens (JWT-SVID section 2.3).
	if typ := text.Header.Typ; typ != "" && typ != "JWT" && typ != "JOSE" {
		return VerifiedSVID{}, refuse("typ", "typ must be JWT or JOSE")
	}
	return VerifiedSVID{c, text.Parts.Payload}, nil
}
