package gateway

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
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/test/freeport"
)

// envPebble and envDNS name programs of the module test/acme: Pebble, and the
// name server beside it.
const envPebble, envDNS = "RAMPART_PEBBLE", "RAMPART_PEBBLE_DNS"

const acmeName = "shop.example.net"

// pebble is a real ACME server that can be stopped and started again, with
// nothing left in its memory.
type pebble struct {
	t                 *testing.T
	dir               string
	api, manage, dns  string
	tlsPort, httpPort string
	client            *http.Client
	chain             []byte // PEM of whom its web server is to be believed by
	mu                sync.Mutex
	log               bytes.Buffer
	stop              func()
	env               []string
	validity          int // seconds, of the profile brief; a third of it must do for an order on a busy machine
}

func (p *pebble) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// ordered is how many orders were made since the start of the test.
func (p *pebble) ordered() int { return p.count("Added order") }

func (p *pebble) count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Count(p.log.String(), what)
}

// newPebble prepares a server that has not been started.
func newPebble(t *testing.T) *pebble {
	t.Helper()
	if os.Getenv(envPebble) == "" || os.Getenv(envDNS) == "" {
		t.Skipf("%s and %s name no programs: test/run.sh builds them from test/acme", envPebble, envDNS)
	}
	p := &pebble{t: t, dir: t.TempDir(), tlsPort: freeport.Take(t), httpPort: freeport.Take(t), validity: 15}
	p.api, p.manage, p.dns = "127.0.0.1:"+freeport.Take(t), "127.0.0.1:"+freeport.Take(t), "127.0.0.1:"+freeport.Take(t)
	p.certificate()
	p.run(os.Getenv(envDNS), "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-dnsserver", p.dns, "-management", "127.0.0.1:"+freeport.Take(t), "-defaultIPv6", "")
	return p
}

// certificate makes a CA and a certificate of it for Pebble's own listeners.
func (p *pebble) certificate() {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(p.t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pebble"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(p.t, err)
	p.chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(p.t, err)
	must(p.t, os.WriteFile(filepath.Join(p.dir, "cert.pem"), p.chain, 0o600))
	must(p.t, os.WriteFile(filepath.Join(p.dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.chain)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	p.client = &http.Client{Transport: tr, Timeout: 5 * time.Second}
}

// run starts a program and returns how to end it.
func (p *pebble) run(program string, args ...string) (stop func()) {
	p.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = p, p
	cmd.Env = append(append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0"), p.env...)
	must(p.t, cmd.Start())
	stop = sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	p.t.Cleanup(stop)
	return stop
}

// start runs Pebble until it answers.
func (p *pebble) start(env ...string) {
	p.t.Helper()
	p.env = env
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": p.api, "managementListenAddress": p.manage, "certificate": filepath.Join(p.dir, "cert.pem"), "privateKey": filepath.Join(p.dir, "key.pem"),
		"httpPort": atoi(p.httpPort), "tlsPort": atoi(p.tlsPort), "keyAlgorithm": "ecdsa", "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{"validityPeriod": 7776000}, "brief": map[string]any{"validityPeriod": p.validity}},
	}})
	must(p.t, err)
	name := filepath.Join(p.dir, "pebble.json")
	must(p.t, os.WriteFile(name, config, 0o600))
	p.stop = p.run(os.Getenv(envPebble), "-config", name, "-dnsserver", p.dns)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		res, err := p.client.Get(p.directory())
		if err == nil {
			res.Body.Close()
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("Pebble does not answer: %v\n%s", err, p.log.String())
		}
	}
}

func atoi(s string) (n int) { fmt.Sscan(s, &n); return n }

func (p *pebble) directory() string { return "https://" + p.api + "/dir" }

