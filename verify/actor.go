package verify

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"sync"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// The cookies of a browser session, and of a browser that is known.
const (
	sessionCookie = "__Host-rampart_sid"
	deviceCookie  = "__Host-rampart_device"
)

// redirect is where codes for our clients go: an address nobody listens on.
const redirect = "http://127.0.0.1/verify"

// account is an ordinary user, made for one probe.
type account struct {
	name     string
	password string
	session  string // cookie value, "" before login
	device   string // cookie of the browser that the account is known by
}

func (a *account) subject() string { return "user:" + a.name }

// caller is an account that comes in by one flow.
type caller struct {
	*account
	flow   spec.Flow
	header http.Header
	client string // that the token was issued to; "" for a session
	tokens tokens
}

// tokens are what the token endpoint gave.
type tokens struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	ExpiresIn int    `json:"expires_in"`
	Error     string `json:"error"`
}

// facts are those of the scenario's user; where the file names none, of somebody
// who holds every role.
func (t *target) facts() spec.DemoUser {
	if s := t.sys.Verify.Scenario; s != nil && !reflect.DeepEqual(s.User, spec.DemoUser{}) {
		return s.User
	}
	return spec.DemoUser{Roles: slices.Sorted(maps.Keys(t.sys.Authz.Roles)), Organizations: []string{"verify-a"}, Team: "verify"}
}

// otherFacts are the same in another organization and team.
func (t *target) otherFacts() spec.DemoUser {
	f := t.facts()
	f.Organizations, f.Team, f.ManagedTeams = []string{"other-" + t.run}, "other", nil
	return f
}

// strangerFacts are those of a user who holds no role.
func (t *target) strangerFacts() spec.DemoUser {
	f := t.facts()
	f.Roles = nil
	return f
}

// account makes a user with these facts.
func (e *Env) account(ctx context.Context, facts spec.DemoUser) (*account, error) {
	e.target.mu.Lock()
	e.identities++
	name := fmt.Sprintf("verify-%s-%d", e.run, e.identities)
	e.target.mu.Unlock()
	a := &account{name: name, password: rand.Text()}
	if err := e.admin.user(ctx, wire.User{Name: name, Password: a.password, Facts: facts}); err != nil {
		return nil, err
	}
	e.atEnd("sub", a.subject())
	return a, nil
}

// login signs an account in, as the browser that it is known by, and keeps the
// cookies.
func (e *Env) login(ctx context.Context, a *account) error {
	f := loginForm(a.name, a.password)
	if a.device != "" {
		f.header.Set("Cookie", deviceCookie+"="+a.device)
	}
	res, err := e.do(ctx, f)
	if err != nil {
		return err
	}
	if d, ok := cookieOf(res.header, deviceCookie); ok {
		a.device = d.Value
	}
	c, ok := cookieOf(res.header, sessionCookie)
	if !ok || res.status != http.StatusSeeOther {
		return fmt.Errorf("login of %s was answered %d", a.name, res.status)
	}
	a.session = c.Value
	return nil
}

func loginForm(name, password string) request {
	return form("/login", url.Values{"username": {name}, "password": {password}})
}

func sessionHeader(value string) http.Header {
	return http.Header{"Cookie": {sessionCookie + "=" + value}}
}

// enter makes a user with these facts and whatever the flow asks for.
func (e *Env) enter(ctx context.Context, facts spec.DemoUser, flow spec.Flow) (caller, error) {
	a, err := e.account(ctx, facts)
	if err != nil {
		return caller{}, err
	}
	return e.enterAs(ctx, a, flow, "")
}

// enterAs gets an account the credentials of a flow. Tokens and keys are those
// of a registered client; "" takes the run's own client for the flow.
func (e *Env) enterAs(ctx context.Context, a *account, flow spec.Flow, client string) (caller, error) {
	c := caller{account: a, flow: flow, header: http.Header{}}
	if err := e.login(ctx, a); err != nil {
		return c, err
	}
	if slices.Contains(flow.Authn.All, "session") {
		c.header = sessionHeader(a.session)
	}
	if !slices.Contains(flow.Authn.All, "jwt") {
		return c, nil
	}
	if client == "" {
		var err error
		if client, err = e.clientFor(ctx, flow.From); err != nil {
			return c, err
		}
	}
	c.client = client
	var err error
	if c.tokens, err = e.accessToken(ctx, a, client); err != nil {
		return c, err
	}
	c.header.Set("Authorization", "Bearer "+c.tokens.Access)
	if slices.Contains(flow.Authn.All, "api_key") {
		key, err := e.keyOf(ctx, client)
		if err != nil {
			return c, err
		}
		c.header.Set("X-Api-Key", key)
	}
	return c, nil
}

