package jwt_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
)

const (
	issuer = "https://localhost:8443"
	orders = "spiffe://shop.internal/service/orders"
	edge   = "spiffe://shop.internal/gateway/edge"
)

var (
	noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	peer = sha256.Sum256([]byte("the gateway's certificate"))
)

func clock() time.Time { return noon }

// issuerKeys is an issuer whose private keys the test can misuse.
type issuerKeys struct {
	ed       ed25519.PrivateKey
	ec       *ecdsa.PrivateKey
	internal *jwt.Signer
	edge     *jwt.Signer
	set      *jwt.KeySet
	jwks     []byte
}

func newIssuer(t testing.TB) issuerKeys {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	k := issuerKeys{ed: ed, ec: ec}
	k.internal, err = jwt.NewSigner(ed)
	ok(t, err)
	k.edge, err = jwt.NewSigner(ec)
	ok(t, err)
	k.jwks, err = jwt.PublicJWKS(k.internal, k.edge)
	ok(t, err)
	k.set, err = jwt.ParseKeySet(k.jwks)
	ok(t, err)
	return k
}

func (k issuerKeys) keys() *jwt.KeySet { return k.set }

func (k issuerKeys) verifier() *jwt.Internal {
	return jwt.NewInternal(jwt.InternalOptions{Keys: k.keys, Issuer: issuer, Audience: orders, Now: clock})
}

