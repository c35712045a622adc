package jwt_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authn/jwt"
)

// fuzzDoor holds that no text but the good one opens a door, that a refusal
// names its rule, and that nothing panics.
func fuzzDoor(f *testing.F, good string, seeds []string, open func(token string) error) {
	f.Helper()
	for _, s := range append(seeds, good, good[:len(good)-1], good+".AA", "a.b.c", "..", "") {
		f.Add(s)
	}
	signed := good[:strings.LastIndexByte(good, '.')]
	f.Fuzz(func(t *testing.T, token string) {
		err := open(token)
		// An ECDSA signature has a second valid form: what must not change is
		// the text that it covers.
		if err == nil && !strings.HasPrefix(token, signed+".") {
			t.Fatalf("accepted %q", token)
		}
		if err != nil && jwt.Rule(err) == "" {
			t.Fatalf("no rule in %v", err)
		}
	})
}

// FuzzVerify signs what the fuzzer writes with the issuer's own key, so that
// header and claims reach the parser whatever they are. What is accepted must
// be all that a plane relies on.
func FuzzVerify(f *testing.F) {
	k := newIssuer(f)
	v := k.verifier()
	f.Add(k.header(), claims())
	f.Add(k.header(), `{"exp":1}`)
	f.Add(`{"typ":"at+jwt"}`, claims())
	f.Add(k.header(), strings.Replace(claims(), `"jti"`, `"scope":"a b","acr":"aal2","amr":["pwd"],"may_act":{"sub":"user:a"},"jti"`, 1))
	f.Fuzz(func(t *testing.T, header, body string) {
		c, err := v.Verify(k.forge(header, body), peer)
		if err != nil {
			if jwt.Rule(err) == "" {
				t.Fatalf("no rule in %v", err)
			}
			return
		}
		age := noon.Unix() - c.IssuedAt
		switch {
		case c.Issuer != issuer || c.Audience != orders || c.Confirm != jwt.Confirm(peer) || c.ID == "":
			t.Fatalf("accepted for another: %+v", c)
		case age < -60 || c.Expires-c.IssuedAt > 300 || noon.Unix()-c.Expires > 5 || c.NotBefore > noon.Unix():
			t.Fatalf("accepted at another time: %+v", c)
		case c.Principal().Kind == "" || len(c.Actors()) > 4 || c.Scope != nil && len(c.Scope) == 0 || slices.Contains(c.Scope, ""):
			t.Fatalf("accepted for nobody, or for all: %+v", c)
		case !strings.Contains(strings.ToLower(header), "at+jwt") && !strings.Contains(header, `\u`):
			t.Fatalf("accepted as another kind: %q", header)
		}
	})
}

func FuzzCompact(f *testing.F) {
	k := newIssuer(f)
	v := k.verifier()
	fuzzDoor(f, k.forge(k.header(), claims()), []string{k.forge(`{}`, `{}`), k.forge(k.header(), `{"exp":1}`)},
		func(token string) error { _, err := v.Verify(token, peer); return err })
}

func FuzzEdge(f *testing.F) {
	k := newIssuer(f)
	good, err := k.edge.SignEdge(edgeClaims())
	ok(f, err)
	v := k.edgeVerifier()
	fuzzDoor(f, good, []string{k.forgeEC(k.head("at+jwt"), `{}`)},
		func(token string) error { _, err := v.Verify(token); return err })
}

func FuzzLogoutToken(f *testing.F) {
	k := newIssuer(f)
	v := jwt.NewLogoutToken(k.foreign())
	fuzzDoor(f, k.forgeEC(k.head("logout+jwt"), logoutBody()), []string{k.forgeEC(k.head(""), `{"events":null}`)},
		func(token string) error { _, err := v.Verify(context.Background(), token); return err })
}

func FuzzClientAssertion(f *testing.F) {
	k := newIssuer(f)
	v := jwt.NewClientAssertion(jwt.ClientAssertionOptions{Audiences: []string{issuer}, Now: clock})
	fuzzDoor(f, k.forgeEC(k.head("JWT"), assertionBody()), []string{k.forgeEC(k.head(""), `{"aud":[]}`)},
		func(token string) error {
			_, err := v.Verify(token, func(string) (*jwt.KeySet, error) { return k.set, nil })
			return err
		})
}

// FuzzProof signs what the fuzzer writes, for a proof brings its own key: the
// header and the claims reach the parser whatever they are. What is accepted
// must be for this request.
func FuzzProof(f *testing.F) {
	k := newIssuer(f)
	v := jwt.NewDPoPProof(jwt.DPoPOptions{Now: clock})
	f.Add(k.dpopHead(), dpopBody())
	f.Add(`{"alg":"ES256","typ":"dpop+jwt","jwk":null}`, `{"htu":"https://[::1]:8443/%zz"}`)
	f.Add(`{"alg":"EdDSA","typ":"dpop+jwt","jwk":{"kty":"OKP","crv":"Ed25519","x":"AA"}}`, `{}`)
	f.Fuzz(func(t *testing.T, header, claims string) {
		c, err := v.Verify(k.forgeEC(header, claims), jwt.DPoPRequest{Method: "GET", URL: resource})
		if err != nil && jwt.Rule(err) == "" {
			t.Fatalf("no rule in %v", err)
		}
		if err == nil && (c.Method != "GET" || c.ID == "" || c.JKT != k.edge.KeyID() || !strings.Contains(strings.ToLower(c.URL), "//localhost:8443/")) {
			t.Fatalf("accepted %q %q as %+v", header, claims, c)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	k := newIssuer(f)
	f.Add(k.jwks)
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"a"},{"kty":"EC","crv":"P-256","x":"","y":"","kid":"b"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		own, err := jwt.ParseKeySet(data)
		foreign, foreignErr := jwt.ParseForeignKeySet(data, jwt.ES256, jwt.EdDSA, jwt.Ed25519)
		if (err == nil) != (own != nil) || (foreignErr == nil) != (foreign != nil) {
			t.Fatal("an error and a set, or neither")
		}
		if err == nil && foreignErr != nil {
			t.Fatalf("a set good enough for us is refused from others: %v", foreignErr)
		}
	})
}

func FuzzRing(f *testing.F) {
	r, err := jwt.NewRing(ringOptions(), nil, noon)
	ok(f, err)
	text, err := r.Marshal()
	ok(f, err)
	f.Add(text)
	f.Add([]byte(`{"keys":[{"pkcs8":"AAAA","published":"x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := jwt.ParseRing(ringOptions(), data); err == nil && r.Signer(noon) == nil {
			t.Fatal("a ring without a key")
		}
	})
}
