package oidc_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/authn/oidc"
	"github.com/rampart-security/rampart/authn/oidc/idptest"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/store/memory"
	"github.com/rampart-security/rampart/store/sqlite"
)

const redirect = "https://shop.example/oidc/corp/callback"

// world is a provider, a relying party and a clock that both go by.
type world struct {
	t     *testing.T
	idp   *idptest.Provider
	rp    *oidc.RelyingParty
	ahead time.Duration
}

func (w *world) now() time.Time { return time.Now().Add(w.ahead) }

func newWorld(t *testing.T, change ...func(*oidc.Options)) *world {
	t.Helper()
	w := &world{t: t}
	w.idp = idptest.New(t, "", w.now)
	w.idp.Redirect = redirect
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	opt := oidc.Options{
		Issuer: w.idp.Issuer, ClientID: idptest.ClientID, Redirect: redirect, Scopes: []string{"openid", "email"},
		Secret:     func(context.Context) (string, error) { return idptest.Secret, nil },
		Algorithms: []jwt.Algorithm{jwt.RS256}, RoleClaim: "groups", Roles: map[string]string{"admins": "admin", "staff": "member"},
		ACR: map[string]string{"urn:mfa": "aal2"}, NeedEmail: true, Transport: w.idp.Transport(), Tickets: db, Log: slog.New(slog.DiscardHandler), Now: w.now,
	}
	for _, c := range change {
		c(&opt)
	}
	w.rp = oidc.New(opt)
	return w
}

// begin starts a login and lets the provider answer it.
func (w *world) begin(s oidc.Start) (query, cookie string) {
	w.t.Helper()
	address, c, err := w.rp.Begin(w.t.Context(), s)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.idp.Visit(address), c.Value
}

func (w *world) login() (oidc.Identity, error) {
	w.t.Helper()
	query, cookie := w.begin(oidc.Start{})
	id, _, err := w.rp.Finish(w.t.Context(), query, cookie)
	return id, err
}

// wantRule demands a refusal by this rule that tells the caller nothing.
func wantRule(t *testing.T, err error, rule string) {
	t.Helper()
	if got := oidc.Rule(err); got != rule {
		t.Errorf("refused by rule %q, want %q (%v)", got, rule, err)
	}
	e, ok := errors.AsType[*rampart.Error](err)
	if !ok || e.Control != "authn.federation" {
		t.Errorf("%v is no refusal of authn.federation", err)
	}
}

func TestLogin(t *testing.T) {
	w := newWorld(t)
	proved := w.now().Add(-time.Minute).Truncate(time.Second)
	w.idp.Say(map[string]any{
		"email": "ann@Example.com", "email_verified": true, "groups": []any{"admins", "strangers", "staff", 7}, "acr": "urn:mfa", "auth_time": proved.Unix(),
	})
	query, cookie := w.begin(oidc.Start{Next: "/orders", Session: "s9"})
	id, start, err := w.rp.Finish(t.Context(), query, cookie)
	if err != nil {
		t.Fatal(err)
	}
	want := oidc.Identity{
		Upstream: session.Upstream{Issuer: w.idp.Issuer, Subject: "u1", SID: "s1"},
		Email:    "ann@Example.com", Roles: []string{"admin", "member"}, ACR: "aal2", AuthTime: proved,
	}
	if diff := cmp.Diff(want, id); diff != "" {
		t.Error(diff)
	}
	if id.Domain() != "example.com" || start.Next != "/orders" || start.Session != "s9" {
		t.Errorf("domain %q, start %+v", id.Domain(), start)
	}
	_, _, err = w.rp.Finish(t.Context(), query, cookie)
	wantRule(t, err, "state")
}

// TestSaysLittle: what the provider does not say counts as the least.
func TestSaysLittle(t *testing.T) {
	w := newWorld(t)
	w.idp.Say(map[string]any{"email": "ann@example.com", "email_verified": false, "acr": "urn:unknown", "groups": "strangers"})
	id, err := w.login()
	if err != nil {
		t.Fatal(err)
	}
	if id.Email != "" || id.Domain() != "" || id.ACR != "aal1" || len(id.Roles) != 0 || w.now().Sub(id.AuthTime) < 23*time.Hour {
		t.Errorf("%+v", id)
	}
}