func (k issuerKeys) edgeVerifier() *jwt.Edge {
	return jwt.NewEdge(jwt.EdgeOptions{Keys: k.keys, Issuer: issuer, Audience: issuer, Now: clock})
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// forge signs any header and any claims with the issuer's real internal key,
// so that only the rule under test can refuse.
func (k issuerKeys) forge(header, claims string) string {
	signed := b64(header) + "." + b64(claims)
	return signed + "." + b64(string(ed25519.Sign(k.ed, []byte(signed))))
}

func (k issuerKeys) header() string {
	return fmt.Sprintf(`{"alg":"EdDSA","typ":"at+jwt","kid":%q}`, k.internal.KeyID())
}

func claims() string {
	return fmt.Sprintf(`{"iss":%q,"sub":"user:alice","aud":%q,"exp":%d,"iat":%d,"jti":"t1","client_id":"web","sid":"s1","act":{"sub":%q},"cnf":{"x5t#S256":%q}}`,
		issuer, orders, noon.Unix()+120, noon.Unix(), edge, jwt.Confirm(peer).Thumbprint)
}

func validClaims() jwt.InternalClaims {
	return jwt.InternalClaims{
		Issuer: issuer, Subject: "user:alice", Audience: orders,
		Expires: noon.Unix() + 120, IssuedAt: noon.Unix(), ID: "t1",
		Client: "web", Session: "s1", Transaction: "x1", MayAct: &jwt.Actor{Subject: edge}, AuthTime: noon.Unix() - 60, ACR: "aal2", AMR: []string{"pwd", "otp"},
		Scope: jwt.Scope{"orders:read", "orders:write"}, Tenant: "acme",
		Orgs: []string{"acme", "beta"}, Roles: []string{"member"}, Team: "red", ManagedTeams: []string{"red"},
		Act: jwt.ActorChain([]string{orders, edge}), Confirm: jwt.Confirm(peer),
	}
}

func TestInternalCarriesThePrincipal(t *testing.T) {
	k := newIssuer(t)
	token, err := k.internal.SignInternal(validClaims())
	ok(t, err)
	got, err := k.verifier().Verify(token, peer)
	ok(t, err)
	want := rampart.Principal{
		Kind: rampart.KindHuman, Subject: "user:alice", Tenant: "acme", Organizations: []string{"acme", "beta"},
		Roles: []string{"member"}, Team: "red", ManagedTeams: []string{"red"}, Client: "web", Session: "s1",
		AuthTime: noon.Add(-time.Minute), ACR: "aal2", AMR: []string{"pwd", "otp"}, Scope: []string{"orders:read", "orders:write"},
		Actors: []string{orders, edge},
	}
	if diff := cmp.Diff(want, got.Principal()); diff != "" {
		t.Errorf("principal (-want +got):\n%s", diff)
	}
	back := jwt.InternalFor(want)
	back.Issuer, back.Audience, back.ID, back.Confirm = got.Issuer, got.Audience, got.ID, got.Confirm
	back.Expires, back.IssuedAt, back.Transaction, back.MayAct = got.Expires, got.IssuedAt, got.Transaction, got.MayAct
	if diff := cmp.Diff(got, back); diff != "" {
		t.Errorf("InternalFor is not the inverse of Principal:\n%s", diff)
	}
}

// TestForgedTokens signs each forgery with the real key wherever a signature
// matters: the row's rule alone can refuse it.
func TestForgedTokens(t *testing.T) {
	k, other := newIssuer(t), newIssuer(t)
	head, body := k.header(), claims()
	good := k.forge(head, body)
	swap := func(s, old, new string) string {
		t.Helper()
		if !strings.Contains(s, old) {
			t.Fatalf("%q is not in %s", old, s)
		}
		return strings.Replace(s, old, new, 1)
	}
	claim := func(old, new string) string { return k.forge(head, swap(body, old, new)) }
	hdr := func(old, new string) string { return k.forge(swap(head, old, new), body) }
	exp, iat := fmt.Sprintf(`"exp":%d`, noon.Unix()+120), fmt.Sprintf(`"iat":%d`, noon.Unix())
	hs := func(key []byte) string {
		signed := b64(swap(head, "EdDSA", "HS256")) + "." + b64(body)
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(signed))
		return signed + "." + b64(string(mac.Sum(nil)))
	}
	spki, err := x509.MarshalPKIXPublicKey(k.ed.Public())
	ok(t, err)
	spkiPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	edgeToken, err := k.edge.SignEdge(edgeClaims())
	ok(t, err)
	segments := strings.Split(good, ".")

	rows := []forgery{
		{"typ with media type prefix is the same type", hdr(`"at+jwt"`, `"application/AT+JWT"`), ""},
		{"a name in another letter case is another claim", claim(`"jti":"t1"`, `"jti":"t1","JTI":"x"`), ""},

		// Signature.
		{"alg none, empty signature", b64(`{"alg":"none","typ":"at+jwt"}`) + "." + b64(body) + ".", "segments"},
		{"alg none, some signature", hdr("EdDSA", "none"), "alg"},
		{"alg NONE", hdr("EdDSA", "NONE"), "alg"},
		{"alg nOnE", hdr("EdDSA", "nOnE"), "alg"},
		{"alg eddsa in lower case", hdr("EdDSA", "eddsa"), "alg"},
		{"alg empty", hdr("EdDSA", ""), "alg"},
		{"alg as a list", hdr(`"EdDSA"`, `["EdDSA"]`), "alg"},
		{"HS256 with the raw public key", hs(k.ed.Public().(ed25519.PublicKey)), "alg"},
		{"HS256 with the PEM of the public key", hs(spkiPEM), "alg"},
		{"HS256 with the DER of the public key", hs(spki), "alg"},
		{"HS256 with the JWK set", hs(k.jwks), "alg"},
		{"HS256 with an empty key", hs(nil), "alg"},
		{"RS256", hdr("EdDSA", "RS256"), "alg"},
		{"ES256 claimed, Ed25519 signed", hdr("EdDSA", "ES256"), "alg"},
		{"kid of the edge key", hdr(k.internal.KeyID(), k.edge.KeyID()), "alg"},
		{"an edge token at the internal door", edgeToken, "alg"},
		{"signed by another issuer's key under our kid", other.forge(head, body), "signature"},
		{"signature of other claims", segments[0] + "." + b64(swap(body, "alice", "mallory")) + "." + segments[2], "signature"},
		{"all-zero signature", segments[0] + "." + segments[1] + "." + b64(strings.Repeat("\x00", 64)), "signature"},
		{"short signature", segments[0] + "." + segments[1] + "." + segments[2][:40], "signature"},
		{"signature is the text null", segments[0] + "." + segments[1] + "." + b64("null"), "signature"},
		{"empty signature", segments[0] + "." + segments[1] + ".", "segments"},

		// Header.
		{"embedded jwk", hdr(`{"alg"`, `{"jwk":{"kty":"OKP","crv":"Ed25519","x":"AAAA"},"alg"`), "header"},
		{"jku", hdr(`{"alg"`, `{"jku":"http://127.0.0.1:1/keys","alg"`), "header"},
		{"x5u", hdr(`{"alg"`, `{"x5u":"http://127.0.0.1:1/cert","alg"`), "header"},
		{"x5c", hdr(`{"alg"`, `{"x5c":["MAAA"],"alg"`), "header"},
		{"zip", hdr(`{"alg"`, `{"zip":"DEF","alg"`), "header"},
		{"Alg beside alg", hdr(`{"alg"`, `{"Alg":"none","alg"`), "header"},
		{"unknown crit", hdr(`{"alg"`, `{"crit":["x"],"alg"`), "crit"},
		{"b64 false", hdr(`{"alg"`, `{"b64":false,"alg"`), "crit"},
		{"crit null", hdr(`{"alg"`, `{"crit":null,"alg"`), "crit"},
		{"duplicate alg", hdr(`{"alg"`, `{"alg":"none","alg"`), "dup"},
		{"duplicate kid", hdr(`{"alg"`, `{"kid":"x","alg"`), "dup"},
		{"typ JWT", hdr("at+jwt", "JWT"), "typ"},
		{"typ of a message", hdr("at+jwt", "rampart-msg+jwt"), "typ"},
		{"typ of a DPoP proof", hdr("at+jwt", "dpop+jwt"), "typ"},
		{"typ of a logout token", hdr("at+jwt", "logout+jwt"), "typ"},
		{"typ missing", hdr(`"typ":"at+jwt",`, ""), "typ"},
		{"kid missing", hdr(fmt.Sprintf(`,"kid":%q`, k.internal.KeyID()), ""), "kid"},
		{"kid unknown", hdr(k.internal.KeyID(), "nobody"), "kid"},
		{"kid as a path", hdr(k.internal.KeyID(), "../../../../dev/null"), "kid"},
		{"kid as SQL", hdr(k.internal.KeyID(), "x' UNION SELECT 'AA"), "kid"},
		{"kid of 4 KiB", hdr(k.internal.KeyID(), strings.Repeat("k", 4096)), "kid"},
		{"kid as a list", hdr(fmt.Sprintf("%q", k.internal.KeyID()), `["x"]`), "kid"},
		{"header is an array", k.forge(`[]`, body), "json"},
		{"header has trailing data", k.forge(head+`{}`, body), "json"},

		// Claims.
		{"duplicate sub", claim(`"sub"`, `"sub":"user:root","sub"`), "dup"},
		{"duplicate sub by escape", claim(`"sub"`, `"s\u0075b":"user:root","sub"`), "dup"},
		{"duplicate inside cnf", claim(`{"x5t#S256"`, `{"x5t#S256":"x","x5t#S256"`), "dup"},
		{"exp missing", claim(exp+",", ""), "exp"},
		{"exp in another letter case", claim(`"exp"`, `"EXP"`), "exp"},
		{"exp null", claim(exp, `"exp":null`), "exp"},
		{"exp as a string", claim(exp, `"exp":"99999999999"`), "exp"},
		{"exp fractional", claim(exp, exp+".5"), "exp"},
		{"exp with exponent", claim(exp, `"exp":1e12`), "exp"},
		{"exp beyond 64 bits", claim(exp, `"exp":99999999999999999999999`), "exp"},
		{"exp at the end of time", claim(exp, `"exp":9223372036854775807`), "lifetime"},
		{"exp negative", claim(exp, `"exp":-1`), "exp"},
		{"exp true", claim(exp, `"exp":true`), "exp"},
		{"expired", k.forge(head, swap(swap(body, iat, fmt.Sprintf(`"iat":%d`, noon.Unix()-60)), exp, fmt.Sprintf(`"exp":%d`, noon.Unix()-6))), "exp"},
		{"expires before it was issued", claim(exp, fmt.Sprintf(`"exp":%d`, noon.Unix()-1)), "exp"},
		{"lives 301 s", claim(exp, fmt.Sprintf(`"exp":%d`, noon.Unix()+301)), "lifetime"},
		{"iat missing", claim(iat+",", ""), "iat"},
		{"iat negative", claim(iat, `"iat":-9223372036854775808`), "iat"},
		{"iat ahead", k.forge(head, swap(swap(body, iat, fmt.Sprintf(`"iat":%d`, noon.Unix()+61)), exp, fmt.Sprintf(`"exp":%d`, noon.Unix()+180))), "iat"},
		{"nbf ahead", claim(iat, iat+fmt.Sprintf(`,"nbf":%d`, noon.Unix()+1)), "nbf"},
		{"issuer with trailing slash", claim(`"iss":"`+issuer, `"iss":"`+issuer+`/`), "iss"},
		{"issuer is a prefix", claim(`"iss":"`+issuer, `"iss":"https://localhost`), "iss"},
		{"issuer missing", claim(fmt.Sprintf(`"iss":%q,`, issuer), ""), "iss"},
		{"audience of another service", claim(`"aud":"`+orders, `"aud":"spiffe://shop.internal/service/payments`), "aud"},
		{"audience list with us in it", claim(fmt.Sprintf(`"aud":%q`, orders), fmt.Sprintf(`"aud":[%q,"x"]`, orders)), "aud"},
		{"audience list of us alone", claim(fmt.Sprintf(`"aud":%q`, orders), fmt.Sprintf(`"aud":[%q]`, orders)), "aud"},
		{"audience missing", claim(fmt.Sprintf(`"aud":%q,`, orders), ""), "aud"},
		{"subject missing", claim(`"sub":"user:alice",`, ""), "sub"},
		{"subject of no namespace", claim("user:alice", "alice"), "sub"},
		{"subject with empty name", claim("user:alice", "user:"), "sub"},
		{"subject as object", claim(`"sub":"user:alice"`, `"sub":{"a":"user:alice"}`), "sub"},
		{"txn of 300 bytes", claim(`"jti"`, `"txn":"`+strings.Repeat("x", 300)+`","jti"`), "txn"},
		{"acr of 300 bytes", claim(`"jti"`, `"acr":"`+strings.Repeat("x", 300)+`","jti"`), "acr"},
		{"acr as a list", claim(`"jti"`, `"acr":["aal2"],"jti"`), "acr"},
		{"amr as a string", claim(`"jti"`, `"amr":"otp","jti"`), "amr"},
		{"amr with an empty method", claim(`"jti"`, `"amr":[""],"jti"`), "amr"},
		{"amr of 17 methods", claim(`"jti"`, `"amr":[`+strings.Repeat(`"a",`, 16)+`"a"],"jti"`), "amr"},
		{"auth_time before time", claim(`"jti"`, `"auth_time":-1,"jti"`), "auth_time"},
		{"may_act of nobody", claim(`"jti"`, `"may_act":{},"jti"`), "may_act"},
		{"lives no second", k.forge(head, swap(body, exp, fmt.Sprintf(`"exp":%d`, noon.Unix()))), "exp"},
		{"nbf negative", claim(iat, iat+`,"nbf":-1`), "nbf"},
		{"bound to a key beside the certificate", claim(`{"x5t#S256"`, `{"jkt":"`+thumb("key")+`","x5t#S256"`), "cnf"},
		{"cnf null", k.forge(head, body[:strings.Index(body, `"cnf"`)]+`"cnf":null}`), "cnf"},
		{"jti missing", claim(`"jti":"t1",`, ""), "jti"},
		{"jti of 300 bytes", claim(`"t1"`, `"`+strings.Repeat("j", 300)+`"`), "jti"},
		{"act without subject", claim(fmt.Sprintf(`{"sub":%q}`, edge), `{}`), "act"},
		{"act five deep", claim(fmt.Sprintf(`"act":{"sub":%q}`, edge), strings.Repeat(`"act":{"sub":"client:a",`, 4)+`"act":{"sub":"client:a"}`+"}}}}"), "act"},
		{"cnf missing", k.forge(head, body[:strings.Index(body, `,"cnf"`)]+"}"), "cnf"},
		{"cnf of another certificate", claim(jwt.Confirm(peer).Thumbprint, jwt.Confirm([32]byte{1}).Thumbprint), "cnf"},
		{"cnf empty", claim(jwt.Confirm(peer).Thumbprint, ""), "cnf"},
		{"cnf by key, not certificate", claim("x5t#S256", "jkt"), "cnf"},

		// Shape.
		{"JSON after the claims", k.forge(head, body+`{"sub":"user:root"}`), "json"},
		{"claims are an array", k.forge(head, `[`+body+`]`), "json"},
		{"claims are null", k.forge(head, `null`), "json"},
		{"claims are not UTF-8", claim("alice", "al\xffce"), "encoding"},
		{"claims nested nine deep", claim(`"jti"`, `"x":`+strings.Repeat("[", 8)+strings.Repeat("]", 8)+`,"jti"`), "depth"},
		{"padding on the signature", good + "=", "encoding"},
		{"newline at the end", good + "\n", "encoding"},
		{"newline inside", good[:20] + "\n" + good[20:], "encoding"},
		{"space before", " " + good, "encoding"},
		{"unused bits of the last character set", good[:len(good)-1] + nextInGroup(good[len(good)-1]), "encoding"},
		{"standard base64 alphabet", "+/" + good, "encoding"},
		{"four segments", good + ".AA", "segments"},
		{"five segments, a JWE", good + ".AA.AA", "segments"},
		{"JSON serialization", `{"payload":"` + segments[1] + `","signatures":[]}`, "segments"},
		{"many dots", strings.Repeat(".", 8000), "segments"},
		{"over 8 KiB", k.forge(head, swap(body, `"t1"`, `"t1","x":"`+strings.Repeat("x", 8192)+`"`)), "size"},
		{"empty", "", "segments"},
		{"empty payload", k.forge(head, ""), "json"},
	}
	forged(t, "authn.jwt", good, func(token string) error {
		_, err := k.verifier().Verify(token, peer)
		_, cached := jwt.NewInternalCache(k.verifier(), 4).Verify(token, peer)
		return same(t, err, cached)
	}, rows)
}

