//go:build system

// Package system tests the whole: real processes, real TLS, a real browser,
// real databases, and services that we did not write.
package system

import (
	"bytes"
	"cmp"
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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/test/freeport"
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
	t       *testing.T
	dir     string // state folder
	program string // "": binary
	roots   *x509.CertPool
	cmd     *exec.Cmd
	out     *output
	done    chan error      // holds the end of cmd, once
	found   map[string]bool // by leaks: which holders were seen to hold their secret
}

// output collects what a process prints while a test reads along.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start runs `rampart up` on free ports and waits until it is up. It is stopped
// with Ctrl-C at the end of the test, and must leave no process behind.
func start(t *testing.T, file string, args ...string) *running {
	t.Helper()
	r := prepare(t)
	r.boot(file, append([]string{"--free-ports"}, args...)...)
	return r
}

// prepare names a new state folder for systems that start and stop in it.
func prepare(t *testing.T) *running {
	return &running{t: t, dir: filepath.Join(t.TempDir(), "state")}
}

// boot runs `rampart up` and waits until it is up.
func (r *running) boot(file string, args ...string) {
	r.t.Helper()
	began := time.Now()
	r.launch(file, args...)
	r.await("up", 4*time.Minute, func() bool { return r.load() && strings.Contains(r.out.String(), "up and defended") })
	r.t.Logf("up after %v", time.Since(began).Round(10*time.Millisecond))
}

// launch runs `rampart up` without waiting for anything.
func (r *running) launch(file string, args ...string) {
	r.t.Helper()
	r.out, r.done = &output{}, make(chan error, 1)
	r.cmd = exec.Command(cmp.Or(r.program, binary), append([]string{"up", "-f", file, "--state", r.dir}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	cmd, done := r.cmd, r.done
	go func() { done <- cmd.Wait() }()
	r.t.Cleanup(func() { r.stop() })
}

// await polls until ok, and fails when `rampart up` ends or the time is over.
func (r *running) await(what string, limit time.Duration, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-r.done:
			r.done <- err
			r.t.Fatalf("waiting for %s: rampart up ended: %v\n%s", what, err, r.out)
		default:
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s is not there after %v", what, limit)
		}
	}
}

// load takes over what run/system.json says.
func (r *running) load() bool {
	now, ok := r.published()
	if !ok {
		return false
	}
	r.Running = now
	pem, err := os.ReadFile(filepath.Join(r.dir, "ca.pem"))
	r.roots = x509.NewCertPool()
	return err == nil && r.roots.AppendCertsFromPEM(pem)
}

// published reads run/system.json once this very process has written it.
func (r *running) published() (wire.Running, bool) {
	var now wire.Running
	b, err := os.ReadFile(filepath.Join(r.dir, "run", "system.json"))
	ok := err == nil && json.Unmarshal(b, &now) == nil && now.PID == r.cmd.Process.Pid
	return now, ok
}

// pid of a child of the runner; 0 while it does not run.
func (r *running) pid(child string) int {
	now, _ := r.published()
	return now.PIDs[child]
}

// stop presses Ctrl-C and demands that nothing is left. It returns the exit
// code; a system that was stopped already is left alone.
func (r *running) stop() int {
	r.t.Helper()
	if r.cmd == nil {
		return 0
	}
	cmd := r.cmd
	r.cmd = nil
	cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-r.done:
	case <-time.After(20 * time.Second):
		r.t.Errorf("rampart up did not stop within 20 seconds of Ctrl-C")
		cmd.Process.Kill()
		<-r.done
	}
	r.nothingLeft()
	if r.t.Failed() {
		r.logs()
	}
	return cmd.ProcessState.ExitCode()
}

// nothingLeft demands that no process of the system lives on; a killed one may
// take a moment to go.
func (r *running) nothingLeft() {
	r.t.Helper()
	left := processes(r.dir)
	for deadline := time.Now().Add(10 * time.Second); len(left) > 0 && time.Now().Before(deadline); left = processes(r.dir) {
		time.Sleep(50 * time.Millisecond)
	}
	if len(left) > 0 {
		r.t.Errorf("left behind: %v", left)
	}
}

// processes finds what runs on a state folder: planes name it in their
// arguments, services in their environment.
func processes(dir string) []string {
	var out []string
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil // not Linux
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil || e.Name() == strconv.Itoa(os.Getpid()) {
			continue
		}
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if bytes.Contains(args, []byte(dir)) || bytes.Contains(env, []byte(dir)) {
			out = append(out, e.Name()+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return out
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

// command runs a program to its end and returns what it printed and its exit
// code. What it needs to know in secret comes on standard input.
func command(t *testing.T, stdin, name string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must is command for a program that has to succeed.
func must(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	out, code := command(t, stdin, name, args...)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s", filepath.Base(name), strings.Join(args, " "), code, out)
	}
	return out
}

// need demands that programs are installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing(t, p+" is not installed; run make tools")
		}
	}
}

// missing skips on a developer's machine and fails where every peer is
// required.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("RAMPART_PEERS") == "required" {
		t.Fatal(why)
	}
	t.Skip(why)
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
	text = strings.ReplaceAll(text, "127.0.0.1:9011", "127.0.0.1:"+freeport.Take(t)) // the stand-in of this copy
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