// TestUserInfo: what the ID token lacks and the file needs is asked for, and
// is believed about the same person alone.
func TestUserInfo(t *testing.T) {
	w := newWorld(t)
	w.idp.Say(map[string]any{"email": "ann@example.com", "email_verified": true, "groups": []string{"staff"}})
	w.idp.Lie(idptest.Lies{Token: func(_, claims map[string]any) {
		delete(claims, "email")
		delete(claims, "groups")
	}})
	id, err := w.login()
	if err != nil || id.Email != "ann@example.com" || !cmp.Equal(id.Roles, []string{"member"}) {
		t.Errorf("%+v, %v", id, err)
	}
	w.idp.Lie(idptest.Lies{Token: func(_, claims map[string]any) {
		delete(claims, "email")
		claims["sub"] = "u2"
	}})
	_, err = w.login()
	wantRule(t, err, "userinfo")
}

// TestHostileTokens: each lie of a provider, or of whoever sits between, is
// refused by the rule that is made for it.
func TestHostileTokens(t *testing.T) {
	token := func(change func(header, claims map[string]any)) idptest.Lies { return idptest.Lies{Token: change} }
	claim := func(name string, value any) idptest.Lies {
		return token(func(_, c map[string]any) { c[name] = value })
	}
	without := func(name string) idptest.Lies { return token(func(_, c map[string]any) { delete(c, name) }) }
	header := func(name string, value any) idptest.Lies {
		return token(func(h, _ map[string]any) { h[name] = value })
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	for _, tc := range []struct {
		name string
		lies idptest.Lies
		rule string
	}{
		{"another issuer", claim("iss", "https://evil.example"), "iss"},
		{"the issuer and a slash", claim("iss", w.idp.Issuer+"/"), "iss"},
		{"another client", claim("aud", "other"), "aud"},
		{"nobody", without("aud"), "aud"},
		{"two clients and no azp", claim("aud", []string{idptest.ClientID, "other"}), "azp"},
		{"issued to another client", claim("azp", "other"), "azp"},
		{"another login's nonce", claim("nonce", "n"), "nonce"},
		{"no nonce", without("nonce"), "nonce"},
		{"another access token", claim("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), "at_hash"},
		{"expired", token(func(_, c map[string]any) { c["iat"], c["exp"] = w.now().Unix()-600, w.now().Unix()-300 }), "exp"},
		{"never expires", without("exp"), "exp"},
		{"expires as text", claim("exp", "tomorrow"), "exp"},
		{"of tomorrow", token(func(_, c map[string]any) { c["iat"], c["exp"] = w.now().Unix()+86400, w.now().Unix()+86700 }), "iat"},
		{"no subject", without("sub"), "sub"},
		{"null subject", claim("sub", nil), "sub"},
		{"signed with the client secret", idptest.Lies{HMAC: []byte(idptest.Secret), Token: func(h, _ map[string]any) { h["alg"] = "HS256" }}, "alg"},
		{"signed by nobody", header("alg", "none"), "alg"},
		{"PS256 where RS256 is pinned", header("alg", "PS256"), "alg"},
		{"a key of its own", token(func(h, _ map[string]any) {
			h["kid"] = "k0"
			h["jwk"] = idptest.JWK("k0", &other.PublicKey)
		}), "kid"},
		{"no key", token(func(h, _ map[string]any) { delete(h, "kid") }), "kid"},
		{"critical extension", header("crit", []string{"x"}), "crit"},
		{"an access token", header("typ", "at+jwt"), "typ"},
		{"a logout token", claim("events", map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}), "events"},
		{"changed after signing", idptest.Lies{Signed: func(s string) string { return s[:len(s)-8] + "AAAAAAAA" }}, "signature"},
		{"padded", idptest.Lies{Signed: func(s string) string { return s + "=" }}, "encoding"},
		{"one segment more", idptest.Lies{Signed: func(s string) string { return s + ".x" }}, "segments"},
		{"larger than a token is", claim("picture", strings.Repeat("x", 9000)), "size"},
		{"e-mail of another type", claim("email", 7), "email"},
		{"no ID token", idptest.Lies{Answer: func(a map[string]any) { delete(a, "id_token") }}, "id_token"},
		{"answer of another issuer", idptest.Lies{Callback: func(q url.Values) { q.Set("iss", "https://evil.example") }}, "iss"},
		{"answer of no issuer", idptest.Lies{Callback: func(q url.Values) { q.Del("iss") }}, "iss"},
		{"refused upstream", idptest.Lies{Callback: func(q url.Values) { q.Del("code"); q.Set("error", "access_denied") }}, "upstream"},
		{"no code", idptest.Lies{Callback: func(q url.Values) { q.Del("code") }}, "code"},
		{"a code of its own making", idptest.Lies{Callback: func(q url.Values) { q.Set("code", "guess") }}, "code"},
		{"two codes", idptest.Lies{Callback: func(q url.Values) { q.Add("code", "second") }}, "query"},
		{"no state", idptest.Lies{Callback: func(q url.Values) { q.Del("state") }}, "state"},
		{"a state of its own making", idptest.Lies{Callback: func(q url.Values) { q.Set("state", "guess") }}, "state"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w.idp.Lie(tc.lies)
			_, err := w.login()
			wantRule(t, err, tc.rule)
		})
	}
	w.idp.Lie(idptest.Lies{})
	if _, err := w.login(); err != nil {
		t.Errorf("the honest provider: %v", err)
	}
}

// TestBrowserBinding: a login belongs to the browser that began it, to one
// provider, and to ten minutes.
func TestBrowserBinding(t *testing.T) {
	w := newWorld(t)
	query, cookie := w.begin(oidc.Start{})
	other, otherCookie := w.begin(oidc.Start{})
	for _, tc := range []struct{ name, query, cookie, rule string }{
		{"no cookie", query, "", "cookie"},
		{"a cookie that is none", query, "AAAA", "cookie"},
		{"another browser", query, otherCookie, "state"},
		{"another browser's answer", other, cookie, "state"},
	} {
		_, _, err := w.rp.Finish(t.Context(), tc.query, tc.cookie)
		t.Log(tc.name)
		wantRule(t, err, tc.rule)
	}
	if _, _, err := w.rp.Finish(t.Context(), query, cookie); err != nil {
		t.Errorf("the browser itself: %v", err)
	}
	w.ahead += 10 * time.Minute
	_, _, err := w.rp.Finish(t.Context(), other, otherCookie)
	wantRule(t, err, "state")
}

// TestReplayedCode: a code that was redeemed, put into another login.
func TestReplayedCode(t *testing.T) {
	w := newWorld(t)
	query, cookie := w.begin(oidc.Start{})
	stolen, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	w.idp.Lie(idptest.Lies{Callback: func(q url.Values) { q.Set("code", stolen.Get("code")) }})
	injected, victim := w.begin(oidc.Start{})
	_, _, err = w.rp.Finish(t.Context(), injected, victim) // PKCE: the code belongs to another challenge
	wantRule(t, err, "code")
	_, _, err = w.rp.Finish(t.Context(), query, cookie) // and is spent
	wantRule(t, err, "code")
}

// TestFreshness: a provider that was asked for a fresh proof must bring one.
func TestFreshness(t *testing.T) {
	w := newWorld(t)
	address, _, err := w.rp.Begin(t.Context(), oidc.Start{MaxAge: time.Minute, ACR: "aal2"})
	if err != nil || !strings.Contains(address, "max_age=60") || !strings.Contains(address, "acr_values=urn%3Amfa") {
		t.Errorf("asked by %s, %v", address, err)
	}
	for _, tc := range []struct {
		name string
		says map[string]any
		rule string
	}{
		{"does not say when", nil, "auth_time"},
		{"an hour ago", map[string]any{"auth_time": w.now().Add(-time.Hour).Unix()}, "auth_time"},
		{"just now", map[string]any{"auth_time": w.now().Unix()}, ""},
	} {
		w.idp.Say(tc.says)
		query, cookie := w.begin(oidc.Start{MaxAge: 5 * time.Minute})
		_, _, err := w.rp.Finish(t.Context(), query, cookie)
		t.Log(tc.name)
		if tc.rule != "" {
			wantRule(t, err, tc.rule)
		} else if err != nil {
			t.Error(err)
		}
	}
}

// TestHostileMetadata: nobody is sent anywhere on the word of a document that
// does not fit.
func TestHostileMetadata(t *testing.T) {
	for _, tc := range []struct {
		name string
		lie  func(doc map[string]any)
	}{
		{"another issuer", func(d map[string]any) { d["issuer"] = "https://evil.example" }},
		{"no issuer", func(d map[string]any) { delete(d, "issuer") }},
		{"plain http", func(d map[string]any) { d["token_endpoint"] = "http://idp.example/token" }},
		{"no keys", func(d map[string]any) { delete(d, "jwks_uri") }},
		{"a script", func(d map[string]any) { d["authorization_endpoint"] = "javascript:alert(1)" }},
		{"somebody's password", func(d map[string]any) { d["jwks_uri"] = "https://a:b@idp.example/keys" }},
		{"plain PKCE alone", func(d map[string]any) { d["code_challenge_methods_supported"] = []string{"plain"} }},
		{"a list of another kind", func(d map[string]any) { d["code_challenge_methods_supported"] = "S256" }},
		{"too large", func(d map[string]any) { d["x"] = strings.Repeat("x", 300<<10) }},
		{"too deep", func(d map[string]any) { d["x"] = json.RawMessage(strings.Repeat("[", 20) + strings.Repeat("]", 20)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.idp.Lie(idptest.Lies{Metadata: tc.lie})
			_, _, err := w.rp.Begin(t.Context(), oidc.Start{})
			wantRule(t, err, "discovery")
		})
	}
}

// TestHostileKeys: a key set that is none makes no login, and a flood of
// unknown kids reaches the provider now and then.
func TestHostileKeys(t *testing.T) {
	twice := func(w http.ResponseWriter, honest []byte) {
		var set struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := json.Unmarshal(honest, &set); err != nil {
			t.Error(err)
		}
		set.Keys = append(set.Keys, set.Keys[0])
		json.NewEncoder(w).Encode(set)
	}
	for _, tc := range []struct {
		name string
		lie  func(w http.ResponseWriter, honest []byte)
	}{
		{"failing", func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusInternalServerError) }},
		{"huge", func(w http.ResponseWriter, honest []byte) {
			w.Write(honest[:len(honest)-1])
			w.Write([]byte(`,"x":"` + strings.Repeat("x", 300<<10) + `"}`))
		}},
		{"one kid twice", twice},
		{"a shared secret", func(w http.ResponseWriter, _ []byte) {
			w.Write([]byte(`{"keys":[{"kty":"oct","kid":"k1","k":"AAAA"}]}`))
		}},
		{"sent elsewhere", func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Location", "https://evil.example/keys")
			w.WriteHeader(http.StatusFound)
		}},
		{"no JSON", func(w http.ResponseWriter, _ []byte) { w.Write([]byte("<html>")) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.idp.Lie(idptest.Lies{Keys: tc.lie})
			if _, err := w.login(); rampart.KindOf(err) != rampart.Unavailable {
				t.Errorf("login with such keys: %v", err)
			}
		})
	}
	w := newWorld(t)
	if _, err := w.login(); err != nil {
		t.Fatal(err)
	}
	w.idp.Lie(idptest.Lies{Token: func(h, _ map[string]any) { h["kid"] = rand.Text() }})
	for range 20 {
		_, err := w.login()
		wantRule(t, err, "kid")
	}
	if n := w.idp.Hits("/keys"); n > 2 {
		t.Errorf("20 unknown kids made %d fetches", n-1)
	}
}