// nextInGroup returns the base64url character that differs from c in the last
// bit alone: the bit that a 64-byte signature leaves unused.
func nextInGroup(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

// forgery is a token and the rule that must refuse it; "" for a spelling that
// is no forgery.
type forgery struct{ name, token, rule string }

// forged holds that each row is refused by its rule, where the good token that
// the row departs from is taken.
func forged(t *testing.T, control, good string, open func(token string) error, rows []forgery) {
	t.Helper()
	count := 0
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if err := open(good); err != nil {
				t.Fatalf("control: the good token is refused: %v", err)
			}
			refusedBy(t, open(row.token), row.rule, control)
		})
		if row.rule != "" {
			count++
		}
	}
	t.Logf("%d forged tokens, each beside the good one", count)
}

// refused holds that err is the typed refusal by exactly this rule.
func refused(t *testing.T, err error, rule string) {
	t.Helper()
	refusedBy(t, err, rule, "authn.jwt")
}

// refusedBy also names the control, unless the rule has one of its own.
func refusedBy(t *testing.T, err error, rule, control string) {
	t.Helper()
	if rule == "" {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		return
	}
	if got := jwt.Rule(err); got != rule {
		t.Fatalf("rule %q, want %q (%v)", got, rule, err)
	}
	if own := map[string]string{"aud": "token.audience", "cnf": "token.binding"}[rule]; own != "" {
		control = own
	}
	e, isTyped := errors.AsType[*rampart.Error](err)
	if !isTyped || e.Kind != rampart.Unauthenticated || e.Control != control {
		t.Fatalf("error %#v, want unauthenticated by %s", err, control)
	}
}

