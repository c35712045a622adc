package jwt_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
)

// thumb returns a thumbprint of nothing in particular.
func thumb(name string) string {
	sum := sha256.Sum256([]byte(name))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// TestBoundEdgeToken: what is bound opens for its holder alone, and never as a
// bearer token.
func TestBoundEdgeToken(t *testing.T) {
	k := newIssuer(t)
	key, cert := thumb("key"), thumb("certificate")
	sign := func(cnf *jwt.Confirmation) string {
		c := edgeClaims()
		c.Confirm = cnf
		token, err := k.edge.SignEdge(c)
		ok(t, err)
		return token
	}
	unbound := sign(nil)
	byKey := sign(&jwt.Confirmation{JKT: key})
	byCert := sign(&jwt.Confirmation{Thumbprint: cert})
	byBoth := sign(&jwt.Confirmation{JKT: key, Thumbprint: cert})
	cache := jwt.NewEdgeCache(k.edgeVerifier(), 8) // of all rows: what one row opened is a hit in the next
	asBearer := func(token string) error {
		_, err := k.edgeVerifier().Verify(token)
		_, cached := cache.Verify(token)
		return same(t, err, cached)
	}
	with := func(token string, proof jwt.Confirmation) error {
		_, err := k.edgeVerifier().VerifyBound(token, proof)
		_, cached := cache.VerifyBound(token, proof)
		return same(t, err, cached)
	}
	_, handedIn := k.edgeVerifier().VerifySubject(byKey)
	for _, tc := range []struct {
		name string
		err  error
		rule string
	}{
		{"handed in by the plane that saw the proof", handedIn, ""},
		{"bearer token as bearer", asBearer(unbound), ""},
		{"bound to a key, as bearer", asBearer(byKey), "cnf"},
		{"bound to a certificate, as bearer", asBearer(byCert), "cnf"},
		{"bound to both, as bearer", asBearer(byBoth), "cnf"},
		{"its key proved", with(byKey, jwt.Confirmation{JKT: key}), ""},
		{"its key proved, over some certificate", with(byKey, jwt.Confirmation{JKT: key, Thumbprint: cert}), ""},
		{"another key proved", with(byKey, jwt.Confirmation{JKT: thumb("other")}), "cnf"},
		{"the certificate's hash sent as the key's", with(byCert, jwt.Confirmation{JKT: cert}), "cnf"},
		{"its certificate proved", with(byCert, jwt.Confirmation{Thumbprint: cert}), ""},
		{"another certificate proved", with(byCert, jwt.Confirmation{Thumbprint: thumb("other")}), "cnf"},
		{"a DPoP proof for a token bound to the certificate", with(byCert, jwt.Confirmation{JKT: key, Thumbprint: cert}), "cnf"},
		{"both proved", with(byBoth, jwt.Confirmation{JKT: key, Thumbprint: cert}), ""},
		{"only the key of both", with(byBoth, jwt.Confirmation{JKT: key}), "cnf"},
		{"only the certificate of both", with(byBoth, jwt.Confirmation{Thumbprint: cert}), "cnf"},
		{"nothing proved, bound to a key", with(byKey, jwt.Confirmation{}), "cnf"},
		{"nothing proved, bound to a certificate", with(byCert, jwt.Confirmation{}), "cnf"},
		{"a bearer token with a proof", with(unbound, jwt.Confirmation{JKT: key}), "cnf"},
		{"a bearer token with nothing proved", with(unbound, jwt.Confirmation{}), "cnf"},
	} {
		t.Run(tc.name, func(t *testing.T) { refused(t, tc.err, tc.rule) })
	}
	for name, cnf := range map[string]jwt.Confirmation{"empty": {}, "short": {JKT: "abc"}} {
		c := edgeClaims()
		c.Confirm = &cnf
		_, err := k.edge.SignEdge(c)
		if jwt.Rule(err) != "cnf" {
			t.Errorf("%s cnf: %v", name, err)
		}
	}
}

// same holds that two ways to ask give one answer.
func same(t *testing.T, a, b error) error {
	t.Helper()
	if jwt.Rule(a) != jwt.Rule(b) {
		t.Fatalf("%v, but cached %v", a, b)
	}
	return a
}

// TestScopeNeverWidens: no spelling of an empty scope means everything.
func TestScopeNeverWidens(t *testing.T) {
	k := newIssuer(t)
	if _, err := k.edge.SignEdge(edgeFor(rampart.Principal{Subject: "user:alice", Client: "app", Scope: []string{}})); jwt.Rule(err) != "scope" {
		t.Errorf("a principal without any permission got a token: %v", err)
	}
	for _, text := range []string{`""`, `" "`, `null`, `"a  b"`, `" a"`, `"a "`, `["a"]`, `"a\tb"`, `"a\"b"`} {
		body := strings.Replace(claims(), `"jti"`, `"scope":`+text+`,"jti"`, 1)
		_, err := k.verifier().Verify(k.forge(k.header(), body), peer)
		refused(t, err, "scope")
	}
	for _, tc := range []struct {
		scope jwt.Scope
		want  []string
	}{
		{nil, nil},
		{jwt.Scope{"orders:read"}, []string{"orders:read"}},
		{jwt.Scope{"openid", "orders:read", "offline_access"}, []string{"orders:read"}},
		{jwt.Scope{"openid"}, []string{}},
	} {
		c := edgeClaims()
		c.Scope = tc.scope
		token, err := k.edge.SignEdge(c)
		ok(t, err)
		got, err := k.edgeVerifier().Verify(token)
		ok(t, err)
		if diff := cmp.Diff(tc.want, got.Principal().Scope); diff != "" {
			t.Errorf("scope %q (-want +got):\n%s", tc.scope, diff)
		}
	}
}

func edgeFor(p rampart.Principal) jwt.EdgeClaims {
	c := jwt.EdgeFor(p)
	c.Issuer, c.Audience, c.ID, c.IssuedAt, c.Expires = issuer, issuer, "e1", noon.Unix(), noon.Unix()+900
	return c
}