// TestWithdrawnKey: a key that its provider withdrew opens nothing five
// minutes later.
func TestWithdrawnKey(t *testing.T) {
	w := newWorld(t)
	if _, err := w.login(); err != nil {
		t.Fatal(err)
	}
	stolen := w.idp.LogoutToken("before")
	w.idp.Rotate("k2")
	if _, err := w.login(); err != nil {
		t.Errorf("with the new key: %v", err)
	}
	w.ahead += 5*time.Minute + time.Second
	w.idp.Lie(idptest.Lies{Token: func(h, _ map[string]any) { h["kid"] = "k1" }})
	_, err := w.login()
	wantRule(t, err, "kid")
	err = w.rp.Logout(t.Context(), stolen, func(context.Context, session.Upstream) error { return nil })
	if err == nil {
		t.Error("a token of the withdrawn key ended a session")
	}
}

// TestSlowProvider: whoever answers slowly is given up on.
func TestSlowProvider(t *testing.T) {
	w := newWorld(t)
	query, cookie := w.begin(oidc.Start{})
	done := make(chan struct{})
	defer close(done)
	w.idp.Lie(idptest.Lies{Keys: func(http.ResponseWriter, []byte) { <-done }})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := w.rp.Finish(ctx, query, cookie); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("%v", err)
	}
}