// roots are those of the certificates that this run of Pebble issues.
func (p *pebble) roots() *x509.CertPool {
	p.t.Helper()
	res, err := p.client.Get("https://" + p.manage + "/roots/0")
	must(p.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(p.t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	return pool
}

// suggest makes Pebble suggest that a certificate be renewed at once (RFC 9773).
func (p *pebble) suggest(leaf *x509.Certificate) {
	p.t.Helper()
	window := fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`, time.Now().Add(-2*time.Hour).UTC().Format(time.RFC3339), time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
	body, err := json.Marshal(map[string]string{"Certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})), "ARIResponse": window})
	must(p.t, err)
	res, err := p.client.Post("https://"+p.manage+"/set-renewal-info/", "application/json", bytes.NewReader(body))
	must(p.t, err)
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		p.t.Fatalf("set-renewal-info: %s", res.Status)
	}
}

// acmeHouse is a control plane whose edge gets its certificate from Pebble, which
// would choose a profile at random.
func acmeHouse(t *testing.T, p *pebble, profile string) *controltest.House {
	t.Helper()
	file := controltest.File(t, `edge: { role: gateway, listen: "127.0.0.1:0" }`,
		`edge: { role: gateway, listen: "127.0.0.1:0", names: [`+acmeName+`], acme: { directory: "`+p.directory()+`", ca: pebble.pem, email: ops@shop.example, profile: `+profile+` } }`)
	must(t, os.WriteFile(filepath.Join(filepath.Dir(file), "pebble.pem"), p.chain, 0o600))
	return controltest.Start(t, file)
}

// replica is one of several gateways of a house.
type replica struct {
	*Gateway
	stop func()
	why  error // the last handshake with it failed
}

func startReplica(t *testing.T, h *controltest.House, port, plain string, check time.Duration) *replica {
	t.Helper()
	state, err := statedir.Open(filepath.Join(t.TempDir(), "state"), statedir.Options{Create: true})
	must(t, err)
	keys, err := idempotency.NewFile(filepath.Join(t.TempDir(), "keys"))
	must(t, err)
	opt := Options{Name: "edge", Listen: "127.0.0.1:" + port, Link: h.Link(h.Options("gateway/edge", "gateway/edge")), Audit: h.Log("gateway/edge"), Idem: keys, State: state, Logger: h.Logger, EdgeCheck: check}
	if plain != "" {
		opt.HTTP = "127.0.0.1:" + plain
	}
	gw, err := New(opt)
	must(t, err)
	r := &replica{Gateway: gw, stop: run(t, gw.Run)}
	t.Cleanup(func() { keys.Close() })
	h.Until("the listener is there", func() bool { return gw.Addr() != "" && (plain == "" || gw.PlainAddr() != "") })
	return r
}

// shown is the certificate that a client sees and believes, nil if none.
func (r *replica) shown(roots *x509.CertPool, name string) *x509.Certificate {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 2 * time.Second}, "tcp", r.Addr(), &tls.Config{RootCAs: roots, ServerName: name, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}})
	if err != nil {
		r.why = err
		return nil
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// within waits for cond, longer than a house does: an order takes seconds.
func within(t *testing.T, d time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestACMERace starts two gateways at once: one order, whichever of them the
// authority comes to.
func TestACMERace(t *testing.T) {
	t.Parallel()
	p := newPebble(t)
	p.start()
	h := acmeHouse(t, p, "default")
	a := startReplica(t, h, p.tlsPort, "", time.Minute)
	b := startReplica(t, h, "0", "", time.Minute)
	roots := p.roots()
	within(t, 30*time.Second, "both serve the same certificate", func() bool {
		one, other := a.shown(roots, acmeName), b.shown(roots, acmeName)
		return one != nil && other != nil && one.Equal(other)
	})
	if n := p.ordered(); n != 1 {
		t.Errorf("two gateways made %d orders, want one", n)
	}
	if got := a.shown(roots, "other.example.net"); got != nil {
		t.Error("a certificate for a name that the file does not have")
	}
	checkRecorded(t, h)
	protocolOnlyProves(t, a, roots)
}

// TestACME restarts a gateway while the authority suggests a renewal, and while
// it is away.
func TestACME(t *testing.T) {
	t.Parallel()
	p := newPebble(t)
	p.start()
	h := acmeHouse(t, p, "default")
	a := startReplica(t, h, p.tlsPort, "", time.Minute)
	roots := p.roots()
	var first, second *x509.Certificate
	within(t, 30*time.Second, "there is a certificate", func() bool { first = a.shown(roots, acmeName); return first != nil })

	p.suggest(first)
	a.stop()
	forgetSuggestion(t, h)
	a = startReplica(t, h, p.tlsPort, "", time.Minute)
	within(t, 30*time.Second, "the suggested renewal is there", func() bool {
		second = a.shown(roots, acmeName)
		return second != nil && !second.Equal(first)
	})
	if n, replaced := p.ordered(), p.count("is a replacement of"); n != 2 || replaced != 1 {
		t.Errorf("%d orders, %d of them in place of an older one; want 2 and 1", n, replaced)
	}

	p.stop()
	a.stop()
	a = startReplica(t, h, p.tlsPort, "", time.Minute)
	within(t, 10*time.Second, "the stored certificate is served while the authority is away", func() bool {
		got := a.shown(roots, acmeName)
		return got != nil && got.Equal(second)
	})
}

// forgetSuggestion makes what the authority suggested at the order old, as if the
// hours had passed for which it counts.
func forgetSuggestion(t *testing.T, h *controltest.House) {
	t.Helper()
	link := h.Link(h.Options("gateway/edge", "gateway/edge"))
	ask := func(q wire.EdgeStoreRequest) (a wire.EdgeStoreAnswer) {
		t.Helper()
		must(t, link.Call(t.Context(), http.MethodPost, wire.PathEdgeStore, q, &a))
		return a
	}
	for _, key := range ask(wire.EdgeStoreRequest{Op: wire.EdgeList, Key: "certificates", Deeper: true}).Keys {
		if !strings.HasSuffix(key, ".json") {
			continue
		}
		var meta map[string]any
		must(t, json.Unmarshal(ask(wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: key}).Value, &meta))
		data, ok := meta["issuer_data"].(map[string]any)
		info, has := data["renewal_info"].(map[string]any)
		if !ok || !has {
			t.Fatalf("%s holds no suggestion: %v", key, meta)
		}
		info["_retryAfter"] = time.Now().Add(-time.Minute).UTC()
		b, err := json.Marshal(meta)
		must(t, err)
		ask(wire.EdgeStoreRequest{Op: wire.EdgeStore, Key: key, Value: b})
	}
}

// checkRecorded demands that the key was written and read on record, and that
// what the control plane keeps does not hold it.
func checkRecorded(t *testing.T, h *controltest.House) {
	t.Helper()
	seen := map[string]bool{}
	for _, e := range h.Events("control") {
		if e.Outcome == audit.Allowed && strings.HasSuffix(e.Resource, ".key") {
			seen[e.Action] = true
		}
	}
	if !seen["edge_store.store"] || !seen["edge_store.load"] {
		t.Errorf("on record of the private key: %v, want its writing and its reading", seen)
	}
	for _, name := range []string{"control.db", "control.db-wal"} {
		if db, _ := os.ReadFile(h.State.Path(name)); bytes.Contains(db, []byte("PRIVATE KEY-----")) {
			t.Errorf("%s holds a private key in the clear", name)
		}
	}
}

// protocolOnlyProves demands that the protocol of proofs carries no request.
func protocolOnlyProves(t *testing.T, r *replica, roots *x509.CertPool) {
	t.Helper()
	for name, protocols := range map[string][]string{"alone": {"acme-tls/1"}, "with others": {"acme-tls/1", "x"}} {
		conn, err := tls.Dial("tcp", r.Addr(), &tls.Config{RootCAs: roots, ServerName: acmeName, NextProtos: protocols})
		if err != nil {
			continue // nobody asked for a proof
		}
		fmt.Fprintf(conn, "GET /_rampart/health HTTP/1.1\r\nHost: %s\r\n\r\n", acmeName)
		conn.SetDeadline(time.Now().Add(2 * time.Second))
		if got, _ := io.ReadAll(conn); len(got) > 0 {
			t.Errorf("%s: answered %q", name, got)
		}
		conn.Close()
	}
}

// TestACMEShortLived lets certificates of seconds follow each other: no
// handshake fails meanwhile.
func TestACMEShortLived(t *testing.T) {
	t.Parallel()
	p := newPebble(t)
	p.start()
	h := acmeHouse(t, p, "brief")
	r := startReplica(t, h, p.tlsPort, "", 200*time.Millisecond)
	roots := p.roots()
	var first *x509.Certificate
	within(t, 20*time.Second, "there is a certificate", func() bool { first = r.shown(roots, acmeName); return first != nil })
	within(t, 30*time.Second, "there is the next", func() bool {
		got := r.shown(roots, acmeName)
		if got == nil {
			t.Fatalf("a handshake failed between two certificates, the first good until %v: %v", first.NotAfter, r.why)
		}
		return !got.Equal(first)
	})
}

// TestACMELater starts without the authority: handshakes fail and the status says
// why. It comes, loses half of all nonces and can reach the plain port alone.
func TestACMELater(t *testing.T) {
	t.Parallel()
	p := newPebble(t)
	h := acmeHouse(t, p, "default")
	r := startReplica(t, h, "0", p.httpPort, 200*time.Millisecond)
	h.Until("the status says that there is no certificate, and why", func() bool {
		var st wire.Status
		h.Admin(wire.AdminStatus, nil, &st)
		for _, plane := range st.Planes {
			if len(plane.Edge) == 1 && plane.Edge[0].NotAfter.IsZero() && plane.Edge[0].Error != "" {
				return true
			}
		}
		return false
	})
	if conn, err := tls.Dial("tcp", r.Addr(), &tls.Config{InsecureSkipVerify: true, ServerName: acmeName}); err == nil {
		conn.Close()
		t.Error("something was served without a certificate of the authority")
	}
	p.start("PEBBLE_WFE_NONCEREJECT=50")
	roots := p.roots()
	within(t, 60*time.Second, "there is a certificate by HTTP-01", func() bool { return r.shown(roots, acmeName) != nil })
	if p.count("Configured to reject 50% of good nonces") != 1 {
		t.Error("Pebble was not told to refuse nonces")
	}
	redirects(t, r)
}

// redirects demands that the plain port serves nothing and leads to our names.
func redirects(t *testing.T, r *replica) {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for name, c := range map[string]struct {
		host, path string
		status     int
		to         string
	}{
		"ours":              {acmeName, "/a?b=c", http.StatusPermanentRedirect, "https://" + acmeName + ":8443/a?b=c"},
		"ours, with a port": {acmeName + ":80", "/", http.StatusPermanentRedirect, "https://" + acmeName + ":8443/"},
		"not ours":          {"evil.example", "/", http.StatusMisdirectedRequest, ""},
		"no such challenge": {acmeName, "/.well-known/acme-challenge/x", http.StatusNotFound, ""},
		"a control path":    {acmeName, "/login", http.StatusPermanentRedirect, "https://" + acmeName + ":8443/login"},
	} {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+r.PlainAddr()+c.path, nil)
		must(t, err)
		req.Host = c.host
		res, err := client.Do(req)
		must(t, err)
		res.Body.Close()
		if res.StatusCode != c.status || res.Header.Get("Location") != c.to {
			t.Errorf("%s: %d to %q, want %d to %q", name, res.StatusCode, res.Header.Get("Location"), c.status, c.to)
		}
	}
}
