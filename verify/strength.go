package verify

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/rampart-security/rampart/spec"
)

// strengthProbes attack what asks for more than a password or a bare token.
func strengthProbes() []Probe {
	return []Probe{
		{ID: "P-024", Title: "a password alone does not open what asks for a second factor", SeedRow: "authn: sessions", Controls: []string{"authn.step_up"},
			Proves: []string{"owasp2021:A07", "api2023:API2"}, Vantage: asUser, Safety: safe, Needs: needStepUp, Run: weakLogin},
		{ID: "P-025", Title: "a token bound to a key is refused without it, with another, and with a proof used before", SeedRow: "authn: JWT", Controls: []string{"authn.dpop"},
			Proves: []string{"owasp2021:A07", "api2023:API2"}, Vantage: asUser, Safety: safe, Needs: needPlainJWT, Run: boundToken},
		{ID: "P-026", Title: "what a token says is told to nobody who does not prove themselves", SeedRow: "authn: JWT", Controls: []string{"token.client_auth"},
			Proves: []string{"owasp2021:A07", "api2023:API2"}, Vantage: fromOutside, Safety: safe, Needs: needPlainJWT, Run: nosyStranger,
			Blind: "who asks decides what is told; it cannot be left out"},
		{ID: "P-027", Title: "with a second factor the password alone gives no session, and a code is good once", SeedRow: "owasp: A07", Controls: []string{"authn.mfa"},
			Proves: []string{"owasp2021:A07", "api2023:API2"}, Vantage: fromOutside, Safety: safe, Needs: needMethod("session"), Run: passwordAlone},
	}
}

// needStepUp asks for a flow with a session whose routes ask for more.
func needStepUp(sys *spec.System) (bool, string) {
	if ok, why := needMethod("session")(sys); !ok {
		return false, why
	}
	for _, f := range sys.Flows {
		for _, s := range f.StepUp {
			if s.ACR != "" && s.ACR != "aal1" {
				return true, ""
			}
		}
	}
	return false, "no flow asks for a second factor (step_up)"
}

// needPlainJWT asks for a way in by a token alone.
func needPlainJWT(sys *spec.System) (bool, string) { return needMethod("jwt")(sys) }

// weakLogin asks for everything that wants a second factor, with a session that
// has none.
func weakLogin(ctx context.Context, e *Env) (Result, error) {
	flow, _ := entryWith(e.sys, "session")
	who, err := e.enter(ctx, e.facts(), flow)
	if err != nil {
		return Result{}, err
	}
	read, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustEnter(ctx, "what asks for no second factor", read.with(who)); err != nil {
		return Result{}, err
	}
	var attacks []attack
	for _, o := range e.ops {
		path, err := o.url(nil)
		if err != nil {
			return Result{}, err
		}
		if !wantsMore(o, path) {
			continue
		}
		req := request{method: o.method, path: path}
		if o.body != nil {
			req.body = []byte("{}")
		}
		attacks = append(attacks, attack{o.method + " " + o.path, req.with(who), []string{"authn.step_up"}})
	}
	return e.refusedAll(ctx, attacks)
}

func wantsMore(o operation, path string) bool {
	for _, s := range o.flow.StepUp {
		if s.ACR != "" && s.ACR != "aal1" && s.Covers(o.method, path) {
			return true
		}
	}
	return false
}

// holder is a client that binds its tokens to a key (RFC 9449).
type holder struct {
	key   *ecdsa.PrivateKey
	base  string // the edge, as proofs name it
	nonce string
}

func newHolder(base string) (*holder, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &holder{key: key, base: base}, err
}

// proof signs method and path; token "" is for the token endpoint.
func (h *holder) proof(method, path, token string) (string, error) {
	point, err := h.key.PublicKey.Bytes()
	if err != nil {
		return "", err
	}
	path, _, _ = strings.Cut(path, "?")
	p := jws{
		header: map[string]any{"typ": "dpop+jwt", "jwk": map[string]any{"kty": "EC", "crv": "P-256", "x": b64.EncodeToString(point[1:33]), "y": b64.EncodeToString(point[33:])}},
		claims: map[string]any{"jti": rand.Text(), "htm": method, "htu": h.base + path, "iat": time.Now().Unix()},
	}
	if h.nonce != "" {
		p = p.claim("nonce", h.nonce)
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		p = p.claim("ath", b64.EncodeToString(sum[:]))
	}
	return p.es256(h.key)
}

