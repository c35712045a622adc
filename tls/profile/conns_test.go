package profile_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

// plane is a server whose listener judges open connections.
type plane struct {
	addr     string
	src      *svid.Source
	refusals chan error
	banned   atomic.Pointer[string] // who has no flow any more
	clock    atomic.Int64           // by which time runs ahead
	done     atomic.Int64           // requests that were served
}

// open serves: /stream streams until it is broken off, everything else answers.
func open(t testing.TB, src *svid.Source) *plane {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	p := &plane{addr: inner.Addr().String(), src: src, refusals: make(chan error, 100)}
	l := profile.NewMTLSListener(inner, src, func(id string) error {
		if b := p.banned.Load(); b != nil && *b == id {
			return errors.New("no such flow")
		}
		return nil
	}, profile.ListenerOptions{
		OnRefuse: func(_ net.Addr, err error) { p.refusals <- err },
		Now:      func() time.Time { return time.Now().Add(time.Duration(p.clock.Load())) },
	})
	srv := &http.Server{Handler: http.HandlerFunc(p.serve)}
	l.Protect(srv, func(w http.ResponseWriter, r *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusForbidden)
	})
	done := make(chan struct{})
	go func() { srv.Serve(l); close(done) }()
	t.Cleanup(func() { srv.Close(); l.Close(); <-done })
	return p
}

func (p *plane) serve(w http.ResponseWriter, r *http.Request) {
	p.done.Add(1)
	if r.URL.Path != "/stream" {
		io.WriteString(w, "served")
		return
	}
	io.WriteString(w, "first\n")
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// caller is a client with one connection at a time.
type caller struct {
	t      testing.TB
	plane  *plane
	client *http.Client
}

func (p *plane) caller(t testing.TB, proto string, src *svid.Source) *caller {
	t.Helper()
	cfg := profile.MTLSClient(src, orders)
	cfg.NextProtos = []string{proto}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: proto == "h2"}
	t.Cleanup(tr.CloseIdleConnections)
	return &caller{t, p, &http.Client{Transport: tr, Timeout: 20 * time.Second}}
}

// get reports the status of a request (0: there was no connection), whether it
// went over a connection that was open, and whether that is to be closed.
func (c *caller) get() (status int, reused bool) {
	c.t.Helper()
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.plane.addr, nil)
	ok(c.t, err)
	res, err := c.client.Do(req)
	if err != nil {
		return 0, reused
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	return res.StatusCode, reused
}

// stream begins an answer; what ends it is sent.
func (c *caller) stream() <-chan error {
	c.t.Helper()
	res, err := (&http.Client{Transport: c.client.Transport}).Get("https://" + c.plane.addr + "/stream")
	ok(c.t, err)
	body := bufio.NewReader(res.Body)
	_, err = body.ReadString('\n')
	ok(c.t, err)
	ended := make(chan error, 1)
	go func() {
		defer res.Body.Close()
		_, err := body.ReadString('\n')
		ended <- err
	}()
	return ended
}

// TestOpenConnections: whatever makes a peer unwelcome, its next request on an
// open connection is refused, what streams is cut off, and it does not come back.
// Nobody else notices.
func TestOpenConnections(top *testing.T) {
	t := top
	var ends []func() // streams are cut off after a while: all are waited for at once
	old := authority(t, nil)
	fresh := authority(t, nil)
	both := slices.Concat(old.BundlePEM(), fresh.BundlePEM())
	deny := func(src *svid.Source, when func(svid.Verified) bool) {
		src.Deny(func(v svid.Verified) error {
			if when(v) {
				return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "denied")
			}
			return nil
		})
	}
	serial := func(s svid.Snapshot) string { return s.Proof.Issuer() + "." + s.Proof.Serial() }
	for name, row := range map[string]struct {
		control string
		happens func(p *plane, victim svid.Snapshot)
	}{
		"its ID is denied": {"mtls.peer_declared", func(p *plane, v svid.Snapshot) {
			deny(p.src, func(peer svid.Verified) bool { return peer.ID == v.ID })
		}},
		"its certificate is denied": {"mtls.peer_declared", func(p *plane, v svid.Snapshot) {
			deny(p.src, func(peer svid.Verified) bool { return peer.Issuer()+"."+peer.Serial() == serial(v) })
		}},
		"its issuer is denied": {"mtls.peer_declared", func(p *plane, v svid.Snapshot) {
			deny(p.src, func(peer svid.Verified) bool { return slices.Contains(peer.Issuers, v.Proof.Issuer()) })
		}},
		"its flow is removed": {"mtls.peer_declared", func(p *plane, v svid.Snapshot) { p.banned.Store(&v.ID); p.src.Touch() }},
		"its root is retired": {"mtls.required", func(p *plane, v svid.Snapshot) {
			trust, err := svid.NewTrust(2, "shop.internal", fresh.BundlePEM(), nil)
			ok(t, err)
			ok(t, p.src.SetTrust(trust))
		}},
	} {
		for _, proto := range []string{"http/1.1", "h2"} {
			t.Run(name+" "+proto, func(t *testing.T) {
				src := svid.NewSource()
				src.Set(issue(t, fresh, orders))
				trust, err := svid.NewTrust(1, "shop.internal", both, nil)
				ok(t, err)
				ok(t, src.SetTrust(trust))
				p := open(top, src)
				victim, witness := issue(t, old, edge), issue(t, fresh, payments)
				bad, good := p.caller(top, proto, holding(t, victim, trust)), p.caller(top, proto, holding(t, witness, trust))
				streamed, kept := bad.stream(), good.stream()
				for _, c := range []*caller{bad, good, bad, good} {
					if status, _ := c.get(); status != http.StatusOK {
						t.Fatalf("before: %d", status)
					}
				}
				served := p.done.Load()
				row.happens(p, victim)
				if status, reused := bad.get(); status != http.StatusForbidden || !reused {
					t.Errorf("the next request: %d, over the open connection %v", status, reused)
				}
				refusedBy(t, next(t, p.refusals), row.control)
				ends = append(ends, func() {
					if err := <-streamed; err == nil {
						top.Errorf("%s: the stream came to a good end", name)
					}
					if status, _ := bad.get(); status != 0 {
						top.Errorf("%s: it came back: %d", name, status)
					}
					if n := p.done.Load() - served; n != 0 {
						top.Errorf("%s: %d requests were served", name, n)
					}
					if status, reused := good.get(); status != http.StatusOK || !reused {
						top.Errorf("%s: another peer: %d, over its open connection %v", name, status, reused)
					}
					select {
					case err := <-kept:
						top.Errorf("%s: another peer's stream ended: %v", name, err)
					default:
					}
				})
			})
		}
	}
	for _, end := range ends {
		end()
	}
}

