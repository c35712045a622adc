package signed_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
	"github.com/rampart-security/rampart/internal/jws"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// signatures returns one text per algorithm, signed by the keys it returns.
func signatures(t *testing.T) (texts map[signed.Algorithm]string, keys map[signed.Algorithm]crypto.PublicKey) {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	texts, keys = map[signed.Algorithm]string{}, map[signed.Algorithm]crypto.PublicKey{}
	add := func(alg signed.Algorithm, public crypto.PublicKey, sign func(text []byte) ([]byte, error)) {
		text := b64(fmt.Sprintf(`{"alg":%q}`, alg)) + "." + b64("{}")
		sig, err := sign([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		texts[alg], keys[alg] = text+"."+b64(string(sig)), public
	}
	digest := func(h crypto.Hash, text []byte) []byte {
		d := h.New()
		d.Write(text)
		return d.Sum(nil)
	}
	for alg, h := range map[signed.Algorithm]crypto.Hash{signed.RS256: crypto.SHA256, signed.RS384: crypto.SHA384, signed.RS512: crypto.SHA512} {
		add(alg, rsaKey.Public(), func(text []byte) ([]byte, error) {
			return rsa.SignPKCS1v15(rand.Reader, rsaKey, h, digest(h, text))
		})
	}
	for alg, h := range map[signed.Algorithm]crypto.Hash{signed.PS256: crypto.SHA256, signed.PS384: crypto.SHA384, signed.PS512: crypto.SHA512} {
		add(alg, rsaKey.Public(), func(text []byte) ([]byte, error) {
			return rsa.SignPSS(rand.Reader, rsaKey, h, digest(h, text), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		})
	}
	add(signed.ES256, ecKey.Public(), func(text []byte) ([]byte, error) {
		r, s, err := ecdsa.Sign(rand.Reader, ecKey, digest(crypto.SHA256, text))
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), err
	})
	for _, alg := range []signed.Algorithm{signed.EdDSA, signed.Ed25519} {
		add(alg, edKey.Public(), func(text []byte) ([]byte, error) { return ed25519.Sign(edKey, text), nil })
	}
	return texts, keys
}

// TestEachAlgorithmIsItself: a text opens under the algorithm of its key, and
// under no other that the same or another key could have been pinned to.
func TestEachAlgorithmIsItself(t *testing.T) {
	texts, keys := signatures(t)
	for alg, text := range texts {
		for pinned := range maps.Keys(keys) {
			parsed, err := signed.Parse(text, 8192, true)
			if err != nil {
				t.Fatal(err)
			}
			err = parsed.Verify(&signed.Key{Alg: pinned, Public: keys[pinned]})
			if (err == nil) != (alg == pinned) {
				t.Errorf("%s text under a key of %s: %v", alg, pinned, err)
			}
			// The header may lie: then it is the signature that must not fit. The
			// two names of Ed25519 are the one algorithm with one signature.
			parsed.Header.Alg = pinned
			err = parsed.Verify(&signed.Key{Alg: pinned, Public: keys[pinned]})
			same := alg == pinned || alg == signed.EdDSA && pinned == signed.Ed25519 || alg == signed.Ed25519 && pinned == signed.EdDSA
			if (err == nil) != same {
				t.Errorf("%s text whose header says %s: %v", alg, pinned, err)
			}
		}
		parsed, err := signed.Parse(text, 8192, true)
		if err != nil {
			t.Fatal(err)
		}
		if parsed.Verify(&signed.Key{Alg: alg, Public: "no key"}) == nil {
			t.Errorf("%s text under what is no key", alg)
		}
	}
}

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		header string
		closed bool
		rule   string
	}{
		"bare":                    {`{"alg":"ES256"}`, true, ""},
		"another member":          {`{"alg":"ES256","x":1}`, false, ""},
		"another member, closed":  {`{"alg":"ES256","x":1}`, true, signed.RuleHeader},
		"crit":                    {`{"alg":"ES256","crit":[]}`, false, signed.RuleExtension},
		"crit null":               {`{"alg":"ES256","crit":null}`, false, signed.RuleExtension},
		"b64":                     {`{"alg":"ES256","b64":true}`, false, signed.RuleExtension},
		"alg twice":               {`{"alg":"ES256","alg":"none"}`, false, jws.RuleDuplicate},
		"alg no string":           {`{"alg":1}`, false, "alg"},
		"unread member is parsed": {`{"alg":"ES256","x":{"a":1,"a":2}}`, false, jws.RuleDuplicate},
	} {
		_, err := signed.Parse(b64(tc.header)+"."+b64("{}")+".AA", 8192, tc.closed)
		e, _ := errors.AsType[*jws.Error](err)
		if (err == nil) != (tc.rule == "") || e != nil && e.Rule != tc.rule {
			t.Errorf("%s: %v, want rule %q", name, err, tc.rule)
		}
	}
}