func edgeClaims() jwt.EdgeClaims {
	return jwt.EdgeClaims{
		Issuer: issuer, Subject: "user:alice", Audience: issuer, Client: "app",
		Expires: noon.Unix() + 900, IssuedAt: noon.Unix(), ID: "e1", Session: "s1", Scope: jwt.Scope{"orders:read"},
	}
}

func TestEdge(t *testing.T) {
	k, other := newIssuer(t), newIssuer(t)
	good, err := k.edge.SignEdge(edgeClaims())
	ok(t, err)
	foreign, err := other.edge.SignEdge(edgeClaims())
	ok(t, err)
	inner, err := k.internal.SignInternal(validClaims())
	ok(t, err)
	change := func(f func(*jwt.EdgeClaims)) string {
		c := edgeClaims()
		f(&c)
		token, err := k.edge.SignEdge(c)
		ok(t, err)
		return token
	}
	parts := strings.Split(good, ".")
	for _, tc := range []struct{ name, token, rule string }{
		{"valid", good, ""},
		{"an internal token at the edge", inner, "alg"},
		{"of another issuer's key", foreign, "kid"},
		{"r = s = 0", parts[0] + "." + parts[1] + "." + b64(strings.Repeat("\x00", 64)), "signature"},
		{"for another audience", change(func(c *jwt.EdgeClaims) { c.Audience = orders }), "aud"},
		{"of another issuer", change(func(c *jwt.EdgeClaims) { c.Issuer = "https://evil.example" }), "iss"},
		{"expired", change(func(c *jwt.EdgeClaims) { c.Expires, c.IssuedAt = noon.Unix()-6, noon.Unix()-900 }), "exp"},
		{"expired within the leeway", change(func(c *jwt.EdgeClaims) { c.Expires, c.IssuedAt = noon.Unix()-5, noon.Unix()-900 }), ""},
		{"from the future", change(func(c *jwt.EdgeClaims) { c.IssuedAt = noon.Unix() + 61 }), "iat"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := k.edgeVerifier().Verify(tc.token)
			refused(t, err, tc.rule)
			_, err = jwt.NewEdgeCache(k.edgeVerifier(), 4).Verify(tc.token)
			refused(t, err, tc.rule)
		})
	}
}

