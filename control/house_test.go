package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/control"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

const file = `rampart: v1
system: { name: pay }
data:
  payment: { class: confidential, pii: [email], encrypt: envelope }
  order: { class: internal }
  key: { class: secret, kind: credential, source: "secret://embedded/prod/key", generate: sk_test_ }
principals:
  customer: { kind: human }
  merchant: { kind: client, plan: standard }
plans:
  standard: { api_key: 60/m }
authz:
  roles:
    customer: ["orders:read"]
    admin: ["orders:*"]
services:
  edge: { role: gateway }
  orders: { upstream: "http://127.0.0.1:9001" }
  payments: { upstream: "http://127.0.0.1:9002" }
  mail: { upstream: "http://127.0.0.1:9003" }
stores:
  db: { kind: sqlite, holds: [payment] }
  events: { kind: nats, holds: [order, payment] }
external:
  processor: { url: "https://api.stripe.example" }
flows:
  - { from: customer, to: edge, authn: session }
  - { id: bearer, from: customer, to: edge, authn: jwt }
  - { from: merchant, to: edge, authn: { all: [api_key, jwt], bind: "jwt.azp == api_key.client" } }
  - { from: edge, to: orders, carries: [order] }
  - { from: edge, to: payments, carries: [payment] }
  - { from: payments, to: orders, carries: [order, payment] }
  - { from: payments, to: db, carries: [payment] }
  - { from: payments, to: events, topic: paid, carries: [payment], message: { sign: svid } }
  - { from: events, to: mail, topic: paid, carries: [payment], message: { accept_from: [payments] } }
  - { from: payments, to: processor, carries: [key], egress: { methods: [POST], paths: ["/v1/charges"] }, inject: { secret: key, into: "header:Authorization" } }
`

// house is a control plane with everything real: TLS on loopback, SQLite, the
// audit log and the admin socket.
type house struct {
	t     testing.TB
	plane *control.Plane
	state *statedir.Dir
	sys   *spec.System
	db    store.Store
	log   *audit.Log
	stop  func()
	roots []byte

	upstream ca.Signer                                  // above the authority; nil: none, or that of the file
	replica  string                                     // of several; "" is the only one
	openDB   func(context.Context) (store.Store, error) // nil: SQLite in the state folder

	mu    sync.Mutex
	ahead time.Duration                                // how far the house's clock is ahead
	still time.Time                                    // of the real clock when the house's was stopped; zero: it runs
	deaf  bool                                         // the audit log fails
	tests func(context.Context, pap.Set, string) error // of pushed policies; nil: none

	examine func(*spec.System) ([]string, error) // of applied files; nil: none
	full    atomic.Bool                          // fullStore takes nothing

	tls map[string]*http.Client
}

func (h *house) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.still.IsZero() {
		return h.still.Add(h.ahead)
	}
	return time.Now().Add(h.ahead)
}

// freeze makes the house's clock move by pass alone.
func (h *house) freeze() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.still = time.Now()
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ahead += d
}

func (h *house) setDeaf(deaf bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deaf = deaf
}

// Record passes events on to the real log unless the test broke it.
func (h *house) Record(ctx context.Context, e audit.Event) error {
	h.mu.Lock()
	deaf := h.deaf
	h.mu.Unlock()
	if deaf {
		return rampart.Errorf(rampart.Unavailable, "audit.log", "disk full")
	}
	return h.log.Record(ctx, e)
}

func open(t testing.TB, extra string) *house {
	t.Helper()
	h := found(t, extra)
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

// found makes a house that has not been started. beside are names and texts of
// files beside rampart.yaml.
func found(t testing.TB, extra string, beside ...string) *house {
	t.Helper()
	h := &house{t: t, tls: map[string]*http.Client{}}
	path := filepath.Join(t.TempDir(), "rampart.yaml")
	must(t, os.WriteFile(path, []byte(file+extra), 0o600))
	for i := 0; i+1 < len(beside); i += 2 {
		must(t, os.WriteFile(filepath.Join(filepath.Dir(path), beside[i]), []byte(beside[i+1]), 0o600))
	}
	var err error
	h.sys, err = spec.Load(path)
	must(t, err)
	dir := filepath.Join(t.TempDir(), "state")
	h.state, err = statedir.Open(dir, statedir.Options{Create: true, Throwaway: strings.Contains(extra, "unsafe")})
	must(t, err)
	return h
}

// start opens the plane on the state folder, as a process would.
func (h *house) start() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if h.openDB == nil {
		h.openDB = func(ctx context.Context) (store.Store, error) { return sqlite.Open(ctx, h.state.Path("control.db")) }
	}
	h.db, err = h.openDB(ctx)
	must(h.t, err)
	quiet := slog.New(slog.DiscardHandler)
	opt := control.Options{
		System: h.sys, State: h.state, Store: h.db, Audit: h, Logger: quiet, Now: h.now, Listen: "127.0.0.1:0", Issuer: issuer, Replica: h.replica, Upstream: h.upstream,
		TestPolicies: h.tests, Resolver: here{}, Examine: func(sys *spec.System) ([]string, error) {
			if h.examine == nil {
				return nil, nil
			}
			return h.examine(sys)
		},
	}
	h.log, err = audit.Open(h.state.Path("audit"), opt.LogName(), audit.Options{Logger: quiet})
	must(h.t, err)
	h.plane, err = control.New(opt)
	must(h.t, err)
	done := make(chan error, 1)
	go func() { done <- h.plane.Run(ctx) }()
	h.roots, err = os.ReadFile(h.state.Path("ca.pem"))
	must(h.t, err)
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("run: %v", err)
		}
		h.log.Close()
		h.db.Close()
		h.tls = map[string]*http.Client{}
		h.stop = func() {} // a test that fails between stop and start is cleaned up after, too
	}
}

