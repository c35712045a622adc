// Package vaulttest is a server that speaks the protocol of Vault and OpenBao,
// in this process and over TLS, for tests. It keeps to what their API
// documentation says and what their official clients read; it is no proof of
// what their servers do.
//
// It starts with a KV engine, version 2, at secret and nothing else. What a
// test needs it makes by the same calls that an operator makes, through Admin.
package vaulttest

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const maxBody = 32 << 20 // bytes of a request, as the real servers' default

// Faults are what may be wrong with a server. The zero value is nothing.
type Faults struct {
	Down     bool   // connections break off without a reply
	Hang     bool   // requests are taken and not answered
	Sealed   bool   // 503
	Standby  string // address of the active node: 307 to it, for all but health
	Status   int    // answer everything with it, such as 429, 472, 473, 502
	Retry    int    // with Status: seconds of Retry-After; 0: no header
	Body     string // with Status: instead of Vault's JSON
	Oversize bool   // replies go on for 2 MiB
}

// Server is one Vault. It is an http.Handler; Start puts it behind TLS. Its
// methods may be called concurrently.
type Server struct {
	// Set these before first use.
	Now   func() time.Time // if nil, time.Now
	Rand  io.Reader        // if nil, crypto/rand
	Users Users            // if nil, database engines make up users that are in no database

	URL  string // https://127.0.0.1:PORT, after Start
	http *httptest.Server

	mu     sync.Mutex
	off    bool // stopped
	over   bool // the test has ended
	skew   time.Duration
	faults Faults
	seen   map[string]int // requests by method and path
	mounts map[string]engine
	tokens map[string]*token
	leases map[string]*lease
	wraps  map[string]wrapped
	rules  map[string]policy
	spaces map[string]bool // namespaces, of the form "a/b/"
	root   string
}

// engine is what is mounted at a path. s.mu is held.
type engine interface {
	serve(s *Server, c *call) *response
}

// call is one request below a mount.
type call struct {
	r     *http.Request
	op    string // read, write, delete or list
	ns    string // namespace, "" or ending in a slash
	mount string // ending in a slash, with the namespace
	path  string // below the mount
	body  map[string]any
	raw   []byte
	token *token // nil: none, or none that is good
}

// response is what an engine answers. The zero status is 200, or 204 without content.
type response struct {
	status   int
	errs     []string
	data     any
	auth     map[string]any
	lease    *lease
	warnings []string
}

func fail(status int, errs ...string) *response { return &response{status: status, errs: errs} }

func notFound() *response { return fail(http.StatusNotFound) }

func denied(more ...string) *response {
	if len(more) == 0 {
		return fail(http.StatusForbidden, "permission denied")
	}
	return fail(http.StatusForbidden, "2 errors occurred:\n\t* permission denied\n\t* "+strings.Join(more, "\n\t* ")+"\n\n")
}

// New returns a server that nobody can reach yet but through ServeHTTP.
func New() *Server {
	s := &Server{
		seen: map[string]int{}, mounts: map[string]engine{}, tokens: map[string]*token{}, leases: map[string]*lease{},
		wraps: map[string]wrapped{}, rules: map[string]policy{}, spaces: map[string]bool{"": true}, root: "root-token",
	}
	s.tokens[s.root] = &token{id: s.root, policies: []string{"root"}}
	s.mounts["secret/"] = newKV()
	s.mounts["sys/"] = system{}
	s.mounts["auth/token/"] = tokens{}
	return s
}

