//go:build system

package system

import (
	"bytes"
	"context"
	"crypto/tls"
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
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// five is a system of five services. Two carry what closes first when the
// control plane is away, three do not.
var five = []struct{ name, data string }{{"cards", "card"}, {"ledger", "card"}, {"pages", "page"}, {"search", "page"}, {"news", "page"}}

// startFive starts it in front of five servers of this test.
func startFive(t *testing.T) *running {
	t.Helper()
	var services, flows, reads, users strings.Builder
	for _, s := range five {
		up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
		t.Cleanup(up.Close)
		fmt.Fprintf(&services, "  %s: { upstream: %q }\n", s.name, up.URL)
		fmt.Fprintf(&flows, "  - { from: gateway, to: %s, carries: [%s] }\n", s.name, s.data)
		fmt.Fprintf(&reads, "%q, ", s.name+":read")
	}
	for i := range testers {
		fmt.Fprintf(&users, "    %s: { roles: [member], organizations: [home] }\n", tester(i))
	}
	file := filepath.Join(t.TempDir(), "rampart.yaml")
	text := "rampart: v1\nsystem: { name: five }\ndata:\n  card: { class: secret }\n  page: { class: public }\n" +
		"authz: { roles: { member: [" + strings.TrimSuffix(reads.String(), ", ") + "] } }\n" +
		"services:\n  gateway: { role: gateway }\n" + services.String() +
		"flows:\n  - { from: users, to: gateway, authn: session, limit: { ip: 6000000/m, user: 6000000/m } }\n" + flows.String() +
		"demo:\n  users:\n" + users.String()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, file)
}

// testers is how many people share the logins of a test.
const testers = 10

func tester(i int) string { return "tester" + strconv.Itoa(i%testers) }

// peer speaks mutual TLS to sidecars as the gateway does.
type peer struct {
	r      *running
	client *http.Client
	domain string
}

func (r *running) asGateway() peer {
	r.t.Helper()
	certFile, keyFile := r.join("gateway/gateway")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := r.toSPIFFE()
	cfg.Certificates = []tls.Certificate{cert}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8}
	r.t.Cleanup(tr.CloseIdleConnections)
	return peer{r, &http.Client{Transport: tr, Timeout: 10 * time.Second}, "five.internal"}
}

// token exchanges a session for an internal token of one service.
func (p peer) token(session, service string) string {
	p.r.t.Helper()
	res, err := p.client.PostForm("https://"+p.r.Control+wire.PathToken, url.Values{
		"grant_type": {wire.GrantExchange}, "subject_token_type": {wire.TypeSession}, "subject_token": {session},
		"audience": {"spiffe://" + p.domain + "/service/" + service},
	})
	if err != nil {
		p.r.t.Fatal(err)
	}
	defer res.Body.Close()
	var x wire.Exchanged
	if err := json.NewDecoder(res.Body).Decode(&x); err != nil || x.AccessToken == "" {
		p.r.t.Fatalf("token for %s: %s, %v", service, res.Status, err)
	}
	return x.AccessToken
}

// status asks a service's sidecar with a token.
func (p peer) status(service, token string) (int, error) {
	req, err := http.NewRequest(http.MethodGet, "https://"+p.r.Sidecars[service]+"/x", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := p.client.Do(req)
	if err != nil {
		return 0, err
	}
	res.Body.Close()
	return res.StatusCode, nil
}

// sessionOf returns the value of a client's session cookie.
func (r *running) sessionOf(c *http.Client) string {
	r.t.Helper()
	u, err := url.Parse(r.base())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, ck := range c.Jar.Cookies(u) {
		if ck.Name == "__Host-rampart_sid" {
			return ck.Value
		}
	}
	r.t.Fatal("no session cookie")
	return ""
}

// sidOf reads the handle of a token's session.
func (r *running) sidOf(token string) string {
	r.t.Helper()
	var claims struct {
		SID string `json:"sid"`
	}
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err == nil {
		err = json.Unmarshal(b, &claims)
	}
	if err != nil || claims.SID == "" {
		r.t.Fatalf("sid %q, %v", claims.SID, err)
	}
	return claims.SID
}

// revoke voids the credentials of an id.
func (r *running) revoke(kind, id string) {
	r.t.Helper()
	var d net.Dialer
	admin := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", r.Admin) }}}
	b, _ := json.Marshal(map[string]string{"kind": kind, "id": id})
	res, err := admin.Post("http://admin"+wire.AdminRevoke, "application/json", bytes.NewReader(b))
	if err != nil {
		r.t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		r.t.Fatalf("revoke %s: %s", kind, res.Status)
	}
}

// TestRevocation measures, under load, how long a revoked session is still let
// in, by the gateway and by each of five sidecars. TRIES says how often. Then it
// stops the control plane: what carries secrets must close at its bound, while
// the rest serves on, and all must open again.
func TestRevocation(t *testing.T) {
	t.Parallel()
	tries, err := strconv.Atoi(os.Getenv("TRIES"))
	if err != nil {
		tries = 100
	}
	r := startFive(t)
	p := r.asGateway()
	stop := r.underLoad(4)
	took := map[string][]time.Duration{}
	for i := range tries {
		for where, d := range r.revokedEverywhere(p, tester(i)) {
			took[where] = append(took[where], d)
		}
	}
	stop()
	var all []time.Duration
	for _, where := range append([]string{"gateway"}, names(five)...) {
		t.Logf("revocation to first refusal at %-8s %s", where, figures(took[where]))
		all = append(all, took[where]...)
	}
	t.Logf("revocation to first refusal everywhere: %s", figures(all))
	if most := slices.Max(all); most > 5*time.Second {
		t.Errorf("a revoked session was let in for %v, over the bound of 5s", most)
	}
	r.controlCut(p)
	r.auditHolds()
}

func names(list []struct{ name, data string }) []string {
	var out []string
	for _, s := range list {
		out = append(out, s.name)
	}
	return out
}

func figures(d []time.Duration) string {
	d = slices.Sorted(slices.Values(d))
	at := func(q float64) time.Duration {
		return d[min(len(d)-1, int(q*float64(len(d))))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %v, p99 %v, max %v of %d", at(0.5), at(0.99), d[len(d)-1].Round(100*time.Microsecond), len(d))
}

// underLoad has people use every service until it is told to stop.
func (r *running) underLoad(workers int) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range workers {
		c := r.login(tester(i))
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				case <-time.After(2 * time.Millisecond):
				}
				r.try(c, http.MethodGet, "/"+five[n%len(five)].name+"/x", nil)
			}
		})
	}
	return func() { close(done); wg.Wait() }
}

