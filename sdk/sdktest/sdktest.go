// Package sdktest is a sidecar for the tests of a service: a real server on a
// real Unix socket that speaks the messages of a sidecar, without a control
// plane behind it. What a sidecar would decide, the test says.
package sdktest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
)

// The messages between a service and its sidecar.
type (
	Info          = agent.ServiceInfo
	Store         = agent.StoreInfo
	ServerOwned   = agent.ServerOwned
	CheckRequest  = agent.CheckRequest
	FilterRequest = agent.FilterRequest
	FilterAnswer  = agent.FilterAnswer
	TupleWrite    = agent.TupleWrite
	Identified    = agent.Identified
)

// Headers of a request from the sidecar.
const (
	HeaderIdentity = agent.HeaderIdentity
	HeaderIdem     = agent.HeaderIdem
)

// Event is what goes on record for a service, with the subject and the trace of
// the identity that it showed.
type Event struct {
	Class, Action, Outcome, Control, Subject, Resource, Trace string
	Detail                                                    map[string]string
}

// Message is one message that the service published, or signed to publish.
type Message struct {
	Store, Topic string
	Subject      string // for whom the service acts
	Payload      json.RawMessage
}

// Agent plays the sidecar. Its fields may be set until the service connects.
type Agent struct {
	Info    Info                                // what the service is told of itself; IdentityKey is filled
	Check   func(CheckRequest) rampart.Decision // domain layer, also of many at once; nil denies
	Filter  func(FilterRequest) FilterAnswer    // domain layer, of lists; nil denies
	Out     http.Handler                        // takes /out/DEST/PATH with the prefix kept; nil answers 403
	Publish func(Message) int                   // status of a publish; nil stores (204)
	Secrets map[string][]byte                   // by name, version 1; others are 403

	// DBCert signs a client certificate of a store; nil: none asks for one.
	DBCert func(store string, csr []byte) (chain [][]byte, err error)

	root []byte // of data encryption keys

	mu       sync.Mutex         // guards below, and Info.IdentityKey
	key      ed25519.PrivateKey // signs identities
	events   []Event
	messages []Message
	graph    graph
	rotating rotating
	dataKeys dataKeys
}

// Start serves a on a socket of its own until the test ends, and points
// sdk.Connect at it through the environment.
func Start(t testing.TB, a *Agent) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // t.TempDir may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	a.root = make([]byte, 32)
	rand.Read(a.root)
	a.Rekey()
	srv := &http.Server{Handler: a.handler()}
	go srv.Serve(ln)
	t.Cleanup(func() {
		srv.Close()
		os.RemoveAll(dir)
	})
	t.Setenv(agent.EnvSocket, socket)
	t.Setenv(agent.EnvService, a.Info.Name)
}

// Rekey makes a new identity key, as a sidecar does when it restarts.
func (a *Agent) Rekey() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Info.IdentityKey, a.key, _ = ed25519.GenerateKey(rand.Reader) // crypto/rand does not fail
}

// Sign returns the Rampart-Identity header for id.
func (a *Agent) Sign(id Identified) string {
	b, err := json.Marshal(id)
	if err != nil {
		panic(err) // the type has no value that JSON cannot hold
	}
	text := "v1." + base64.RawURLEncoding.EncodeToString(b)
	a.mu.Lock()
	defer a.mu.Unlock()
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(a.key, []byte(text)))
}

// Identified returns what a header says that this agent signed.
func (a *Agent) Identified(header string) (id Identified, ok bool) {
	dot := max(0, strings.LastIndexByte(header, '.'))
	text := header[:dot]
	signature, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(header[dot:], "."))
	if err != nil || !ed25519.Verify(a.public(), []byte(text), signature) {
		return Identified{}, false
	}
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, "v1."))
	return id, err == nil && json.Unmarshal(b, &id) == nil && time.Now().Before(id.Expires)
}

func (a *Agent) public() ed25519.PublicKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Info.IdentityKey
}

// Identity returns the header for p on a flow, valid for a minute.
func (a *Agent) Identity(p rampart.Principal, flow string) string {
	return a.Sign(Identified{
		Principal: p,
		Caller:    "spiffe://test.internal/gateway/gateway",
		Flow:      flow,
		Trace:     strings.Repeat("ab", 16),
		Expires:   time.Now().Add(time.Minute),
	})
}

// Events returns what the service put on record.
func (a *Agent) Events() []Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Event(nil), a.events...)
}