// Start returns a server behind TLS on a port of this machine, stopped at the
// end of t.
func Start(t testing.TB) *Server {
	t.Helper()
	s := New()
	s.http = s.unstarted()
	s.http.StartTLS()
	s.URL = s.http.URL
	t.Cleanup(func() {
		s.Fault(Faults{})
		s.mu.Lock()
		s.over = true
		s.mu.Unlock()
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

func (s *Server) unstarted() *httptest.Server {
	at := httptest.NewUnstartedServer(s)
	at.Config.ErrorLog = log.New(io.Discard, "", 0)
	at.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert}
	return at
}

// Stop ends a started server as a machine that goes down does: connections break,
// new ones are refused, and no lease is ended meanwhile. What it keeps stays.
func (s *Server) Stop() {
	s.mu.Lock()
	s.off = true
	s.mu.Unlock()
	s.http.CloseClientConnections()
	s.http.Close()
}

// Resume starts a stopped server again, at the address that it had.
func (s *Server) Resume(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", s.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	at := s.unstarted()
	at.Listener.Close()
	at.Listener = l
	at.StartTLS()
	s.mu.Lock()
	s.http, s.off = at, false
	s.mu.Unlock()
}

// Client returns an http.Client that trusts a started server.
func (s *Server) Client() *http.Client {
	c := *s.http.Client()
	c.Transport = s.http.Client().Transport.(*http.Transport).Clone()
	return &c
}

// CA returns the certificate of a started server's authority, in PEM.
func (s *Server) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
}

// Root returns the token that may do everything.
func (s *Server) Root() string { return s.root }

// Fault sets what is wrong from now on.
func (s *Server) Fault(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// Advance lets d pass for the server.
func (s *Server) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew += d
}

// Count returns how many requests of a method and path were taken, such as
// "GET secret/data/shop/key".
func (s *Server) Count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[what]
}

// Total returns how many requests were taken.
func (s *Server) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, v := range s.seen {
		n += v
	}
	return n
}

// EndTokens revokes every token but the root's.
func (s *Server) EndTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, t := range s.tokens {
		if id != s.root {
			s.endToken(t)
		}
	}
}

// Tokens returns how many tokens are good, the root's not counted.
func (s *Server) Tokens() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, t := range s.tokens {
		if t.id != s.root && !t.ended(s.now()) {
			n++
		}
	}
	return n
}

// Admin makes a call as the owner of the root token, faults aside, and returns
// the data of the reply, or its auth when that is what it holds. It fails the
// test unless the call succeeds.
func (s *Server) Admin(t testing.TB, method, path string, body any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	ns, path, found := strings.Cut(path, "//")
	if !found {
		ns, path = "", ns
	}
	r := httptest.NewRequestWithContext(t.Context(), method, "/v1/"+path, strings.NewReader(string(raw)))
	r.Header.Set("X-Vault-Token", s.root)
	r.Header.Set("X-Vault-Request", "true")
	r.Header.Set("X-Vault-Namespace", ns)
	w := httptest.NewRecorder()
	s.mu.Lock()
	s.serveLocked(w, r, raw)
	s.mu.Unlock()
	if w.Code >= 300 {
		t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	var out struct{ Data, Auth map[string]any }
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
	}
	if out.Auth != nil {
		return out.Auth
	}
	return out.Data
}

// ServeHTTP answers as a server would, with its faults.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		reply(w, fail(http.StatusRequestEntityTooLarge, "request body too large"), nil)
		return
	}
	s.mu.Lock()
	f := s.faults
	s.seen[r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1/")]++
	s.mu.Unlock()
	if s.faulty(w, r, f) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serveLocked(w, r, raw)
}

func (s *Server) faulty(w http.ResponseWriter, r *http.Request, f Faults) bool {
	health := strings.HasPrefix(r.URL.Path, "/v1/sys/health")
	switch {
	case f.Down:
		panic(http.ErrAbortHandler)
	case f.Hang:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case f.Sealed && health:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.health(w, r, true)
	case f.Sealed:
		reply(w, fail(http.StatusServiceUnavailable, "Vault is sealed"), nil)
	case f.Standby != "" && !health:
		w.Header().Set("Location", f.Standby+r.URL.RequestURI())
		w.WriteHeader(http.StatusTemporaryRedirect)
	case f.Status != 0:
		if f.Retry > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.Retry))
		}
		if f.Body != "" {
			w.WriteHeader(f.Status)
			io.WriteString(w, f.Body)
			return true
		}
		reply(w, fail(f.Status, "fault of a test"), nil)
	case f.Oversize:
		fmt.Fprintf(w, `{"data":{"data":{"value":%q}}}`, strings.Repeat("a", 2<<20))
	default:
		return false
	}
	return true
}