// holding is a source that shows one certificate and believes trust.
func holding(t testing.TB, s svid.Snapshot, trust *svid.Trust) *svid.Source {
	t.Helper()
	src := svid.NewSource()
	src.Set(s)
	ok(t, src.SetTrust(trust))
	return src
}

// TestRootRotation walks the four steps with live traffic: connections of peers
// that moved on survive each step, and none of them is refused.
func TestRootRotation(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			old, fresh := authority(t, nil), authority(t, nil)
			both := slices.Concat(old.BundlePEM(), fresh.BundlePEM())
			server, client := source(t, old, orders), source(t, old, edge)
			p := open(t, server)
			step := func(version uint64, roots []byte) {
				t.Helper()
				for _, src := range []*svid.Source{server, client} {
					trust, err := svid.NewTrust(version, "shop.internal", roots, nil)
					ok(t, err)
					ok(t, src.SetTrust(trust))
				}
			}
			a := p.caller(t, proto, client)
			get := func(what string, c *caller, fresh bool) {
				t.Helper()
				if status, reused := c.get(); status != http.StatusOK || reused == fresh {
					t.Errorf("%s: %d, reused %v", what, status, reused)
				}
			}
			get("before", a, true)
			step(1, both)
			get("published: the connection lives on", a, false)
			client.Set(issue(t, fresh, edge))
			get("the client has renewed", a, false)
			b := p.caller(t, proto, client)
			get("a new handshake, new to old", b, true)
			server.Set(issue(t, fresh, orders))
			get("the server has renewed", b, false)
			c := p.caller(t, proto, client)
			get("a new handshake, new to new", c, true)
			step(2, fresh.BundlePEM())
			get("retired: who moved on notices nothing", b, false)
			get("retired", c, false)
			if status, _ := a.get(); status != http.StatusForbidden {
				t.Errorf("a connection of the old root: %d", status)
			}
			if status, _ := p.caller(t, proto, source(t, old, edge)).get(); status != 0 {
				t.Errorf("a certificate of the old root: %d", status)
			}
		})
	}
}

// TestAge: a connection whose peer's certificate has ended takes no more requests
// than the one that learns of it, and what is under way on it goes on.
func TestAge(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			a := authority(t, nil)
			p := open(t, source(t, a, orders))
			c := p.caller(t, proto, source(t, a, edge))
			first := c.stream()
			c.get()
			if status, reused := c.get(); status != http.StatusOK || !reused {
				t.Fatalf("before: %d, reused %v", status, reused)
			}
			p.clock.Store(int64(2 * time.Hour))
			if status, reused := c.get(); status != http.StatusOK || !reused {
				t.Errorf("the last request: %d, reused %v", status, reused)
			}
			p.src.Touch() // that it has expired is no reason to break anything off
			p.clock.Store(0)
			again := false
			for end := time.Now().Add(20 * time.Second); !again; time.Sleep(10 * time.Millisecond) { // the GOAWAY is under way
				status, reused := c.get()
				if again = !reused; status != http.StatusOK || time.Now().After(end) {
					t.Fatalf("after: %d, reused %v", status, reused)
				}
			}
			select {
			case err := <-first:
				t.Errorf("the stream ended: %v", err)
			default:
			}
		})
	}
}