// TestHangingProvider: one that takes a question and never answers costs each
// login three seconds of one fetch at most, and nothing until it is asked again.
func TestHangingProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := &hanging{}
		rp := oidc.New(oidc.Options{
			Issuer: "https://idp.example", ClientID: idptest.ClientID, Redirect: redirect, Scopes: []string{"openid"}, Algorithms: []jwt.Algorithm{jwt.RS256},
			Transport: line, Tickets: memory.New(), Log: slog.New(slog.DiscardHandler),
		})
		begun := time.Now()
		ask := func(ctx context.Context, answered, retry time.Duration) {
			t.Helper()
			_, _, err := rp.Begin(ctx, oidc.Start{})
			d, ok := errors.AsType[*problem.Details](err)
			if !ok || rampart.KindOf(err) != rampart.Unavailable || d.RetryAfter != retry {
				t.Errorf("%v with %+v, want to be tried again after %v", err, d, retry)
			}
			if got := time.Since(begun); got != answered {
				t.Errorf("answered after %v, want %v", got, answered)
			}
		}
		left, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		var all sync.WaitGroup
		all.Go(func() { ask(left, time.Second, 10*time.Second) })
		for range 50 {
			all.Go(func() { ask(t.Context(), 3*time.Second, 10*time.Second) })
		}
		time.Sleep(2 * time.Second)
		all.Go(func() { ask(t.Context(), 3*time.Second, 10*time.Second) })
		all.Wait()
		time.Sleep(time.Second)
		ask(t.Context(), 4*time.Second, 10*time.Second)
		time.Sleep(11 * time.Second) // the fetch was given up after ten
		ask(t.Context(), 15*time.Second, 5*time.Second)
		if n := line.tries.Load(); n != 1 {
			t.Errorf("the provider was asked %d times", n)
		}
		time.Sleep(5 * time.Second)
		ask(t.Context(), 23*time.Second, 10*time.Second)
		if n := line.tries.Load(); n != 2 {
			t.Errorf("the provider was asked %d times, want once more", n)
		}
		time.Sleep(10 * time.Second) // nothing goes on
	})
}