// issuer is the edge as the outside knows it, without the slash at the end:
// what proofs must name, whatever address the probes come in by.
func (e *Env) issuer(ctx context.Context) (string, error) {
	res, err := e.mustPass(ctx, "the issuer's metadata", get("/.well-known/oauth-authorization-server"))
	if err != nil {
		return "", err
	}
	var meta struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(res.body, &meta); err != nil || meta.Issuer == "" {
		return "", errors.New("the issuer's metadata names no issuer")
	}
	return strings.TrimSuffix(meta.Issuer, "/"), nil
}

// send makes a request with a fresh proof, and once more with the nonce that
// the server asks for.
func (e *Env) send(ctx context.Context, h *holder, r request, token string) (response, string, error) {
	for {
		proof, err := h.proof(r.method, r.path, token)
		if err != nil {
			return response{}, "", err
		}
		signed := r.set("Dpop", proof)
		if token != "" {
			signed = signed.set("Authorization", "DPoP "+token)
		}
		res, err := e.do(ctx, signed)
		if err != nil {
			return res, proof, err
		}
		fresh := res.header.Get("Dpop-Nonce")
		if res.ok() || fresh == "" || fresh == h.nonce {
			return res, proof, nil
		}
		h.nonce = fresh
	}
}

// boundToken has a token bound to a key, and uses it as its thief would.
func boundToken(ctx context.Context, e *Env) (Result, error) {
	owner, t, err := e.boundGrant(ctx)
	if err != nil {
		return Result{}, err
	}
	read, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	res, used, err := e.send(ctx, owner, read, t.Access)
	if err != nil {
		return Result{}, err
	}
	if res.status == http.StatusUnauthorized {
		return Result{}, fmt.Errorf("the token was refused its owner: %.200s", res.body)
	}
	e.note("the owner, with a proof: %d", res.status)
	thief, err := newHolder(owner.base)
	if err != nil {
		return Result{}, err
	}
	thief.nonce = owner.nonce
	foreign, err := thief.proof(read.method, read.path, t.Access)
	if err != nil {
		return Result{}, err
	}
	elsewhere, err := owner.proof(http.MethodDelete, "/elsewhere", t.Access)
	if err != nil {
		return Result{}, err
	}
	want := []string{"authn.dpop", "token.binding", "authn.jwt"} // as the rule is of the proof, of the binding or of the token
	bound := read.set("Authorization", "DPoP "+t.Access)
	return e.refusedAll(ctx, []attack{
		{"as a bearer token", read.set("Authorization", "Bearer "+t.Access), want},
		{"without a proof", bound, want},
		{"with a proof of another key", bound.set("Dpop", foreign), want},
		{"with a proof of another request", bound.set("Dpop", elsewhere), want},
		{"with the proof used before", bound.set("Dpop", used), want},
	})
}

// boundGrant gets a new user's token for a client that shows a key.
func (e *Env) boundGrant(ctx context.Context) (*holder, tokens, error) {
	var t tokens
	flow, _ := entryWith(e.sys, "jwt")
	a, err := e.account(ctx, e.facts())
	if err != nil {
		return nil, t, err
	}
	if err := e.login(ctx, a); err != nil {
		return nil, t, err
	}
	client, err := e.clientFor(ctx, flow.From)
	if err != nil {
		return nil, t, err
	}
	issuer, err := e.issuer(ctx)
	if err != nil {
		return nil, t, err
	}
	owner, err := newHolder(issuer)
	if err != nil {
		return nil, t, err
	}
	f, err := e.code(ctx, a, client)
	if err != nil {
		return nil, t, err
	}
	res, _, err := e.send(ctx, owner, form("/oauth2/token", f), "")
	if err != nil {
		return nil, t, err
	}
	if err := json.Unmarshal(res.body, &t); err != nil || t.Access == "" {
		return nil, t, fmt.Errorf("a grant with a proof was answered %d: %.200s", res.status, res.body)
	}
	return owner, t, nil
}

