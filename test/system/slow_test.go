//go:build system

package system

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowSize is how hard TestSlowClients attacks, and how long a tool goes on.
type slowSize struct {
	modes []string
	conns int
	last  int // seconds of each mode
	idle  int // connections that do nothing
	bound int // MiB that the gateway may grow by
}

func slowSizes() slowSize {
	if os.Getenv("RAMPART_LONG") != "" {
		return slowSize{[]string{"headers", "body", "read", "range"}, 400, 90, 10_000, 1024} // an answer that fits into the kernel's buffers is given up as idle, after 60 s
	}
	return slowSize{[]string{"headers"}, 200, 30, 300, 256}
}

// TestSlowClients attacks the edge with slowhttptest, idle connections, bodies
// without end and a zip bomb, while a good client goes on. What it asserts are
// counts and memory; rates are told. RAMPART_LONG=1 is all modes (make slow).
func TestSlowClients(t *testing.T) {
	if _, err := exec.LookPath("slowhttptest"); err != nil {
		t.Skip("slowhttptest is not installed: test/install.sh does")
	}
	size := slowSizes()
	s := newSlowSystem(t)
	before := s.rss()
	quiet := s.goodFor(2 * time.Second)
	t.Logf("before: %s, gateway %d MiB", quiet, before)
	for _, mode := range size.modes {
		t.Run(mode, func(t *testing.T) {
			sockets, stop := s.sockets(), s.goodUntil()
			left := s.attack(t, mode, size, s.loopback())
			t.Logf("meanwhile: %s (before: %s), gateway %d MiB", s.clean(t, stop()), quiet, s.rss())
			if mode == "read" { // the kernel holds on to what a client has not taken, long after the gateway has let go
				left.closed = size.conns - (s.sockets() - sockets)
			}
			if !left.over(size) {
				t.Errorf("of %d connections nine of ten must be opened and closed: %+v", size.conns, left)
			}
		})
	}
	t.Run("control", func(t *testing.T) { s.control(t, size) })
	t.Run("idle", func(t *testing.T) { s.idle(t, size.idle, quiet) })
	t.Run("bodies", func(t *testing.T) { s.bodies(t) })
	if grown := s.rss() - before; grown > size.bound {
		t.Errorf("the gateway grew by %d MiB, want at most %d", grown, size.bound)
	}
}

// slowSystem is one service behind the edge, whose answers may be large.
type slowSystem struct {
	*running
	good   *http.Client
	cookie string       // the attacker's
	bytes  atomic.Int64 // of bodies that reached the service
}

func newSlowSystem(t *testing.T) *slowSystem {
	t.Helper()
	s := &slowSystem{}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		s.bytes.Add(n)
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/things/big" {
			fmt.Fprintf(w, `{"id":%q}`, strings.Repeat("x", 1<<20))
			return
		}
		io.WriteString(w, `{"id":"1"}`)
	}))
	t.Cleanup(up.Close)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "things.yaml"), []byte(thingsAPI))
	s.running = start(t, write(t, filepath.Join(dir, "rampart.yaml"), []byte(`rampart: v1
system: { name: slow, trust_domain: slow.example }
principals: { customer: { kind: human } }
authz: { roles: { customer: ["things:read", "things:create"] } }
services:
  gateway: { role: gateway, edge: { connections: 20000, per_ip: 1000 } }
  things: { upstream: "`+up.URL+`", openapi: things.yaml }
flows:
  - { from: customer, to: gateway, authn: session, limit: { ip: 60000000/m, user: 60000000/m } }
  - { from: gateway, to: things, authn: exchange, validate: { max_body: 1MiB, response: off } }
demo: { users: { alice: { roles: [customer], organizations: [acme] }, mallory: { roles: [customer], organizations: [acme] } } }
`)))
	alice, mallory := s.login("alice"), s.login("mallory")
	// The good client has an address and a user of its own: the attacker may use up
	// those that it has.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		_, port, _ := net.SplitHostPort(addr)
		return d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	}}
	t.Cleanup(tr.CloseIdleConnections)
	s.good = &http.Client{Transport: tr, Jar: alice.Jar, Timeout: 20 * time.Second}
	req, err := http.NewRequest(http.MethodGet, s.base(), nil)
	fine(t, err)
	for _, c := range mallory.Jar.Cookies(req.URL) {
		s.cookie += c.Name + "=" + c.Value + "; "
	}
	s.cookie = strings.TrimSuffix(s.cookie, "; ")
	return s
}

