package jwt_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/rampart-security/rampart/authn/jwt"
)

const svidAudience = "https://partner.example"

// svidKeys gives the issuer's P-256 key to shop.internal, and nothing to others.
func (k issuerKeys) svidKeys(t testing.TB) func(string) *jwt.KeySet {
	t.Helper()
	set, err := jwt.ParseSVIDKeySet(fmt.Appendf(nil, `{"keys":[%s]}`, strings.Replace(k.ecJWK(), "{", `{"use":"jwt-svid","kid":"`+k.edge.KeyID()+`",`, 1)))
	ok(t, err)
	return func(domain string) *jwt.KeySet {
		if domain == "shop.internal" {
			return set
		}
		return nil
	}
}

func svidBody() string {
	return fmt.Sprintf(`{"sub":%q,"aud":[%q],"exp":%d,"iat":%d}`, orders, svidAudience, noon.Unix()+300, noon.Unix())
}

// TestJWTSVID holds every rule of the standard for whoever validates one; a row
// is named after its section of SPIFFE JWT-SVID.
func TestJWTSVID(t *testing.T) {
	k := newIssuer(t)
	v := jwt.NewSVID(jwt.SVIDOptions{Keys: k.svidKeys(t), Now: clock})
	head := func(text string) string { return strings.ReplaceAll(text, "KID", k.edge.KeyID()) }
	body := func(old, next string) string { return strings.Replace(svidBody(), old, next, 1) }
	minted, err := k.edge.SignSVID(jwt.SVIDClaims{Subject: orders, Audience: jwt.Audience{svidAudience}, Expires: noon.Unix() + 300, IssuedAt: noon.Unix()})
	ok(t, err)
	good := `{"alg":"ES256","kid":"KID","typ":"JWT"}`
	for _, tc := range []struct {
		name, token, audience, rule string
	}{
		{"2 ours opens", minted, svidAudience, ""},
		{"2 alg, kid and typ", k.forgeEC(head(good), svidBody()), svidAudience, ""},
		{"2 no other header member", k.forgeEC(head(`{"alg":"ES256","kid":"KID","jku":"https://evil.example"}`), svidBody()), svidAudience, "header"},
		{"2.1 alg is asymmetric", k.forgeEC(head(`{"alg":"HS256","kid":"KID"}`), svidBody()), svidAudience, "alg"},
		{"2.1 alg is not none", k.forgeEC(head(`{"alg":"none","kid":"KID"}`), svidBody()), svidAudience, "alg"},
		{"2.1 alg is not EdDSA", k.forge(strings.Replace(k.header(), "at+jwt", "JWT", 1), svidBody()), svidAudience, "alg"},
		{"2.2 kid names a key of the bundle", k.forgeEC(`{"alg":"ES256","kid":"other"}`, svidBody()), svidAudience, "kid"},
		{"2.2 kid is there", k.forgeEC(`{"alg":"ES256"}`, svidBody()), svidAudience, "kid"},
		{"2.3 typ may be left out", k.forgeEC(head(`{"alg":"ES256","kid":"KID"}`), svidBody()), svidAudience, ""},
		{"2.3 typ may be JOSE", k.forgeEC(head(`{"alg":"ES256","kid":"KID","typ":"JOSE"}`), svidBody()), svidAudience, ""},
		{"2.3 typ is nothing else", k.forgeEC(head(`{"alg":"ES256","kid":"KID","typ":"at+jwt"}`), svidBody()), svidAudience, "typ"},
		{"2.3 typ is in upper case", k.forgeEC(head(`{"alg":"ES256","kid":"KID","typ":"jwt"}`), svidBody()), svidAudience, "typ"},
		{"3.1 sub is there", k.forgeEC(head(good), body(`"sub"`, `"su"`)), svidAudience, "sub"},
		{"3.1 sub is a SPIFFE ID", k.forgeEC(head(good), body(orders, "user:alice")), svidAudience, "sub"},
		{"3.1 sub names a workload", k.forgeEC(head(good), body(orders, "spiffe://shop.internal")), svidAudience, "sub"},
		{"3.2 aud is there", k.forgeEC(head(good), body(`"aud"`, `"au"`)), svidAudience, "aud"},
		{"3.2 aud is not an empty list", k.forgeEC(head(good), body(`["`+svidAudience+`"]`, `[]`)), svidAudience, "aud"},
		{"3.2 aud holds no empty name", k.forgeEC(head(good), body(`["`+svidAudience+`"]`, `["`+svidAudience+`",""]`)), svidAudience, "aud"},
		{"3.2 aud may be one string", k.forgeEC(head(good), body(`["`+svidAudience+`"]`, `"`+svidAudience+`"`)), svidAudience, ""},
		{"3.2 aud names who validates", minted, "https://other.example", "aud"},
		{"3.2 who validates has a name", minted, "", "aud"},
		{"3.3 exp is there", k.forgeEC(head(good), body(`"exp"`, `"ex"`)), svidAudience, "exp"},
		{"3.3 exp is not past", k.forgeEC(head(good), body(fmt.Sprint(noon.Unix()+300), fmt.Sprint(noon.Unix()-6))), svidAudience, "exp"},
		{"3.3 exp is not far", k.forgeEC(head(good), body(fmt.Sprint(noon.Unix()+300), fmt.Sprint(noon.Unix()+7200))), svidAudience, "lifetime"},
		{"3.3 nbf has come", k.forgeEC(head(good), body(`"iat"`, fmt.Sprintf(`"nbf":%d,"iat"`, noon.Unix()+60))), svidAudience, "nbf"},
		{"5.1 compact serialization", "{" + minted + "}", svidAudience, "encoding"},
		{"4 the signature is valid", minted[:len(minted)-6] + "AAAAAA", svidAudience, "signature"},
		{"4 the trust domain is known", k.forgeEC(head(good), body("shop.internal", "evil.internal")), svidAudience, "kid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := v.Verify(tc.token, tc.audience)
			refused(t, err, tc.rule)
		})
	}
}

