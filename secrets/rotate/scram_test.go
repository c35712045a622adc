package rotate

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
)

// TestVerifier derives both keys of RFC 7677 section 3 from its password and salt,
// and judges them by the exchange that stands there.
func TestVerifier(t *testing.T) {
	const message = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096," +
		"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	salt := decode(t, "W22ZaJ0SNY7soEsUEjb6gQ==")
	text, err := verifier([]byte("pencil"), salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	rest, ok := strings.CutPrefix(text, "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
	a, b, found := strings.Cut(rest, ":")
	if !ok || !found {
		t.Fatalf("%q is not of PostgreSQL's form", text)
	}
	stored, server := decode(t, a), decode(t, b)
	// The client's key is its proof without the signature; its hash is what is stored.
	client := decode(t, "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	for i, s := range mac(stored, message) {
		client[i] ^= s
	}
	if sum := sha256.Sum256(client); !hmac.Equal(sum[:], stored) {
		t.Error("the stored key does not verify the proof of RFC 7677")
	}
	if got := base64.StdEncoding.EncodeToString(mac(server, message)); got != "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" {
		t.Errorf("the server's signature is %s", got)
	}
	one, _ := Verifier([]byte("pencil"))
	two, _ := Verifier([]byte("pencil"))
	if one == two {
		t.Error("two verifiers share their salt")
	}
}

func decode(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
