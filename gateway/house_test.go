package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/sidecar"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store/sqlite"
)

// house is a whole system in one process: control plane, gateway, the sidecars
// of two services, and one plain server behind both.
type house struct {
	*controltest.House
	t      testing.TB
	gw     *Gateway
	link   *planelink.Link
	up     string // address of the server behind the services
	stop   func() // of the gateway; waits
	client *http.Client

	mu      sync.Mutex
	ahead   time.Duration // of the edge's clock
	service http.HandlerFunc
	last    *http.Request // what the service got
	body    string        // of last
	calls   int
}

func (h *house) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Add(h.ahead)
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ahead += d
}

// serve sets what the services answer; nil is 200 without a body.
func (h *house) serve(f http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.service = f
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	h.last, h.body = r, string(b)
	h.calls++
	f := h.service
	h.mu.Unlock()
	if f != nil {
		f(w, r)
	}
}

// served is how many requests the services have got.
func (h *house) served() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open starts the shop of package controltest, changed by pairs of old and new
// text.
func open(t testing.TB, change ...string) *house {
	t.Helper()
	return openFile(t, controltest.File(t, change...))
}

// openFile is open with a file of the test's own.
func openFile(t testing.TB, file string) *house {
	t.Helper()
	h := &house{House: controltest.Start(t, file), t: t}
	up := httptest.NewServer(h)
	t.Cleanup(up.Close)
	h.up = up.URL
	for _, name := range []string{"shop", "stock"} {
		h.sidecar(name, up.URL)
	}
	h.edge("shop", "stock")
	return h
}

// edge starts the gateway, waits for the services behind it and makes people
// and clients.
func (h *house) edge(behind ...string) {
	t := h.t
	t.Helper()
	opt := h.Options("gateway/edge", "gateway/edge")
	opt.Now = h.now
	h.link = h.Link(opt)
	store, err := idempotency.NewFile(filepath.Join(t.TempDir(), "keys"))
	must(t, err)
	t.Cleanup(func() { store.Close() })
	h.gw, err = New(Options{Name: "edge", Link: h.link, Audit: h.Log("gateway/edge"), Idem: store, State: h.State, Logger: h.Logger, Now: h.now})
	must(t, err)
	h.stop = run(t, h.gw.Run)
	h.Until("the edge is up", func() bool { return h.gw.Addr() != "" && len(h.link.State().Endpoints.Sidecars) == len(behind) })
	h.client = h.newClient()
	for name, roles := range map[string][]string{"ann": {"customer"}, "vic": {"viewer"}, "busy": {"customer"}, "gone": {"customer"}} {
		h.Admin(wire.AdminUsers, wire.User{Name: name, Password: password, Facts: spec.DemoUser{Roles: roles, Organizations: []string{"acme"}, Team: "red"}}, nil)
	}
	for c, principal := range map[string]string{"app": "customer", "shop": "merchant", "other": "merchant"} {
		h.Admin(wire.AdminClients, wire.Client{ID: c, Principal: principal, Redirects: []string{"http://127.0.0.1/cb"}}, nil)
	}
}

const password = "correct horse battery"

