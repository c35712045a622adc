package verify

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// anyAuthn are the controls that may refuse somebody who has not said who they
// are.
var anyAuthn = []string{"authn.session", "authn.jwt", "authn.api_key"}

func authnProbes() []Probe {
	return []Probe{
		{ID: "P-010", Title: "every operation refuses a caller without credentials", SeedRow: "checklist: AuthN at the edge", Controls: []string{"authn.session"},
			Proves: []string{"owasp2021:A07", "owasp2021:A01", "api2023:API2"}, Vantage: fromOutside, Safety: safe, Run: anonymous,
			Blind: "no plane can serve without knowing who asks"},
		{ID: "P-011", Title: "forged access tokens: none, HS256 with the public key, foreign key, altered, wrong audience", SeedRow: "stride: spoofing", Controls: []string{"authn.jwt"},
			Proves: []string{"owasp2021:A07", "owasp2021:A02", "api2023:API2"}, Vantage: fromOutside, Safety: safe, Needs: needJWT, Run: forgedTokens,
			Blind: "no plane accepts tokens without verifying them"},
		{ID: "P-012", Title: "a wrong password tells nothing: same answer and cost for an unknown name", SeedRow: "owasp: A07", Controls: []string{"authn.password"},
			Proves: []string{"owasp2021:A07"}, Vantage: fromOutside, Safety: safe, Run: wrongPassword,
			Blind: "login cannot do without the compare"},
		{ID: "P-013", Title: "guessing a password is cut short, and its owner is not locked out", SeedRow: "checklist: alert on authentication failures", Controls: []string{"limit.login"},
			Proves: []string{"owasp2021:A07", "api2023:API4"}, Vantage: fromOutside, Safety: intrusive, Run: bruteForce},
		{ID: "P-014", Title: "a session is dead within a second of logout, in every plane", SeedRow: "authn: sessions", Controls: []string{"authn.session"},
			Proves: []string{"owasp2021:A07"}, Vantage: asUser, Safety: safe, Needs: needMethod("session"), Run: logout,
			Blind: "no plane can serve without knowing who asks"},
		{ID: "P-015", Title: "a planted session id is not adopted, and the cookie is bound to this host", SeedRow: "authn: sessions", Controls: []string{"authn.session"},
			Proves: []string{"owasp2021:A07"}, Vantage: fromOutside, Safety: safe, Needs: needMethod("session"), Run: fixation,
			Blind: "login always makes a new session"},
		{ID: "P-016", Title: "a cross-site request that rides on a browser's cookie is refused", SeedRow: "owasp: A01", Controls: []string{"authn.csrf"},
			Proves: []string{"owasp2021:A01"}, Vantage: fromOutside, Safety: safe, Needs: needMethod("session"), Run: crossSite},
		{ID: "P-017", Title: "a refresh token used twice ends everything issued with it", SeedRow: "checklist: token refresh", Controls: []string{"token.rotation"},
			Proves: []string{"owasp2021:A07"}, Vantage: fromOutside, Safety: safe, Needs: needJWT, Run: refreshReuse,
			Blind: "rotation is how refresh works; it cannot be switched off"},
		{ID: "P-018", Title: "an access token lives 15 to 60 minutes", SeedRow: "checklist: short-lived tokens", Controls: []string{"authn.jwt"},
			Proves: []string{"owasp2021:A07"}, Vantage: asUser, Safety: safe, Needs: needJWT, Run: tokenLife,
			Blind: "the life of tokens is no switch"},
		{ID: "P-019", Title: "a made-up API key is refused, and a real one of another kind too", SeedRow: "checklist: AuthN at the edge", Controls: []string{"authn.api_key"},
			Proves: []string{"owasp2021:A07"}, Vantage: fromOutside, Safety: safe, Needs: needMethod("api_key", "jwt"), Run: madeUpKeys,
			Blind: "without the key another flow's credentials are asked for"},
	}
}