func TestEdgeCarriesThePrincipal(t *testing.T) {
	k := newIssuer(t)
	want := rampart.Principal{
		Kind: rampart.KindHuman, Subject: "user:alice", Tenant: "acme", Organizations: []string{"acme"},
		Roles: []string{"member"}, Team: "red", ManagedTeams: []string{"red"}, Client: "app", Session: "s1",
		AuthTime: noon.Add(-time.Minute), ACR: "aal1", AMR: []string{"pwd"}, Scope: []string{"orders:read"},
	}
	c := jwt.EdgeFor(want)
	c.Issuer, c.Audience, c.ID, c.IssuedAt, c.Expires = issuer, issuer, "e1", noon.Unix(), noon.Unix()+900
	token, err := k.edge.SignEdge(c)
	ok(t, err)
	got, err := k.edgeVerifier().Verify(token)
	ok(t, err)
	if diff := cmp.Diff(want, got.Principal()); diff != "" {
		t.Errorf("principal (-want +got):\n%s", diff)
	}
}

func TestSignerRefusesWhatNoVerifierTakes(t *testing.T) {
	k := newIssuer(t)
	for rule, spoil := range map[string]func(*jwt.InternalClaims){
		"cnf":      func(c *jwt.InternalClaims) { c.Confirm = jwt.Confirmation{} },
		"lifetime": func(c *jwt.InternalClaims) { c.Expires = c.IssuedAt + 301 },
		"exp":      func(c *jwt.InternalClaims) { c.Expires = 0 },
		"sub":      func(c *jwt.InternalClaims) { c.Subject = "alice" },
		"scope":    func(c *jwt.InternalClaims) { c.Scope = jwt.Scope{} },
		"size":     func(c *jwt.InternalClaims) { c.Roles = []string{strings.Repeat("r", 9000)} },
	} {
		c := validClaims()
		spoil(&c)
		_, err := k.internal.SignInternal(c)
		refused(t, err, rule)
	}
	if _, err := k.edge.SignInternal(validClaims()); err == nil {
		t.Error("an internal token was signed with the edge key")
	}
	if _, err := k.internal.SignEdge(edgeClaims()); err == nil {
		t.Error("an edge token was signed with the internal key")
	}
}