// revokedEverywhere logs somebody in, makes sure that gateway and sidecars let
// them in, revokes the session and returns how long each still did.
func (r *running) revokedEverywhere(p peer, user string) map[string]time.Duration {
	r.t.Helper()
	c := r.login(user)
	session := r.sessionOf(c)
	ask := map[string]func() (int, error){"gateway": func() (int, error) {
		status, _, err := r.try(c, http.MethodGet, "/pages/x", nil)
		return status, err
	}}
	sid := ""
	for _, s := range five {
		token := p.token(session, s.name)
		sid = r.sidOf(token)
		ask[s.name] = func() (int, error) { return p.status(s.name, token) }
	}
	for where, f := range ask {
		if status, err := f(); status != http.StatusOK {
			r.t.Fatalf("before the revocation %s answers %d, %v", where, status, err)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	took := map[string]time.Duration{}
	began := time.Now()
	for where, f := range ask {
		wg.Go(func() {
			for time.Since(began) < 20*time.Second {
				if status, err := f(); err == nil && status == http.StatusUnauthorized {
					break
				}
				time.Sleep(time.Millisecond)
			}
			mu.Lock()
			defer mu.Unlock()
			took[where] = time.Since(began)
		})
	}
	r.revoke("sid", sid)
	wg.Wait()
	return took
}

// controlCut stops the control plane without killing it: nobody hears it, and
// nobody is told so.
func (r *running) controlCut(p peer) {
	r.t.Helper()
	c := r.login(tester(0))
	session, tokens := r.sessionOf(c), map[string]string{}
	edge := func(service string) int {
		status, _, err := r.try(c, http.MethodGet, "/"+service+"/x", nil)
		if err != nil {
			return 0
		}
		return status
	}
	inside := func(service string) int {
		status, err := p.status(service, tokens[service])
		if err != nil {
			return 0
		}
		return status
	}
	for _, s := range five {
		tokens[s.name] = p.token(session, s.name)
		if e, i := edge(s.name), inside(s.name); e != 200 || i != 200 {
			r.t.Fatalf("before the cut %s answers %d at the edge, %d inside", s.name, e, i)
		}
	}
	pid := r.pid("control")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		r.t.Fatal(err)
	}
	resume := sync.OnceFunc(func() { syscall.Kill(pid, syscall.SIGCONT) })
	defer resume()
	cut := time.Now()
	for _, s := range five {
		if s.data != "card" {
			continue
		}
		r.await(s.name+" closed at the edge", 30*time.Second, func() bool { return edge(s.name) == http.StatusServiceUnavailable })
		atEdge := time.Since(cut)
		r.await(s.name+" closed inside", 30*time.Second, func() bool { return inside(s.name) == http.StatusServiceUnavailable })
		r.t.Logf("%-8s closed %v after the cut at the edge, %v inside", s.name, atEdge.Round(10*time.Millisecond), time.Since(cut).Round(10*time.Millisecond))
		if atEdge < 3*time.Second {
			r.t.Errorf("%s closed %v after the cut, before its bound", s.name, atEdge)
		}
	}
	time.Sleep(time.Until(cut.Add(15 * time.Second))) // past every cache of ten seconds
	for _, s := range five {
		want := http.StatusOK
		if s.data == "card" {
			want = http.StatusServiceUnavailable
		}
		if e, i := edge(s.name), inside(s.name); e != want || i != want {
			r.t.Errorf("%v after the cut %s answers %d at the edge, %d inside; want %d", time.Since(cut).Round(time.Second), s.name, e, i, want)
		}
	}
	resume()
	back := time.Now()
	r.await("all open again", 30*time.Second, func() bool {
		return !slices.ContainsFunc(names(five), func(s string) bool { return edge(s) != 200 || inside(s) != 200 })
	})
	r.t.Logf("all open %v after the control plane went on", time.Since(back).Round(10*time.Millisecond))
}
