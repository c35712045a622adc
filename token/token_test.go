package token_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/token"
)

const (
	issuer = "https://localhost:8443/"
	file   = `rampart: v1
system: { name: shop }
services:
  edge: { role: gateway }
  a: { upstream: "http://127.0.0.1:9001" }
  b: { upstream: "http://127.0.0.1:9002" }
  c: { upstream: "http://127.0.0.1:9003" }
  d: { upstream: "http://127.0.0.1:9004" }
  e: { upstream: "http://127.0.0.1:9005" }
  own: { upstream: "http://127.0.0.1:9006" }
flows:
  - { from: users, to: edge, authn: session }
  - { id: in, from: edge, to: a }
  - { id: per, from: edge, to: own, authn: per_service }
  - { id: ab, from: a, to: b }
  - { id: bc, from: b, to: c }
  - { id: cd, from: c, to: d }
  - { id: de, from: d, to: e }
  - { id: own-b, from: own, to: b }
  - { id: own-c, from: own, to: c, scope: ["orders:*", "payments:read"] }
  - { id: c-own, from: c, to: own, scope: "orders:read" }
  - { id: c-own-2, from: c, to: own, scope: "payments:read" }
`
)

// rsaKey is made once: it takes a while.
var rsaKey = sync.OnceValues(jwt.GenerateRSA)

// house is a token service with everything real but the directory of people.
type house struct {
	*token.Service
	t     testing.TB
	sys   *spec.System
	db    *sqlite.Store
	rings token.Rings
	clock time.Time

	mu      sync.Mutex
	events  []audit.Event
	deaf    bool // the audit log fails
	revoked []wire.Revocation
	people  map[string]rampart.Principal
	started time.Time // of every session
	joined  time.Time // of every service
}

func (h *house) now() time.Time { return h.clock }

func (h *house) Record(_ context.Context, e audit.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.deaf {
		return rampart.Errorf(rampart.Unavailable, "audit.log", "disk full")
	}
	h.events = append(h.events, e)
	return nil
}

func (h *house) last() audit.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == 0 {
		return audit.Event{}
	}
	return h.events[len(h.events)-1]
}

func (h *house) onRevoke(_ context.Context, v wire.Revocation) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revoked = append(h.revoked, v)
	return nil
}

// Session, APIKey and Facts make the house a token.Directory: sessions and
// keys are named after their owners.
func (h *house) Session(ctx context.Context, id string) (token.Subject, error) {
	p, err := h.Facts(ctx, "user:"+id)
	p.Session, p.AuthTime = "sid-"+id, h.started
	return token.Subject{Principal: p, Issued: h.started, Expires: h.clock.Add(time.Hour)}, err
}

func (h *house) APIKey(_ context.Context, key string) (token.Subject, error) {
	if key != "rk_shop" {
		return token.Subject{}, rampart.Errorf(rampart.Unauthenticated, "authn.api_key", "no")
	}
	return token.Subject{Principal: rampart.Principal{Kind: rampart.KindClient, Subject: "client:shop", Client: "shop"}, Issued: h.started, Expires: h.clock.Add(30 * time.Second)}, nil
}

func (h *house) Facts(_ context.Context, subject string) (rampart.Principal, error) {
	p, ok := h.people[subject]
	if !ok {
		return p, rampart.Errorf(rampart.Unauthenticated, "authn.session", "no such account")
	}
	return p, nil
}

func newHouse(t testing.TB, extra string) *house {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rampart.yaml")
	if err := os.WriteFile(path, []byte(file+extra), 0o600); err != nil {
		t.Fatal(err)
	}
	sys, err := spec.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "t.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{t: t, sys: sys, db: db, clock: time.Unix(1_700_000_000, 500_000_000), people: map[string]rampart.Principal{
		"user:ann": {Kind: rampart.KindHuman, Subject: "user:ann", Tenant: "acme", Organizations: []string{"acme"}, Roles: []string{"customer"}, Team: "red"},
	}}
	h.started, h.joined = h.clock.Add(-time.Minute), h.clock.Add(-time.Hour)
	if err := db.PutClient(t.Context(), token.Client{ID: "shop", Principal: "users", Redirects: []string{"https://shop.example/cb", "http://127.0.0.1/cb"}}); err != nil {
		t.Fatal(err)
	}
	if err := db.PutClient(t.Context(), token.Client{ID: "other", Principal: "users", Redirects: []string{"https://other.example/cb"}}); err != nil {
		t.Fatal(err)
	}
	h.restart()
	return h
}

