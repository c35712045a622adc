//go:build system

// Package system tests the whole: real processes, real TLS, a real browser,
// real databases, and services that we did not write.
package system

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// binary is the program under test, built once; payments is the example.
var binary, payments string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "rampart-system-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "rampart")
		build := exec.Command("go", "build", "-o", binary, "../../cmd/rampart")
		build.Stdout, build.Stderr = os.Stdout, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build:", err)
			return 1
		}
		payments, err = filepath.Abs("../../examples/payments/rampart.yaml")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// running is one system that a test started.
type running struct {
	wire.Running
	t     *testing.T
	dir   string // state folder
	roots *x509.CertPool
	cmd   *exec.Cmd
	out   *bytes.Buffer
}

// start runs `rampart up` on free ports and waits until it is up. It is stopped
// with Ctrl-C at the end of the test, and must leave no process behind.
func start(t *testing.T, file string, args ...string) *running {
	t.Helper()
	r := &running{t: t, dir: filepath.Join(t.TempDir(), "state"), out: &bytes.Buffer{}}
	r.boot(file, args...)
	return r
}

func (r *running) boot(file string, args ...string) {
	r.t.Helper()
	r.cmd = exec.Command(binary, append([]string{"up", "-f", file, "--state", r.dir, "--free-ports"}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.cmd.Wait() }()
	r.t.Cleanup(func() { r.stop(done) })
	deadline := time.Now().Add(4 * time.Minute)
	for !r.load() {
		select {
		case err := <-done:
			done <- err
			r.t.Fatalf("rampart up ended: %v\n%s", err, r.out)
		default:
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("rampart up is not up after four minutes\n%s", r.out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// load reads run/system.json once this very process has written it.
func (r *running) load() bool {
	b, err := os.ReadFile(filepath.Join(r.dir, "run", "system.json"))
	if err != nil || json.Unmarshal(b, &r.Running) != nil || r.PID != r.cmd.Process.Pid {
		return false
	}
	pem, err := os.ReadFile(filepath.Join(r.dir, "ca.pem"))
	r.roots = x509.NewCertPool()
	return err == nil && r.roots.AppendCertsFromPEM(pem)
}

func (r *running) stop(done chan error) {
	r.load()
	r.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		r.t.Errorf("rampart up did not stop within 20 seconds of Ctrl-C\n%s", r.out)
		r.cmd.Process.Kill()
		<-done
	}
	for name, pid := range r.PIDs {
		if syscall.Kill(pid, 0) == nil {
			r.t.Errorf("%s (pid %d) was left behind", name, pid)
		}
	}
	if r.t.Failed() {
		r.logs()
	}
}

// logs shows the end of every log of a failed test.
func (r *running) logs() {
	files, _ := filepath.Glob(filepath.Join(r.dir, "logs", "*.log"))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		r.t.Logf("== %s\n%s", filepath.Base(f), b[max(0, len(b)-1500):])
	}
	r.t.Logf("== rampart up\n%s", r.out)
}

// password of a demo user.
func (r *running) password(user string) string {
	r.t.Helper()
	return r.demo().Users[user]
}

type demo struct {
	Users map[string]string `json:"users"`
	Keys  map[string]string `json:"api_keys"`
}

func (r *running) demo() demo {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "demo", "credentials.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	var d demo
	if err := json.Unmarshal(b, &d); err != nil {
		r.t.Fatal(err)
	}
	return d
}

// base is the edge's URL.
func (r *running) base() string {
	_, port, _ := net.SplitHostPort(r.Edge)
	return "https://localhost:" + port
}

// client is a browser-like client with a cookie jar.
func (r *running) client() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 32}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// login returns a client with a session of the demo user.
func (r *running) login(user string) *http.Client {
	r.t.Helper()
	c := r.client()
	res, err := c.PostForm(r.base()+"/login", url.Values{"username": {user}, "password": {r.password(user)}})
	if err != nil {
		r.t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusSeeOther {
		r.t.Fatalf("login of %s: %s", user, res.Status)
	}
	return c
}

// call makes one request and returns status and body.
func (r *running) call(c *http.Client, method, path string, body any, header ...string) (int, string) {
	r.t.Helper()
	status, text, err := r.try(c, method, path, body, header...)
	if err != nil {
		r.t.Fatal(err)
	}
	return status, text
}

func (r *running) try(c *http.Client, method, path string, body any, header ...string) (int, string, error) {
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, "", err
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, r.base()+path, rd)
	if err != nil {
		return 0, "", err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res.StatusCode, string(b), err
}

// rampart runs the command line against this system.
func (r *running) rampart(ctx context.Context, args ...string) (string, int) {
	cmd := exec.CommandContext(ctx, binary, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// need skips on a developer's machine and fails where every peer is required.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("RAMPART_PEERS") == "required" {
			t.Fatalf("%s is not installed; run make tools", p)
		}
		t.Skipf("%s is not installed; run make tools", p)
	}
}

// variant writes a changed copy of the example beside it, where its relative
// names resolve, and removes it at the end.
func variant(t *testing.T, pairs ...string) string {
	t.Helper()
	b, err := os.ReadFile(payments)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i+1 < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the example no longer holds %q", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	text = strings.ReplaceAll(text, "127.0.0.1:9011", "127.0.0.1:"+freePort(t)) // the stand-in of this copy
	f, err := os.CreateTemp(filepath.Dir(payments), ".variant-*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
