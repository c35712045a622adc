package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// keys are the private keys of one script's clients, by name.
type keys map[string]*ecdsa.PrivateKey

type keysKey struct{}

// scriptClientKey makes a key and writes its public half as a JWK set.
func scriptClientKey(ts *testscript.TestScript, neg bool, args []string) {
	mine, ok := ts.Value(keysKey{}).(keys)
	if neg || len(args) != 2 || !ok {
		ts.Fatalf("usage: clientkey KEY FILE")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	mine[args[0]] = key
	point, err := key.PublicKey.Bytes()
	ts.Check(err)
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "EC", "crv": "P-256", "kid": args[0], "alg": "ES256", "use": "sig", "x": encode(point[1:33]), "y": encode(point[33:]),
	}}})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), set, 0o600))
}

// scriptClientToken gets a client_credentials token by private_key_jwt.
func scriptClientToken(ts *testscript.TestScript, neg bool, args []string) {
	mine, ok := ts.Value(keysKey{}).(keys)
	if neg || len(args) != 3 || !ok || mine[args[0]] == nil {
		ts.Fatalf("usage: clienttoken KEY CLIENT FILE, after clientkey KEY")
	}
	client, base, err := browserOf(ts, args[1])
	ts.Check(err)
	var meta struct{ Issuer string }
	ts.Check(getJSON(client, base+"/.well-known/openid-configuration", nil, &meta))
	now := time.Now().Unix()
	head := map[string]any{"typ": "JWT", "alg": "ES256", "kid": args[0]}
	claims := map[string]any{"iss": args[1], "sub": args[1], "aud": meta.Issuer, "jti": rand.Text(), "iat": now, "exp": now + 60}
	form := url.Values{
		"grant_type":            {"client_credentials"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {signES256(ts, mine[args[0]], head, claims)},
	}
	var granted struct {
		AccessToken string `json:"access_token"`
		Description string `json:"error_description"`
	}
	ts.Check(getJSON(client, base+"/oauth2/token", form, &granted))
	if granted.AccessToken == "" {
		ts.Fatalf("no token for %s: %s", args[1], granted.Description)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte("Bearer "+granted.AccessToken), 0o600))
}

// getJSON reads an answer as JSON; with a form it posts.
func getJSON(client *http.Client, address string, form url.Values, out any) error {
	ask := func() (*http.Response, error) { return client.Get(address) }
	if form != nil {
		ask = func() (*http.Response, error) { return client.PostForm(address, form) }
	}
	res, err := ask()
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// signES256 is a JWS in compact form (RFC 7518 section 3.4).
func signES256(ts *testscript.TestScript, key *ecdsa.PrivateKey, head, claims map[string]any) string {
	h, err := json.Marshal(head)
	ts.Check(err)
	c, err := json.Marshal(claims)
	ts.Check(err)
	text := encode(h) + "." + encode(c)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	ts.Check(err)
	return text + "." + encode(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