func TestZeroVerifiersRefuse(t *testing.T) {
	k := newIssuer(t)
	token, err := k.internal.SignInternal(validClaims())
	ok(t, err)
	_, err = new(jwt.Internal).Verify(token, peer)
	refused(t, err, "unconfigured")
	_, err = new(jwt.Edge).Verify(token)
	refused(t, err, "unconfigured")
	_, err = new(jwt.Internal).VerifySubject(token)
	refused(t, err, "unconfigured")
	none := jwt.NewInternal(jwt.InternalOptions{Keys: func() *jwt.KeySet { return nil }, Issuer: issuer, Audience: orders, Now: clock})
	_, err = none.Verify(token, peer)
	refused(t, err, "kid")
}

// TestSubjectTokenGoesByAudienceNotBinding: at an exchange the audience shows
// that the presenter did not merely overhear the token.
func TestSubjectTokenGoesByAudienceNotBinding(t *testing.T) {
	k := newIssuer(t)
	token, err := k.internal.SignInternal(validClaims())
	ok(t, err)
	now, revoked := noon, false
	presentedBy := func(caller string) error {
		_, err := jwt.NewInternal(jwt.InternalOptions{
			Keys: k.keys, Issuer: issuer, Audience: caller,
			Now: func() time.Time { return now }, Revoked: func(jwt.InternalClaims) bool { return revoked },
		}).VerifySubject(token)
		return err
	}
	refused(t, presentedBy(orders), "")
	refused(t, presentedBy(edge), "aud")
	revoked = true
	refused(t, presentedBy(orders), "revoked")
	revoked, now = false, noon.Add(126*time.Second)
	refused(t, presentedBy(orders), "exp")
}

