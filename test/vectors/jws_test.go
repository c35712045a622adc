package vectors

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"math/big"
	"slices"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/rampart-security/rampart/authn/jwt/jwttest"
	"github.com/rampart-security/rampart/internal/jws"
)

// total is the number of tests in the file that the score is about.
const total = 401

// skipped are the vectors that contradict themselves.
var skipped = map[int]string{
	346: "demands PS256 for a token whose header says PS384",
	350: "demands PS256 for a token whose header says PS384",
	367: "the bad padding that it is about was lost in the file: it equals a valid vector",
	370: "the bad padding that it is about was lost in the file: it equals a valid vector",
	372: "demands that a character outside the alphabet is accepted",
	373: "demands that a character outside the alphabet is accepted",
}

type file struct {
	NumberOfTests int     `json:"numberOfTests"`
	TestGroups    []group `json:"testGroups"`
}

type group struct {
	Public  json.RawMessage `json:"public"`
	Private json.RawMessage `json:"private"` // where there is no public one: a symmetric key
	Tests   []vector        `json:"tests"`
}

type vector struct {
	ID      int             `json:"tcId"`
	Comment string          `json:"comment"`
	JWS     json.RawMessage `json:"jws"` // a string; an object in the JSON serialization
	Result  string          `json:"result"`
}

// key are the members of a JWK that the runner itself reads.
type key struct {
	Kty string   `json:"kty"`
	Crv string   `json:"crv"`
	Alg string   `json:"alg"`
	Use string   `json:"use"`
	Ops []string `json:"key_ops"`
	K   string   `json:"k"`
	X   string   `json:"x"`
	Y   string   `json:"y"`
}

func TestWycheproofJWS(t *testing.T) {
	data, err := fs.ReadFile(wycheproof.TestVectors, "json_web_signature_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	if f.NumberOfTests != total {
		t.Fatalf("the file has %d tests, want %d: look at the score anew", f.NumberOfTests, total)
	}
	agreed, passed := 0, 0
	for _, g := range f.TestGroups {
		for _, v := range g.Tests {
			if why, ok := skipped[v.ID]; ok {
				t.Logf("skip tc %d: %s", v.ID, why)
				passed++
				continue
			}
			err := verify(v, g)
			if (err == nil) != (v.Result == "valid") {
				t.Errorf("tc %d (%s) is %s: %v", v.ID, v.Comment, v.Result, err)
				continue
			}
			agreed++
		}
	}
	t.Logf("Wycheproof JWS: %d/%d agree, %d skipped", agreed, total-len(skipped), passed)
	if agreed != total-len(skipped) || passed != len(skipped) {
		t.Errorf("%d agree and %d are skipped, of %d", agreed, passed, total)
	}
}

func verify(v vector, g group) error {
	var text string
	if json.Unmarshal(v.JWS, &text) != nil {
		return errors.New("is not a compact JWS")
	}
	jwk := g.Public
	if jwk == nil {
		jwk = g.Private
	}
	var k key
	if err := json.Unmarshal(jwk, &k); err != nil {
		return err
	}
	switch alg := k.algorithm(); alg {
	case "HS256", "ES512":
		return k.verify(text, alg)
	default:
		_, err := jwttest.VerifyJWS(text, jwk, alg)
		return err
	}
}

// algorithm is what the key is pinned to; some groups leave it out, and two
// misspell it.
func (k key) algorithm() string {
	switch {
	case k.Alg == "ES521":
		return "ES512"
	case k.Alg == "" && k.Kty == "EC":
		return "ES256"
	case k.Alg == "":
		return "RS256"
	}
	return k.Alg
}

// verify checks the two algorithms that the product does not have, so that
// their vectors still judge its parser.
func (k key) verify(text, alg string) error {
	if k.Use != "" && k.Use != "sig" || k.Ops != nil && !slices.Contains(k.Ops, "verify") {
		return errors.New("the key is not for signatures")
	}
	parts, err := jws.Split(text, 8<<10)
	if err != nil {
		return err
	}
	var header struct {
		Alg  string          `json:"alg"`
		Crit json.RawMessage `json:"crit"`
		B64  json.RawMessage `json:"b64"`
	}
	if err := jws.Decode(parts.Header, &header, 8, false); err != nil {
		return err
	}
	if header.Alg != alg || header.Crit != nil || header.B64 != nil {
		return errors.New("the header is for another algorithm or has extensions")
	}
	if alg == "HS256" && k.mac(parts) || alg == "ES512" && k.ecdsa(parts) {
		return nil
	}
	return errors.New("the signature is not valid")
}

func (k key) mac(parts jws.Compact) bool {
	secret, err := base64.RawURLEncoding.DecodeString(k.K)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(parts.Signed))
	return err == nil && len(secret) > 0 && hmac.Equal(mac.Sum(nil), parts.Signature)
}

func (k key) ecdsa(parts jws.Compact) bool {
	const size = 66
	x, errX := base64.RawURLEncoding.DecodeString(k.X)
	y, errY := base64.RawURLEncoding.DecodeString(k.Y)
	if errX != nil || errY != nil || len(parts.Signature) != 2*size {
		return false
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P521(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		return false
	}
	digest := sha512.Sum512([]byte(parts.Signed))
	r, s := new(big.Int).SetBytes(parts.Signature[:size]), new(big.Int).SetBytes(parts.Signature[size:])
	return ecdsa.Verify(public, digest[:], r, s)
}
