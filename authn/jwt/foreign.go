package jwt

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
)

// foreignAlgorithms are what tokens minted elsewhere may be signed with.
func foreignAlgorithms() []Algorithm { return []Algorithm{RS256, PS256, ES256, EdDSA, Ed25519} }

// KeySource finds the key set of the outside party that a verifier is for. It
// may go and look when its copy has no such kid. Its error, if typed, is the
// verifier's; a nil set refuses.
type KeySource func(ctx context.Context, kid string) (*KeySet, error)

// foreignDoor is the door for tokens that somebody else minted. Their headers
// may have members that are not read.
type foreignDoor struct{ door }

// newForeignDoor panics when an algorithm is not one for foreign tokens:
// a caller's mistake must not become a symmetric key.
func newForeignDoor(algs []Algorithm, types ...string) foreignDoor {
	if len(algs) == 0 || slices.ContainsFunc(algs, func(a Algorithm) bool { return !slices.Contains(foreignAlgorithms(), a) }) {
		panic("jwt: algorithms must be some of RS256, PS256, ES256, EdDSA, Ed25519")
	}
	return foreignDoor{door{types: types, algs: slices.Clone(algs)}}
}

// open decodes the claims into what claims points to and lets check judge them
// first: no key is looked for, over a network perhaps, on behalf of a token
// that is not for us. Nothing holds until open returns nil.
func (d foreignDoor) open(token string, claims any, check func() error, keys func(kid string) (*KeySet, error)) (signed.Text, error) {
	text, err := d.parse(token)
	if err != nil {
		return signed.Text{}, err
	}
	if err := decodeClaims(text, claims); err != nil {
		return signed.Text{}, err
	}
	if err := check(); err != nil {
		return signed.Text{}, err
	}
	set, err := keys(text.Header.Kid)
	if err != nil {
		return signed.Text{}, err
	}
	key, err := d.key(text, set)
	if err != nil {
		return signed.Text{}, err
	}
	if err := text.Verify(key); err != nil {
		return signed.Text{}, malformed("token", err)
	}
	return text, nil
}

// ForeignOptions configure the verifier of one outside issuer's tokens.
type ForeignOptions struct {
	Keys       KeySource        // required
	Issuer     string           // required, compared byte for byte
	Audience   string           // required: an API's name for External, the client id for the others
	Algorithms []Algorithm      // some of RS256, PS256, ES256, EdDSA, Ed25519; required
	Now        func() time.Time // nil: time.Now
}

func (o ForeignOptions) withDefaults(name string) ForeignOptions {
	if o.Keys == nil || o.Issuer == "" || o.Audience == "" {
		panic("jwt: " + name + " needs keys, issuer and audience")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

func (o ForeignOptions) keysFor(ctx context.Context) func(string) (*KeySet, error) {
	return func(kid string) (*KeySet, error) { return o.Keys(ctx, kid) }
}

// Audience is the aud claim of a foreign token: one string, or a list on the
// wire as soon as there are several.
type Audience []string

// maxAudiences bounds a list.
const maxAudiences = 16

// MarshalJSON writes one audience as a string, several as a list.
func (a Audience) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return json.Marshal(a[0])
	}
	return json.Marshal([]string(a))
}

// UnmarshalJSON reads a string or a list of strings.
func (a *Audience) UnmarshalJSON(data []byte) error {
	if jsontext.Value(data).Kind() == '"' {
		*a = make(Audience, 1)
		return json.Unmarshal(data, &(*a)[0])
	}
	var list []string
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	if len(list) == 0 || len(list) > maxAudiences {
		return errors.New("aud must have 1 to 16 values")
	}
	*a = list
	return nil
}

// only holds that want is the one audience.
func (a Audience) only(want ...string) error {
	if len(a) != 1 || a[0] == "" || !slices.Contains(want, a[0]) {
		return refuse("aud", "aud must be %s, and nothing else", strings.Join(want, " or "))
	}
	return nil
}

// unexpected refuses a claim by which a token of another kind shows.
func unexpected(name string, value jsontext.Value) error {
	if value != nil {
		return refuse(name, "%s is not a claim of this kind of token", name)
	}
	return nil
}
