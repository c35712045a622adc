package jwt_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
)

// replace swaps old for new, which must be there.
func replace(t *testing.T, s, old, new string) string {
	t.Helper()
	if !strings.Contains(s, old) {
		t.Fatalf("%q is not in %s", old, s)
	}
	return strings.Replace(s, old, new, 1)
}

func TestForgedProofs(t *testing.T) {
	k, other := newIssuer(t), newIssuer(t)
	head, body := k.dpopHead(), dpopBody()
	good := k.forgeEC(head, body)
	hdr := func(old, new string) string { return k.forgeEC(replace(t, head, old, new), body) }
	claim := func(old, new string) string { return k.forgeEC(head, replace(t, body, old, new)) }
	to := func(url string) string { return claim(resource, url) }
	okp := fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":%q}`, b64(string(k.ed.Public().(ed25519.PublicKey))))
	iat := fmt.Sprintf(`"iat":%d`, noon.Unix())
	at := func(offset int64) string { return claim(iat, fmt.Sprintf(`"iat":%d`, noon.Unix()+offset)) }
	hs := b64(replace(t, head, "ES256", "HS256")) + "." + b64(body)
	mac := hmac.New(sha256.New, []byte(k.ecJWK()))
	mac.Write([]byte(hs))
	parts := strings.Split(good, ".")
	v := jwt.NewDPoPProof(jwt.DPoPOptions{Now: clock})
	forged(t, "authn.dpop", good, func(proof string) error {
		_, err := v.Verify(proof, jwt.DPoPRequest{Method: "GET", URL: resource + "?page=2#top"})
		return err
	}, []forgery{
		{"Ed25519 by its older name", k.forge(`{"alg":"EdDSA","typ":"dpop+jwt","jwk":`+okp+`}`, body), ""},
		{"Ed25519 by its newer name", k.forge(`{"alg":"Ed25519","typ":"dpop+jwt","jwk":`+okp+`}`, body), ""},
		{"a kid and a jku are not read", hdr(`{"alg"`, `{"kid":"x","jku":"http://127.0.0.1:1/","alg"`), ""},
		{"key says it is for signatures", hdr(`{"kty"`, `{"use":"sig","key_ops":["verify"],"alg":"ES256","kty"`), ""},

		// Header and key.
		{"typ JWT", hdr("dpop+jwt", "JWT"), "typ"},
		{"typ of an access token", hdr("dpop+jwt", "at+jwt"), "typ"},
		{"typ missing", hdr(`"typ":"dpop+jwt",`, ""), "typ"},
		{"alg none", hdr("ES256", "none"), "alg"},
		{"HS256 with the public key", hs + "." + b64(string(mac.Sum(nil))), "alg"},
		{"RS256", hdr("ES256", "RS256"), "alg"},
		{"alg of another kind of key", hdr("ES256", "EdDSA"), "alg"},
		{"crit", hdr(`{"alg"`, `{"crit":["x"],"alg"`), "crit"},
		{"b64", hdr(`{"alg"`, `{"b64":false,"alg"`), "crit"},
		{"jwk missing", k.forgeEC(k.head("dpop+jwt"), body), "jwk"},
		{"jwk null", hdr(k.ecJWK(), "null"), "jwk"},
		{"jwk a list", hdr(k.ecJWK(), "["+k.ecJWK()+"]"), "jwk"},
		{"jwk twice", hdr(`"jwk"`, `"jwk":{},"jwk"`), "dup"},
		{"private key", hdr(`{"kty"`, `{"d":"`+b64(strings.Repeat("d", 32))+`","kty"`), "jwk"},
		{"private member null", hdr(`{"kty"`, `{"d":null,"kty"`), "jwk"},
		{"private member of RSA", hdr(`{"kty"`, `{"p":"AQ","kty"`), "jwk"},
		{"symmetric key", hdr(k.ecJWK(), `{"kty":"oct","k":"AAAA"}`), "jwk"},
		{"symmetric member", hdr(`{"kty"`, `{"k":"AAAA","kty"`), "jwk"},
		{"key for encryption", hdr(`{"kty"`, `{"use":"enc","kty"`), "jwk"},
		{"P-384", hdr("P-256", "P-384"), "jwk"},
		{"point off the curve", hdr(k.ecJWK(), `{"kty":"EC","crv":"P-256","x":"`+b64(strings.Repeat("\x01", 32))+`","y":"`+b64(strings.Repeat("\x01", 32))+`"}`), "jwk"},
		{"short coordinate", hdr(k.ecJWK(), `{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`), "jwk"},
		{"signed by another key", other.forgeEC(head, body), "signature"},
		{"claims of another proof", parts[0] + "." + b64(replace(t, body, "d1", "d2")) + "." + parts[2], "signature"},

		// Request.
		{"another method", claim(`"GET"`, `"POST"`), "htm"},
		{"method in lower case", claim(`"GET"`, `"get"`), "htm"},
		{"method missing", claim(`"htm":"GET",`, ""), "htm"},
		{"query and fragment do not count", to(resource + "?a=b#c"), ""},
		{"default port", to("https://localhost:8443/api/orders"), ""},
		{"host in upper case", to("HTTPS://LOCALHOST:8443/api/orders"), ""},
		{"needless escape", to("https://localhost:8443/%61pi/orders"), ""},
		{"another path", to(resource + "/1"), "htu"},
		{"trailing slash", to(resource + "/"), "htu"},
		{"path in another case", to("https://localhost:8443/API/orders"), "htu"},
		{"escaped slash", to("https://localhost:8443/api%2Forders"), "htu"},
		{"dot segment", to("https://localhost:8443/x/../api/orders"), "htu"},
		{"another host", to("https://evil.example/api/orders"), "htu"},
		{"another port", to("https://localhost/api/orders"), "htu"},
		{"plain HTTP", to("http://localhost:8443/api/orders"), "htu"},
		{"credentials", to("https://a@localhost:8443/api/orders"), "htu"},
		{"relative", to("/api/orders"), "htu"},
		{"no URL at all", to("::"), "htu"},
		{"URL missing", claim(fmt.Sprintf(`"htu":%q,`, resource), ""), "htu"},

		// Time and id.
		{"made 60 s ago", at(-60), ""},
		{"made 61 s ago", at(-61), "iat"},
		{"made 60 s ahead", at(60), ""},
		{"made 61 s ahead", at(61), "iat"},
		{"made in the year one", claim(iat, `"iat":-9223372036854775808`), "iat"},
		{"iat missing", claim(","+iat, ""), "iat"},
		{"iat as a string", claim(iat, `"iat":"1"`), "iat"},
		{"iat fractional", claim(iat, iat+".5"), "iat"},
		{"jti missing", claim(`"jti":"d1",`, ""), "jti"},
		{"jti empty", claim(`"d1"`, `""`), "jti"},
		{"jti of 257 bytes", claim(`"d1"`, `"`+strings.Repeat("j", 257)+`"`), "jti"},

		// Shape.
		{"duplicate claim", claim(`"htm"`, `"jti":"d2","htm"`), "dup"},
		{"JSON after the claims", k.forgeEC(head, body+"{}"), "json"},
		{"nine deep", claim(`"jti"`, `"x":`+strings.Repeat("[", 8)+strings.Repeat("]", 8)+`,"jti"`), "depth"},
		{"newline", good + "\n", "encoding"},
		{"padding", good + "=", "encoding"},
		{"four segments", good + ".AA", "segments"},
		{"over 8 KiB", claim(`"jti"`, `"x":"`+strings.Repeat("x", 8192)+`","jti"`), "size"},
	})
}