// ring makes signing keys.
func (h *house) ring(generate func() (*jwt.Signer, error), life time.Duration) *jwt.Ring {
	h.t.Helper()
	r, err := jwt.NewRing(jwt.RingOptions{Generate: generate, MaxLife: life}, nil, h.clock)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// restart opens the service anew over the same database and keys.
func (h *house) restart() {
	h.t.Helper()
	if h.rings.Internal == nil {
		h.rings = token.Rings{
			Internal: h.ring(jwt.GenerateInternal, token.InternalKeyLife), Edge: h.ring(jwt.GenerateEdge, token.EdgeKeyLife), ID: h.ring(rsaKey, token.IDKeyLife),
		}
	}
	var err error
	h.Service, err = token.New(h.t.Context(), token.Options{
		System: h.sys, Issuer: issuer, Rings: h.rings, Key: make([]byte, 32), Store: h.db, Tickets: h.db, Directory: h, Audit: h, OnRevoke: h.onRevoke, Now: h.now,
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) caller(name string) token.Caller {
	return token.Caller{Name: name, ID: h.sys.ServiceID(name), Fingerprint: sha256.Sum256([]byte(name)), Issued: h.joined, Peer: "127.0.0.1:1"}
}

func (h *house) exchange(from, kind, subject, to string) (string, error) {
	x, err := h.Exchange(h.t.Context(), h.caller(from), h.asked(kind, subject, to))
	return x.AccessToken, err
}

func (h *house) asked(kind, subject, to string) url.Values {
	return url.Values{
		"grant_type": {wire.GrantExchange}, "audience": {h.sys.ServiceID(to)}, "subject_token_type": {kind}, "subject_token": {subject},
	}
}

// read verifies a token as the sidecar of to would, from a peer named from.
func (h *house) read(text, from, to string) (jwt.InternalClaims, error) {
	set, err := jwt.ParseKeySet(h.Keys().Internal)
	if err != nil {
		h.t.Fatal(err)
	}
	v := jwt.NewInternal(jwt.InternalOptions{Keys: func() *jwt.KeySet { return set }, Issuer: issuer, Audience: h.sys.ServiceID(to), Now: h.now})
	return v.Verify(text, h.caller(from).Fingerprint)
}

func (h *house) mustExchange(from, kind, subject, to string) string {
	h.t.Helper()
	text, err := h.exchange(from, kind, subject, to)
	if err != nil {
		h.t.Fatalf("%s to %s: %v", from, to, err)
	}
	return text
}

func TestExchangeCarriesWhoAndThroughWhom(t *testing.T) {
	h := newHouse(t, "")
	first := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	second := h.mustExchange("a", wire.TypeJWT, first, "b")
	got, err := h.read(second, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	want := h.people["user:ann"]
	want.Session, want.AuthTime = "sid-ann", h.started.UTC().Truncate(time.Second)
	want.Actors = []string{h.sys.ServiceID("a"), h.sys.ServiceID("edge")}
	if diff := cmp.Diff(want, got.Principal()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if life := got.Expires - h.clock.Unix(); life != 120 {
		t.Errorf("the token lives %d s, want 120", life)
	}
	if _, err := h.read(second, "edge", "b"); jwt.Rule(err) != "cnf" {
		t.Errorf("another peer presents it: %v, want the binding to refuse", err)
	}
	e := h.last()
	if e.Action != "token.exchange" || e.Outcome != audit.Allowed || e.Control != "token.exchange" || e.Flow != "ab" || e.Subject != "user:ann" || e.Actor != h.sys.ServiceID("a") || e.Detail["jti"] != got.ID {
		t.Errorf("recorded as %+v", e)
	}
}

func TestExchangeOfEachKind(t *testing.T) {
	h := newHouse(t, "")
	access := h.login("shop").AccessToken
	for _, tc := range []struct {
		from, kind, value, to string
		subject               string
		life                  int64
	}{
		{"edge", wire.TypeSession, "ann", "a", "user:ann", 120},
		{"edge", wire.TypeAPIKey, "rk_shop", "a", "client:shop", 30}, // never past the subject's own end
		{"edge", wire.TypeJWT, access, "a", "user:ann", 120},
		{"edge", wire.TypeAccess, access, "a", "user:ann", 120},
		{"own", wire.TypeJWT, access, "b", "user:ann", 120},    // the file says per_service
		{"own", wire.TypeSession, "ann", "b", "user:ann", 120}, // likewise
		{"a", wire.TypeSVIDOnly, "", "b", h.sys.ServiceID("a"), 120},
	} {
		text, err := h.exchange(tc.from, tc.kind, tc.value, tc.to)
		if err != nil {
			t.Errorf("%s shows %s: %v", tc.from, tc.kind, err)
			continue
		}
		got, err := h.read(text, tc.from, tc.to)
		if err != nil || got.Subject != tc.subject || got.Expires-h.clock.Unix() != tc.life {
			t.Errorf("%s shows %s: %s for %d s, %v; want %s for %d s", tc.from, tc.kind, got.Subject, got.Expires-h.clock.Unix(), err, tc.subject, tc.life)
		}
	}
}

func TestExchangeRefuses(t *testing.T) {
	h := newHouse(t, "")
	access := h.login("shop").AccessToken
	forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	forB := h.mustExchange("a", wire.TypeJWT, forA, "b")
	forC := h.mustExchange("b", wire.TypeJWT, forB, "c")
	forD := h.mustExchange("c", wire.TypeJWT, forC, "d")
	for _, tc := range []struct {
		name, from, kind, value, to, code string
	}{
		{"an undeclared flow", "a", wire.TypeJWT, forA, "c", "invalid_target"},
		{"a flow backwards", "b", wire.TypeJWT, forB, "a", "invalid_target"},
		{"oneself", "a", wire.TypeJWT, forA, "a", "invalid_target"},
		{"a token for another service", "b", wire.TypeJWT, forA, "c", "invalid_grant"},
		{"a session shown by a service", "a", wire.TypeSession, "ann", "b", "unauthorized_client"},
		{"an API key shown by a service", "a", wire.TypeAPIKey, "rk_shop", "b", "unauthorized_client"},
		{"a client's token shown by a service", "a", wire.TypeJWT, access, "b", "invalid_grant"},
		{"an internal token shown by the gateway", "edge", wire.TypeJWT, forA, "a", "invalid_grant"},
		{"an unknown session", "edge", wire.TypeSession, "eve", "a", "invalid_grant"},
		{"a fifth actor", "d", wire.TypeJWT, forD, "e", "invalid_grant"},
		{"a subject token with the service as itself", "a", wire.TypeSVIDOnly, forA, "b", "invalid_request"},
		{"no subject token", "edge", wire.TypeSession, "", "a", "invalid_request"},
		{"an unknown type", "edge", "urn:x", "ann", "a", "invalid_request"},
		{"nonsense", "a", wire.TypeJWT, "a.b.c", "b", "invalid_grant"},
	} {
		_, err := h.exchange(tc.from, tc.kind, tc.value, tc.to)
		if err == nil || token.CodeOf(err) != tc.code {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.code)
			continue
		}
		if e := h.last(); e.Outcome != audit.Refused || e.Control == "" || e.Code != tc.code {
			t.Errorf("%s: recorded as %+v", tc.name, e)
		}
	}
	for name, add := range map[string]url.Values{
		"two audiences":        {"audience": {h.sys.ServiceID("b"), h.sys.ServiceID("c")}},
		"an actor token":       {"actor_token": {forA}},
		"an actor's own token": {"actor_token": {forA}, "actor_token_type": {wire.TypeJWT}},
		"another resource":     {"resource": {"https://api.example/"}},
		"a refresh token back": {"requested_token_type": {"urn:ietf:params:oauth:token-type:refresh_token"}},
	} {
		form := url.Values{"audience": {h.sys.ServiceID("b")}, "subject_token_type": {wire.TypeJWT}, "subject_token": {forA}}
		maps.Copy(form, add)
		if _, err := h.Exchange(t.Context(), h.caller("a"), form); token.CodeOf(err) != "invalid_request" {
			t.Errorf("%s: %v, want invalid_request", name, err)
		}
	}
}

// TestExchangeOff: where a throw-away file drops the control, the two rules
// are gone. That is what makes their probes able to fail.
func TestExchangeOff(t *testing.T) {
	h := newHouse(t, "unsafe: { disable: [token.exchange] }\n")
	forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	h.mustExchange("b", wire.TypeJWT, forA, "d")
}

func TestRevocation(t *testing.T) {
	for _, tc := range []struct{ kind, id string }{{"sid", "sid-ann"}, {"sub", "user:ann"}} {
		t.Run(tc.kind, func(t *testing.T) {
			h := newHouse(t, "")
			forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
			granted := h.login("shop")
			if _, err := h.Revoke(t.Context(), tc.kind, tc.id); err != nil {
				t.Fatal(err)
			}
			h.dead("after the revocation", forA, granted)
			h.clock = h.clock.Add(time.Second)
			h.dead("a second later", forA, granted)
			if !slices.ContainsFunc(h.revoked, func(v wire.Revocation) bool { return v.Kind == tc.kind && v.ID == tc.id }) {
				t.Errorf("planes heard of %+v only", h.revoked)
			}
			h.restart()
			if _, err := h.exchange("edge", wire.TypeSession, "ann", "a"); err == nil {
				t.Error("a restart forgot the revocation")
			}
		})
	}
}

// dead demands that nothing issued before a revocation still works.
func (h *house) dead(when, forA string, g token.Granted) {
	h.t.Helper()
	for name, try := range map[string]func() error{
		"session":       func() error { _, err := h.exchange("edge", wire.TypeSession, "ann", "a"); return err },
		"internal":      func() error { _, err := h.exchange("a", wire.TypeJWT, forA, "b"); return err },
		"access token":  func() error { _, err := h.exchange("edge", wire.TypeJWT, g.AccessToken, "a"); return err },
		"refresh token": func() error { _, err := h.refresh("shop", g.RefreshToken); return err },
	} {
		if err := try(); err == nil {
			h.t.Errorf("%s: the %s still works", when, name)
		}
	}
}

// TestLoginInTheSecondOfARevocation: iat has whole seconds, so a token of a
// new login would be dead at birth if it were stamped with its own second.
func TestLoginInTheSecondOfARevocation(t *testing.T) {
	h := newHouse(t, "")
	v, err := h.Revoke(t.Context(), "sub", "user:ann")
	if err != nil {
		t.Fatal(err)
	}
	h.clock = h.clock.Add(time.Millisecond)
	h.started = h.clock
	got, err := h.read(h.mustExchange("edge", wire.TypeSession, "ann", "a"), "edge", "a")
	if err != nil {
		t.Fatal(err)
	}
	if issued := time.Unix(got.IssuedAt, 0); !issued.After(v.NotBefore) {
		t.Errorf("issued at %v, not after the cut-off %v", issued, v.NotBefore)
	}
}

func TestRoleTakenAwayIsGoneAtTheNextExchange(t *testing.T) {
	h := newHouse(t, "")
	access := h.login("shop").AccessToken
	ann := h.people["user:ann"]
	ann.Roles = nil
	h.people["user:ann"] = ann
	got, err := h.read(h.mustExchange("edge", wire.TypeJWT, access, "a"), "edge", "a")
	if err != nil || len(got.Roles) != 0 {
		t.Errorf("roles %v, %v; want none", got.Roles, err)
	}
}

const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func authorization(client, redirect string) url.Values {
	return url.Values{
		"response_type": {"code"}, "client_id": {client}, "redirect_uri": {redirect}, "state": {"s t"},
		"code_challenge": {challenge()}, "code_challenge_method": {"S256"},
	}
}

// authorize runs the browser's half and returns the query of the redirect.
func (h *house) authorize(q url.Values) (url.Values, error) {
	a, err := h.ParseAuthorization(h.t.Context(), q)
	if err != nil {
		return nil, err
	}
	who, err := h.Session(h.t.Context(), "ann")
	if err != nil {
		return nil, err
	}
	to, err := h.Authorize(h.t.Context(), a, who)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	return u.Query(), nil
}

func (h *house) redeem(client, redirect, code, verifier string) (token.Granted, error) {
	return h.grant(url.Values{
		"grant_type": {"authorization_code"}, "client_id": {client}, "redirect_uri": {redirect}, "code": {code}, "code_verifier": {verifier},
	})
}

func (h *house) refresh(client, text string) (token.Granted, error) {
	return h.grant(url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {text}})
}

// grant calls the token endpoint as a client does, with these DPoP headers.
func (h *house) grant(form url.Values, proofs ...string) (token.Granted, error) {
	return h.Grant(h.t.Context(), token.Request{Form: form, Proofs: proofs, Peer: "192.0.2.1:7"})
}

func (h *house) revokeToken(client, text string) error {
	return h.RevokeToken(h.t.Context(), token.Request{Form: url.Values{"client_id": {client}, "token": {text}}, Peer: "192.0.2.1:7"})
}

func (h *house) login(client string) token.Granted {
	h.t.Helper()
	redirect := "https://" + client + ".example/cb"
	q, err := h.authorize(authorization(client, redirect))
	if err != nil {
		h.t.Fatal(err)
	}
	g, err := h.redeem(client, redirect, q.Get("code"), verifier)
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

func TestAuthorizationCode(t *testing.T) {
	h := newHouse(t, "")
	const redirect = "https://shop.example/cb"
	q, err := h.authorize(authorization("shop", redirect))
	if err != nil {
		t.Fatal(err)
	}
	if q.Get("state") != "s t" || q.Get("iss") != issuer {
		t.Errorf("answer %v lacks state or issuer", q)
	}
	for name, try := range map[string][4]string{
		"no verifier":      {"shop", redirect, q.Get("code"), ""},
		"another verifier": {"shop", redirect, q.Get("code"), strings.Repeat("x", 43)},
		"another client":   {"other", redirect, q.Get("code"), verifier},
		"another redirect": {"shop", "http://127.0.0.1/cb", q.Get("code"), verifier},
		"another code":     {"shop", redirect, "rac_x", verifier},
	} {
		if _, err := h.redeem(try[0], try[1], try[2], try[3]); token.CodeOf(err) != "invalid_grant" {
			t.Errorf("%s: %v, want invalid_grant", name, err)
		}
	}
	g, err := h.redeem("shop", redirect, q.Get("code"), verifier)
	if err != nil {
		t.Fatalf("a failed guess burned the code: %v", err)
	}
	sub, err := h.AccessToken(t.Context(), g.AccessToken)
	if err != nil || sub.Principal.Subject != "user:ann" || sub.Principal.Client != "shop" || sub.Expires.Sub(h.clock) > 15*time.Minute {
		t.Errorf("token stands for %+v, %v", sub, err)
	}
	if _, err := h.redeem("shop", redirect, q.Get("code"), verifier); token.CodeOf(err) != "invalid_grant" {
		t.Errorf("second use: %v, want invalid_grant", err)
	}
	if _, err := h.AccessToken(t.Context(), g.AccessToken); err == nil {
		t.Error("what a stolen code was traded for outlives its second use")
	}
	if _, err := h.refresh("shop", g.RefreshToken); err == nil {
		t.Error("the refresh token of a stolen code outlives its second use")
	}
}

func TestCodeExpires(t *testing.T) {
	h := newHouse(t, "")
	q, err := h.authorize(authorization("shop", "https://shop.example/cb"))
	if err != nil {
		t.Fatal(err)
	}
	h.clock = h.clock.Add(time.Minute)
	if _, err := h.redeem("shop", "https://shop.example/cb", q.Get("code"), verifier); token.CodeOf(err) != "invalid_grant" {
		t.Errorf("after a minute: %v, want invalid_grant", err)
	}
}

func TestAuthorizationRequests(t *testing.T) {
	h := newHouse(t, "")
	const good = "https://shop.example/cb"
	set := func(name, value string) url.Values {
		q := authorization("shop", good)
		q.Set(name, value)
		return q
	}
	for name, q := range map[string]url.Values{ // nobody is redirected
		"unknown client":      set("client_id", "nobody"),
		"no client":           set("client_id", ""),
		"prefix of redirect":  set("redirect_uri", good+"/more"),
		"another scheme":      set("redirect_uri", "http://shop.example/cb"),
		"another's redirect":  set("redirect_uri", "https://other.example/cb"),
		"no redirect":         set("redirect_uri", ""),
		"loopback by name":    set("redirect_uri", "http://localhost:5000/cb"),
		"loopback other path": set("redirect_uri", "http://127.0.0.1:5000/other"),
		"loopback with user":  set("redirect_uri", "http://x@127.0.0.1:5000/cb"),
		"loopback, no port":   set("redirect_uri", "http://127.0.0.1/other"),
		"loopback, port 0":    set("redirect_uri", "http://127.0.0.1:0/cb"),
		"loopback, long port": set("redirect_uri", "http://127.0.0.1:65536/cb"),
		"loopback, odd port":  set("redirect_uri", "http://127.0.0.1:05000/cb"),
		"loopback, empty":     set("redirect_uri", "http://127.0.0.1:/cb"),
		"loopback, fragment":  set("redirect_uri", "http://127.0.0.1:5000/cb#"),
		"loopback, loud":      set("redirect_uri", "HTTP://127.0.0.1:5000/cb"),
		"loopback, query":     set("redirect_uri", "http://127.0.0.1:5000/cb?"),
		"loopback, encoded":   set("redirect_uri", "http://127.0.0.1:5000/%63b"),
		"loopback, other":     set("redirect_uri", "http://127.0.0.2:5000/cb"),
		"two redirects":       {"client_id": {"shop"}, "redirect_uri": {good, good}},
	} {
		if got, err := h.authorize(q); err == nil {
			t.Errorf("%s: redirected with %v", name, got)
		}
	}
	for name, tc := range map[string]struct {
		q    url.Values
		code string
	}{
		"implicit flow":  {set("response_type", "token"), "unsupported_response_type"},
		"plain PKCE":     {set("code_challenge_method", "plain"), "invalid_request"},
		"no PKCE":        {set("code_challenge", ""), "invalid_request"},
		"short PKCE":     {set("code_challenge", "abc"), "invalid_request"},
		"a scope":        {set("scope", "admin"), "invalid_scope"},
		"loopback, port": {authorization("shop", "http://127.0.0.1:53124/cb"), ""},
	} {
		got, err := h.authorize(tc.q)
		if err != nil || got.Get("error") != tc.code || (got.Get("code") == "") != (tc.code != "") {
			t.Errorf("%s: %v, %v; want error %q", name, got, err, tc.code)
		}
	}
}

// TestParallelRefresh: a client that sends its token a hundred times at once goes
// on with one family, whichever answer it keeps.
func TestParallelRefresh(t *testing.T) {
	h := newHouse(t, "")
	g := h.login("shop")
	var mu sync.Mutex
	successors := map[string]bool{}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			next, err := h.refresh("shop", g.RefreshToken)
			if err != nil {
				t.Errorf("refresh: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			successors[next.RefreshToken] = true
		})
	}
	wg.Wait()
	if len(successors) != 1 {
		t.Fatalf("%d successors, want 1", len(successors))
	}
	for text := range successors {
		if _, err := h.refresh("shop", text); err != nil {
			t.Errorf("the successor does not work: %v", err)
		}
	}
}

func TestRefreshTheft(t *testing.T) {
	for _, tc := range []struct {
		name  string
		reuse func(h *house, old, next string) string
	}{
		{"the one before, after ten seconds", func(h *house, old, _ string) string {
			h.clock = h.clock.Add(10*time.Second + 1)
			return old
		}},
		{"two generations back, at once", func(h *house, old, next string) string {
			if _, err := h.refresh("shop", next); err != nil {
				h.t.Fatal(err)
			}
			return old
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, "")
			g := h.login("shop")
			next, err := h.refresh("shop", g.RefreshToken)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.refresh("shop", tc.reuse(h, g.RefreshToken, next.RefreshToken)); token.CodeOf(err) != "invalid_grant" {
				t.Fatalf("reuse: %v, want invalid_grant", err)
			}
			if e := h.last(); e.Action != "token.theft" || e.Subject != "user:ann" {
				t.Errorf("recorded as %+v", e)
			}
			if _, err := h.refresh("shop", next.RefreshToken); err == nil {
				t.Error("the family survived")
			}
			if _, err := h.AccessToken(t.Context(), next.AccessToken); err == nil {
				t.Error("the family's access token survived")
			}
			if _, err := h.exchange("edge", wire.TypeSession, "ann", "a"); err != nil {
				t.Errorf("the person's own session fell with it: %v", err)
			}
		})
	}
}

func TestRefreshRefused(t *testing.T) {
	h := newHouse(t, "")
	g := h.login("shop")
	for name, try := range map[string][2]string{
		"another client's":  {"other", g.RefreshToken},
		"an access token":   {"shop", g.AccessToken},
		"nothing":           {"shop", ""},
		"a made-up one":     {"shop", "rrt_x.0.y"},
		"the next by guess": {"shop", strings.Replace(g.RefreshToken, ".0.", ".1.", 1)},
		"an unknown client": {"nobody", g.RefreshToken},
		"a longer one":      {"shop", g.RefreshToken + "A"},
	} {
		if _, err := h.refresh(try[0], try[1]); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := h.refresh("shop", g.RefreshToken); err != nil {
		t.Fatalf("noise revoked the family: %v", err)
	}
	h.clock = h.clock.Add(7*24*time.Hour + time.Second)
	if _, err := h.refresh("shop", g.RefreshToken); err == nil {
		t.Error("an idle family was accepted")
	}
}

func TestRevokeToken(t *testing.T) {
	for name, pick := range map[string]func(token.Granted) string{
		"access":  func(g token.Granted) string { return g.AccessToken },
		"refresh": func(g token.Granted) string { return g.RefreshToken },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, "")
			g := h.login("shop")
			if err := h.revokeToken("other", pick(g)); err != nil {
				t.Fatal(err)
			}
			if e := h.last(); e.Action != "token.revoke" || e.Outcome != audit.Refused || e.Resource != "client:other" || e.Peer != "192.0.2.1:7" {
				t.Errorf("a stranger's try was recorded as %+v", e)
			}
			if _, err := h.AccessToken(t.Context(), g.AccessToken); err != nil {
				t.Fatal("another client revoked it")
			}
			if err := h.revokeToken("shop", pick(g)); err != nil {
				t.Fatal(err)
			}
			if _, err := h.AccessToken(t.Context(), g.AccessToken); err == nil {
				t.Error("the access token lives on")
			}
			_, err := h.refresh("shop", g.RefreshToken)
			if alive := err == nil; alive != (name == "access") {
				t.Errorf("the refresh token lives: %v", alive)
			}
		})
	}
}

