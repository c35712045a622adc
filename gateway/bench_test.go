package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/network/nonce"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/validate/openapi"
)

// bench is an edge whose one service is a plain server behind mutual TLS, so
// that the hop is nothing but the hop.
type bench struct {
	*house
	shop          string // address of the plain server
	session, ann  string // headers Cookie and Authorization
	key           string // header X-Api-Key
	cookie, basic *http.Request
	both          *http.Request
	nonces        uint64
}

func newBench(b *testing.B) *bench {
	b.Helper()
	const many = "100000000/m"
	h := &house{t: b, House: controltest.Start(b, controltest.File(b,
		"api_key: 20/h", "api_key: "+many, "ip: 100000/m, user: 1000/m", "ip: "+many+", user: "+many,
		"user: 60/h", "user: "+many, "user: 100000/m", "user: "+many))}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	opt := h.Options("service/shop", "sidecar/shop")
	opt.ListenAddr = func() string { return l.Addr().String() }
	link := h.Link(opt)
	cfg := profile.MTLSServer(link.Source(), func(string) error { return nil })
	go answerAll(profile.NewListener(l, cfg, profile.ListenerOptions{}))
	b.Cleanup(func() { l.Close() })
	h.edge("shop")
	s := &bench{house: h, shop: l.Addr().String(), session: h.login("ann"), ann: h.token("ann", "app"), key: h.apiKey("shop")}
	s.cookie, s.basic, s.both = s.request("Cookie", s.session), s.request("Authorization", s.ann), s.request("Authorization", h.token("ann", "shop"), "X-Api-Key", s.key)
	return s
}

// answerAll takes each write for a request, and answers it at once: what is measured is
// our end of the hop. A caller's write is one record of TLS.
func answerAll(l net.Listener) {
	const body = `{"id":"o1","item":"mug","count":2}`
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 30 Nov 2026 12:00:00 GMT\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 16<<10)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}()
	}
}

