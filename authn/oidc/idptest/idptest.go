// Package idptest is a small OpenID provider for tests that does as it should
// until it is told to lie. It shares no code with the relying party.
package idptest

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"
)

// What the provider knows of its one client.
const (
	ClientID = "rampart"
	Secret   = "a secret between two"
)

// Lies change what an honest provider would do. A nil member changes nothing.
type Lies struct {
	Metadata func(doc map[string]any)                   // before it is sent
	Token    func(header, claims map[string]any)        // before it is signed
	Answer   func(answer map[string]any)                // of the token endpoint
	Callback func(q url.Values)                         // before the browser is sent back
	Signed   func(token string) string                  // after it is signed
	Keys     func(w http.ResponseWriter, honest []byte) // instead of the key set
	HMAC     []byte                                     // sign with HS256 under this key
}

// Provider is a running provider. Safe for concurrent use.
type Provider struct {
	Server   *httptest.Server
	Issuer   string
	Redirect string // the client's one redirect URI
	t        testing.TB
	now      func() time.Time

	mu     sync.Mutex
	lies   Lies
	claims map[string]any // of the one person, beside the protocol's own
	key    *rsa.PrivateKey
	kid    string
	codes  map[string]url.Values // code -> what it was asked for with
	hits   map[string]int
}

// New starts a provider over TLS. Its certificate is good for 127.0.0.1 and
// for example.com. issuer is what it calls itself; "" is its own address.
func New(t testing.TB, issuer string, now func() time.Time) *Provider {
	t.Helper()
	p := &Provider{t: t, now: now, codes: map[string]url.Values{}, hits: map[string]int{}, claims: map[string]any{"sub": "u1", "sid": "s1"}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.counted(p.metadata))
	mux.HandleFunc("GET /authorize", p.counted(p.authorize))
	mux.HandleFunc("POST /token", p.counted(p.token))
	mux.HandleFunc("GET /keys", p.counted(p.keys))
	mux.HandleFunc("GET /userinfo", p.counted(p.userInfo))
	p.Server = httptest.NewUnstartedServer(mux)
	p.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Server.StartTLS()
	t.Cleanup(p.Server.Close)
	p.Issuer = issuer
	if issuer == "" {
		p.Issuer = p.Server.URL
	}
	p.Rotate("k1")
	return p
}

// CA returns the provider's certificate, PEM.
func (p *Provider) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Server.Certificate().Raw})
}

// Transport reaches the provider, whatever it calls itself.
func (p *Provider) Transport() http.RoundTripper {
	return p.Server.Client().Transport
}

// Lie makes the provider do what l says from now on.
func (p *Provider) Lie(l Lies) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lies = l
}

// Say changes the claims about the person.
func (p *Provider) Say(claims map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.Copy(p.claims, claims)
}

// Rotate withdraws the key and signs with a new one from now on.
func (p *Provider) Rotate(kid string) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key, p.kid = key, kid
}

// Hits returns how often a path was asked for.
func (p *Provider) Hits(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hits[path]
}

// Visit plays the browser at the authorization endpoint: it returns the raw
// query that the person is sent back with.
func (p *Provider) Visit(address string) string {
	p.t.Helper()
	c := http.Client{Transport: p.Transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	u, err := url.Parse(address)
	if err != nil {
		p.t.Fatal(err)
	}
	res, err := c.Get(p.Server.URL + u.RequestURI())
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	to, err := res.Location()
	if err != nil {
		text, _ := io.ReadAll(res.Body)
		p.t.Fatalf("authorization endpoint answers %s: %s", res.Status, text)
	}
	return to.RawQuery
}

// LogoutToken returns a logout token of the person (OpenID Connect Back-Channel
// Logout section 2.4).
func (p *Provider) LogoutToken(jti string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now().Unix()
	return p.signLocked(map[string]any{"alg": "RS256", "typ": "logout+jwt", "kid": p.kid}, map[string]any{
		"iss": p.Issuer, "aud": ClientID, "iat": now, "exp": now + 120, "jti": jti, "sub": p.claims["sub"], "sid": p.claims["sid"],
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	})
}

func (p *Provider) counted(call http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.hits[r.URL.Path]++
		p.mu.Unlock()
		call(w, r)
	}
}