// TestProofIsForTheAccessToken when the request carries one.
func TestProofIsForTheAccessToken(t *testing.T) {
	k := newIssuer(t)
	sum := sha256.Sum256([]byte("the token"))
	hash := base64.RawURLEncoding.EncodeToString(sum[:])
	v := jwt.NewDPoPProof(jwt.DPoPOptions{Now: clock})
	for name, tc := range map[string]struct{ ath, token, rule string }{
		"its hash":              {`"ath":"` + hash + `",`, "the token", ""},
		"hash of another token": {`"ath":"` + hash + `",`, "another token", "ath"},
		"no hash":               {"", "the token", "ath"},
		"no token to hash":      {`"ath":"` + hash + `",`, "", ""},
	} {
		proof := k.forgeEC(k.dpopHead(), replace(t, dpopBody(), `"htm"`, tc.ath+`"htm"`))
		_, err := v.Verify(proof, jwt.DPoPRequest{Method: "GET", URL: resource, AccessToken: tc.token})
		t.Run(name, func(t *testing.T) { refusedBy(t, err, tc.rule, "authn.dpop") })
	}
}

// TestProofNeedsAFreshNonce of this server, or of a replica with the same key.
func TestProofNeedsAFreshNonce(t *testing.T) {
	k := newIssuer(t)
	key := []byte(strings.Repeat("k", 32))
	nonces, err := jwt.NewNonces(key)
	ok(t, err)
	replica, err := jwt.NewNonces(key)
	ok(t, err)
	stranger, err := jwt.NewNonces([]byte(strings.Repeat("s", 32)))
	ok(t, err)
	v := jwt.NewDPoPProof(jwt.DPoPOptions{Now: clock, Nonces: nonces})
	for name, tc := range map[string]struct{ nonce, rule string }{
		"of this slot":     {nonces.Nonce(noon), ""},
		"of a replica":     {replica.Nonce(noon), ""},
		"of the last slot": {nonces.Nonce(noon.Add(-5 * time.Minute)), ""},
		"older":            {nonces.Nonce(noon.Add(-10*time.Minute - time.Second)), "nonce"},
		"of the next slot": {nonces.Nonce(noon.Add(5 * time.Minute)), "nonce"},
		"of another key":   {stranger.Nonce(noon), "nonce"},
		"missing":          {"", "nonce"},
		"too long":         {strings.Repeat("n", 257), "nonce"},
	} {
		body := replace(t, dpopBody(), `"htm"`, fmt.Sprintf(`"nonce":%q,"htm"`, tc.nonce))
		_, err := v.Verify(k.forgeEC(k.dpopHead(), body), jwt.DPoPRequest{Method: "GET", URL: resource})
		t.Run(name, func(t *testing.T) { refusedBy(t, err, tc.rule, "authn.dpop") })
	}
	if _, err := jwt.NewNonces([]byte("short")); err == nil {
		t.Error("a short key was taken")
	}
	if got := fmt.Sprintf("%v %+v %#v %x", nonces, nonces, nonces, nonces); strings.Contains(got, "kkk") || strings.Contains(got, "6b6b") {
		t.Errorf("the key prints: %s", got)
	}
}