// run starts f and returns how to end it, which the test's end does too.
func run(t testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func (h *house) sidecar(name, upstream string) {
	h.t.Helper()
	in, err := net.Listen("tcp", "127.0.0.1:0")
	must(h.t, err)
	out, err := net.Listen("tcp", "127.0.0.1:0")
	must(h.t, err)
	opt := h.Options("service/"+name, "sidecar/"+name)
	opt.ListenAddr = func() string { return in.Addr().String() }
	s, err := sidecar.New(sidecar.Options{
		Service: name, Link: h.Link(opt), Audit: h.Log("sidecar/" + name), Logger: h.Logger, Inbound: in, Outbound: out,
		Socket: h.State.Path(name + ".sock"), Upstream: upstream, DataDir: h.t.TempDir(), State: h.State,
	})
	must(h.t, err)
	run(h.t, s.Run)
}

func (h *house) newClient() *http.Client {
	pem, err := os.ReadFile(h.State.Path("ca.pem"))
	must(h.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}, ForceAttemptHTTP2: true, MaxConnsPerHost: 100} // one address may have 256
	h.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is what came back, with what the gateway has on record of it.
type answer struct {
	*http.Response
	body string
}

// do sends one request; headers come in pairs of name and value.
func (h *house) do(method, path, body string, header ...string) answer {
	h.t.Helper()
	req, err := http.NewRequest(method, "https://"+h.gw.Addr()+path, strings.NewReader(body))
	must(h.t, err)
	if body == "" {
		req.Body, req.ContentLength = nil, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := h.client.Do(req)
	must(h.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(h.t, err)
	return answer{res, string(b)}
}

// stream sends a request whose answer has no end; what it returns tells when it
// has one.
func (h *house) stream(header ...string) <-chan error {
	h.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "https://"+h.gw.Addr()+"/orders/o1", nil)
	must(h.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := h.client.Do(req)
	must(h.t, err)
	h.t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 {
		h.t.Fatalf("a stream: %s", res.Status)
	}
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, res.Body); ended <- err }()
	return ended
}

// newest returns the gateway's newest record.
func (h *house) newest() audit.Event {
	h.t.Helper()
	list := h.Events("gateway_edge")
	if len(list) == 0 {
		return audit.Event{}
	}
	return list[len(list)-1]
}

// refusals counts those on record; what was allowed may be written a moment later.
func (h *house) refusals() int {
	h.t.Helper()
	n := 0
	for _, e := range h.Events("gateway_edge") {
		if e.Outcome == audit.Refused {
			n++
		}
	}
	return n
}

// login returns the value of a Cookie header.
func (h *house) login(name string) string {
	h.t.Helper()
	res := h.do(http.MethodPost, "/login", url.Values{"username": {name}, "password": {password}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	for _, c := range res.Cookies() {
		if c.Name == sessionCookie {
			return c.Name + "=" + c.Value
		}
	}
	h.t.Fatalf("login of %s: %s %s", name, res.Status, res.body)
	return ""
}

// prove moves the proof of the subject's newest session to another time, as a
// provider does that saw it.
func (h *house) prove(subject string, at time.Time) {
	h.t.Helper()
	db, err := sqlite.Open(h.t.Context(), h.State.Path("control.db"))
	must(h.t, err)
	defer db.Close()
	list, err := db.Sessions(h.t.Context(), subject)
	must(h.t, err)
	s := list[0]
	s.AuthTime = at
	ok, err := db.RekeySession(h.t.Context(), s.Key, s)
	must(h.t, err)
	if !ok {
		h.t.Fatal("the session is gone")
	}
}

// token returns an access token of a person for a client, by the authorization
// code flow with PKCE, as an Authorization header.
func (h *house) token(name, client string) string {
	h.t.Helper()
	verifier := base64.RawURLEncoding.EncodeToString(bytesOf(32))
	sum := sha256.Sum256([]byte(verifier))
	const redirect = "http://127.0.0.1:5555/cb"
	ask := h.do(http.MethodGet, "/oauth2/authorize?"+url.Values{
		"response_type": {"code"}, "client_id": {client}, "redirect_uri": {redirect}, "state": {"s"},
		"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
	}.Encode(), "", "Cookie", h.login(name))
	back, err := url.Parse(ask.Header.Get("Location"))
	must(h.t, err)
	res := h.do(http.MethodPost, wire.PathToken, url.Values{
		"grant_type": {"authorization_code"}, "client_id": {client}, "redirect_uri": {redirect}, "code": {back.Query().Get("code")}, "code_verifier": {verifier},
	}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	var got struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(res.body), &got); err != nil || got.Token == "" {
		h.t.Fatalf("token of %s: sent to %s, then %s %s", name, back, res.Status, res.body)
	}
	return "Bearer " + got.Token
}

func (h *house) apiKey(client string) string {
	h.t.Helper()
	var key wire.APIKey
	h.Admin(wire.AdminAPIKeys, wire.APIKeyRequest{Client: client}, &key)
	return key.Key
}

func bytesOf(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// freshNonce returns one that was never used.
// It is stamped ahead: one of the second in which the gateway started is refused.
func freshNonce() string {
	return fmt.Sprintf("%d.%s", time.Now().Unix()+2, base64.RawURLEncoding.EncodeToString(bytesOf(16)))
}
