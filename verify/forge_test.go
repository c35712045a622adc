package verify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"math/big"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A forgery that does not parse would be refused for its form, and the probe
// would prove nothing.
func TestForgeriesAreWellFormed(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	genuine := jws{header: map[string]any{"typ": "at+jwt", "kid": "k"}, claims: map[string]any{"sub": "user:a", "exp": float64(1000)}}
	signed, err := genuine.es256(key)
	if err != nil {
		t.Fatal(err)
	}
	text, sig := cutSignature(t, signed)
	sum := sha256.Sum256([]byte(text))
	if len(sig) != 64 || !ecdsa.Verify(&key.PublicKey, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Error("ES256: the signature does not verify")
	}
	shared, err := genuine.hs256([]byte("public"))
	if err != nil {
		t.Fatal(err)
	}
	text, sig = cutSignature(t, shared)
	m := hmac.New(sha256.New, []byte("public"))
	m.Write([]byte(text))
	if !hmac.Equal(sig, m.Sum(nil)) {
		t.Error("HS256: the MAC does not verify")
	}
	none, err := genuine.unsigned()
	if err != nil {
		t.Fatal(err)
	}
	changed, err := withPayload(signed, genuine.claim("sub", "user:admin"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ token, alg, sub string }{
		"none": {none, "none", "user:a"}, "hs256": {shared, "HS256", "user:a"}, "es256": {signed, "ES256", "user:a"}, "changed": {changed, "ES256", "user:admin"},
	} {
		j, err := parseJWS(tt.token)
		if err != nil || j.header["alg"] != tt.alg || j.claims["sub"] != tt.sub || j.header["kid"] != "k" {
			t.Errorf("%s: %v %v", name, j, err)
		}
	}
	if genuine.claims["sub"] != "user:a" || genuine.header["alg"] != nil {
		t.Error("forging changed the genuine token")
	}
}

func cutSignature(t *testing.T, token string) (text string, sig []byte) {
	t.Helper()
	i := strings.LastIndexByte(token, '.')
	sig, err := b64.DecodeString(token[i+1:])
	if err != nil {
		t.Fatal(err)
	}
	return token[:i], sig
}

func FuzzParseJWS(f *testing.F) {
	f.Add("e30.e30.")
	f.Add("..")
	f.Fuzz(func(_ *testing.T, s string) { parseJWS(s) })
}

func TestPublicPoint(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := json.Marshal(map[string]any{"keys": []any{map[string]string{"kty": "OKP"}, map[string]string{"kty": "EC", "crv": "P-256", "x": b64.EncodeToString(want[1:33]), "y": b64.EncodeToString(want[33:])}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := publicPoint(jwk); err != nil || string(got) != string(want) {
		t.Errorf("%x, %v, want %x", got, err, want)
	}
	if _, err := publicPoint([]byte(`{"keys":[]}`)); err == nil {
		t.Error("an empty key set has a key")
	}
}

func TestSample(t *testing.T) {
	for _, pattern := range []string{"^ord_[0-9a-f]{32}$", "^(tok|pm)_[A-Za-z0-9_]{1,64}$", "^[a-z0-9][a-z0-9-]{0,62}$", "[^a]+x?", `^\d{4}-\d{2}$`} {
		got, err := fromPattern(pattern)
		if err != nil || !regexp.MustCompile(pattern).MatchString(got) {
			t.Errorf("%s: %q, %v", pattern, got, err)
		}
	}
	var s map[string]any
	text := `{type: object, required: [id, n, list, mail], properties: {id: {type: string, pattern: "^x[0-9]{3}$"}, n: {type: integer, minimum: 2},
	  list: {type: array, minItems: 2, items: {const: EUR}}, mail: {type: string, format: email}, other: {type: string}}}`
	if err := yaml.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	v, err := (document{s}).resolve(s, 0).sample(0)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := v.(map[string]any)
	if !ok || len(m) != 4 || m["n"] != int64(2) || len(m["list"].([]any)) != 2 || !strings.Contains(m["mail"].(string), "@") {
		t.Errorf("made %v", v)
	}
	if _, err := (schema{"type": "null"}).sample(0); err == nil {
		t.Error("a value was made up for a type that is not known")
	}
}

func TestFillAndPointers(t *testing.T) {
	st := &story{vars: map[string]any{"id": "ord_1", "total": json.Number("2580")}}
	got := st.fill(map[string]any{"order": "${id}", "amount": "${total}", "text": "for ${id}", "list": []any{"${total}", 1}})
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"amount":2580,"list":[2580,1],"order":"ord_1","text":"for ord_1"}`; string(b) != want {
		t.Errorf("%s, want %s", b, want)
	}
	var doc any
	if err := decode([]byte(`{"a":[{"b/c":7}]}`), &doc); err != nil {
		t.Fatal(err)
	}
	if v, err := at(doc, "/a/0/b~1c"); err != nil || v != json.Number("7") {
		t.Errorf("%v, %v", v, err)
	}
	for _, bad := range []string{"/x", "/a/1", "/a/b", "/a/0/b~1c/d"} {
		if _, err := at(doc, bad); err == nil {
			t.Errorf("%s was found", bad)
		}
	}
}