// TestJWTSVIDReadByGoSPIFFE: what is minted here the library of the standard
// accepts, with the keys that the ring publishes, and all its claims come out.
func TestJWTSVIDReadByGoSPIFFE(t *testing.T) {
	now := time.Now()
	ring, err := jwt.NewRing(jwt.RingOptions{Generate: jwt.GenerateEdge, MaxLife: jwt.SVIDLife}, nil, now)
	ok(t, err)
	public, err := ring.PublicSVIDs()
	ok(t, err)
	token, err := ring.Signer(now).SignSVID(jwt.SVIDClaims{Subject: orders, Audience: jwt.Audience{svidAudience}, Expires: now.Add(jwt.SVIDLife).Unix(), IssuedAt: now.Unix()})
	ok(t, err)
	bundle, err := jwtbundle.Parse(spiffeid.RequireTrustDomainFromString("shop.internal"), public)
	ok(t, err)
	got, err := jwtsvid.ParseAndValidate(token, bundle, []string{svidAudience})
	ok(t, err)
	if got.ID.String() != orders {
		t.Errorf("go-spiffe reads %s", got.ID)
	}
	set, err := jwt.ParseSVIDKeySet(public)
	ok(t, err)
	ours, err := jwt.NewSVID(jwt.SVIDOptions{Keys: func(string) *jwt.KeySet { return set }}).Verify(token, svidAudience)
	ok(t, err)
	all := map[string]any{}
	ok(t, ours.Decode(&all))
	want := map[string]any{"sub": orders, "aud": svidAudience, "exp": float64(now.Add(jwt.SVIDLife).Unix()), "iat": float64(now.Unix())}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
}

// TestSVIDSigner refuses to mint what nobody may accept.
func TestSVIDSigner(t *testing.T) {
	k := newIssuer(t)
	good := jwt.SVIDClaims{Subject: orders, Audience: jwt.Audience{svidAudience}, Expires: noon.Unix() + 300}
	for name, tc := range map[string]struct {
		by     *jwt.Signer
		change func(*jwt.SVIDClaims)
		rule   string
	}{
		"no audience":    {k.edge, func(c *jwt.SVIDClaims) { c.Audience = nil }, "aud"},
		"empty audience": {k.edge, func(c *jwt.SVIDClaims) { c.Audience = jwt.Audience{""} }, "aud"},
		"no workload":    {k.edge, func(c *jwt.SVIDClaims) { c.Subject = "user:ann" }, "sub"},
		"no end":         {k.edge, func(c *jwt.SVIDClaims) { c.Expires = 0 }, "exp"},
		"Ed25519 key":    {k.internal, func(*jwt.SVIDClaims) {}, "alg"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			tc.change(&c)
			_, err := tc.by.SignSVID(c)
			refused(t, err, tc.rule)
		})
	}
}

// TestSVIDKeySet: in a trust bundle the use of a key counts.
func TestSVIDKeySet(t *testing.T) {
	k := newIssuer(t)
	jwk := strings.Replace(k.ecJWK(), "{", `{"kid":"a",`, 1)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	ok(t, err)
	rsaJWK := `{"kty":"RSA","kid":"a","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString(key.N.Bytes()) + `"}`
	for name, tc := range map[string]struct {
		jwk string
		has bool
	}{
		"jwt-svid":       {strings.Replace(jwk, "{", `{"use":"jwt-svid",`, 1), true},
		"RSA":            {strings.Replace(rsaJWK, "{", `{"use":"jwt-svid",`, 1), true},
		"x509-svid":      {strings.Replace(jwk, "{", `{"use":"x509-svid",`, 1), false},
		"sig":            {strings.Replace(jwk, "{", `{"use":"sig",`, 1), false},
		"no use":         {jwk, false},
		"unknown kty":    {`{"use":"jwt-svid","kid":"a","kty":"AKP"}`, false},
		"unknown member": {strings.Replace(jwk, "{", `{"use":"jwt-svid","x":`, 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			set, _ := jwt.ParseSVIDKeySet([]byte(`{"keys":[` + tc.jwk + `]}`))
			if set.Has("a") != tc.has {
				t.Errorf("the key counts: %v", !tc.has)
			}
		})
	}
}

// FuzzJWTSVID signs what the fuzzer writes with a key of the bundle: what is
// accepted names a workload of that trust domain, its audience and an end.
func FuzzJWTSVID(f *testing.F) {
	k := newIssuer(f)
	v := jwt.NewSVID(jwt.SVIDOptions{Keys: k.svidKeys(f), Now: clock})
	head := `{"alg":"ES256","kid":"` + k.edge.KeyID() + `"}`
	for _, body := range []string{svidBody(), `{}`, `{"sub":null,"aud":"","exp":1e9}`, strings.Replace(svidBody(), `"exp"`, `"exp":1,"exp"`, 1)} {
		f.Add(head, body)
	}
	f.Add(`{"alg":"ES256","kid":"a","crit":["b64"]}`, svidBody())
	f.Fuzz(func(t *testing.T, header, body string) {
		c, err := v.Verify(k.forgeEC(header, body), svidAudience)
		if err != nil {
			if jwt.Rule(err) == "" {
				t.Fatalf("no rule in %v", err)
			}
			return
		}
		if !strings.HasPrefix(c.Subject, "spiffe://shop.internal/") || c.Expires < noon.Unix()-5 || c.Expires > noon.Unix()+3605 {
			t.Fatalf("accepted %+v", c)
		}
	})
}