// TestCacheAsksAgain holds that a remembered token is not a remembered answer.
func TestCacheAsksAgain(t *testing.T) {
	k := newIssuer(t)
	token, err := k.internal.SignInternal(validClaims())
	ok(t, err)
	now, revoked, set := noon, false, k.set
	cache := jwt.NewInternalCache(jwt.NewInternal(jwt.InternalOptions{
		Keys: func() *jwt.KeySet { return set }, Issuer: issuer, Audience: orders,
		Now: func() time.Time { return now }, Revoked: func(c jwt.InternalClaims) bool { return revoked && c.Session == "s1" },
	}), 2)
	_, err = cache.Verify(token, peer)
	refused(t, err, "")
	_, err = cache.Verify(token, [32]byte{1})
	refused(t, err, "cnf")
	revoked = true
	_, err = cache.Verify(token, peer)
	refused(t, err, "revoked")
	revoked, set = false, newIssuer(t).set
	_, err = cache.Verify(token, peer)
	refused(t, err, "kid")
	set, now = k.set, noon.Add(126*time.Second)
	_, err = cache.Verify(token, peer)
	refused(t, err, "exp")
	now = noon
	for range 3 { // more than it holds
		c := validClaims()
		c.ID += rand.Text()
		next, err := k.internal.SignInternal(c)
		ok(t, err)
		_, err = cache.Verify(next, peer)
		refused(t, err, "")
	}
	_, err = cache.Verify(token, peer)
	refused(t, err, "")
}