// request is the typed JSON request of the budget.
func (s *bench) request(header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/orders", nil)
	r.Host = "localhost:8443"
	r.RemoteAddr = "192.0.2.1:4711"
	for name, v := range map[string]string{"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "gzip, br",
		"Accept-Language": "en", "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/140", "Origin": "https://localhost:8443", "Sec-Fetch-Site": "same-origin"} {
		r.Header.Set(name, v)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// fresh returns a copy of r with an unread body and an unused nonce.
func (s *bench) fresh(r *http.Request) *http.Request {
	out := *r
	out.Body, out.ContentLength = io.NopCloser(strings.NewReader(good)), int64(len(good))
	out.Header["Rampart-Nonce"] = []string{s.nonce()}
	return &out
}

func (s *bench) nonce() string {
	var random [16]byte
	s.nonces++
	binary.BigEndian.PutUint64(random[:], s.nonces)
	return strconv.FormatInt(time.Now().Unix()+2, 10) + "." + base64.RawURLEncoding.EncodeToString(random[:])
}

// sink is a client that takes everything.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header             { return s.header }
func (s *sink) Write(p []byte) (int, error)     { return len(p), nil }
func (s *sink) WriteHeader(int)                 {}
func (s *sink) SetReadDeadline(time.Time) error { return nil }

// ready is a call as the named stage finds it.
func (s *bench) ready(b *testing.B, r *http.Request, before ...stage) *call {
	b.Helper()
	c := &call{w: &sink{http.Header{}}, r: s.fresh(r), table: s.gw.table.Load(), trace: strings.Repeat("ab", 16), ip: peerIP(r)}
	for _, st := range before {
		must(b, st.check(c))
	}
	return c
}

func BenchmarkStage(b *testing.B) {
	s := newBench(b)
	g, t := s.gw, s.gw.table.Load()
	in := []stage{canonicalize{}, route{}, caps{}}
	known := append(in[:3:3], authenticate{g})
	read := append(known[:4:4], body{})
	run := func(name string, r *http.Request, before []stage, f func(c *call) error) {
		b.Run(name, func(b *testing.B) {
			c := s.ready(b, r, before...)
			b.ReportAllocs()
			for b.Loop() {
				if err := f(c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("canonicalize", s.basic, nil, canonicalize{}.check)
	run("route", s.basic, in[:1], route{}.check)
	counted := func(st stage) func(c *call) error {
		return func(c *call) error {
			clear(c.w.Header())
			err := st.check(c)
			s.gw.end(c) // gives the places back
			c.after = nil
			return err
		}
	}
	run("ip_limit", s.basic, in, counted(ipLimit{t.ip}))
	run("caps", s.basic, in[:2], caps{}.check)
	run("session_cached", s.cookie, in, authenticate{g}.check)
	run("jwt_cached", s.basic, in, authenticate{g}.check)
	run("api_key_cached", s.both, in, authenticate{g}.check)
	run("csrf", s.cookie, known, csrf{http.NewCrossOriginProtection()}.check)
	run("plan_limit", s.both, known, counted(planLimit{newInflight()}))
	run("user_limit", s.basic, known, counted(userLimit{newInflight()}))
	run("authorize", s.basic, known, authorize{g}.check)
	run("body_json", s.basic, known, func(c *call) error {
		c.r.Body, c.read = io.NopCloser(strings.NewReader(good)), false
		if err := (body{}).check(c); err != nil {
			return err
		}
		opt := c.readOptions()
		opt.Judge = true // as the stage has it
		_, err := c.op.Read("application/json", c.body, opt)
		return err
	})
	run("schema", s.basic, read, schema{}.check)
	run("inspected", s.basic, append(read[:5:5], schema{}), func(c *call) error {
		if r := c.inspected(); len(r.Header) == 0 {
			return errors.New("nothing is inspected")
		}
		return nil
	})
	run("nonce", s.basic, known, func(c *call) error {
		if s.nonces%200_000 == 0 { // before the guard is full
			t.nonces["4"] = nonce.New(nonce.Options{})
		}
		c.r.Header["Rampart-Nonce"][0] = s.nonce()
		return nonceCheck{}.check(c)
	})
	run("exchange_cached", s.basic, known, func(c *call) error { return forward{g}.identify(c, s.link.Now(), http.Header{}) })
	run("audit_async", s.basic, known, func(c *call) error { return g.opt.Audit.Record(c.r.Context(), c.event(nil)) })
	run("harden", s.basic, known, func(c *call) error { clear(c.w.Header()); harden(c.w.Header(), t); return nil })
}

// BenchmarkIdempotency is a key's whole way, with its two syncs to the disk.
func BenchmarkIdempotency(b *testing.B) {
	s := newBench(b)
	c := s.ready(b, s.basic, canonicalize{}, route{}, caps{}, authenticate{s.gw})
	b.Run("begin_and_finish", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			call := idempotency.Call{Scope: c.principal.Subject, Key: strconv.Itoa(n), Body: []byte(good)}
			must(b, s.gw.once.Do(b.Context(), c.w, call, func(w http.ResponseWriter) error { w.WriteHeader(201); return nil }))
		}
	})
}

// BenchmarkForward is the last stage: from what was let in to the answer.
func BenchmarkForward(b *testing.B) {
	s := newBench(b)
	c := s.ready(b, s.basic, canonicalize{}, route{}, caps{}, authenticate{s.gw}, body{}, schema{})
	b.ReportAllocs()
	for b.Loop() {
		w := &sink{make(http.Header, 12)}
		must(b, forward{s.gw}.send(c, w, ""))
		if w.header.Get("Content-Type") != "application/json" {
			b.Fatal("not answered by the service")
		}
	}
}

// edgeOnly is all that the edge does for a request, but for the hop.
func (s *bench) edgeOnly(r *http.Request) error {
	g := s.gw
	c := &call{w: &sink{http.Header{}}, r: r, table: g.table.Load(), trace: strings.Repeat("ab", 16), ip: peerIP(r)}
	stages := c.table.stages
	for _, st := range stages[:len(stages)-1] {
		if err := st.check(c); err != nil {
			return err
		}
	}
	defer func() {
		c.leavePlaces()
		if c.after != nil {
			c.after()
		}
	}()
	t := forward{g}.begin(c, c.w)
	defer t.end()
	out := t.request(s.shop)
	if err := (forward{g}).identify(c, s.link.Now(), out.Header); err != nil {
		return err
	}
	seal(http.Header{}, c.w.Header(), c.table)
	return g.opt.Audit.Record(c.r.Context(), c.event(nil))
}

// refill gives the edge a nonce guard with room.
func (s *bench) refill() {
	if s.nonces%200_000 == 0 {
		s.gw.table.Load().nonces["4"] = nonce.New(nonce.Options{})
	}
}

// warm has the guide of the rules made, for which the first requests pay.
func (s *bench) warm() {
	s.t.Helper()
	for range 2 * payoff {
		must(s.t, s.edgeOnly(s.fresh(s.basic)))
	}
	s.Until("there is a guide", func() bool {
		s.gw.waf.mu.Lock()
		defer s.gw.waf.mu.Unlock()
		for _, g := range s.gw.waf.guides {
			if g.guide.Load() == nil {
				return false
			}
		}
		return true
	})
	must(s.t, s.edgeOnly(s.fresh(s.basic)))
}

func BenchmarkEdge(b *testing.B) {
	s := newBench(b)
	s.warm()
	for name, r := range map[string]*http.Request{"session": s.cookie, "jwt": s.basic, "api_key_and_jwt": s.both} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.refill()
				must(b, s.edgeOnly(s.fresh(r)))
			}
		})
	}
}

// BenchmarkHop is what a proxy of the standard library costs over the same
// connection: the measure of everything else.
func BenchmarkHop(b *testing.B) {
	s := newBench(b)
	rt, _, err := s.link.Now().Service("shop")
	must(b, err)
	b.Run("reverse_proxy", func(b *testing.B) {
		p := &httputil.ReverseProxy{Transport: rt, Rewrite: func(pr *httputil.ProxyRequest) { pr.Out.URL.Scheme, pr.Out.URL.Host = "https", s.shop }}
		b.ReportAllocs()
		for b.Loop() {
			p.ServeHTTP(&sink{http.Header{}}, s.fresh(s.basic))
		}
	})
	b.Run("relay", func(b *testing.B) {
		c := s.ready(b, s.basic, canonicalize{}, route{}, caps{}, authenticate{s.gw}, body{})
		b.ReportAllocs()
		for b.Loop() {
			t := forward{s.gw}.begin(c, c.w)
			must(b, relay.Send(&sink{http.Header{}}, t.request(s.shop), rt, nil))
			t.end()
		}
	})
}

func BenchmarkEdgeAndHop(b *testing.B) {
	s := newBench(b)
	s.warm()
	b.Run("jwt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.refill()
			must(b, s.edgeAndHop(s.fresh(s.basic)))
		}
	})
}

// edgeAndHop is all that the edge does for a request; the service's end is in this
// process.
func (s *bench) edgeAndHop(r *http.Request) error {
	w := &sink{http.Header{}}
	s.gw.handle(w, r)
	if w.header.Get("Content-Type") != "application/json" {
		return errors.New("not answered by the service")
	}
	return nil
}

// BenchmarkRoute shows that what a document holds does not slow down what is
// asked of it.
func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			var doc bytes.Buffer
			doc.WriteString("openapi: 3.1.0\ninfo: { title: T, version: '1' }\npaths:\n")
			for i := range n {
				fmt.Fprintf(&doc, "  /things%d/{id}:\n    get: { operationId: get%d, x-rampart: { permission: 'things:read' }, parameters: [{ name: id, in: path, required: true, schema: { type: string, maxLength: 16 } }], responses: { '200': { description: ok } } }\n", i, i)
			}
			api, err := openapi.Compile("things", doc.Bytes())
			must(b, err)
			t := &table{targets: []*target{{name: "things", mount: "/", api: api}}}
			path := fmt.Sprintf("/things%d/abc", n-1)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, err := t.find(http.MethodGet, path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