const issuer = "https://localhost:8443/"

// here is where every name is.
type here struct{}

func (here) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// admin makes one call on the admin socket.
func (h *house) admin(method, path string, in, out any) error {
	h.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.plane.AdminSocket())
	}}}
	return call(h.t, &client, method, "http://control"+path, in, out)
}

func (h *house) mustAdmin(path string, in, out any) {
	h.t.Helper()
	must(h.t, h.admin(http.MethodPost, path, in, out))
}

// call makes one JSON call and turns a problem into an error of its kind.
func call(t testing.TB, c *http.Client, method, url string, in, out any) error {
	t.Helper()
	body, err := json.Marshal(in)
	must(t, err)
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		b, _ := io.ReadAll(res.Body)
		return &refusal{res.StatusCode, string(b)}
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(out)
}

type refusal struct {
	status int
	body   string
}

func (r *refusal) Error() string { return http.StatusText(r.status) + ": " + r.body }

// statusOf is the HTTP status of a refusal, 200 for nil, 0 for another error.
func statusOf(err error) int {
	if err == nil {
		return http.StatusOK
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	return 0
}

// as returns a client that shows the SVID of an identity, joining first.
func (h *house) as(path string) *http.Client {
	h.t.Helper()
	if c, ok := h.tls[path]; ok {
		return c
	}
	var tok wire.JoinToken
	h.mustAdmin(wire.AdminJoinToken, wire.JoinTokenRequest{Identity: path}, &tok)
	id, src, err := h.join(tok.Token)
	must(h.t, err)
	if want := "spiffe://" + h.sys.Info.TrustDomain + "/" + path; id.ID != want {
		h.t.Fatalf("joined as %s, want %s", id.ID, want)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: profile.MTLSClient(src, h.sys.ControlID()), ForceAttemptHTTP2: true}}
	h.t.Cleanup(c.CloseIdleConnections)
	h.tls[path] = c
	return c
}

func (h *house) join(token string) (wire.Identity, *svid.Source, error) {
	h.t.Helper()
	cfg, err := profile.Bootstrap(h.roots, h.sys.ControlID())
	must(h.t, err)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true, ForceAttemptHTTP2: true}}
	key, csr, err := svid.NewKeyAndCSR()
	must(h.t, err)
	var id wire.Identity
	if err := call(h.t, c, http.MethodPost, h.url(wire.PathJoin), wire.JoinRequest{Token: token, CSR: csr}, &id); err != nil {
		return id, nil, err
	}
	snap, err := svid.NewSnapshot(id.Chain, key, id.Bundle)
	must(h.t, err)
	src := svid.NewSource()
	src.Set(snap)
	return id, src, nil
}

func (h *house) url(path string) string { return "https://" + h.plane.Addr() + path }

// call is a JSON call of a plane.
func (h *house) call(as, method, path string, in, out any) error {
	h.t.Helper()
	return call(h.t, h.as(as), method, h.url(path), in, out)
}

// events returns the audit log's records of an action.
func (h *house) events(action string) []audit.Event {
	h.t.Helper()
	var out []audit.Event
	files, err := filepath.Glob(h.state.Path("audit", "control", "*.jsonl"))
	must(h.t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(h.t, err)
		for line := range bytes.Lines(b) {
			var rec struct{ Event audit.Event }
			must(h.t, json.Unmarshal(line, &rec))
			if rec.Event.Action == action {
				out = append(out, rec.Event)
			}
		}
	}
	return out
}

// wantEvent demands that the newest event of an action has this outcome.
func (h *house) wantEvent(action string, outcome audit.Outcome, control, subject string) {
	h.t.Helper()
	list := h.events(action)
	for end := time.Now().Add(30 * time.Second); len(list) == 0 && time.Now().Before(end); list = h.events(action) {
		time.Sleep(5 * time.Millisecond) // a client may learn of a refused handshake before it is on record
	}
	if len(list) == 0 {
		h.t.Errorf("%s left no event", action)
		return
	}
	if e := list[len(list)-1]; e.Outcome != outcome || e.Control != control || e.Subject != subject {
		h.t.Errorf("%s was recorded as %s by %q for %q; want %s by %q for %q", action, e.Outcome, e.Control, e.Subject, outcome, control, subject)
	}
}