// hanging is a line to a provider that never answers.
type hanging struct{ tries atomic.Int64 }

func (h *hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	h.tries.Add(1)
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TestOutage: a provider that is silent is not asked at every click, and one
// that we know may be silent for a while.
func TestOutage(t *testing.T) {
	down := &switched{}
	w := newWorld(t, func(o *oidc.Options) { down.next, o.Transport = o.Transport, down })
	down.off = true
	for range 5 {
		if _, _, err := w.rp.Begin(t.Context(), oidc.Start{}); rampart.KindOf(err) != rampart.Unavailable {
			t.Fatalf("%v", err)
		}
	}
	if down.tries != 1 {
		t.Errorf("a silent provider was asked %d times at once", down.tries)
	}
	down.off = false
	w.ahead += 11 * time.Second
	left, leave := context.WithCancel(t.Context())
	leave()
	if _, _, err := w.rp.Begin(left, oidc.Start{}); err == nil {
		t.Error("a login of a browser that has left")
	}
	w.begin(oidc.Start{}) // which stops nobody else
	down.off = true
	w.ahead += 2 * time.Hour
	if _, _, err := w.rp.Begin(t.Context(), oidc.Start{}); err != nil {
		t.Errorf("known an hour ago: %v", err)
	}
	w.ahead += 24 * time.Hour
	if _, _, err := w.rp.Begin(t.Context(), oidc.Start{}); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("known a day ago: %v", err)
	}
}