// keyOf returns the API key of a client of the run.
func (t *target) keyOf(ctx context.Context, client string) (string, error) {
	t.keys.Lock()
	defer t.keys.Unlock()
	if k, ok := t.apiKeys[client]; ok {
		return k, nil
	}
	k, err := t.admin.apiKey(ctx, client)
	if err != nil {
		return "", err
	}
	t.apiKeys[client] = k.Key
	return k.Key, nil
}

// clientFor returns the run's client of a principal, shared by its probes.
func (t *target) clientFor(ctx context.Context, principal string) (string, error) {
	t.mu.Lock()
	id, ok := t.clients[principal]
	t.mu.Unlock()
	if ok {
		return id, nil
	}
	id, err := t.newClient(ctx, principal)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	t.clients[principal] = id
	t.mu.Unlock()
	return id, nil
}

// newClient registers a client of the run.
func (t *target) newClient(ctx context.Context, principal string) (string, error) {
	id := "verify-" + t.run + "-" + randomID(3)
	if err := t.admin.client(ctx, wire.Client{ID: id, Principal: principal, Redirects: []string{redirect}}); err != nil {
		return "", err
	}
	t.atEnd("client", id)
	return id, nil
}

// accessToken walks the authorization code flow with PKCE.
func (e *Env) accessToken(ctx context.Context, a *account, client string) (tokens, error) {
	f, err := e.code(ctx, a, client)
	if err != nil {
		return tokens{}, err
	}
	return e.grant(ctx, f)
}

// code has an account let a client in, and returns the form that trades the
// code for tokens.
func (e *Env) code(ctx context.Context, a *account, client string) (url.Values, error) {
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{"response_type": {"code"}, "client_id": {client}, "redirect_uri": {redirect}, "state": {rand.Text()},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}
	ask := get("/oauth2/authorize?" + q.Encode())
	ask.header = sessionHeader(a.session)
	res, err := e.do(ctx, ask)
	if err != nil {
		return nil, err
	}
	to, err := url.Parse(res.header.Get("Location"))
	if err != nil || to.Query().Get("code") == "" || to.Query().Get("state") != q.Get("state") {
		return nil, fmt.Errorf("authorize was answered %d without a code", res.status)
	}
	return url.Values{"grant_type": {"authorization_code"}, "client_id": {client}, "redirect_uri": {redirect},
		"code": {to.Query().Get("code")}, "code_verifier": {verifier}}, nil
}

// errGrant says that the token endpoint refused.
var errGrant = errors.New("the token endpoint refused")

// grant asks the token endpoint.
func (e *Env) grant(ctx context.Context, f url.Values) (tokens, error) {
	res, err := e.do(ctx, form("/oauth2/token", f))
	if err != nil {
		return tokens{}, err
	}
	var t tokens
	if err := json.Unmarshal(res.body, &t); err != nil {
		return t, fmt.Errorf("the token endpoint answered %d with no JSON", res.status)
	}
	if res.status != http.StatusOK || t.Access == "" {
		return t, fmt.Errorf("%w: %s", errGrant, t.Error)
	}
	return t, nil
}

// refresh trades a refresh token.
func (e *Env) refresh(ctx context.Context, client, token string) (tokens, error) {
	return e.grant(ctx, url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {token}})
}

// entry picks the flow that probes come in by when the way in does not
// matter.
func (t *target) entry() (spec.Flow, error) {
	for _, methods := range [][]string{{"session"}, {"jwt"}, {"api_key", "jwt"}} {
		if f, ok := entryWith(t.sys, methods...); ok {
			return f, nil
		}
	}
	return spec.Flow{}, errors.New("no flow lets a user in")
}

// visitor is a user with these facts, in by the usual way. Probes that make a
// few harmless requests share one, since hashing passwords is dear on purpose.
func (e *Env) visitor(ctx context.Context, facts spec.DemoUser) (caller, error) {
	return e.shared(ctx, facts, 0)
}

// shared returns one of several users with the same facts.
func (e *Env) shared(ctx context.Context, facts spec.DemoUser, slot int) (caller, error) {
	flow, err := e.entry()
	if err != nil {
		return caller{}, err
	}
	key, err := json.Marshal([]any{facts, slot})
	if err != nil {
		return caller{}, err
	}
	e.target.mu.Lock()
	s := e.crowd[string(key)]
	if s == nil {
		s = &sharedCaller{}
		e.crowd[string(key)] = s
	}
	e.target.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready {
		return s.caller, nil
	}
	s.caller, err = e.enter(ctx, facts, flow)
	s.ready = err == nil
	return s.caller, err
}

// sharedCaller is made by the first who asks; a failure is tried again by the
// next.
type sharedCaller struct {
	mu     sync.Mutex // guards below
	ready  bool
	caller caller
}