// TestClockJump: a clock past the end of certificates refuses them, and one that
// comes back takes them again.
func TestClockJump(t *testing.T) {
	a := authority(t, nil)
	p := open(t, source(t, a, orders))
	for _, row := range []struct {
		ahead  time.Duration
		status int
	}{{0, 200}, {2 * time.Hour, 0}, {0, 200}, {-2 * time.Hour, 0}, {0, 200}} {
		p.clock.Store(int64(row.ahead))
		if status, _ := p.caller(t, "h2", source(t, a, edge)).get(); status != row.status {
			t.Errorf("%v ahead: %d, want %d", row.ahead, status, row.status)
		}
	}
}

// TestUnjudged: a request that came past no judge is refused.
func TestUnjudged(t *testing.T) {
	if err := profile.Recheck(t.Context()); rampart.KindOf(err) != rampart.Unauthenticated {
		t.Errorf("%v", err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	l := profile.NewMTLSListener(inner, svid.NewSource(), onlyEdge, profile.ListenerOptions{})
	defer l.Close()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { t.Error("it was served") })}
	l.Protect(srv, func(w http.ResponseWriter, _ *http.Request, err error) { w.WriteHeader(http.StatusForbidden) })
	w := httptest.NewRecorder()
	srv.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("%d", w.Code)
	}
}

// TestFederated: another trust domain's roots vouch for its own endpoint, and our
// own roots for none of its.
func TestFederated(t *testing.T) {
	ours, theirs := authority(t, nil), partnerOf(t)
	const endpoint = "spiffe://partner.example/bundle"
	trust, err := svid.NewTrust(1, "shop.internal", ours.BundlePEM(), map[string][]byte{"partner.example": theirs.BundlePEM()})
	ok(t, err)
	believe := func() *svid.Trust { return trust }
	anyone := func(string) error { return nil }
	addr, _ := serve(t, profile.ControlServer(source(t, theirs, endpoint), anyone))
	if _, err := get(addr, profile.Federated(endpoint, believe)); err != nil {
		t.Errorf("the partner's endpoint: %v", err)
	}
	for name, want := range map[string]string{"another name": "spiffe://partner.example/other", "our name": orders, "no bundle": "spiffe://third.example/bundle"} {
		if _, err := get(addr, profile.Federated(want, believe)); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
	if _, err := get(addr, profile.MTLSClient(holding(t, issue(t, ours, edge), trust), endpoint)); err == nil {
		t.Error("a profile that does not say so let another domain in")
	}
	inside, refusals := serve(t, profile.MTLSServer(holding(t, issue(t, ours, orders), trust), anyone))
	if _, err := get(inside, raw(issue(t, theirs, endpoint).Certificate)); err == nil {
		t.Error("a partner was let in though no profile says so")
	}
	refusedBy(t, next(t, refusals), "mtls.required")
}

func partnerOf(t testing.TB) *ca.Authority {
	t.Helper()
	a, err := ca.New("partner.example", nil)
	ok(t, err)
	return a
}

// TestDatabaseClientCertificate: the certificate of the moment is shown.
func TestDatabaseClientCertificate(t *testing.T) {
	a := authority(t, nil)
	cert, shown := issueEdge(t, a), issue(t, a, edge).Certificate
	asked := make(chan int, 1)
	server := profile.Edge(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil })
	server.ClientAuth = tls.RequestClientCert
	server.VerifyConnection = func(cs tls.ConnectionState) error { asked <- len(cs.PeerCertificates); return nil }
	addr, _ := serve(t, server)
	cfg, err := profile.DatabaseWithCert(a.BundlePEM(), "localhost", func() (*tls.Certificate, error) { return &shown, nil })
	ok(t, err)
	if _, err := get(addr, cfg); err != nil || <-asked != 2 {
		t.Errorf("%v", err)
	}
}

// BenchmarkRecheck is what each request pays for the judgement of its connection.
func BenchmarkRecheck(b *testing.B) {
	a := authority(b, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	ok(b, err)
	l := profile.NewMTLSListener(inner, source(b, a, orders), onlyEdge, profile.ListenerOptions{})
	defer l.Close()
	contexts := make(chan context.Context)
	done := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { contexts <- r.Context(); <-done })}
	l.Protect(srv, func(_ http.ResponseWriter, _ *http.Request, err error) { b.Error(err) })
	go srv.Serve(l)
	defer srv.Close()
	go get(inner.Addr().String(), profile.MTLSClient(source(b, a, edge), orders))
	ctx := <-contexts
	b.ReportAllocs()
	for b.Loop() {
		if err := profile.Recheck(ctx); err != nil {
			b.Fatal(err)
		}
	}
	close(done)
}
