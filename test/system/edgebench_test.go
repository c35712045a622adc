//go:build system

package system

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/rampart-security/rampart/test/freeport"
)

const (
	edgeConns    = 16
	edgeRequests = 4000 // in a row of each kind
)

// edgeRate is how many requests a second each edge gets: 1,000 are far below what
// any of them can bear but one with a whole WAF. 0 is as many as 16 clients get
// answered, where an edge does not go to sleep between two requests.
func edgeRate(t *testing.T) int {
	t.Helper()
	v := os.Getenv("RAMPART_BENCH_EDGE_RATE")
	if v == "" {
		return 1000
	}
	n, err := strconv.Atoi(v)
	fine(t, err)
	return n
}

// TestEdgeBench measures the CPU that a request costs at the edge: Rampart with
// more and more of its chain, and others that stand where it stands. All get the
// same requests at the same rate, one after the other, round by round.
func TestEdgeBench(t *testing.T) {
	if os.Getenv("RAMPART_BENCH_EDGE") == "" {
		t.Skip("a benchmark of some minutes: make bench-edge")
	}
	need(t, "openssl")
	t.Setenv("GOMAXPROCS", "1") // one thread for everyone, as nginx and haproxy are told
	b := newEdgeBench(t)
	b.peers()
	b.rampart()
	b.warm()
	rounds := 5
	if n, err := strconv.Atoi(os.Getenv("RAMPART_BENCH_EDGE")); err == nil && n > 0 {
		rounds = n
	}
	for n := range rounds {
		for _, e := range b.edges {
			for _, k := range b.kinds {
				e.measure(t, n, k)
			}
		}
	}
	b.report()
}

// edgeKind is one request that all edges get.
type edgeKind struct {
	name, method, body string
	http2              bool // 16 at a time on one connection; else 16 connections
}

// edge is one server under measurement. What counts is the process that stands at
// the edge, as with every peer. A peer sends on in the clear, and there is nothing
// behind it but the service; Rampart sends on over mutual TLS to a sidecar, which
// checks once more: what that one used is told beside it.
type edge struct {
	name, base       string
	pid              int
	behind           int // process of the sidecar; 0: there is none
	client, clientH2 *http.Client
	cost             map[string][]float64 // kind -> CPU µs per request, a round each
	costBehind       map[string][]float64
}

func newEdge(name, base string, pid, behind int, cfg *tls.Config, jar http.CookieJar) *edge {
	e := &edge{name: name, base: base, pid: pid, behind: behind, client: edgeClient(cfg.Clone()), clientH2: edgeClient(cfg.Clone()), cost: map[string][]float64{}, costBehind: map[string][]float64{}}
	e.client.Jar, e.clientH2.Jar = jar, jar
	e.clientH2.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	return e
}

type edgeBench struct {
	t               *testing.T
	dir             string
	backend         string
	cert, key, both string
	kinds           []edgeKind
	edges           []*edge
	roots           *x509.CertPool
	conf            string
}

const (
	typedBody = `{"order_id":"3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11","amount":1299,"currency":"EUR","method":"card","items":[{"sku":"MUG-1","quantity":2},{"sku":"TEE-4","quantity":1}],"due":"2026-11-29T12:00:00Z","express":true}`
	freeBody  = `{"order_id":"3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11","amount":1299,"note":"Please leave the parcel with Mrs. O'Neill next door, she is at home until five, and ring twice. Thank you very much for the quick help last week!"}`
)

func newEdgeBench(t *testing.T) *edgeBench {
	t.Helper()
	b := &edgeBench{t: t, dir: t.TempDir(), roots: x509.NewCertPool(), kinds: []edgeKind{
		{name: "GET", method: http.MethodGet}, {name: "typed POST", method: http.MethodPost, body: typedBody}, {name: "free text POST", method: http.MethodPost, body: freeBody},
		{name: "typed POST, HTTP/2", method: http.MethodPost, body: typedBody, http2: true},
	}}
	conf, err := filepath.Abs("testdata/edge")
	fine(t, err)
	b.conf = conf
	b.kinds = slices.DeleteFunc(b.kinds, func(k edgeKind) bool { return !picked(t, "RAMPART_BENCH_EDGE_KIND", k.name) })
	b.backend = constant(t)
	b.certificate()
	return b
}