func FuzzRefresh(f *testing.F) {
	h := newHouse(f, "")
	g := h.login("shop")
	f.Add("rrt_")
	f.Add("rrt_a.b.c")
	f.Add(g.RefreshToken[:len(g.RefreshToken)-1])
	f.Fuzz(func(t *testing.T, s string) {
		form := url.Values{"grant_type": {"refresh_token"}, "client_id": {"shop"}, "refresh_token": {s}}
		if _, err := h.Grant(t.Context(), token.Request{Form: form}); err == nil && s != g.RefreshToken {
			t.Errorf("%q was accepted", s)
		}
	})
}

func BenchmarkExchange(b *testing.B) {
	h := newHouse(b, "")
	forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	b.ReportAllocs()
	for b.Loop() {
		h.events = h.events[:0]
		h.mustExchange("a", wire.TypeJWT, forA, "b")
	}
}

func TestCheckRedirect(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://shop.example/cb":               true,
		"https://shop.example:8443/cb?a=b":      true,
		"http://127.0.0.1/cb":                   true,
		"http://127.0.0.1:65535/cb":             true,
		"http://[::1]:4000/cb":                  true,
		"http://[::1]/":                         true,
		"":                                      false,
		"https:shop.example":                    false,
		"https://":                              false,
		"https://:443/cb":                       false,
		"Https://shop.example/cb":               false,
		"https://shop.example/cb#":              false,
		"https://shop.example/cb#x":             false,
		"https://shop.example:/cb":              false,
		"https://shop.example:0/cb":             false,
		"https://shop.example:65536/cb":         false,
		"https://shop.example:0443/cb":          false,
		"https://user@shop.example/cb":          false,
		"http://shop.example/cb":                false,
		"http://localhost/cb":                   false,
		"http://[::1%25lo]/cb":                  false,
		"http://127.0.0.1:80:80/cb":             false,
		"com.example.app://127.0.0.1/cb":        false,
		"//127.0.0.1/cb":                        false,
		"http://127.0.0.1:4000@evil.example/":   false,
		"http://127.0.0.1:4000\\@evil.example/": false,
	} {
		if err := token.CheckRedirect(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzRedirect: what is let in is https or loopback to every other reader too,
// and has no fragment.
func FuzzRedirect(f *testing.F) {
	for _, text := range []string{"https://shop.example/cb", "http://[::1]:4000/cb?x", "HTTP://127.0.0.1:0/#", "http://127.0.0.1:4000@evil/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if token.CheckRedirect(text) != nil {
			return
		}
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		ip := net.ParseIP(u.Hostname())
		loopback := strings.HasPrefix(text, "http://") && ip != nil && ip.IsLoopback()
		if !loopback && !strings.HasPrefix(text, "https://") || strings.Contains(text, "#") || u.User != nil {
			t.Errorf("let in %q", text)
		}
	})
}
