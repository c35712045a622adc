package token_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
	store *between // db as the service has it
	rings token.Rings
	clock time.Time

	mu      sync.Mutex
	events  []audit.Event
	deaf    bool // the audit log fails
	revoked []wire.Revocation
	people  map[string]rampart.Principal
	started time.Time // of every session
	proved  time.Time // by every session's person; zero: when it began
	ends    time.Time // of every session; zero: they have ended
	over    []string  // handles of sessions that were ended
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
	if !h.proved.IsZero() {
		p.AuthTime = h.proved
	}
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

// Live and EndSession go on with that.
func (h *house) Live(_ context.Context, subject, sid string) (time.Time, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clock.Before(h.ends) && "sid-"+strings.TrimPrefix(subject, "user:") == sid && !slices.Contains(h.over, sid) {
		return h.ends, nil
	}
	return time.Time{}, nil
}

func (h *house) EndSession(_ context.Context, sid string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = append(h.over, sid)
	return nil
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
	h := &house{t: t, sys: sys, db: db, store: &between{Store: db}, clock: time.Unix(1_700_000_000, 500_000_000), people: map[string]rampart.Principal{
		"user:ann": {Kind: rampart.KindHuman, Subject: "user:ann", Tenant: "acme", Organizations: []string{"acme"}, Roles: []string{"customer"}, Team: "red"},
	}}
	h.ends = h.clock.Add(365 * 24 * time.Hour)
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
		System: h.sys, Issuer: issuer, Rings: h.rings, Key: make([]byte, 32), Store: h.store, Tickets: h.store, Directory: h, Audit: h, OnRevoke: h.onRevoke, Now: h.now,
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