// constant is a service that answers everything the same.
func constant(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fine(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"o1","state":"accepted"}`)
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

// certificate makes the one that the peers show.
func (b *edgeBench) certificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fine(b.t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	fine(b.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	fine(b.t, err)
	c := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	k := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	b.roots.AppendCertsFromPEM(c)
	b.cert, b.key, b.both = write(b.t, filepath.Join(b.dir, "c.pem"), c), write(b.t, filepath.Join(b.dir, "k.pem"), k), write(b.t, filepath.Join(b.dir, "both.pem"), append(c, k...))
}

// peers starts those that are installed, and says which are not.
func (b *edgeBench) peers() {
	const modsec = "/usr/lib/nginx/modules/ngx_http_modsecurity_module.so"
	b.peer("nginx", "nginx", "nginx.conf", "", func(dir, conf string) []string { return []string{"-p", dir, "-c", conf} })
	if _, err := os.Stat(modsec); err == nil {
		b.peer("nginx + ModSecurity + CRS 4", "nginx", "nginx.conf", modsec, func(dir, conf string) []string { return []string{"-p", dir, "-c", conf} })
	} else {
		b.t.Log("left out: nginx with ModSecurity (package libnginx-mod-http-modsecurity)")
	}
	b.peer("haproxy", "haproxy", "haproxy.cfg", "", func(_, conf string) []string { return []string{"-db", "-f", conf} })
	b.peer("Caddy", "caddy", "Caddyfile", "", func(_, conf string) []string { return []string{"run", "--adapter", "caddyfile", "--config", conf} })
	if !b.wanted("bare Go proxy") {
		return
	}
	bare := filepath.Join(b.dir, "bare")
	build := exec.Command("go", "build", "-o", bare, "./testdata/edge/bare")
	out, err := build.CombinedOutput()
	if err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	port := freeport.Take(b.t)
	b.run("bare Go proxy", port, exec.Command(bare, "-listen", "127.0.0.1:"+port, "-to", "http://"+b.backend, "-cert", b.cert, "-key", b.key))
}

// wanted is for those who try one change on one edge: RAMPART_BENCH_EDGE_ONLY is an
// expression that its name must match, RAMPART_BENCH_EDGE_KIND one for requests.
func (b *edgeBench) wanted(name string) bool { return picked(b.t, "RAMPART_BENCH_EDGE_ONLY", name) }

func picked(t *testing.T, variable, name string) bool {
	t.Helper()
	ok, err := regexp.MatchString(os.Getenv(variable), name)
	fine(t, err)
	return ok
}

func (b *edgeBench) peer(name, program, conf, modules string, args func(dir, conf string) []string) {
	if !b.wanted(name) {
		return
	}
	path, err := exec.LookPath(program)
	if err != nil {
		b.t.Logf("left out: %s (package %s)", name, program)
		return
	}
	dir := filepath.Join(b.dir, strings.NewReplacer(" ", "", "+", "-").Replace(name)) // ModSecurity takes no + in a path
	fine(b.t, os.MkdirAll(dir, 0o755))
	port := freeport.Take(b.t)
	values := map[string]string{"Dir": dir, "Listen": "127.0.0.1:" + port, "Port": port, "Backend": b.backend, "Cert": b.cert, "Key": b.key, "Both": b.both, "Modules": modules}
	if modules != "" {
		values["Rules"] = b.rules(dir)
		b.fill("modsec.conf", filepath.Join(dir, "modsec.conf"), values)
	}
	b.fill(conf, filepath.Join(dir, conf), values)
	b.run(name, port, exec.Command(path, args(dir, filepath.Join(dir, conf))...))
}

func (b *edgeBench) fill(name, to string, values map[string]string) {
	text, err := template.ParseFiles(filepath.Join(b.conf, name))
	fine(b.t, err)
	var out bytes.Buffer
	fine(b.t, text.Execute(&out, values))
	write(b.t, to, out.Bytes())
}

// rules copies the rule set that Rampart's own engine loads. ModSecurity wants an
// empty line before each directive.
func (b *edgeBench) rules(dir string) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/corazawaf/coraza-coreruleset/v4").Output()
	fine(b.t, err)
	from, to := filepath.Join(strings.TrimSpace(string(out)), "rules"), filepath.Join(dir, "crs")
	fine(b.t, os.MkdirAll(to, 0o755))
	files, err := filepath.Glob(filepath.Join(from, "@owasp_crs", "*"))
	fine(b.t, err)
	for _, f := range append(files, filepath.Join(from, "@crs-setup.conf.example")) {
		text, err := os.ReadFile(f)
		fine(b.t, err)
		lines := strings.Split(string(text), "\n")
		for i, l := range lines {
			if strings.HasPrefix(l, "SecRule ") || strings.HasPrefix(l, "SecAction") || strings.HasPrefix(l, "SecMarker") || strings.HasPrefix(l, "SecComponentSignature") {
				lines[i] = "\n" + l
			}
		}
		name := filepath.Base(f)
		if strings.HasPrefix(name, "@") {
			name = "crs-setup.conf"
		}
		write(b.t, filepath.Join(to, name), []byte(strings.Join(lines, "\n")))
	}
	return to
}

// run starts a peer and waits until it answers. Its processes end with the test.
func (b *edgeBench) run(name, port string, cmd *exec.Cmd) {
	var said output
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), "HOME="+b.dir)
	fine(b.t, cmd.Start())
	b.t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	e := newEdge(name, "https://localhost:"+port, cmd.Process.Pid, 0, &tls.Config{RootCAs: b.roots, MinVersion: tls.VersionTLS13}, nil)
	b.t.Cleanup(e.client.CloseIdleConnections)
	b.t.Cleanup(e.clientH2.CloseIdleConnections)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := e.one(b.t.Context(), edgeKind{method: http.MethodGet})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			b.t.Fatalf("%s does not answer: %v\n%s", name, err, said.String())
		}
	}
	b.edges = append(b.edges, e)
}

func edgeClient(cfg *tls.Config) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: cfg, MaxConnsPerHost: edgeConns, MaxIdleConnsPerHost: edgeConns}}
}

func (e *edge) one(ctx context.Context, k edgeKind) error {
	req, err := http.NewRequestWithContext(ctx, k.method, e.base+"/orders", strings.NewReader(k.body))
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Language", "en")
	if k.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	client := e.client
	if k.http2 {
		client = e.clientH2
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if k.http2 != (res.ProtoMajor == 2) {
		return fmt.Errorf("answered by %s", res.Proto)
	}
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %.300s", res.StatusCode, body)
	}
	return err
}

// warm sends enough for what is made on the way to be there, above all the guide
// of the rules, and what it knows of each operation.
func (b *edgeBench) warm() {
	for range 2 {
		for _, e := range b.edges {
			for _, k := range b.kinds {
				e.load(b.t, k, 1000)
			}
		}
	}
}

// measure sends one kind of request and reads what the server's processes used
// meanwhile. The first thousand warm it up and do not count.
func (e *edge) measure(t *testing.T, round int, k edgeKind) {
	t.Helper()
	e.load(t, k, edgeRequests/4)
	before, beforeBehind := cpuOf(t, e.pid), e.usedBehind(t)
	const n = edgeRequests
	e.load(t, k, n)
	used, usedBehind := cpuOf(t, e.pid)-before, e.usedBehind(t)-beforeBehind
	cost, behind := float64(used.Microseconds())/float64(n), float64(usedBehind.Microseconds())/float64(n)
	e.cost[k.name], e.costBehind[k.name] = append(e.cost[k.name], cost), append(e.costBehind[k.name], behind)
	t.Logf("round %d, %s, %s: %.0f µs, behind it %.0f µs", round+1, e.name, k.name, cost, behind)
}

func (e *edge) usedBehind(t *testing.T) time.Duration {
	if e.behind == 0 {
		return 0
	}
	return cpuOf(t, e.behind)
}

// load asks n times; an answer that is not the service's fails the benchmark.
func (e *edge) load(t *testing.T, k edgeKind, n int) {
	t.Helper()
	var workers sync.WaitGroup
	began, rate := time.Now(), edgeRate(t)
	due := make(chan time.Time, n)
	for i := range n {
		at := began
		if rate > 0 {
			at = at.Add(time.Duration(i) * time.Second / time.Duration(rate))
		}
		due <- at
	}
	close(due)
	errs := make(chan error, edgeConns)
	for range edgeConns {
		workers.Go(func() {
			for at := range due {
				time.Sleep(time.Until(at))
				if err := e.one(t.Context(), k); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	workers.Wait()
	select {
	case err := <-errs:
		t.Fatalf("%s, %s: %v", e.name, k.name, err)
	default:
	}
}

// cpuOf is what a process and its children have used.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	var all time.Duration
	for _, p := range family(pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, i := range []int{11, 12} { // utime and stime, in hundredths of a second
			ticks, err := strconv.ParseInt(fields[i], 10, 64)
			fine(t, err)
			all += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return all
}

// report prints the medians, and the ratios to nginx and to Caddy.
func (b *edgeBench) report() {
	of := func(name, kind string) float64 {
		for _, e := range b.edges {
			if e.name == name {
				return median(e.cost[kind])
			}
		}
		return math.NaN()
	}
	var out strings.Builder
	for _, k := range b.kinds {
		fmt.Fprintf(&out, "\n%-50s %8s %12s %8s %8s %12s\n", k.name, "µs", "range", "× nginx", "× Caddy", "sidecar, µs")
		for _, e := range b.edges {
			m := median(e.cost[k.name])
			fmt.Fprintf(&out, "%-50s %8.0f %12s %8.2f %8.2f", e.name, m, fmt.Sprintf("%.0f-%.0f", slices.Min(e.cost[k.name]), slices.Max(e.cost[k.name])), m/of("nginx", k.name), m/of("Caddy", k.name))
			if e.behind != 0 {
				fmt.Fprintf(&out, " %12.0f", median(e.costBehind[k.name]))
			}
			out.WriteByte('\n')
		}
	}
	b.t.Logf("CPU per request of the process at the edge, median of rounds:\n%s", out.String())
}

// write puts a file that peers of other users can read, too.
func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	fine(t, os.WriteFile(name, b, 0o644))
	return name
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(list))
	return s[len(s)/2]
}

// rampart starts a system whose services are all the same, behind more
// and more of the chain.
func (b *edgeBench) rampart() {
	var y strings.Builder
	y.WriteString("rampart: v1\nsystem: { name: bench, trust_domain: bench.example }\nprincipals: { customer: { kind: human } }\nauthz: { roles: { customer: [")
	services := []struct{ name, how string }{
		{"bare", "waf: { mode: off }"},
		{"schema", "validate: { openapi: strict, response: off }, waf: { mode: off }"},
		{"guided", "validate: { openapi: strict, response: strict }, waf: { mode: guided }"},
		{"full", "validate: { openapi: strict, response: strict }, waf: { mode: full }"},
	}
	for _, s := range services {
		fmt.Fprintf(&y, "%q, %q, ", s.name+":read", s.name+":create")
	}
	fmt.Fprintf(&y, "] } }\nservices:\n  gateway: { role: gateway, listen: \":%s\" }\n", freeport.Take(b.t))
	for _, s := range services {
		doc := "openapi: SERVICE.yaml, mount: /SERVICE/"
		if s.name == "bare" {
			doc = "methods: [GET, POST]"
		}
		write(b.t, filepath.Join(b.dir, s.name+".yaml"), []byte(strings.ReplaceAll(ordersAPI, "SERVICE", s.name)))
		fmt.Fprintf(&y, "  %s: { upstream: \"http://%s\", %s }\n", s.name, constant(b.t), strings.ReplaceAll(doc, "SERVICE", s.name))
	}
	y.WriteString("flows:\n  - { from: customer, to: gateway, authn: session, limit: { ip: 60000000/m, user: 60000000/m } }\n")
	for _, s := range services {
		fmt.Fprintf(&y, "  - { from: gateway, to: %s, authn: exchange, %s }\n", s.name, s.how)
	}
	y.WriteString("demo: { users: { alice: { roles: [customer], organizations: [acme] } } }\n")
	r := start(b.t, write(b.t, filepath.Join(b.dir, "rampart.yaml"), []byte(y.String())))
	alice := r.login("alice")
	for _, s := range services {
		name := "Rampart: " + map[string]string{
			"bare": "session, limits, decision, mTLS, audit", "schema": "… and schema", "guided": "… and guided WAF, answers checked", "full": "… and the whole WAF",
		}[s.name]
		if !b.wanted(name) {
			continue
		}
		b.edges = append(b.edges, newEdge(name, r.base()+"/"+s.name, r.PIDs["gateway/gateway"], r.PIDs["sidecar/"+s.name], &tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS13}, alice.Jar))
	}
	var check map[string]any
	if status, text := r.call(alice, http.MethodPost, "/guided/orders", json.RawMessage(typedBody)); status != http.StatusOK || json.Unmarshal([]byte(text), &check) != nil {
		b.t.Fatalf("%d %s", status, text)
	}
}

const ordersAPI = `openapi: 3.1.0
info: { title: SERVICE, version: "1" }
paths:
  /orders:
    get:
      operationId: list
      x-rampart: { permission: "SERVICE:read" }
      responses: { "200": { $ref: "#/components/responses/Done" } }
    post:
      operationId: create
      x-rampart: { permission: "SERVICE:create" }
      requestBody:
        required: true
        content:
          application/json:
            schema:
              type: object
              additionalProperties: false
              required: [order_id, amount]
              properties:
                order_id: { type: string, format: uuid }
                amount: { type: integer, minimum: 1, maximum: 100000000 }
                currency: { type: string, enum: [EUR, USD] }
                method: { type: string, enum: [card, transfer] }
                due: { type: string, format: date-time }
                express: { type: boolean }
                note: { type: string, maxLength: 500 }
                items:
                  type: array
                  maxItems: 50
                  items:
                    type: object
                    additionalProperties: false
                    required: [sku, quantity]
                    properties:
                      sku: { type: string, pattern: "^[A-Z0-9-]{1,20}$" }
                      quantity: { type: integer, minimum: 1, maximum: 1000 }
      responses: { "200": { $ref: "#/components/responses/Done" } }
components:
  responses:
    Done:
      description: done
      content:
        application/json:
          schema:
            type: object
            additionalProperties: false
            properties: { id: { type: string }, state: { type: string } }
`