// serveLocked answers one request.
func (s *Server) serveLocked(w http.ResponseWriter, r *http.Request, raw []byte) {
	if r.Header.Get("X-Vault-Request") != "true" {
		reply(w, fail(http.StatusPreconditionFailed, "missing 'X-Vault-Request' header"), nil)
		return
	}
	if r.URL.Path == "/v1/sys/health" {
		s.health(w, r, false)
		return
	}
	c, resp := s.callOf(r, raw)
	if resp == nil {
		resp = s.dispatch(c)
	}
	if ttl, err := time.ParseDuration(r.Header.Get("X-Vault-Wrap-TTL")); err == nil && resp.status == 0 {
		s.wrap(w, c, resp, ttl)
		return
	}
	reply(w, resp, s)
}

func (s *Server) callOf(r *http.Request, raw []byte) (*call, *response) {
	c := &call{r: r, raw: raw}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ok || strings.Contains(path, "..") {
		return c, fail(http.StatusBadRequest, "path cannot contain parent references")
	}
	if c.ns = strings.Trim(r.Header.Get("X-Vault-Namespace"), "/"); c.ns != "" {
		c.ns += "/"
	}
	if !s.spaces[c.ns] {
		return c, fail(http.StatusNotFound, "namespace not found")
	}
	switch r.Method {
	case http.MethodGet:
		c.op = "read"
		if r.URL.Query().Get("list") == "true" {
			c.op = "list"
		}
	case http.MethodPost, http.MethodPut:
		c.op = "write"
	case http.MethodDelete:
		c.op = "delete"
	case "LIST":
		c.op = "list"
	default:
		return c, fail(http.StatusMethodNotAllowed)
	}
	if len(raw) > 0 && json.Unmarshal(raw, &c.body) != nil {
		return c, fail(http.StatusBadRequest, "error parsing JSON")
	}
	c.path = path
	c.token = s.tokenOf(r.Header.Get("X-Vault-Token"), c.ns)
	return c, nil
}

// dispatch finds the mount. Whether a path exists is told to those who may use it.
func (s *Server) dispatch(c *call) *response {
	open := strings.HasPrefix(c.path, "auth/") && strings.HasSuffix(c.path, "/login") || c.path == "sys/wrapping/unwrap"
	if !open && c.token == nil {
		if c.r.Header.Get("X-Vault-Token") == "" {
			return denied()
		}
		return denied("invalid token")
	}
	if !open && !s.allowed(c) {
		return denied()
	}
	for at := c.path; ; {
		i := strings.LastIndexByte(strings.TrimSuffix(at, "/"), '/')
		if i < 0 {
			return fail(http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", c.path))
		}
		at = at[:i+1]
		e, ok := s.mounts[c.ns+at]
		if shared := at == "sys/" || at == "auth/token/"; shared {
			e, ok = s.mounts[at]
		}
		if ok {
			c.mount, c.path = c.ns+at, strings.TrimPrefix(c.path, at)
			return e.serve(s, c)
		}
	}
}

// reply writes what an engine answered in Vault's envelope.
func reply(w http.ResponseWriter, resp *response, s *Server) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if resp.errs != nil || resp.status >= 400 && resp.data == nil {
		if resp.errs == nil {
			resp.errs = []string{}
		}
		w.WriteHeader(resp.status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": resp.errs})
		return
	}
	if resp.data == nil && resp.auth == nil && resp.lease == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if resp.status == 0 {
		resp.status = http.StatusOK
	}
	w.WriteHeader(resp.status)
	_ = json.NewEncoder(w).Encode(s.envelope(resp))
}

func (s *Server) envelope(resp *response) map[string]any {
	out := map[string]any{
		"request_id": s.id("request"), "lease_id": "", "renewable": false, "lease_duration": 0,
		"data": resp.data, "wrap_info": nil, "warnings": nil, "auth": nil,
	}
	if resp.warnings != nil {
		out["warnings"] = resp.warnings
	}
	if resp.auth != nil {
		out["auth"] = resp.auth
	}
	if l := resp.lease; l != nil {
		out["lease_id"], out["renewable"], out["lease_duration"] = l.id, l.renewable, wholeSeconds(l.until.Sub(s.now()))
	}
	return out
}

func (s *Server) health(w http.ResponseWriter, r *http.Request, sealed bool) {
	q, status := r.URL.Query(), http.StatusOK
	standby := s.faults.Standby != ""
	code := func(name string, fallback int) int {
		if n, err := strconv.Atoi(q.Get(name)); err == nil {
			return n
		}
		return fallback
	}
	switch {
	case sealed:
		status = code("sealedcode", http.StatusServiceUnavailable)
	case standby && q.Get("standbyok") != "true":
		status = code("standbycode", http.StatusTooManyRequests)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"initialized": true, "sealed": sealed, "standby": standby, "performance_standby": false, "version": "0.0.0-fake",
		"server_time_utc": s.now().Unix(), "cluster_name": "fake", "cluster_id": "fake",
	})
}

