package sidecar

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/queue"
	"github.com/rampart-security/rampart/spec"
)

// house is a control plane with the shop's sidecars and queue, and callers
// that speak for other planes.
type house struct {
	*controltest.House
	t  testing.TB
	up *httptest.Server // behind every sidecar
	of map[string]*beside

	mu      sync.Mutex
	ahead   time.Duration // of the sidecars' clocks
	later   time.Duration // of their links' clocks
	jumped  error         // what pdp.Clock says; nil: nothing
	service http.HandlerFunc
	got     []request
	held    map[string]string // service -> folder in memory
}

// beside is one running sidecar.
type beside struct {
	*Sidecar
	out  string // address of the way out
	sock *http.Client
	stop func()
}

// request is what a service got.
type request struct {
	path   string
	header http.Header
	body   string
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, services []string, change ...string) *house {
	t.Helper()
	return openFile(t, controltest.File(t, change...), services)
}

// openFile is open with a file that is there already.
func openFile(t testing.TB, file string, services []string) *house {
	t.Helper()
	h := &house{House: controltest.Start(t, file), t: t, of: map[string]*beside{}, held: map[string]string{}}
	h.up = httptest.NewServer(h)
	t.Cleanup(h.up.Close)
	for _, name := range services {
		h.start(name)
	}
	h.Admin(wire.AdminUsers, wire.User{Name: "ann", Password: password, Facts: spec.DemoUser{Roles: []string{"customer"}, Organizations: []string{"acme"}, Team: "red"}}, nil)
	return h
}

const password = "correct horse battery"

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

// silence makes the sidecars' news of the control plane older.
func (h *house) silence(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.later += d
}

func (h *house) clock() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.jumped
}

func (h *house) jump(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.jumped = err
}

func (h *house) linkNow() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Add(h.later)
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	h.got = append(h.got, request{r.URL.String(), r.Header, string(b)})
	f := h.service
	h.mu.Unlock()
	if f != nil {
		f(w, r)
	}
}

func (h *house) serve(f http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.service = f
}

// requests returns what the services got so far.
func (h *house) requests() []request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.got[:len(h.got):len(h.got)]
}

func (h *house) start(name string) {
	h.t.Helper()
	in, err := net.Listen("tcp", "127.0.0.1:0")
	must(h.t, err)
	out, err := net.Listen("tcp", "127.0.0.1:0")
	must(h.t, err)
	opt := h.Options("service/"+name, "sidecar/"+name)
	opt.ListenAddr, opt.Now = func() string { return in.Addr().String() }, h.linkNow
	socket := h.State.Path(name + ".sock")
	s, err := New(Options{
		Service: name, Link: h.Link(opt), Audit: h.Log("sidecar/" + name), Logger: h.Logger, Inbound: in, Outbound: out,
		Socket: socket, Workload: h.workload(name), Upstream: h.up.URL, StandIns: h.t.TempDir(), DataDir: h.t.TempDir(), SecretsDir: h.memory(name), State: h.State, Now: h.now, Clock: h.clock,
	})
	must(h.t, err)
	stop := run(h.t, s.Run)
	h.of[name] = &beside{stop: stop, Sidecar: s, out: out.Addr().String(), sock: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}}
}

// memory is the service's folder in memory; "" where this machine has none.
func (h *house) memory(name string) string {
	h.mu.Lock()
	folder, made := h.held[name]
	h.mu.Unlock()
	if made {
		return folder
	}
	folder, err := NewMemoryFolder()
	if err != nil {
		h.t.Log(err)
		return ""
	}
	h.t.Cleanup(func() { os.RemoveAll(folder) })
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[name] = folder
	return folder
}

// workload is where a service finds the workload API.
func (h *house) workload(name string) string { return h.State.Path(name + ".workload") }

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

// queue starts the broker on a folder and returns how to stop it, from when on
// its link tells of no address, as that of a process that has ended.
func (h *house) queue(dir, listen string) (addr string, stop func()) {
	h.t.Helper()
	opt := h.Options("store/events", "queue/events")
	var at atomic.Pointer[string]
	at.Store(new(string))
	opt.ListenAddr = func() string { return *at.Load() }
	q, err := queue.New(queue.Options{Store: "events", Link: h.Link(opt), Audit: h.Log("queue/events"), Logger: h.Logger, Listen: listen, Dir: dir, Key: strings.Repeat("k", 32)})
	must(h.t, err)
	addr = q.Addr()
	at.Store(&addr)
	end := run(h.t, q.Run)
	return addr, func() { at.Store(new(string)); end() }
}