const thingsAPI = `openapi: 3.1.0
info: { title: things, version: "1" }
paths:
  /things:
    get:
      operationId: list
      x-rampart: { permission: "things:read" }
      responses: { "200": { description: done } }
    post:
      operationId: create
      x-rampart: { permission: "things:create" }
      x-rampart-encoding: [gzip]
      requestBody:
        required: true
        content: { application/json: { schema: { type: object, additionalProperties: false, properties: { id: { type: string, maxLength: 100 } } } } }
      responses: { "200": { description: done } }
  /things/big:
    get:
      operationId: big
      x-rampart: { permission: "things:read" }
      responses: { "200": { description: done } }
`

// loopback is the edge's URL for a tool that would take localhost for ::1.
func (s *slowSystem) loopback() string {
	return strings.Replace(s.base(), "localhost", "127.0.0.1", 1)
}

// rss is the gateway's memory in MiB.
func (s *slowSystem) rss() int {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid("gateway/gateway")))
	fine(s.t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kib, err := strconv.Atoi(f[1])
			fine(s.t, err)
			return kib >> 10
		}
	}
	s.t.Fatal("no VmRSS")
	return 0
}

// sockets counts those of the gateway.
func (s *slowSystem) sockets() int {
	s.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", s.pid("gateway/gateway"))
	fds, err := os.ReadDir(dir)
	fine(s.t, err)
	n := 0
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// served is what the good client saw.
type served struct {
	ok, failed int
	rate       float64
	last       error
}

func (v served) String() string {
	return fmt.Sprintf("%d served, %d failed, %.0f a second", v.ok, v.failed, v.rate)
}

// goodUntil has the good client ask until it is told to stop, 100 times a second:
// what came late is made up for as soon as it can be.
func (s *slowSystem) goodUntil() (stop func() served) {
	var v served
	began, end, done := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for due := began; ; due = due.Add(10 * time.Millisecond) {
			select {
			case <-end:
				if v.ok+v.failed > 0 {
					return
				}
			case <-time.After(time.Until(due)):
			}
			status, body, err := s.try(s.good, http.MethodGet, "/things", nil)
			if err == nil && status == http.StatusOK {
				v.ok++
				continue
			}
			v.failed++
			v.last = fmt.Errorf("%d %s %v", status, body, err)
		}
	}()
	return func() served {
		close(end)
		<-done
		v.rate = float64(v.ok) / time.Since(began).Seconds()
		return v
	}
}

func (s *slowSystem) goodFor(d time.Duration) served {
	stop := s.goodUntil()
	time.Sleep(d)
	return s.clean(s.t, stop())
}

// clean demands that the good client was served: 95 of 100 requests, since a burst
// of requests that are allowed may have the edge shed some of everybody's. The long
// form, on a machine of its own, demands 95 of 100 of its rate too.
func (s *slowSystem) clean(t *testing.T, v served) served {
	t.Helper()
	if v.failed*20 > v.ok+v.failed || v.ok == 0 || os.Getenv("RAMPART_LONG") != "" && v.rate < 95 {
		t.Errorf("the good client: %s; %v", v, v.last)
	}
	return v
}

// ending is the last line that slowhttptest wrote. It ends before its time when
// none of its connections is left; its exit code says nothing.
type ending struct{ seconds, closed, pending, connected, most int }

// over reports whether the tool gave up before its time, or nine of ten connections
// were opened and lost.
func (e ending) over(size slowSize) bool {
	return e.seconds < size.last-2 || e.most*10 >= size.conns*9 && e.closed*10 >= size.conns*9
}