func (s *Server) now() time.Time {
	if s.Now != nil {
		return s.Now().Add(s.skew)
	}
	return time.Now().Add(s.skew)
}

// bytes returns n random ones.
func (s *Server) bytes(n int) []byte {
	b, from := make([]byte, n), s.Rand
	if from == nil {
		from = rand.Reader
	}
	if _, err := io.ReadFull(from, b); err != nil {
		panic("vaulttest: no randomness: " + err.Error())
	}
	return b
}

// id returns a new name of a kind.
func (s *Server) id(kind string) string { return kind + "-" + hex.EncodeToString(s.bytes(8)) }

// text and number read a field of a request; durations are seconds or 1h2m.
func (c *call) text(name string) string { t, _ := c.body[name].(string); return t }

func (c *call) number(name string) int { f, _ := c.body[name].(float64); return int(f) }

func (c *call) duration(name string, fallback time.Duration) time.Duration {
	switch v := c.body[name].(type) {
	case float64:
		return time.Duration(v) * time.Second
	case string:
		if n, err := strconv.Atoi(v); err == nil {
			return time.Duration(n) * time.Second
		}
		if d, err := time.ParseDuration(v); err == nil {
			return d
		}
	}
	return fallback
}

func (c *call) list(name string) []string {
	switch v := c.body[name].(type) {
	case string:
		return strings.Split(v, ",")
	case []any:
		var out []string
		for _, e := range v {
			out = append(out, fmt.Sprint(e))
		}
		return out
	}
	return nil
}

// policy maps paths, or prefixes that end in *, to capabilities.
type policy map[string][]string

// always is what Vault's default policy lets every token do.
var always = policy{
	"auth/token/lookup-self": {"read"}, "auth/token/renew-self": {"update"}, "auth/token/revoke-self": {"update"},
	"sys/leases/renew": {"update"}, "sys/leases/lookup": {"update"}, "sys/wrapping/*": {"update"},
}

// allowed decides as Vault does: of each policy the longest path that fits
// counts, deny wins, and of several policies each may allow.
func (s *Server) allowed(c *call) bool {
	capability := map[string][]string{"read": {"read"}, "list": {"list"}, "delete": {"delete"}, "write": {"create", "update"}}[c.op]
	ok := false
	for _, name := range append(c.token.policies, "default") {
		if name == "root" {
			return true
		}
		p := s.rules[c.token.ns+name]
		if name == "default" {
			p = always
		}
		best, caps := "", []string(nil)
		for path, list := range p {
			prefix, glob := strings.CutSuffix(path, "*")
			if (path == c.path || glob && strings.HasPrefix(c.path, prefix)) && len(path) > len(best) {
				best, caps = path, list
			}
		}
		if slices.Contains(caps, "deny") {
			return false
		}
		ok = ok || slices.ContainsFunc(capability, func(w string) bool { return slices.Contains(caps, w) })
	}
	return ok
}

// wholeSeconds is a rest as the server tells it: a new lease of an hour has 3600.
func wholeSeconds(d time.Duration) int { return int(d.Round(time.Second) / time.Second) }
