package jwt_test

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
)

// rsaParty is an outside issuer with RSA keys.
type rsaParty struct {
	key *rsa.PrivateKey
	set *jwt.KeySet
}

func newRSAParty(t testing.TB) rsaParty {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	ok(t, err)
	set, err := jwt.ParseForeignKeySet(fmt.Appendf(nil, `{"keys":[%s,%s]}`,
		rsaJWK(key.N, 65537, `"kid":"rs","alg":"RS256"`), rsaJWK(key.N, 65537, `"kid":"ps","alg":"PS256"`)), jwt.RS256, jwt.PS256)
	ok(t, err)
	return rsaParty{key, set}
}

func rsaJWK(n *big.Int, e int64, more string) string {
	return fmt.Sprintf(`{"kty":"RSA","n":%q,"e":%q,%s}`, b64(string(n.Bytes())), b64(string(big.NewInt(e).Bytes())), more)
}

func (p rsaParty) source(context.Context, string) (*jwt.KeySet, error) { return p.set, nil }

func (p rsaParty) rs256(header, claims string) string {
	text := b64(header) + "." + b64(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return text + "." + b64(string(sig))
}

func (p rsaParty) ps256(header, claims string, salt int) string {
	text := b64(header) + "." + b64(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPSS(rand.Reader, p.key, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: salt})
	if err != nil {
		panic(err)
	}
	return text + "." + b64(string(sig))
}

func TestForgedExternalTokens(t *testing.T) {
	p, ctx, body := newRSAParty(t), t.Context(), externalBody()
	const rs, ps = `{"alg":"RS256","typ":"at+jwt","kid":"rs"}`, `{"alg":"PS256","typ":"at+jwt","kid":"ps"}`
	good := p.rs256(rs, body)
	claim := func(old, new string) string { return p.rs256(rs, replace(t, body, old, new)) }
	spki, err := x509.MarshalPKIXPublicKey(p.key.Public())
	ok(t, err)
	hs := b64(replace(t, rs, "RS256", "HS256")) + "." + b64(body)
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	mac.Write([]byte(hs))
	v := jwt.NewExternal(jwt.ForeignOptions{
		Keys: p.source, Issuer: issuer, Audience: issuer, Algorithms: []jwt.Algorithm{jwt.RS256, jwt.PS256}, Now: clock,
	})
	forged(t, "authn.jwt", good, func(token string) error { _, err := v.Verify(ctx, token); return err }, []forgery{
		{"PS256 with a salt as long as its hash", p.ps256(ps, body, 32), ""},
		{"PS256 with a salt of 20 bytes", p.ps256(ps, body, 20), "signature"},
		{"PS256 without salt", p.ps256(ps, body, 0), "signature"},
		{"PS256 with the key of RS256", p.ps256(strings.Replace(ps, `"ps"`, `"rs"`, 1), body, 32), "alg"},
		{"RS256 with the key of PS256", p.rs256(strings.Replace(rs, `"rs"`, `"ps"`, 1), body), "alg"},
		{"PKCS 1 signature under PS256", p.rs256(ps, body), "signature"},
		{"HS256 with the PEM of the public key", hs + "." + b64(string(mac.Sum(nil))), "alg"},
		{"RS512 is not pinned", p.rs256(strings.Replace(rs, "RS256", "RS512", 1), body), "alg"},
		{"header members of others are not read", p.rs256(strings.Replace(rs, "{", `{"x5t":"a","jku":"http://127.0.0.1:1/",`, 1), body), ""},
		{"crit", p.rs256(strings.Replace(rs, "{", `{"crit":["exp"],`, 1), body), "crit"},
		{"kid of nobody", p.rs256(strings.Replace(rs, `"rs"`, `"xx"`, 1), body), "kid"},
		{"kid missing", p.rs256(strings.Replace(rs, `,"kid":"rs"`, ``, 1), body), "kid"},
		{"typ JWT", p.rs256(strings.Replace(rs, "at+jwt", "JWT", 1), body), "typ"},
		{"issuer with a slash", claim(`"iss":"`+issuer, `"iss":"`+issuer+"/"), "iss"},
		{"audience of others", claim(fmt.Sprintf(`"aud":%q`, issuer), `"aud":"x"`), "aud"},
		{"audience and others", claim(fmt.Sprintf(`"aud":%q`, issuer), fmt.Sprintf(`"aud":[%q,"x"]`, issuer)), "aud"},
		{"list of the one audience", claim(fmt.Sprintf(`"aud":%q`, issuer), fmt.Sprintf(`"aud":[%q]`, issuer)), ""},
		{"empty list of audiences", claim(fmt.Sprintf(`"aud":%q`, issuer), `"aud":[]`), "aud"},
		{"audience null", claim(fmt.Sprintf(`"aud":%q`, issuer), `"aud":null`), "aud"},
		{"lives 61 min", claim(times(900), times(3660)), "lifetime"},
		{"jti missing", claim(`"jti":"x1",`, ""), "jti"},
		{"client missing", claim(`,"client_id":"app"`, ""), "client_id"},
		{"an ID token by its nonce", claim(`"jti"`, `"nonce":"n","jti"`), "nonce"},
		{"an ID token by its at_hash", claim(`"jti"`, `"at_hash":"n","jti"`), "at_hash"},
		{"a logout token by its events", claim(`"jti"`, `"events":{},"jti"`), "events"},
		{"bound to a key, as bearer", claim(`"jti"`, `"cnf":{"jkt":"`+thumb("key")+`"},"jti"`), "cnf"},
		{"bound in a way that is not known", claim(`"jti"`, `"cnf":{"jwk":{}},"jti"`), "cnf"},
		{"scope empty", claim(`"read"`, `""`), "scope"},
	})
	_, err = v.VerifyBound(ctx, claim(`"jti"`, `"cnf":{"jkt":"`+thumb("key")+`"},"jti"`), jwt.Confirmation{JKT: thumb("key")})
	refused(t, err, "")
}

func TestForgedIDTokens(t *testing.T) {
	k, p, ctx, body := newIssuer(t), newRSAParty(t), t.Context(), idBody()
	head := k.head("JWT")
	good := k.forgeEC(head, body)
	claim := func(old, new string) string { return k.forgeEC(head, replace(t, body, old, new)) }
	aud := fmt.Sprintf(`"aud":%q`, issuer)
	several := func(azp string) string { return claim(aud, fmt.Sprintf(`"aud":[%q,"x"]%s`, issuer, azp)) }
	v := jwt.NewIDToken(k.foreign())
	forged(t, "authn.federation", good, func(token string) error { _, err := v.Verify(ctx, token, nonce); return err }, []forgery{
		{"typ missing", k.forgeEC(k.head(""), body), ""},
		{"typ of an access token", k.forgeEC(k.head("at+jwt"), body), "typ"},
		{"typ of a logout token", k.forgeEC(k.head("logout+jwt"), body), "typ"},
		{"RS256 where only ES256 is pinned", p.rs256(`{"alg":"RS256","kid":"rs"}`, body), "alg"},
		{"HS256 with the client's secret", b64(`{"alg":"HS256"}`) + "." + b64(body) + "." + b64("x"), "alg"},
		{"of another key", newIssuer(t).forgeEC(head, body), "signature"},
		{"nonce of another login", claim(nonce, "other"), "nonce"},
		{"nonce missing", claim(fmt.Sprintf(`,"nonce":%q`, nonce), ""), "nonce"},
		{"for another client", claim(aud, `"aud":"x"`), "aud"},
		{"for several clients, ours authorized", several(fmt.Sprintf(`,"azp":%q`, issuer)), ""},
		{"for several clients, nobody authorized", several(""), "azp"},
		{"for several clients, another authorized", several(`,"azp":"x"`), "azp"},
		{"for us, another authorized", claim(aud, aud+`,"azp":"x"`), "azp"},
		{"of another issuer", claim(`"iss":"`+issuer, `"iss":"https://evil.example`), "iss"},
		{"no subject", claim(`"sub":"248289761001",`, ""), "sub"},
		{"expired", claim(times(900), fmt.Sprintf(`"iat":%d,"exp":%d`, noon.Unix()-900, noon.Unix()-6)), "exp"},
		{"no end", claim(times(900), fmt.Sprintf(`"iat":%d`, noon.Unix())), "exp"},
		{"lives two days", claim(times(900), times(48*3600)), "lifetime"},
		{"from the future", claim(times(900), fmt.Sprintf(`"iat":%d,"exp":%d`, noon.Unix()+61, noon.Unix()+900)), "iat"},
		{"duplicate subject", claim(`"sub"`, `"sub":"admin","sub"`), "dup"},
		{"a logout token by its events", claim(`"sub"`, `"events":{},"sub"`), "events"},
	})
	_, err := v.Verify(ctx, good, "")
	refusedBy(t, err, "nonce", "authn.federation")
}

// TestIdentity is what a login makes of an ID token that we signed ourselves:
// foreign clients read the same bytes.
func TestIdentity(t *testing.T) {
	rsaSigner, err := jwt.GenerateRSA()
	ok(t, err)
	ecSigner, err := jwt.GenerateEdge()
	ok(t, err)
	for _, s := range []*jwt.Signer{rsaSigner, ecSigner} {
		text, err := jwt.PublicJWKS(s)
		ok(t, err)
		set, err := jwt.ParseForeignKeySet(text, jwt.RS256, jwt.ES256)
		ok(t, err)
		want := jwt.IDClaims{
			Issuer: issuer, Subject: "user:alice", Audience: jwt.Audience{"app"}, Expires: noon.Unix() + 300, IssuedAt: noon.Unix(),
			Nonce: nonce, AtHash: jwt.AtHash(s.Algorithm(), "the access token"), AuthTime: noon.Unix(), ACR: "aal2", AMR: []string{"pwd", "otp"}, Session: "s1",
		}
		token, err := s.SignIDToken(want)
		ok(t, err)
		v := jwt.NewIDToken(jwt.ForeignOptions{
			Keys:   func(context.Context, string) (*jwt.KeySet, error) { return set, nil },
			Issuer: issuer, Audience: "app", Algorithms: []jwt.Algorithm{s.Algorithm()}, Now: clock,
		})
		got, err := v.Verify(t.Context(), token, nonce)
		ok(t, err)
		if diff := cmp.Diff(want, got.IDClaims); diff != "" {
			t.Errorf("%s claims (-want +got):\n%s", s.Algorithm(), diff)
		}
		refusedBy(t, got.CheckAccessToken("the access token"), "", "")
		refusedBy(t, got.CheckAccessToken("another"), "at_hash", "authn.federation")
		var more struct {
			ACR string `json:"acr"`
		}
		if err := got.Decode(&more); err != nil || more.ACR != "aal2" {
			t.Errorf("further claims %v, error %v", more, err)
		}
		want.Audience = nil
		_, err = s.SignIDToken(want)
		refused(t, err, "aud")
	}
	if _, err := rsaSigner.SignEdge(edgeClaims()); err == nil {
		t.Error("an edge token was signed with RSA")
	}
	k := newIssuer(t)
	if _, err := k.internal.SignIDToken(jwt.IDClaims{}); err == nil {
		t.Error("an ID token was signed with the internal key")
	}
	// The example of OpenID Connect Core, appendix A.3.
	if got := jwt.AtHash(jwt.RS256, "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"); got != "77QmUPtjPfzWtF2AnpK9RQ" {
		t.Errorf("at_hash %s", got)
	}
}

func TestForgedLogoutTokens(t *testing.T) {
	k, ctx, body := newIssuer(t), t.Context(), logoutBody()
	head := k.head("logout+jwt")
	good := k.forgeEC(head, body)
	claim := func(old, new string) string { return k.forgeEC(head, replace(t, body, old, new)) }
	const event = `"http://schemas.openid.net/event/backchannel-logout":{}`
	endless := fmt.Sprintf(`"iat":%d`, noon.Unix())
	v := jwt.NewLogoutToken(k.foreign())
	forged(t, "authn.federation", good, func(token string) error { _, err := v.Verify(ctx, token); return err }, []forgery{
		{"typ missing", k.forgeEC(k.head(""), body), ""},
		{"by session alone", claim(`"sub":"248289761001",`, ""), ""},
		{"by subject alone", claim(`"sid":"s1",`, ""), ""},
		{"without exp, just made", claim(times(120), endless), ""},
		{"without exp, old", claim(times(120), fmt.Sprintf(`"iat":%d`, noon.Unix()-126)), "exp"},
		{"typ JWT", k.forgeEC(k.head("JWT"), body), "typ"},
		{"typ of an access token", k.forgeEC(k.head("at+jwt"), body), "typ"},
		{"nobody named", k.forgeEC(head, replace(t, replace(t, body, `"sid":"s1",`, ""), `"sub":"248289761001",`, "")), "sid"},
		{"nonce, as an ID token has", claim(`"sid"`, `"nonce":"n","sid"`), "nonce"},
		{"nonce null", claim(`"sid"`, `"nonce":null,"sid"`), "nonce"},
		{"no events", claim(`,"events":{`+event+`}`, ""), "events"},
		{"events null", claim(`{`+event+`}`, "null"), "events"},
		{"another event", claim("backchannel-logout", "x"), "events"},
		{"event is a string", claim(`logout":{}`, `logout":"{}"`), "events"},
		{"jti missing", claim(`"jti":"l1",`, ""), "jti"},
		{"for another client", claim(fmt.Sprintf(`"aud":%q`, issuer), `"aud":"x"`), "aud"},
		{"of another issuer", claim(`"iss":"`+issuer, `"iss":"https://evil.example`), "iss"},
		{"iat missing", claim(times(120), fmt.Sprintf(`"exp":%d`, noon.Unix()+60)), "iat"},
		{"lives 11 min", claim(times(120), times(660)), "lifetime"},
		{"of another key", newIssuer(t).forgeEC(head, body), "signature"},
	})
}

func TestForgedAssertions(t *testing.T) {
	k, body := newIssuer(t), replace(t, replace(t, assertionBody(), `"iss":"`+issuer, `"iss":"app`), `"sub":"`+issuer, `"sub":"app`)
	head := k.head("JWT")
	good := k.forgeEC(head, body)
	claim := func(old, new string) string { return k.forgeEC(head, replace(t, body, old, new)) }
	aud := fmt.Sprintf(`"aud":%q`, issuer)
	keys := func(client string) (*jwt.KeySet, error) {
		if client == "app" {
			return k.set, nil
		}
		return nil, nil
	}
	v := jwt.NewClientAssertion(jwt.ClientAssertionOptions{Audiences: []string{issuer, issuer + "/oauth2/token"}, Now: clock})
	forged(t, "token.client_auth", good, func(token string) error { _, err := v.Verify(token, keys); return err }, []forgery{
		{"typ missing", k.forgeEC(k.head(""), body), ""},
		{"typ of its own", k.forgeEC(k.head("client-authentication+jwt"), body), ""},
		{"for the token endpoint", claim(aud, fmt.Sprintf(`"aud":%q`, issuer+"/oauth2/token")), ""},
		{"list of one audience", claim(aud, fmt.Sprintf(`"aud":[%q]`, issuer)), ""},
		{"list of two audiences", claim(aud, fmt.Sprintf(`"aud":[%q,%q]`, issuer, issuer+"/oauth2/token")), "aud"},
		{"for another server", claim(aud, `"aud":"https://evil.example"`), "aud"},
		{"no audience", claim(aud+",", ""), "aud"},
		{"issuer is not the client", claim(`"iss":"app"`, `"iss":"other"`), "iss"},
		{"in the name of another client", k.forgeEC(head, strings.ReplaceAll(body, `"app"`, `"other"`)), "kid"},
		{"by the key of another client", newIssuer(t).forgeEC(head, body), "signature"},
		{"typ of an access token", k.forgeEC(k.head("at+jwt"), body), "typ"},
		{"typ of a DPoP proof", k.forgeEC(k.head("dpop+jwt"), body), "typ"},
		{"alg none", k.forgeEC(strings.Replace(head, "ES256", "none", 1), body), "alg"},
		{"HS256", k.forgeEC(strings.Replace(head, "ES256", "HS256", 1), body), "alg"},
		{"alg of another key", k.forgeEC(strings.Replace(head, "ES256", "RS256", 1), body), "alg"},
		{"jti missing", claim(`,"jti":"a1"`, ""), "jti"},
		{"exp missing", claim(times(60), fmt.Sprintf(`"iat":%d`, noon.Unix())), "exp"},
		{"expired", claim(times(60), fmt.Sprintf(`"exp":%d`, noon.Unix()-6)), "exp"},
		{"ends in 5 min", claim(times(60), times(300)), ""},
		{"ends in 6 min", claim(times(60), times(360)), "lifetime"},
		{"ends never", claim(times(60), `"exp":9223372036854775807`), "lifetime"},
		{"without iat", claim(times(60), fmt.Sprintf(`"exp":%d`, noon.Unix()+60)), ""},
		{"from the future", claim(times(60), fmt.Sprintf(`"iat":%d,"exp":%d`, noon.Unix()+61, noon.Unix()+100)), "iat"},
		{"an ID token by its nonce", claim(`"jti"`, `"nonce":"n","jti"`), "nonce"},
	})
	down := rampart.Errorf(rampart.Unavailable, "store", "store is down")
	_, err := v.Verify(good, func(string) (*jwt.KeySet, error) { return nil, down })
	if !errors.Is(err, down) {
		t.Errorf("an error of the store became %v", err)
	}
}

func TestParseForeignKeySet(t *testing.T) {
	n, err := rand.Prime(rand.Reader, 1024)
	ok(t, err)
	wide := new(big.Int).Mul(n, new(big.Int).SetBit(n, 1023, 1))
	wide.SetBit(wide, 2047, 1)
	sound := rsaJWK(wide, 65537, `"kid":"a"`)
	for _, tc := range []struct {
		name, set string
		ok, has   bool
	}{
		{"RSA of 2048 bits", `{"keys":[` + sound + `]}`, true, true},
		{"RSA beside an encryption key", `{"keys":[` + sound + `,` + rsaJWK(wide, 65537, `"kid":"e","use":"enc"`) + `,` + rsaJWK(wide, 65537, `"kid":"o","alg":"RSA-OAEP"`) + `]}`, true, true},
		{"kinds that we do not know", `{"keys":[` + sound + `,{"kty":"EC","crv":"P-521","kid":"b"},{"kty":"OKP","crv":"X25519","kid":"c"},{"kty":"AKP","kid":"d"}]}`, true, true},
		{"no kid", `{"keys":[` + rsaJWK(wide, 65537, `"x":""`) + `]}`, true, false},
		{"RSA for another algorithm", `{"keys":[` + rsaJWK(wide, 65537, `"kid":"a","alg":"RS512"`) + `]}`, true, false},
		{"RSA of 1024 bits", `{"keys":[` + rsaJWK(n, 65537, `"kid":"a"`) + `]}`, false, false},
		{"RSA of 16384 bits", `{"keys":[` + rsaJWK(new(big.Int).SetBit(wide, 16383, 1), 65537, `"kid":"a"`) + `]}`, false, false},
		{"exponent 1", `{"keys":[` + rsaJWK(wide, 1, `"kid":"a"`) + `]}`, false, false},
		{"exponent 3", `{"keys":[` + rsaJWK(wide, 3, `"kid":"a"`) + `]}`, false, false},
		{"exponent even", `{"keys":[` + rsaJWK(wide, 65538, `"kid":"a"`) + `]}`, false, false},
		{"exponent of 33 bits", `{"keys":[` + rsaJWK(wide, 1<<32+1, `"kid":"a"`) + `]}`, false, false},
		{"a kid twice", `{"keys":[` + sound + `,` + sound + `]}`, false, false},
		{"private", `{"keys":[` + rsaJWK(wide, 65537, `"kid":"a","d":"AQ"`) + `]}`, false, false},
		{"symmetric", `{"keys":[` + sound + `,{"kty":"oct","k":"AAAA","kid":"b"}]}`, false, false},
		{"no keys member", `{}`, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set, err := jwt.ParseForeignKeySet([]byte(tc.set), jwt.RS256, jwt.ES256)
			if (err == nil) != tc.ok || set.Has("a") != tc.has {
				t.Errorf("error %v, has the key %v; want accepted %v, %v", err, set.Has("a"), tc.ok, tc.has)
			}
			// A client's own set must hold a key that it can come in by.
			if _, err := jwt.ParseClientKeySet([]byte(tc.set)); (err == nil) != (tc.ok && tc.has) {
				t.Errorf("as a client's: error %v", err)
			}
		})
	}
	if _, err := jwt.ParseKeySet([]byte(`{"keys":[` + sound + `]}`)); err == nil {
		t.Error("an RSA key is in a set of our own")
	}
}