func anonymous(ctx context.Context, e *Env) (Result, error) {
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	who, err := e.visitor(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustEnter(ctx, "with credentials", r.with(who)); err != nil {
		return Result{}, err
	}
	var attacks []attack
	for _, o := range e.ops {
		path, err := o.url(nil)
		if err != nil {
			return Result{}, err
		}
		req := request{method: o.method, path: path}
		if o.body != nil {
			req.body = []byte("{}")
		}
		attacks = append(attacks, attack{o.method + " " + o.path, req, anyAuthn})
	}
	return e.refusedAll(ctx, attacks)
}

func forgedTokens(ctx context.Context, e *Env) (Result, error) {
	flow, _ := jwtEntry(e.sys)
	r, op, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	who, err := e.enter(ctx, e.facts(), flow)
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustEnter(ctx, "the genuine token", r.with(who)); err != nil {
		return Result{}, err
	}
	forgeries, err := e.forgeries(ctx, who, op.service)
	if err != nil {
		return Result{}, err
	}
	var attacks []attack
	for _, f := range forgeries {
		attacks = append(attacks, attack{f.name, r.with(who).set("Authorization", "Bearer "+f.token), []string{"authn.jwt"}})
	}
	return e.refusedAll(ctx, attacks)
}

type forgery struct{ name, token string }

// forgeries makes tokens that look like a genuine one.
func (e *Env) forgeries(ctx context.Context, who caller, service string) ([]forgery, error) {
	genuine, err := parseJWS(who.tokens.Access)
	if err != nil {
		return nil, err
	}
	keys, err := e.mustPass(ctx, "GET /oauth2/jwks", get("/oauth2/jwks"))
	if err != nil {
		return nil, err
	}
	point, err := publicPoint(keys.body)
	if err != nil {
		return nil, err
	}
	foreignKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	inside, err := e.tokenOf(ctx, who, service)
	if err != nil {
		return nil, err
	}
	longer := genuine.claim("exp", genuine.number("exp")+86400)
	var out []forgery
	for _, f := range []struct {
		name  string
		forge func() (string, error)
	}{
		{"alg none", genuine.unsigned},
		{"HS256 with the public key", func() (string, error) { return genuine.hs256(point) }},
		{"HS256 with the key set", func() (string, error) { return genuine.hs256(keys.body) }},
		{"a foreign key", func() (string, error) { return genuine.es256(foreignKey) }},
		{"a foreign key and audience", func() (string, error) { return genuine.claim("aud", "https://elsewhere.example/").es256(foreignKey) }},
		{"an expired one", func() (string, error) { return genuine.claim("exp", genuine.number("iat")-3600).es256(foreignKey) }},
		{"a longer life under the old signature", func() (string, error) { return withPayload(who.tokens.Access, longer) }},
		{"another subject under the old signature", func() (string, error) { return withPayload(who.tokens.Access, genuine.claim("sub", "user:admin")) }},
		{"a genuine token for another audience", func() (string, error) { return inside, nil }},
		{"no token at all", func() (string, error) { return "x", nil }},
	} {
		token, err := f.forge()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		out = append(out, forgery{f.name, token})
	}
	return out, nil
}

// tokenOf plays the gateway: it has somebody's session exchanged for a token
// that is good inside, for one service.
func (e *Env) tokenOf(ctx context.Context, who caller, service string) (string, error) {
	gw, err := e.join(ctx, "gateway/"+e.gateway())
	if err != nil {
		return "", err
	}
	return e.tokenFor(ctx, gw, who, service)
}

func (e *Env) tokenFor(ctx context.Context, gw *workload, who caller, service string) (string, error) {
	token, res, err := e.exchange(ctx, gw, wire.TypeSession, who.session, e.sys.ServiceID(service))
	if err != nil {
		return "", err
	}
	if token == "" {
		return "", fmt.Errorf("the exchange for %s was answered %d: %.200s", service, res.status, res.body)
	}
	return token, nil
}

func wrongPassword(ctx context.Context, e *Env) (Result, error) {
	var a *account
	var stranger string
	var known, nobody response
	var fast, slow time.Duration
	for range 2 { // the second round is for a machine that was busy in the first; a new account, since failures of one add up
		var err error
		if a, err = e.account(ctx, e.facts()); err != nil {
			return Result{}, err
		}
		if err := e.login(ctx, a); err != nil {
			return Result{}, err
		}
		e.note("the right password: logged in")
		stranger, fast, slow = strings.Replace(a.name, "verify", "nobody", 1), time.Hour, time.Hour
		if known, err = e.tryLogin(ctx, a.name, &fast); err != nil {
			return Result{}, err
		}
		if nobody, err = e.tryLogin(ctx, stranger, &slow); err != nil {
			return Result{}, err
		}
		if max(fast, slow) < 4*min(fast, slow) {
			break
		}
	}
	e.note("a known name: %d in %s; an unknown one: %d in %s", known.status, fast.Round(time.Millisecond), nobody.status, slow.Round(time.Millisecond))
	shape := func(r response, name string) string {
		return fmt.Sprint(r.status, strings.ReplaceAll(string(r.body), name, "NAME"))
	}
	switch {
	case known.status != http.StatusUnauthorized:
		return failed("a wrong password was answered %d", known.status), nil
	case shape(known, a.name) != shape(nobody, stranger):
		return failed("the answer tells whether the name exists"), nil
	case max(fast, slow) > 6*min(fast, slow):
		return failed("the time tells whether the name exists: %s and %s", fast.Round(time.Millisecond), slow.Round(time.Millisecond)), nil
	}
	v, ok, err := e.trail.wait(ctx, patience, func(v event) bool { return v.Trace == known.trace && v.refused() })
	if err != nil || !ok {
		return unsure("the refusal is not in the audit log"), err
	}
	return verdictOn(attack{name: "a wrong password", want: []string{"authn.password"}}, known.status, v, true), nil
}

// tryLogin tries a wrong password three times and lowers best to the shortest
// time: what a patient attacker would measure.
func (e *Env) tryLogin(ctx context.Context, name string, best *time.Duration) (response, error) {
	var last response
	for range 3 {
		started := time.Now()
		res, err := e.do(ctx, loginForm(name, "wrong-"+randomID(8)))
		if err != nil {
			return res, err
		}
		last, *best = res, min(*best, time.Since(started))
	}
	return last, nil
}

// guesses is more than any account should bear from one address.
const guesses = 12

func bruteForce(ctx context.Context, e *Env) (Result, error) {
	a, err := e.account(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	if err := e.login(ctx, a); err != nil {
		return Result{}, err
	}
	e.note("the right password: logged in")
	var last response
	for i := range guesses {
		if last, err = e.do(ctx, loginForm(a.name, "guess-"+randomID(6))); err != nil {
			return Result{}, err
		}
		if last.status == http.StatusTooManyRequests {
			e.note("guess %d: 429", i+1)
			break
		}
	}
	if last.status != http.StatusTooManyRequests {
		return failed("%d guesses were compared", guesses), nil
	}
	if last.header.Get("Retry-After") == "" {
		return failed("the refusal says no Retry-After"), nil
	}
	if err := e.login(ctx, a); err != nil {
		return failed("the owner's own browser is locked out, too: %v", err), nil
	}
	e.note("the owner's browser, from the very same address: logged in")
	return e.attribute(ctx, attack{"the guess over the limit", request{}, []string{"limit.login"}}, last)
}

func logout(ctx context.Context, e *Env) (Result, error) {
	flow, _ := entryWith(e.sys, "session")
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	who, err := e.enter(ctx, e.facts(), flow)
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustEnter(ctx, "before logout", r.with(who)); err != nil {
		return Result{}, err
	}
	res, err := e.do(ctx, request{method: http.MethodPost, path: "/logout"}.with(who))
	if err != nil {
		return Result{}, err
	}
	if res.status != http.StatusSeeOther {
		return unsure("logout was answered %d", res.status), nil
	}
	if c, ok := cookieOf(res.header, sessionCookie); !ok || c.MaxAge >= 0 {
		return failed("logout does not make the browser forget the cookie"), nil
	}
	time.Sleep(time.Second)
	return e.refused(ctx, attack{"the cookie a second after logout", r.with(who), []string{"authn.session"}})
}

func fixation(ctx context.Context, e *Env) (Result, error) {
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	victim, err := e.account(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	thief, err := e.account(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	if err := e.login(ctx, thief); err != nil {
		return Result{}, err
	}
	planted := thief.session
	login := loginForm(victim.name, victim.password).set("Cookie", sessionCookie+"="+planted)
	res, err := e.do(ctx, login)
	if err != nil {
		return Result{}, err
	}
	c, ok := cookieOf(res.header, sessionCookie)
	switch {
	case !ok || res.status != http.StatusSeeOther:
		return unsure("login was answered %d", res.status), nil
	case c.Value == planted:
		return failed("login goes on with a session id that somebody else chose"), nil
	case !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode && c.SameSite != http.SameSiteStrictMode:
		return failed("the cookie is not bound to this host: %s", strings.Join(res.header.Values("Set-Cookie"), " ")[len(c.Value):]), nil
	}
	e.note("login set a new id: Secure, HttpOnly, SameSite, Path=/, no Domain")
	own := r
	own.header = sessionHeader(c.Value)
	if _, err := e.mustEnter(ctx, "the new session", own); err != nil {
		return Result{}, err
	}
	r.header = sessionHeader(planted)
	return e.refused(ctx, attack{"the planted id after login", r, []string{"authn.session"}})
}

func crossSite(ctx context.Context, e *Env) (Result, error) {
	flow, _ := entryWith(e.sys, "session")
	who, err := e.enter(ctx, e.facts(), flow)
	if err != nil {
		return Result{}, err
	}
	target, honest := e.unsafeRequest(who)
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustEnter(ctx, "the session", r.with(who)); err != nil {
		return Result{}, err
	}
	foreign := target.set("Sec-Fetch-Site", "cross-site").set("Origin", "https://evil.example")
	verdict, err := e.refusedAll(ctx, []attack{
		{"from another site", foreign, []string{"authn.csrf"}},
		{"from an old browser, by Origin alone", target.set("Origin", "https://evil.example"), []string{"authn.csrf"}},
	})
	if err != nil || verdict.Verdict != Pass {
		return verdict, err
	}
	res, err := e.do(ctx, honest)
	if err != nil {
		return Result{}, err
	}
	e.note("from our own pages: %d", res.status)
	if res.status == http.StatusForbidden {
		return unsure("requests from our own pages are refused, too"), nil
	}
	return verdict, nil
}

// unsafeRequest is a state-changing request of a browser, and the same from
// our own pages. It is spoiled behind the point of interest: an empty object
// fits no schema, so that nothing happens if it gets through.
func (e *Env) unsafeRequest(who caller) (target, honest request) {
	target = request{method: http.MethodPost, path: "/logout"}.with(who)
	i := slices.IndexFunc(e.ops, func(o operation) bool {
		return o.method != http.MethodGet && o.body != nil && len(o.body.required()) > 0
	})
	if i >= 0 {
		if path, err := e.ops[i].url(nil); err == nil {
			target = request{method: e.ops[i].method, path: path, body: []byte("{}")}.with(who)
		}
	}
	return target, target.set("Sec-Fetch-Site", "same-origin").set("Origin", "https://"+e.edgeAddr())
}

func refreshReuse(ctx context.Context, e *Env) (Result, error) {
	flow, _ := jwtEntry(e.sys)
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	who, err := e.enter(ctx, e.facts(), flow)
	if err != nil {
		return Result{}, err
	}
	second, err := e.refresh(ctx, who.client, who.tokens.Refresh)
	if err != nil {
		return Result{}, err
	}
	third, err := e.refresh(ctx, who.client, second.Refresh)
	if err != nil {
		return Result{}, err
	}
	newest := r.with(who).set("Authorization", "Bearer "+third.Access)
	if _, err := e.mustEnter(ctx, "after two refreshes", newest); err != nil {
		return Result{}, err
	}
	if _, err := e.refresh(ctx, who.client, who.tokens.Refresh); !errors.Is(err, errGrant) {
		return failed("the first refresh token was good a second time"), err
	}
	if _, err := e.refresh(ctx, who.client, third.Refresh); !errors.Is(err, errGrant) {
		return failed("the newest refresh token outlives the theft"), err
	}
	theft, ok, err := e.trail.wait(ctx, patience, func(v event) bool { return v.Action == "token.theft" && v.Subject == who.subject() })
	if err != nil || !ok || theft.Control != "token.rotation" {
		return unsure("the reuse is not in the audit log as a theft"), err
	}
	time.Sleep(500 * time.Millisecond) // revocations reach every plane within a second
	return e.refused(ctx, attack{"the access token of the same login", newest, []string{"authn.jwt"}})
}

func tokenLife(ctx context.Context, e *Env) (Result, error) {
	flow, _ := jwtEntry(e.sys)
	who, err := e.enter(ctx, e.facts(), flow)
	if err != nil {
		return Result{}, err
	}
	j, err := parseJWS(who.tokens.Access)
	if err != nil {
		return Result{}, err
	}
	life := time.Duration(j.number("exp")-e.now().Unix()) * time.Second
	e.note("exp is %s from now, expires_in %d s, alg %v", life, who.tokens.ExpiresIn, j.header["alg"])
	if life < 14*time.Minute || life > time.Hour || who.tokens.ExpiresIn > 3600 {
		return failed("an access token lives %s", life), nil
	}
	if who.tokens.Refresh == "" {
		return failed("there is no refresh token"), nil
	}
	return passed("an access token lives %s and can be refreshed", life.Round(time.Minute)), nil
}

func madeUpKeys(ctx context.Context, e *Env) (Result, error) {
	flow, _ := entryWith(e.sys, "api_key", "jwt")
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	who, err := e.enter(ctx, e.facts(), flow)
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustEnter(ctx, "the genuine key", r.with(who)); err != nil {
		return Result{}, err
	}
	key := who.header.Get("X-Api-Key")
	var attacks []attack
	for name, k := range map[string]string{
		"a made-up key": "rk_" + randomID(24), "the key with its end changed": changeEnd(key), "the key cut short": key[:len(key)-4], "an access token as key": who.tokens.Access,
	} {
		attacks = append(attacks, attack{name, r.with(who).set("X-Api-Key", k), []string{"authn.api_key"}})
	}
	return e.refusedAll(ctx, attacks)
}

// changeEnd changes the last characters of a text to others of the same kind.
func changeEnd(s string) string {
	b := []byte(s)
	for i := max(0, len(b)-3); i < len(b); i++ {
		if b[i] == 'a' || b[i] == 'A' {
			b[i] = 'b'
		} else {
			b[i] = 'a'
		}
	}
	return string(b)
}
