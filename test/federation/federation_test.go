package federation

import (
	"crypto/sha256"
	"encoding/base64"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/oidc"
	"github.com/rampart-security/rampart/authn/oidc/idptest"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// own starts a system in front of our own small provider.
func own(t *testing.T, keys string) (*house, *idptest.Provider) {
	t.Helper()
	idp := idptest.New(t, "https://example.com", time.Now)
	idp.Redirect = edge + "/oidc/corp/callback"
	h := open(t, idp.Issuer, idp.Server.Listener.Addr().String(), idp.CA(), keys)
	h.secret(idptest.Secret)
	return h, idp
}

const enter = "/login/oidc/corp?next=%2Fsession"

// wantRefused demands that the browser is nobody and that the newest record of
// action says why.
func wantRefused(t *testing.T, b *browser, p page, action, rule string) {
	t.Helper()
	if p.StatusCode < 400 || b.who().Subject != "" {
		t.Errorf("the browser arrives at %s (%d) as %q", p.Request.URL, p.StatusCode, b.who().Subject)
	}
	e := b.h.last(action)
	if e.Outcome != audit.Refused || e.Control != "authn.federation" || rule != "" && e.Detail["rule"] != rule {
		t.Errorf("%s is on record as %s by %s, rule %q, want %q (%s)", action, e.Outcome, e.Control, e.Detail["rule"], rule, e.Detail["error"])
	}
	if rule != "" && strings.Contains(p.text, rule+" ") {
		t.Errorf("the page tells the rule: %s", p.text)
	}
}

// TestFirstLoginMakesAccount: with link: create and a verified address in one
// of the domains. The account has the mapped roles of today, and no other.
func TestFirstLoginMakesAccount(t *testing.T) {
	t.Parallel()
	h, idp := own(t, `link: create, domains: [corp.example], roles: { claim: groups, map: { admins: customer, readers: viewer } }, acr: { "urn:mfa": aal2 }`)
	b := h.browser()
	for _, tc := range []struct {
		name   string
		claims map[string]any
	}{
		{"no address", nil},
		{"an address nobody verified", map[string]any{"email": "ann@corp.example", "email_verified": false}},
		{"verified as text", map[string]any{"email": "ann@corp.example", "email_verified": "true"}},
		{"another domain", map[string]any{"email": "ann@evil.example", "email_verified": true}},
		{"the domain inside another", map[string]any{"email": "ann@corp.example.evil.example", "email_verified": true}},
	} {
		idp.Say(tc.claims)
		p := b.get(enter)
		t.Log(tc.name)
		wantRefused(t, b, p, "federation.login", "")
	}
	idp.Say(map[string]any{"email": "ann@corp.example", "email_verified": true, "groups": []string{"admins", "strangers"}, "acr": "urn:mfa"})
	b.get(enter)
	first := b.who()
	if !strings.HasPrefix(first.Subject, "user:corp-") || !slices.Equal(first.Roles, []string{"customer"}) {
		t.Fatalf("signed in as %+v", first)
	}
	if e := h.last("session.login"); e.Control != "authn.federation" || e.Detail["acr"] != "aal2" || e.Detail["amr"] != "fed" {
		t.Errorf("on record: %+v", e)
	}
	idp.Say(map[string]any{"groups": "readers", "acr": "", "email": "renamed@elsewhere.example"})
	other := h.browser()
	other.get(enter)
	if again := other.who(); again.Subject != first.Subject || !slices.Equal(again.Roles, []string{"viewer"}) {
		t.Errorf("the same person again is %+v", again)
	}
	if b.who().Subject != "" {
		t.Error("a session outlives the role that it was opened with")
	}
	if p := other.post("/login", url.Values{"username": {strings.TrimPrefix(first.Subject, "user:")}, "password": {""}}); p.StatusCode != http.StatusUnauthorized {
		t.Errorf("a password for an account without one: %s", p.Status)
	}
}

// TestRolesOfTodayLetAppsIn: a login that changes the account's roles ends what
// was issued under the old ones. It is not among that itself, though the
// provider saw the person before.
func TestRolesOfTodayLetAppsIn(t *testing.T) {
	t.Parallel()
	h, idp := own(t, `link: create, roles: { claim: groups, map: { staff: customer, readers: viewer } }`)
	const back = "https://app.example/cb"
	h.Admin(wire.AdminClients, wire.Client{ID: "app", Principal: "customer", Redirects: []string{back}}, nil)
	for _, group := range []string{"staff", "readers"} { // the first login makes the account
		idp.Say(map[string]any{"groups": []string{group}, "auth_time": time.Now().Add(-10 * time.Minute).Unix()})
		b := h.browser()
		b.get(enter)
		verifier := strings.Repeat("v", 43)
		sum := sha256.Sum256([]byte(verifier))
		b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		p := b.get("/oauth2/authorize?" + url.Values{
			"response_type": {"code"}, "client_id": {"app"}, "redirect_uri": {back}, "scope": {"orders:read"},
			"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
		}.Encode())
		to, err := p.Location()
		must(t, err)
		p = b.post("/oauth2/token", url.Values{
			"grant_type": {"authorization_code"}, "client_id": {"app"}, "redirect_uri": {back}, "code": {to.Query().Get("code")}, "code_verifier": {verifier},
		})
		if p.StatusCode != http.StatusOK || !strings.Contains(p.text, "access_token") {
			t.Errorf("%s: the app gets %s: %s", group, p.Status, p.text)
		}
	}
}

// TestEmailLinksNothing: whoever controls a mailbox of the same name is a
// stranger until a person who is signed in says otherwise.
func TestEmailLinksNothing(t *testing.T) {
	t.Parallel()
	h, idp := own(t, "link: linked_only")
	h.user("ann", "customer")
	idp.Say(map[string]any{"sub": "ann", "email": "ann@corp.example", "email_verified": true, "preferred_username": "ann"})
	b := h.browser()
	wantRefused(t, b, b.get(enter), "federation.login", "")
}

// TestLinking: ann links what she is at the provider; eve, who is signed in
// too, gets at nothing of it.
func TestLinking(t *testing.T) {
	t.Parallel()
	h, _ := own(t, "link: linked_only")
	h.user("ann", "customer")
	h.user("eve", "customer")
	ann, eve := h.browser(), h.browser()
	ann.signIn("ann")
	eve.signIn("eve")

	p := ann.post("/account/links/corp", nil)
	if p.StatusCode != http.StatusOK || !strings.Contains(p.text, "Corp") || !strings.Contains(p.text, "/account/links/corp/unlink") {
		t.Fatalf("linking: %s at %s\n%s", p.Status, p.Request.URL, p.text)
	}
	b := h.browser()
	b.get(enter)
	if who := b.who(); who.Subject != "user:ann" {
		t.Fatalf("signed in by the link as %q", who.Subject)
	}

	p = eve.post("/account/links/corp", nil)
	if p.StatusCode != http.StatusConflict || !strings.Contains(p.text, "belongs to another account") {
		t.Errorf("linked twice: %s", p.Status)
	}
	if e := h.last("federation.link"); e.Outcome != audit.Refused || e.Subject != "user:eve" {
		t.Errorf("on record: %+v", e)
	}
	eve.post("/account/links/corp/unlink", url.Values{"upstream": {"u1"}})
	if b := h.browser(); b.get(enter).StatusCode != http.StatusOK || b.who().Subject != "user:ann" {
		t.Error("eve took ann's link away")
	}

	ann.post("/account/links/corp/unlink", url.Values{"upstream": {"u1"}})
	if b.who().Subject != "" {
		t.Error("a session outlives the link that opened it")
	}
	if ann.who().Subject != "user:ann" {
		t.Error("the session that unlinked is gone")
	}
	b = h.browser()
	wantRefused(t, b, b.get(enter), "federation.login", "")
}

// TestLinkingCannotBeHijacked: a link that eve began ends in no browser but
// hers, and a login that she began links nothing.
func TestLinkingCannotBeHijacked(t *testing.T) {
	t.Parallel()
	h, _ := own(t, "link: linked_only")
	h.user("ann", "customer")
	h.user("eve", "customer")
	ann, eve := h.browser(), h.browser()
	ann.signIn("ann")
	eve.signIn("eve")

	// Eve stops at the provider's answer and lets ann open it.
	answer := eve.stopAtCallback("/account/links/corp", true)
	p := ann.get(answer)
	if p.StatusCode < 400 {
		t.Errorf("ann opens eve's answer: %s", p.Status)
	}
	if e := h.last("federation.login"); e.Detail["rule"] != "cookie" {
		t.Errorf("refused by %q", e.Detail["rule"])
	}

	// Eve plants her half of the login in ann's browser, too.
	answer = eve.stopAtCallback("/account/links/corp", true)
	ann.take(eve, oidc.CookieName)
	ann.get(answer)
	if e := h.last("federation.link"); e.Outcome != audit.Refused || !strings.Contains(e.Detail["error"], "session that asked") {
		t.Errorf("on record: %+v", e)
	}
	b := h.browser()
	wantRefused(t, b, b.get(enter), "federation.login", "")

	// From another site nobody begins a link.
	req, err := http.NewRequest(http.MethodPost, edge+"/account/links/corp", strings.NewReader(""))
	must(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if p := ann.do(req); p.StatusCode != http.StatusForbidden {
		t.Errorf("a link begun by another site: %s", p.Status)
	}
}

// TestHostileProvider: lies in the way between browser, edge and provider. The
// relying party's own tests have all of them; these show that the edge hands
// on what they need and shows what they must not.
func TestHostileProvider(t *testing.T) {
	t.Parallel()
	h, idp := own(t, "link: create")
	for _, tc := range []struct {
		name, rule string
		lies       idptest.Lies
	}{
		{"another client's token", "aud", idptest.Lies{Token: func(_, c map[string]any) { c["aud"] = "other" }}},
		{"another login's token", "nonce", idptest.Lies{Token: func(_, c map[string]any) { c["nonce"] = "n" }}},
		{"signed with the client secret", "alg", idptest.Lies{HMAC: []byte(idptest.Secret), Token: func(h, _ map[string]any) { h["alg"] = "HS256" }}},
		{"mixed up with another issuer", "iss", idptest.Lies{Callback: func(q url.Values) { q.Set("iss", "https://other.example") }}},
		{"a code of somebody else", "code", idptest.Lies{Callback: func(q url.Values) { q.Set("code", "guess") }}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			idp.Lie(tc.lies)
			b := h.browser()
			wantRefused(t, b, b.get(enter), "federation.login", tc.rule)
		})
	}
	idp.Lie(idptest.Lies{})
	b := h.browser()
	answer := b.stopAtCallback(enter, false)
	other := h.browser()
	wantRefused(t, other, other.get(answer), "federation.login", "cookie")
	if b.get(answer); b.who().Subject == "" {
		t.Error("the browser that began the login is refused")
	}
	fresh := h.browser()
	fresh.take(b, oidc.CookieName)
	wantRefused(t, fresh, fresh.get(answer), "federation.login", "")
}

// TestEndpointElsewhere: a provider's document leads us to no host that the
// file does not name.
func TestEndpointElsewhere(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"https://169.254.169.254/token", "https://internal.example/token", "https://example.com:8444/token"} {
		h, idp := own(t, "link: create")
		idp.Lie(idptest.Lies{Metadata: func(d map[string]any) { d["token_endpoint"] = address }})
		b := h.browser()
		if p := b.get(enter); p.StatusCode != http.StatusServiceUnavailable || b.who().Subject != "" {
			t.Errorf("%s: %s", address, p.Status)
		}
		if e := h.last("federation.login"); !strings.Contains(e.Detail["error"], "not in hosts") {
			t.Errorf("on record: %s", e.Detail["error"])
		}
	}
}