func (s *slowSystem) attack(t *testing.T, mode string, size slowSize, base string) ending {
	t.Helper()
	out := filepath.Join(t.TempDir(), "slow")
	n := strconv.Itoa(size.conns)
	args := []string{"-c", n, "-r", n, "-l", strconv.Itoa(size.last), "-p", "3", "-g", "-o", out}
	if mode != "range" { // which is about the head alone
		args = append(args, "-j", s.cookie)
	}
	args = append(args, map[string][]string{
		"headers": {"-H", "-i", "2", "-x", "24", "-u", base + "/things"},
		"body":    {"-B", "-i", "2", "-s", "8192", "-x", "10", "-t", "POST", "-f", "application/json", "-u", base + "/things"},
		"read":    {"-X", "-w", "10", "-y", "20", "-n", "1", "-z", "32", "-k", "3", "-u", base + "/things/big"},
		"range":   {"-R", "-u", base + "/things", "-t", "HEAD", "-a", "10", "-b", "3000"},
	}[mode]...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(size.last+30)*time.Second)
	defer cancel()
	said, _ := exec.CommandContext(ctx, "slowhttptest", args...).CombinedOutput()
	f, err := os.Open(out + ".csv")
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	fine(t, err)
	if len(rows) < 2 {
		t.Fatalf("no line: %s", said)
	}
	var e ending
	for _, row := range rows[1:] {
		for i, to := range []*int{&e.seconds, &e.closed, &e.pending, &e.connected} {
			*to, err = strconv.Atoi(strings.TrimSpace(row[i]))
			fine(t, err)
		}
		e.most = max(e.most, e.closed+e.connected)
	}
	t.Logf("%s against %s: after %d s %d closed, %d pending, %d connected", mode, base, e.seconds, e.closed, e.pending, e.connected)
	return e
}

// control is net/http without a deadline, which must be seen to hold what the edge
// lets go of.
func (s *slowSystem) control(t *testing.T, size slowSize) {
	naked := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	t.Cleanup(func() { naked.CloseClientConnections(); naked.Close() })
	size.last = 8 // which is longer than the edge takes
	if left := s.attack(t, "headers", size, naked.URL); left.over(size) || left.connected*10 < size.conns*9 {
		t.Errorf("a server without deadlines holds %d of %d: the attack is none", left.connected, size.conns)
	}
}

// idle opens connections that finish the handshake and do no more, each hundred
// from an address of its own, and 250 a second: a flood of handshakes is another
// attack.
func (s *slowSystem) idle(t *testing.T, n int, quiet served) {
	_, port, err := net.SplitHostPort(s.Edge)
	fine(t, err)
	stop := s.goodUntil()
	var mu sync.Mutex
	var open []net.Conn
	var wg sync.WaitGroup
	var failed atomic.Int32
	slots := make(chan struct{}, 64)
	cfg := &tls.Config{RootCAs: s.roots, ServerName: "localhost", MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	for i := range n {
		slots <- struct{}{}
		time.Sleep(4 * time.Millisecond)
		wg.Go(func() {
			defer func() { <-slots }()
			d := &net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i/100))}}
			c, err := tls.DialWithDialer(d, "tcp4", "127.0.0.1:"+port, cfg)
			if err != nil {
				failed.Add(1)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			open = append(open, c)
		})
	}
	wg.Wait()
	t.Logf("%d idle connections opened, %d not; meanwhile: %s (before: %s), gateway %d MiB", len(open), failed.Load(), s.clean(t, stop()), quiet, s.rss())
	if len(open) < n/2 {
		t.Errorf("%d of %d connections could be opened", len(open), n)
	}
	for _, c := range open {
		c.(*tls.Conn).NetConn().Close()
	}
}

// bodies sends a GiB, announced and not, and a bomb. Nothing of
// them reaches the service.
func (s *slowSystem) bodies(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, err := io.CopyN(z, zeros{}, 128<<20)
	fine(t, err)
	fine(t, z.Close())
	for name, tc := range map[string]struct {
		body   func() io.Reader
		length int64
		coding string
	}{
		"1 GiB, announced":     {func() io.Reader { return io.LimitReader(zeros{}, 1<<30) }, 1 << 30, ""},
		"1 GiB, not announced": {func() io.Reader { return io.LimitReader(zeros{}, 1<<30) }, -1, ""},
		"128 MiB in a bomb":    {func() io.Reader { return bytes.NewReader(bomb.Bytes()) }, int64(bomb.Len()), "gzip"},
	} {
		stop, before := s.goodUntil(), s.bytes.Load()
		for range 20 { // each is refused in milliseconds, in which a rate cannot be told
			req, err := http.NewRequest(http.MethodPost, s.base()+"/things", tc.body())
			fine(t, err)
			req.ContentLength = tc.length
			req.Header.Set("Content-Type", "application/json")
			if tc.coding != "" {
				req.Header.Set("Content-Encoding", tc.coding)
			}
			res, err := s.good.Do(req)
			fine(t, err)
			res.Body.Close()
			if res.StatusCode != http.StatusRequestEntityTooLarge || s.bytes.Load() != before {
				t.Errorf("%s: %s, %d bytes at the service", name, res.Status, s.bytes.Load()-before)
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Logf("20 times %s: 413; meanwhile: %s, gateway %d MiB", name, s.clean(t, stop()), s.rss())
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
