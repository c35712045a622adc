package jwt_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authn/jwt"
)

// forgeEC signs any header and claims with the issuer's real P-256 key.
func (k issuerKeys) forgeEC(header, claims string) string {
	text := b64(header) + "." + b64(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, k.ec, sum[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + b64(string(sig))
}

// head is a header of the P-256 key; an empty typ is none.
func (k issuerKeys) head(typ string) string {
	if typ == "" {
		return fmt.Sprintf(`{"alg":"ES256","kid":%q}`, k.edge.KeyID())
	}
	return fmt.Sprintf(`{"alg":"ES256","typ":%q,"kid":%q}`, typ, k.edge.KeyID())
}

// source is a KeySource of this issuer.
func (k issuerKeys) source(context.Context, string) (*jwt.KeySet, error) { return k.set, nil }

func (k issuerKeys) foreign() jwt.ForeignOptions {
	return jwt.ForeignOptions{Keys: k.source, Issuer: issuer, Audience: issuer, Algorithms: []jwt.Algorithm{jwt.ES256}, Now: clock}
}

const nonce = "n-0S6_WzA2Mj"

func times(life int64) string {
	return fmt.Sprintf(`"iat":%d,"exp":%d`, noon.Unix(), noon.Unix()+life)
}

func externalBody() string {
	return fmt.Sprintf(`{"iss":%q,"sub":"248289761001","aud":%q,%s,"jti":"x1","client_id":"app","scope":"read"}`, issuer, issuer, times(900))
}

func idBody() string {
	return fmt.Sprintf(`{"iss":%q,"sub":"248289761001","aud":%q,%s,"nonce":%q,"email":"a@b.example"}`, issuer, issuer, times(900), nonce)
}

func logoutBody() string {
	return fmt.Sprintf(`{"iss":%q,"sub":"248289761001","aud":%q,%s,"jti":"l1","sid":"s1","events":{"http://schemas.openid.net/event/backchannel-logout":{}}}`, issuer, issuer, times(120))
}

// assertionBody is from a client that is named like the issuer, so that no
// rule of names can tell its assertion from other kinds.
func assertionBody() string {
	return fmt.Sprintf(`{"iss":%q,"sub":%q,"aud":%q,%s,"jti":"a1"}`, issuer, issuer, issuer, times(60))
}

const resource = "https://localhost:8443/api/orders"

func dpopBody() string {
	return fmt.Sprintf(`{"jti":"d1","htm":"GET","htu":%q,"iat":%d}`, resource, noon.Unix())
}

func (k issuerKeys) ecJWK() string {
	point, err := k.ec.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, b64(string(point[1:33])), b64(string(point[33:])))
}

func (k issuerKeys) dpopHead() string {
	return fmt.Sprintf(`{"alg":"ES256","typ":"dpop+jwt","jwk":%s}`, k.ecJWK())
}

// doors are all the verifiers, as alike in names and keys as they can be.
func (k issuerKeys) doors() map[string]func(token string) error {
	ctx := context.Background()
	internal := jwt.NewInternal(jwt.InternalOptions{Keys: k.keys, Issuer: issuer, Audience: issuer, Now: clock})
	external, id, logout := jwt.NewExternal(k.foreign()), jwt.NewIDToken(k.foreign()), jwt.NewLogoutToken(k.foreign())
	assertion := jwt.NewClientAssertion(jwt.ClientAssertionOptions{Audiences: []string{issuer}, Now: clock})
	dpop := jwt.NewDPoPProof(jwt.DPoPOptions{Now: clock})
	return map[string]func(string) error{
		"internal": func(token string) error { _, err := internal.Verify(token, peer); return err },
		"edge":     func(token string) error { _, err := k.edgeVerifier().Verify(token); return err },
		"external": func(token string) error { _, err := external.Verify(ctx, token); return err },
		"id":       func(token string) error { _, err := id.Verify(ctx, token, nonce); return err },
		"logout":   func(token string) error { _, err := logout.Verify(ctx, token); return err },
		"assertion": func(token string) error {
			_, err := assertion.Verify(token, func(string) (*jwt.KeySet, error) { return k.set, nil })
			return err
		},
		"dpop": func(token string) error {
			_, err := dpop.Verify(token, jwt.DPoPRequest{Method: "GET", URL: resource})
			return err
		},
	}
}

// TestKindsAreApart hands a token of each kind, with and without its typ where
// that may be left out, to the door of each other kind.
func TestKindsAreApart(t *testing.T) {
	k := newIssuer(t)
	tokens := map[string]string{
		"internal":           k.forge(k.header(), strings.Replace(claims(), orders, issuer, 1)),
		"edge":               k.forgeEC(k.head("at+jwt"), strings.Replace(externalBody(), "2482", "user:2482", 1)),
		"id":                 k.forgeEC(k.head("JWT"), idBody()),
		"id, no typ":         k.forgeEC(k.head(""), idBody()),
		"logout":             k.forgeEC(k.head("logout+jwt"), logoutBody()),
		"logout, no typ":     k.forgeEC(k.head(""), logoutBody()),
		"assertion":          k.forgeEC(k.head("JWT"), assertionBody()),
		"assertion, no typ":  k.forgeEC(k.head(""), assertionBody()),
		"assertion, its typ": k.forgeEC(k.head("client-authentication+jwt"), assertionBody()),
		"dpop":               k.forgeEC(k.dpopHead(), dpopBody()),
		"external":           k.forgeEC(k.head("at+jwt"), externalBody()),
		"external by a foreign implementation": k.forgeEC(
			strings.Replace(k.head("at+jwt"), `{`, `{"x5t":"abc","cty":"x",`, 1), externalBody()),
	}
	doors, pairs := k.doors(), 0
	for _, kind := range slices.Sorted(maps.Keys(tokens)) {
		for door, open := range doors {
			home, _, _ := strings.Cut(kind, ",")
			home, _, _ = strings.Cut(home, " ")
			err := open(tokens[kind])
			// An edge token is an access token of an issuer like any other; what
			// parts it from External is which issuer a plane declares.
			if door == home || kind == "edge" && door == "external" {
				if err != nil {
					t.Errorf("%s token at its own door: %v", kind, err)
				}
				continue
			}
			pairs++
			if jwt.Rule(err) == "" {
				t.Errorf("%s token at the door of %s: %v", kind, door, err)
			}
		}
	}
	t.Logf("%d foreign doors tried", pairs)
}

// TestZeroDoorsRefuse: a verifier that nobody configured opens for nothing.
func TestZeroDoorsRefuse(t *testing.T) {
	k, ctx := newIssuer(t), context.Background()
	_, err := new(jwt.External).Verify(ctx, k.forgeEC(k.head("at+jwt"), externalBody()))
	refused(t, err, "unconfigured")
	for name, try := range map[string]func() error{
		"id":     func() error { _, err := new(jwt.IDToken).Verify(ctx, "a.b.c", nonce); return err },
		"logout": func() error { _, err := new(jwt.LogoutToken).Verify(ctx, "a.b.c"); return err },
		"dpop":   func() error { _, err := new(jwt.DPoPProof).Verify("a.b.c", jwt.DPoPRequest{}); return err },
		"assertion": func() error {
			_, err := new(jwt.ClientAssertion).Verify("a.b.c", func(string) (*jwt.KeySet, error) { return k.set, nil })
			return err
		},
	} {
		if err := try(); jwt.Rule(err) != "unconfigured" {
			t.Errorf("zero %s verifier: %v", name, err)
		}
	}
}