// TestUpstreamLogout: the provider says that the person left, and the session
// is refused at the edge; a token that was changed or that came before ends
// nothing.
func TestUpstreamLogout(t *testing.T) {
	t.Parallel()
	h, idp := own(t, "link: create")
	b := h.browser()
	b.get(enter)
	atEdge := func() bool { return b.get("/stock/").StatusCode != http.StatusUnauthorized } // the gateway's own word
	if b.who().Subject == "" || !atEdge() {
		t.Fatal("not signed in")
	}
	out := func(token string) int {
		t.Helper()
		// The provider is no browser: it has no cookies and no fetch metadata.
		req, err := http.NewRequest(http.MethodPost, edge+"/oidc/corp/backchannel-logout", strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
		must(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return h.browser().do(req).StatusCode
	}
	for name, lies := range map[string]idptest.Lies{
		"with a nonce":    {Token: func(_, c map[string]any) { c["nonce"] = "n" }},
		"of another type": {Token: func(h, _ map[string]any) { h["typ"] = "JWT" }},
		"changed":         {Signed: func(s string) string { return s[:len(s)-6] + "AAAAAA" }},
	} {
		idp.Lie(lies)
		if code := out(idp.LogoutToken("x-" + name)); code != http.StatusBadRequest || b.who().Subject == "" {
			t.Errorf("%s: %d, signed in %v", name, code, b.who().Subject != "")
		}
	}
	idp.Lie(idptest.Lies{})
	token := idp.LogoutToken("j1")
	if code := out(token); code != http.StatusOK || b.who().Subject != "" {
		t.Fatalf("logout: %d, signed in %v", code, b.who().Subject != "")
	}
	h.Until("the edge refuses the session", func() bool { return !atEdge() })
	if e := h.last("federation.logout"); e.Outcome != audit.Allowed || e.Detail["sessions"] != "1" {
		t.Errorf("on record: %+v", e)
	}
	b.get(enter)
	if code := out(token); code != http.StatusBadRequest || b.who().Subject == "" {
		t.Errorf("a replayed logout: %d, signed in %v", code, b.who().Subject != "")
	}
	if e := h.last("federation.logout"); e.Detail["rule"] != "jti" {
		t.Errorf("refused by %q", e.Detail["rule"])
	}
}

// TestProveAgain: who has nothing but a provider proves themselves there, in
// the session that they are in; a proof from before is none.
func TestProveAgain(t *testing.T) {
	t.Parallel()
	h, idp := own(t, `link: create, acr: { "urn:mfa": aal2 }`)
	b := h.browser()
	if p := b.get("/login?next=%2Fsession"); !strings.Contains(p.text, `href="/login/oidc/corp?next=%2Fsession"`) {
		t.Errorf("the login page offers no provider:\n%s", p.text)
	}
	idp.Say(map[string]any{"auth_time": time.Now().Add(-time.Hour).Unix()})
	b.get(enter)
	who, logins := b.who(), h.count("session.login")
	p := b.post("/account/links/corp/unlink", url.Values{"upstream": {"u1"}})
	m := regexp.MustCompile(`href="(/login/oidc/corp\?[^"]+)"`).FindStringSubmatch(p.text)
	if m == nil {
		t.Fatalf("an hour old, the login may unlink: %s at %s\n%s", p.Status, p.Request.URL, p.text)
	}
	again := html.UnescapeString(m[1])
	b.get(again)
	if e := h.last("federation.login"); e.Detail["rule"] != "auth_time" || b.who().Subject != who.Subject {
		t.Errorf("an old proof where a fresh one was asked for: rule %q, signed in as %q", e.Detail["rule"], b.who().Subject)
	}
	idp.Say(map[string]any{"auth_time": time.Now().Unix(), "acr": "urn:mfa"})
	if p := b.get(again); p.Request.URL.Path != "/account/links" || h.count("session.login") != logins {
		t.Errorf("after the proof: %s, %d new sessions", p.Request.URL, h.count("session.login")-logins)
	}
	if e := h.last("session.step_up"); e.Control != "authn.step_up" || e.Detail["amr"] != "fed" || e.Detail["acr"] != "aal2" {
		t.Errorf("on record: %+v", e)
	}
	p = b.post("/account/links/corp/unlink", url.Values{"upstream": {"u1"}})
	if p.StatusCode != http.StatusConflict || !strings.Contains(p.text, "only way in") {
		t.Errorf("the last way in was taken away: %s", p.Status)
	}
}

// TestDisabledAccount: a provider opens no account that is not in use.
func TestDisabledAccount(t *testing.T) {
	t.Parallel()
	h, _ := own(t, "link: create")
	b := h.browser()
	b.get(enter)
	name := strings.TrimPrefix(b.who().Subject, "user:")
	h.Admin(wire.AdminUsers+"/"+name+wire.SubDisable, struct{}{}, nil)
	b = h.browser()
	wantRefused(t, b, b.get(enter), "federation.login", "")
}

// stopAtCallback begins at address and returns the provider's answer without
// opening it.
func (b *browser) stopAtCallback(address string, post bool) string {
	b.h.t.Helper()
	follow := b.http.CheckRedirect
	defer func() { b.http.CheckRedirect = follow }()
	answer := ""
	b.http.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), edge+"/oidc/corp/callback") {
			answer = r.URL.String()
			return http.ErrUseLastResponse
		}
		return nil
	}
	if post {
		b.post(address, nil)
	} else {
		b.get(address)
	}
	if answer == "" {
		b.h.t.Fatal("the browser never came to the callback")
	}
	return answer
}

// take copies a cookie of another browser.
func (b *browser) take(from *browser, name string) {
	at, err := url.Parse(edge)
	must(b.h.t, err)
	for _, c := range from.http.Jar.Cookies(at) {
		if c.Name == name {
			b.http.Jar.SetCookies(at, []*http.Cookie{{Name: c.Name, Value: c.Value, Path: "/", Secure: true}})
		}
	}
}