// nosyStranger asks what a genuine token says.
func nosyStranger(ctx context.Context, e *Env) (Result, error) {
	flow, _ := entryWith(e.sys, "jwt")
	who, err := e.enter(ctx, e.facts(), flow)
	if err != nil {
		return Result{}, err
	}
	for name, f := range map[string]url.Values{
		"nobody":                 {"token": {who.tokens.Access}},
		"a public client":        {"token": {who.tokens.Access}, "client_id": {who.client}},
		"a client that is not":   {"token": {who.tokens.Access}, "client_id": {"verify-nobody"}},
		"a made-up assertion":    {"token": {who.tokens.Access}, "client_id": {who.client}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {who.tokens.Access}},
		"a refresh token's name": {"token": {who.tokens.Refresh}, "token_type_hint": {"refresh_token"}},
	} {
		res, err := e.do(ctx, form("/oauth2/introspect", f))
		if err != nil {
			return Result{}, err
		}
		e.note("%s: %d", name, res.status)
		if res.ok() || strings.Contains(string(res.body), "sub") && strings.Contains(string(res.body), who.account.name) {
			return failed("%s: was answered %d", name, res.status), nil
		}
		if res.status != http.StatusUnauthorized && res.status != http.StatusBadRequest {
			return unsure("%s: was answered %d", name, res.status), nil
		}
	}
	return passed("5 strangers refused by token.client_auth"), nil
}

var secretOnPage = regexp.MustCompile(`id="secret">([A-Z2-7 ]+)<`)

// passwordAlone enrols a second factor and logs in without it.
func passwordAlone(ctx context.Context, e *Env) (Result, error) {
	a, err := e.account(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	if err := e.login(ctx, a); err != nil {
		return Result{}, err
	}
	code, err := e.enrol(ctx, a)
	if err != nil {
		return Result{}, err
	}
	res, err := e.do(ctx, loginForm(a.name, a.password))
	if err != nil {
		return Result{}, err
	}
	if _, in := cookieOf(res.header, sessionCookie); in {
		return failed("the password alone gave a session"), nil
	}
	pending, ok := cookieOf(res.header, "__Host-rampart_login")
	if !ok {
		return unsure("the login was answered %d, with neither a session nor a second step", res.status), nil
	}
	e.note("the password alone: %d to %s, no session", res.status, res.header.Get("Location"))
	second := form("/login/factor", url.Values{"how": {"totp"}, "code": {code}})
	second.header.Set("Cookie", "__Host-rampart_login="+pending.Value)
	if res, err = e.do(ctx, second); err != nil {
		return Result{}, err
	}
	if _, in := cookieOf(res.header, sessionCookie); in {
		return failed("a code used before gave a session"), nil
	}
	e.note("the code that was used before: %d", res.status)
	return passed("no session without a fresh code"), nil
}

// enrol turns on a second factor for a logged-in account and returns the code
// that was used for it.
func (e *Env) enrol(ctx context.Context, a *account) (string, error) {
	begin := form("/account/totp", url.Values{})
	begin.header.Set("Cookie", sessionCookie+"="+a.session)
	page, err := e.do(ctx, begin)
	if err != nil {
		return "", err
	}
	if page.status == http.StatusSeeOther {
		begin.method, begin.path, begin.body = http.MethodGet, page.header.Get("Location"), nil
		if page, err = e.do(ctx, begin); err != nil {
			return "", err
		}
	}
	m := secretOnPage.FindSubmatch(page.body)
	if m == nil {
		return "", fmt.Errorf("the enrolment page was answered %d and shows no secret", page.status)
	}
	code, err := totp(strings.ReplaceAll(string(m[1]), " ", ""), time.Now())
	if err != nil {
		return "", err
	}
	confirm := form("/account/totp/confirm", url.Values{"code": {code}})
	confirm.header.Set("Cookie", sessionCookie+"="+a.session)
	res, err := e.do(ctx, confirm)
	if err != nil {
		return "", err
	}
	if res.status >= 400 {
		return "", fmt.Errorf("the enrolment was answered %d: %.300s", res.status, res.body)
	}
	return code, nil
}

// totp is RFC 6238 with SHA-1, 30 seconds and six digits.
func totp(secret string, now time.Time) (string, error) {
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil {
		return "", errors.New("the secret on the page is no base32")
	}
	m := hmac.New(sha1.New, key)
	binary.Write(m, binary.BigEndian, uint64(now.Unix()/30))
	sum := m.Sum(nil)
	at := sum[len(sum)-1] & 15
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:])&0x7fffffff)%1_000_000), nil
}