// switched is a line to the provider that can be cut.
type switched struct {
	next  http.RoundTripper
	off   bool
	tries int
}

func (s *switched) RoundTrip(r *http.Request) (*http.Response, error) {
	s.tries++
	if s.off {
		return nil, errors.New("line is cut")
	}
	return s.next.RoundTrip(r)
}

// TestLogout: the sessions that a logout token means are ended, once.
func TestLogout(t *testing.T) {
	w := newWorld(t)
	type ended = session.Upstream
	out := func(token string) (got []ended, err error) {
		err = w.rp.Logout(t.Context(), token, func(_ context.Context, u session.Upstream) error {
			got = append(got, u)
			return nil
		})
		return got, err
	}
	good := w.idp.LogoutToken("j1")
	got, err := out(good)
	if err != nil || !cmp.Equal(got, []ended{{Issuer: w.idp.Issuer, Subject: "u1", SID: "s1"}}) {
		t.Fatalf("%+v, %v", got, err)
	}
	got, err = out(good)
	wantRule(t, err, "jti")
	if len(got) != 0 {
		t.Error("a replayed token ended a session")
	}
	claim := func(name string, value any) idptest.Lies {
		return idptest.Lies{Token: func(_, c map[string]any) {
			c[name] = value
			if value == nil {
				delete(c, name)
			}
		}}
	}
	for i, tc := range []struct {
		name string
		lies idptest.Lies
		rule string
	}{
		{"with a nonce", claim("nonce", "n"), "nonce"},
		{"an ID token's type", idptest.Lies{Token: func(h, _ map[string]any) { h["typ"] = "JWT" }}, "typ"},
		{"no event", claim("events", nil), "events"},
		{"another event", claim("events", map[string]any{"x": map[string]any{}}), "events"},
		{"another client", claim("aud", "other"), "aud"},
		{"another issuer", claim("iss", "https://evil.example"), "iss"},
		{"no id", claim("jti", nil), "jti"},
		{"nobody", idptest.Lies{Token: func(_, c map[string]any) { delete(c, "sub"); delete(c, "sid") }}, "sid"},
		{"old", claim("iat", w.now().Unix()-86400), "lifetime"},
		{"signed with the client secret", idptest.Lies{HMAC: []byte(idptest.Secret), Token: func(h, _ map[string]any) { h["alg"] = "HS256" }}, "alg"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w.idp.Lie(tc.lies)
			got, err := out(w.idp.LogoutToken("k" + string(rune('a'+i))))
			wantRule(t, err, tc.rule)
			if len(got) != 0 {
				t.Error("a refused token ended a session")
			}
		})
	}
	w.idp.Lie(idptest.Lies{})
	failing := w.idp.LogoutToken("j2")
	broken := errors.New("store is down")
	if err := w.rp.Logout(t.Context(), failing, func(context.Context, session.Upstream) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if _, err := out(failing); err != nil {
		t.Errorf("a token whose end failed may come again: %v", err)
	}
}

// TestProviderIsOne: another relying party, which we did not write, signs in at
// the test provider, so that what is refused above is the lie and not the
// provider.
func TestProviderIsOne(t *testing.T) {
	w := newWorld(t)
	ctx := gooidc.ClientContext(t.Context(), &http.Client{Transport: w.idp.Transport()})
	p, err := gooidc.NewProvider(ctx, w.idp.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	client := oauth2.Config{ClientID: idptest.ClientID, ClientSecret: idptest.Secret, Endpoint: p.Endpoint(), RedirectURL: redirect, Scopes: []string{"openid"}}
	verifier := oauth2.GenerateVerifier()
	q, err := url.ParseQuery(w.idp.Visit(client.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier), gooidc.Nonce("n"))))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := client.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := tokens.Extra("id_token").(string)
	id, err := p.Verifier(&gooidc.Config{ClientID: idptest.ClientID}).Verify(ctx, raw)
	if err != nil {
		t.Fatal(err)
	}
	if id.Nonce != "n" || id.VerifyAccessToken(tokens.AccessToken) != nil {
		t.Error("nonce or access token is not the login's")
	}
}