func TestParseKeySet(t *testing.T) {
	k := newIssuer(t)
	pub := fmt.Sprintf(`"kty":"OKP","crv":"Ed25519","x":%q`, b64(string(k.ed.Public().(ed25519.PublicKey))))
	for _, tc := range []struct {
		name, set string
		ok        bool
	}{
		{"one key", `{"keys":[{` + pub + `,"kid":"a"}]}`, true},
		{"no keys", `{"keys":[]}`, true},
		{"may verify", `{"keys":[{` + pub + `,"kid":"a","use":"sig","key_ops":["verify"],"alg":"EdDSA"}]}`, true},
		{"kid missing", `{"keys":[{` + pub + `}]}`, false},
		{"kid twice", `{"keys":[{` + pub + `,"kid":"a"},{` + pub + `,"kid":"a"}]}`, false},
		{"for encryption", `{"keys":[{` + pub + `,"kid":"a","use":"enc"}]}`, false},
		{"may only sign", `{"keys":[{` + pub + `,"kid":"a","key_ops":["sign"]}]}`, false},
		{"alg of another key type", `{"keys":[{` + pub + `,"kid":"a","alg":"ES256"}]}`, false},
		{"symmetric", `{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}`, false},
		{"private", `{"keys":[{` + pub + `,"d":` + fmt.Sprintf("%q", b64(string(k.ed.Seed()))) + `,"kid":"a"}]}`, false},
		{"RSA of 512 bits", `{"keys":[{"kty":"RSA","n":"` + strings.Repeat("w", 86) + `","e":"AQAB","kid":"a"}]}`, false},
		{"point not on the curve", `{"keys":[{"kty":"EC","crv":"P-256","x":"` + b64(strings.Repeat("\x01", 32)) + `","y":"` + b64(strings.Repeat("\x01", 32)) + `","kid":"a"}]}`, false},
		{"P-384", `{"keys":[{"kty":"EC","crv":"P-384","x":"AA","y":"AA","kid":"a"}]}`, false},
		{"keys twice", `{"keys":[],"keys":[]}`, false},
		{"51 keys", `{"keys":[` + strings.Repeat(`{},`, 50) + `{}]}`, false},
		{"over 256 KiB", `{"keys":[],"x":"` + strings.Repeat("x", 256<<10) + `"}`, false},
		{"not JSON", `keys`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := jwt.ParseKeySet([]byte(tc.set)); (err == nil) != tc.ok {
				t.Errorf("error %v, want accepted %v", err, tc.ok)
			}
		})
	}
}

func TestSignerKeyRoundTrip(t *testing.T) {
	for _, generate := range []func() (*jwt.Signer, error){jwt.GenerateInternal, jwt.GenerateEdge} {
		s, err := generate()
		ok(t, err)
		der, err := s.MarshalKey()
		ok(t, err)
		back, err := jwt.ParseSigner(der)
		ok(t, err)
		if back.KeyID() != s.KeyID() {
			t.Errorf("kid %s became %s", s.KeyID(), back.KeyID())
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
			if got := fmt.Sprintf(verb, s); got != "jwt.Signer("+s.KeyID()+")" {
				t.Errorf("%s prints %s", verb, got)
			}
		}
	}
	if _, err := jwt.ParseSigner([]byte("x")); err == nil {
		t.Error("garbage became a signing key")
	}
}