// Messages returns what the service published.
func (a *Agent) Messages() []Message {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Message(nil), a.messages...)
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+agent.PathService, func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		json.NewEncoder(w).Encode(a.Info)
	})
	mux.HandleFunc("POST "+agent.PathCheck, a.check)
	mux.HandleFunc("POST "+agent.PathMany, a.many)
	mux.HandleFunc("POST "+agent.PathFilter, a.filter)
	mux.HandleFunc("POST "+agent.PathTuples, a.push)
	mux.HandleFunc("POST "+agent.PathDEK, a.dek)
	mux.HandleFunc("POST "+agent.PathAudit, a.audit)
	mux.HandleFunc("GET "+agent.PathSecret+"{name}", a.secret)
	mux.HandleFunc("GET "+agent.PathForget, a.forget)
	mux.HandleFunc("POST "+agent.PathInUse, a.report)
	mux.HandleFunc("POST "+agent.PathDBCert+"{store}", a.dbCert)
	mux.HandleFunc("POST "+agent.PathSign+"{store}/{topic}", a.sign)
	mux.HandleFunc("POST "+agent.PathPublish+"{store}/{topic}", a.publish)
	mux.HandleFunc(agent.PathOut, func(w http.ResponseWriter, r *http.Request) {
		if a.Out == nil {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		a.Out.ServeHTTP(w, r)
	})
	return mux
}

func (a *Agent) check(w http.ResponseWriter, r *http.Request) {
	var req CheckRequest
	if !read(w, r, &req) {
		return
	}
	var d rampart.Decision
	if a.Check != nil {
		d = a.Check(req)
	}
	json.NewEncoder(w).Encode(d)
}

func (a *Agent) many(w http.ResponseWriter, r *http.Request) {
	var req agent.ManyRequest
	if !read(w, r, &req) {
		return
	}
	out := agent.ManyAnswer{Decisions: make([]rampart.Decision, len(req.Checks))}
	for i, c := range req.Checks {
		c.Identity = req.Identity
		if a.Check != nil {
			out.Decisions[i] = a.Check(c)
		}
	}
	json.NewEncoder(w).Encode(out)
}

func (a *Agent) filter(w http.ResponseWriter, r *http.Request) {
	var req FilterRequest
	if !read(w, r, &req) {
		return
	}
	var out FilterAnswer
	if a.Filter != nil {
		out = a.Filter(req)
	}
	json.NewEncoder(w).Encode(out)
}

func (a *Agent) audit(w http.ResponseWriter, r *http.Request) {
	var req agent.AuditRequest
	if !read(w, r, &req) {
		return
	}
	e := Event{
		Class: req.Class, Action: req.Action, Outcome: req.Outcome, Control: req.Control,
		Subject: "spiffe://test.internal/service/" + a.Info.Name, Resource: req.Resource, Detail: req.Detail,
	}
	if req.Identity != "" {
		id, ok := a.Identified(req.Identity)
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		e.Subject, e.Trace = id.Principal.Subject, id.Trace
	}
	if !agent.MayClaim(req.Control) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	a.events = append(a.events, e)
	a.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (a *Agent) secret(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	if r.URL.Query().Has("refused") {
		a.refusedLocked(r.PathValue("name"))
	}
	value := a.valueLocked(r.PathValue("name"))
	a.mu.Unlock()
	if value.Version == 0 {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	json.NewEncoder(w).Encode(value)
}

// sign answers with the message itself: what a consumer would learn from the
// signature is the subject.
func (a *Agent) sign(w http.ResponseWriter, r *http.Request) {
	id, ok := a.Identified(r.Header.Get(HeaderIdentity))
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	m := Message{Store: r.PathValue("store"), Topic: r.PathValue("topic"), Subject: id.Principal.Subject}
	if read(w, r, &m.Payload) {
		w.Header().Set("Content-Type", "application/jose")
		json.NewEncoder(w).Encode(m)
	}
}

func (a *Agent) publish(w http.ResponseWriter, r *http.Request) {
	var m Message
	if !read(w, r, &m) {
		return
	}
	status := http.StatusNoContent
	if a.Publish != nil {
		status = a.Publish(m)
	}
	if status/100 == 2 {
		a.mu.Lock()
		a.messages = append(a.messages, m)
		a.mu.Unlock()
	}
	w.WriteHeader(status)
}

func read(w http.ResponseWriter, r *http.Request, v any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(v)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
	return err == nil
}