// TestProofOpensTheTokenOfItsKey is the way of a request: proof, then token.
func TestProofOpensTheTokenOfItsKey(t *testing.T) {
	k, thief := newIssuer(t), newIssuer(t)
	prove := func(by issuerKeys) jwt.Confirmation {
		c, err := jwt.NewDPoPProof(jwt.DPoPOptions{Now: clock}).Verify(
			by.forgeEC(by.dpopHead(), dpopBody()), jwt.DPoPRequest{Method: "GET", URL: resource})
		ok(t, err)
		if want := noon.Add(time.Minute + time.Second); !c.Expires().Equal(want) {
			t.Errorf("a proof of noon must be remembered until %s, not %s", want, c.Expires())
		}
		return c.Confirmation()
	}
	c := edgeClaims()
	c.Confirm = &jwt.Confirmation{JKT: k.edge.KeyID()} // a kid of ours is the RFC 7638 thumbprint
	token, err := k.edge.SignEdge(c)
	ok(t, err)
	_, err = k.edgeVerifier().VerifyBound(token, prove(k))
	refused(t, err, "")
	_, err = k.edgeVerifier().VerifyBound(token, prove(thief))
	refused(t, err, "cnf")
}

// TestProofCountsOnce for as long as it could be verified.
func TestProofCountsOnce(t *testing.T) {
	proof := func(jkt, id string) jwt.DPoPClaims { return jwt.DPoPClaims{JKT: jkt, ID: id} }
	r := jwt.NewReplays(8)
	ok(t, r.Use(proof("a", "1"), noon))
	for _, later := range []time.Duration{0, time.Minute, 2 * time.Minute} {
		refusedBy(t, r.Use(proof("a", "1"), noon.Add(later)), "replay", "authn.dpop")
	}
	ok(t, r.Use(proof("b", "1"), noon)) // another key's id is another id
	ok(t, r.Use(proof("a", "2"), noon))
	ok(t, r.Use(proof("a", "3"), noon))
	if err := r.Use(proof("a", "4"), noon); rampart.KindOf(err) != rampart.Limited {
		t.Errorf("over its size: %v", err)
	}
	refusedBy(t, r.Use(proof("a", "1"), noon), "replay", "authn.dpop")
	ok(t, r.Use(proof("a", "4"), noon.Add(2*time.Minute+time.Second)))
	refusedBy(t, r.Use(proof("a", "3"), noon.Add(3*time.Minute)), "replay", "authn.dpop")
	ok(t, r.Use(proof("a", "3"), noon.Add(10*time.Minute)))
}
