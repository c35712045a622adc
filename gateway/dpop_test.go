package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// holder is a client with a key of its own. It writes proofs without our code.
type holder struct {
	t   testing.TB
	key *ecdsa.PrivateKey
}

func newHolder(t testing.TB) holder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return holder{t, key}
}

// prove signs claims as a DPoP proof (RFC 9449 section 4.2).
func (h holder) prove(claims map[string]any) string {
	h.t.Helper()
	point, err := h.key.PublicKey.Bytes()
	must(h.t, err)
	encode := base64.RawURLEncoding.EncodeToString
	part := func(v any) string {
		b, err := json.Marshal(v)
		must(h.t, err)
		return encode(b)
	}
	text := part(map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": map[string]string{
		"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:]),
	}}) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, h.key, sum[:])
	must(h.t, err)
	return text + "." + encode(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// claimsOf a valid proof for one request.
func claimsOf(method, path, token, nonce string) map[string]any {
	c := map[string]any{"jti": base64.RawURLEncoding.EncodeToString(bytesOf(12)), "htm": method, "htu": "https://localhost:8443" + path, "iat": time.Now().Unix()}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		c["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if nonce != "" {
		c["nonce"] = nonce
	}
	return c
}

// boundToken returns an access token of a person that is bound to the key.
func (h *house) boundToken(key holder, name, client string) string {
	h.t.Helper()
	verifier := base64.RawURLEncoding.EncodeToString(bytesOf(32))
	sum := sha256.Sum256([]byte(verifier))
	const redirect = "http://127.0.0.1:5555/cb"
	cookie, nonce := h.login(name), ""
	for range 2 {
		ask := h.do(http.MethodGet, "/oauth2/authorize?"+url.Values{
			"response_type": {"code"}, "client_id": {client}, "redirect_uri": {redirect}, "state": {"s"},
			"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
		}.Encode(), "", "Cookie", cookie)
		back, err := url.Parse(ask.Header.Get("Location"))
		must(h.t, err)
		res := h.do(http.MethodPost, wire.PathToken, url.Values{
			"grant_type": {"authorization_code"}, "client_id": {client}, "redirect_uri": {redirect}, "code": {back.Query().Get("code")}, "code_verifier": {verifier},
		}.Encode(), "Content-Type", "application/x-www-form-urlencoded", "Dpop", key.prove(claimsOf("POST", wire.PathToken, "", nonce)))
		var got struct {
			Token string `json:"access_token"`
			Type  string `json:"token_type"`
		}
		if json.Unmarshal([]byte(res.body), &got) == nil && got.Token != "" {
			if got.Type != "DPoP" {
				h.t.Fatalf("the token is of type %q", got.Type)
			}
			return got.Token
		}
		if nonce = res.Header.Get("Dpop-Nonce"); nonce == "" {
			h.t.Fatalf("bound token: %s %s", res.Status, res.body)
		}
	}
	h.t.Fatal("no bound token, with a nonce either")
	return ""
}

// TestDPoP: a bound token is worth nothing without a proof of its own key for
// this very request, and no proof counts twice.
func TestDPoP(t *testing.T) {
	h := open(t)
	mine, theirs := newHolder(t), newHolder(t)
	token, bearer := h.boundToken(mine, "ann", "app"), strings.TrimPrefix(h.token("ann", "app"), "Bearer ")
	const path = "/orders/o1"
	ask := func(scheme, token string, proofs ...string) answer {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "https://"+h.gw.Addr()+path, nil)
		must(t, err)
		req.Header.Set("Authorization", scheme+" "+token)
		req.Header["Dpop"] = proofs
		res, err := h.client.Do(req)
		must(t, err)
		res.Body.Close()
		return answer{Response: res}
	}
	first := ask("DPoP", token, mine.prove(claimsOf("GET", path, token, "")))
	nonce := first.Header.Get("Dpop-Nonce")
	if first.StatusCode != 401 || nonce == "" || !strings.Contains(first.Header.Get("WWW-Authenticate"), `error="use_dpop_nonce"`) {
		t.Fatalf("without a nonce: %d %v", first.StatusCode, first.Header)
	}
	with := func(change map[string]any) string {
		c := claimsOf("GET", path, token, nonce)
		for k, v := range change {
			c[k] = v
		}
		return mine.prove(c)
	}
	used := with(nil)
	if res := ask("DPoP", token, used); res.StatusCode != 200 {
		t.Fatalf("with a proof: %d %v", res.StatusCode, res.Header)
	}
	h.mu.Lock()
	if got := h.last.Header.Get("Dpop"); got != "" {
		t.Errorf("the service got the proof %q", got)
	}
	h.mu.Unlock()
	for name, tc := range map[string]struct {
		scheme, token string
		proofs        []string
		control       string
	}{
		"the same proof again":           {"DPoP", token, []string{used}, "authn.dpop"},
		"no proof":                       {"DPoP", token, nil, "authn.dpop"},
		"for another method":             {"DPoP", token, []string{with(map[string]any{"htm": "POST"})}, "authn.dpop"},
		"for another path":               {"DPoP", token, []string{with(map[string]any{"htu": "https://localhost:8443/orders/o2"})}, "authn.dpop"},
		"for another host":               {"DPoP", token, []string{with(map[string]any{"htu": "https://evil.example" + path})}, "authn.dpop"},
		"for another token":              {"DPoP", token, []string{mine.prove(claimsOf("GET", path, bearer, nonce))}, "authn.dpop"},
		"with a nonce of nobody":         {"DPoP", token, []string{with(map[string]any{"nonce": "AAAAAAAAAAAAAAAAAAAAAA"})}, "authn.dpop"},
		"of an hour ago":                 {"DPoP", token, []string{with(map[string]any{"iat": time.Now().Add(-time.Hour).Unix()})}, "authn.dpop"},
		"of another key":                 {"DPoP", token, []string{theirs.prove(claimsOf("GET", path, token, nonce))}, "token.binding"},
		"bound, shown as a bearer token": {"Bearer", token, []string{with(nil)}, "token.binding"},
		"a bearer token with a proof":    {"DPoP", bearer, []string{mine.prove(claimsOf("GET", path, bearer, nonce))}, "token.binding"},
	} {
		t.Run(name, func(t *testing.T) {
			res := ask(tc.scheme, tc.token, tc.proofs...)
			if res.StatusCode != 401 || h.newest().Control != tc.control {
				t.Errorf("%d by %q, want 401 by %s", res.StatusCode, h.newest().Control, tc.control)
			}
			if tc.scheme == "DPoP" && !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "DPoP ") {
				t.Errorf("challenge %q", res.Header.Get("WWW-Authenticate"))
			}
		})
	}
	if res := ask("DPoP", token, with(nil)); res.StatusCode != 200 {
		t.Errorf("a proof of its own afterwards: %d", res.StatusCode)
	}
}