func (p *Provider) metadata(w http.ResponseWriter, _ *http.Request) {
	base := p.Issuer
	doc := map[string]any{
		"issuer": p.Issuer, "authorization_endpoint": base + "/authorize", "token_endpoint": base + "/token", "jwks_uri": base + "/keys",
		"userinfo_endpoint":                base + "/userinfo",
		"code_challenge_methods_supported": []string{"S256"}, "authorization_response_iss_parameter_supported": true,
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic"}, "id_token_signing_alg_values_supported": []string{"RS256"},
	}
	if lie := p.lying().Metadata; lie != nil {
		lie(doc)
	}
	answer(w, http.StatusOK, doc)
}

func (p *Provider) lying() Lies {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lies
}

// authorize signs the one person in without asking.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("client_id") != ClientID || q.Get("redirect_uri") != p.Redirect || q.Get("response_type") != "code" {
		http.Error(w, "client, redirect or response type is wrong", http.StatusBadRequest)
		return
	}
	if q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 || q.Get("nonce") == "" || q.Get("state") == "" {
		http.Error(w, "PKCE, nonce and state are required", http.StatusBadRequest)
		return
	}
	code := rand.Text()
	p.mu.Lock()
	p.codes[code] = q
	p.mu.Unlock()
	back := url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {p.Issuer}}
	if lie := p.lying().Callback; lie != nil {
		lie(back)
	}
	http.Redirect(w, r, p.Redirect+"?"+back.Encode(), http.StatusSeeOther)
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	if id != ClientID || secret != url.QueryEscape(Secret) {
		answer(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		return
	}
	code := r.PostFormValue("code")
	p.mu.Lock()
	asked, ok := p.codes[code]
	delete(p.codes, code)
	p.mu.Unlock()
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if !ok || r.PostFormValue("redirect_uri") != p.Redirect || encode(sum[:]) != asked.Get("code_challenge") {
		answer(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
		return
	}
	access := rand.Text()
	out := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 300, "id_token": p.idToken(asked.Get("nonce"), access)}
	if lie := p.lying().Answer; lie != nil {
		lie(out)
	}
	answer(w, http.StatusOK, out)
}

func (p *Provider) idToken(nonce, access string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, half := p.now().Unix(), sha256.Sum256([]byte(access))
	claims := map[string]any{"iss": p.Issuer, "aud": ClientID, "iat": now, "exp": now + 300, "nonce": nonce, "at_hash": encode(half[:16])}
	maps.Copy(claims, p.claims)
	return p.signLocked(map[string]any{"alg": "RS256", "typ": "JWT", "kid": p.kid}, claims)
}

// userInfo says all claims again; there is but one person.
func (p *Provider) userInfo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") == "" {
		answer(w, http.StatusUnauthorized, map[string]any{"error": "invalid_token"})
		return
	}
	p.mu.Lock()
	claims := maps.Clone(p.claims)
	p.mu.Unlock()
	answer(w, http.StatusOK, claims)
}

func (p *Provider) keys(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	honest, err := json.Marshal(map[string]any{"keys": []any{JWK(p.kid, &p.key.PublicKey)}})
	lie := p.lies.Keys
	p.mu.Unlock()
	if err != nil {
		p.t.Error(err)
	}
	if lie != nil {
		lie(w, honest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(honest)
}

// JWK returns a public key as a JWK of RS256.
func JWK(kid string, key *rsa.PublicKey) map[string]any {
	return map[string]any{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": encode(key.N.Bytes()), "e": encode(big.NewInt(int64(key.E)).Bytes())}
}

func (p *Provider) signLocked(header, claims map[string]any) string {
	if p.lies.Token != nil {
		p.lies.Token(header, claims)
	}
	signed := encode(marshal(p.t, header)) + "." + encode(marshal(p.t, claims))
	var signature []byte
	if p.lies.HMAC != nil {
		mac := hmac.New(sha256.New, p.lies.HMAC)
		mac.Write([]byte(signed))
		signature = mac.Sum(nil)
	} else {
		sum := sha256.Sum256([]byte(signed))
		var err error
		if signature, err = rsa.SignPKCS1v15(nil, p.key, crypto.SHA256, sum[:]); err != nil {
			p.t.Error(err)
		}
	}
	token := signed + "." + encode(signature)
	if p.lies.Signed != nil {
		return p.lies.Signed(token)
	}
	return token
}

func answer(w http.ResponseWriter, status int, doc map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(doc)
}

func marshal(t testing.TB, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	return b
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