// as joins as another plane, to call like it.
func (h *house) as(identity string) *planelink.Link {
	h.t.Helper()
	return h.Link(h.Options(identity, strings.Replace(identity, "service/", "sidecar/", 1)))
}

// session logs ann in and returns her session cookie's value.
func (h *house) session(edge *planelink.Link) string {
	h.t.Helper()
	rt, addr := edge.Now().Control()
	form := strings.NewReader(url.Values{"username": {"ann"}, "password": {password}}.Encode())
	req, err := http.NewRequest(http.MethodPost, "https://"+addr+"/login", form)
	must(h.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set(wire.HeaderClientIP, "192.0.2.1:4711")
	res, err := rt.RoundTrip(req)
	must(h.t, err)
	defer res.Body.Close()
	if len(res.Cookies()) == 0 {
		h.t.Fatalf("login: %s", res.Status)
	}
	return res.Cookies()[0].Value
}

// reply is what came back.
type reply struct {
	*http.Response
	body string
}

// call sends a request to a service's sidecar over mutual TLS as link's plane.
func (h *house) call(link *planelink.Link, service, method, path, body string, header ...string) reply {
	h.t.Helper()
	h.Until("the sidecar is known", func() bool { _, _, err := link.Now().Service(service); return err == nil })
	rt, addr, err := link.Now().Service(service)
	must(h.t, err)
	return h.do(rt, method, "https://"+addr+path, body, header...)
}

func (h *house) do(rt http.RoundTripper, method, at, body string, header ...string) reply {
	h.t.Helper()
	req, err := http.NewRequest(method, at, strings.NewReader(body))
	must(h.t, err)
	if body == "" {
		req.Body, req.ContentLength = nil, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := rt.RoundTrip(req)
	must(h.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(h.t, err)
	return reply{res, string(b)}
}

// stream asks the shop, as link's plane, for an answer that begins with "first"
// and has no end; what it returns tells when it has one.
func (h *house) stream(link *planelink.Link, header, value string) <-chan error {
	h.t.Helper()
	rt, addr, err := link.Now().Service("shop")
	must(h.t, err)
	req, err := http.NewRequest(http.MethodGet, "https://"+addr+"/orders/o1", nil)
	must(h.t, err)
	req.Header.Set(header, value)
	res, err := rt.RoundTrip(req)
	must(h.t, err)
	h.t.Cleanup(func() { res.Body.Close() })
	first := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first" {
		h.t.Fatalf("the answer begins with %q, %v", first, err)
	}
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, res.Body); ended <- err }()
	return ended
}

// newest returns a sidecar's newest record.
func (h *house) newest(service string) audit.Event {
	h.t.Helper()
	list := h.Events("sidecar_" + service)
	if len(list) == 0 {
		return audit.Event{}
	}
	return list[len(list)-1]
}

// identity returns the header that the shop got for a request of ann's.
func (h *house) identity(edge *planelink.Link, session string) string {
	h.t.Helper()
	tok, err := edge.Now().Token(h.t.Context(), wire.TypeSession, session, h.System.ServiceID("shop"))
	must(h.t, err)
	if res := h.call(edge, "shop", "GET", "/orders/o1", "", "Authorization", "Bearer "+tok); res.StatusCode != 200 {
		h.t.Fatalf("reading an order: %d %s", res.StatusCode, res.body)
	}
	list := h.requests()
	return list[len(list)-1].header.Get(agent.HeaderIdentity)
}

func (h *house) check(service string, q agent.CheckRequest) (allowed bool, status int) {
	h.t.Helper()
	b, err := json.Marshal(q)
	must(h.t, err)
	res, err := h.of[service].sock.Post("http://sidecar"+agent.PathCheck, "application/json", bytes.NewReader(b))
	must(h.t, err)
	defer res.Body.Close()
	var d struct{ Effect string }
	json.NewDecoder(res.Body).Decode(&d)
	return d.Effect == "allow", res.StatusCode
}

func encoded(v any) string {
	b, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(b)
}
