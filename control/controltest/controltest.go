// Package controltest runs a control plane inside a test, with everything real:
// TLS on loopback, SQLite, audit logs and the admin socket. Planes under test
// join it as they would join any other.
package controltest

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store/sqlite"
)

// Issuer names the edge in every token of a House.
const Issuer = "https://localhost:8443/"

// House is a running control plane. Its methods may be called from the test's
// own goroutine only.
type House struct {
	System *spec.System
	State  *statedir.Dir
	Logger *slog.Logger
	TTL    time.Duration // life of the SVIDs issued after the next Restart; 0: an hour

	t     testing.TB
	addr  string
	plane *control.Plane
	stop  func()
	logs  map[string]*audit.Log
}

// Start runs a control plane for a rampart.yaml. A file that disables controls
// gets a throw-away state folder. It stops when the test ends.
func Start(t testing.TB, file string) *House {
	t.Helper()
	sys, err := spec.Load(file)
	must(t, err)
	dir, err := os.MkdirTemp("", "rampart") // short: a socket's path has at most 107 bytes
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	state, err := statedir.Open(filepath.Join(dir, "state"), statedir.Options{Create: true, Throwaway: len(sys.Unsafe.Disable) > 0})
	must(t, err)
	h := &House{System: sys, State: state, Logger: slog.New(slog.DiscardHandler), t: t, addr: "127.0.0.1:0", logs: map[string]*audit.Log{}}
	h.start()
	t.Cleanup(func() {
		for _, l := range h.logs {
			l.Close()
		}
		h.stop()
	})
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *House) start() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	db, err := sqlite.Open(ctx, h.State.Path("control.db"))
	must(h.t, err)
	log, err := audit.Open(h.State.Path("audit"), "control", audit.Options{Logger: h.Logger})
	must(h.t, err)
	h.plane, err = control.New(control.Options{
		System: h.System, State: h.State, Store: db, Audit: log, Logger: h.Logger, Listen: h.addr, Issuer: Issuer, SVIDTTL: h.TTL,
	})
	must(h.t, err)
	h.addr = h.plane.Addr()
	done := make(chan error, 1)
	go func() { done <- h.plane.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("control plane: %v", err)
		}
		log.Close()
		db.Close()
	})
}

// Stop stops the control plane until Restart.
func (h *House) Stop() { h.stop() }

// Restart stops the control plane and starts it at the same address.
func (h *House) Restart() {
	h.t.Helper()
	h.stop()
	h.start()
}

// Admin makes one call on the admin socket: a POST of in, or a GET when in is
// nil. Any answer but 2xx fails the test.
func (h *House) Admin(path string, in, out any) {
	h.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.plane.AdminSocket())
	}}}
	method, body := http.MethodGet, []byte(nil)
	if in != nil {
		var err error
		method = http.MethodPost
		body, err = json.Marshal(in)
		must(h.t, err)
	}
	req, err := http.NewRequest(method, "http://control"+path, bytes.NewReader(body))
	must(h.t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	must(h.t, err)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	must(h.t, err)
	if res.StatusCode/100 != 2 {
		h.t.Fatalf("%s: %s %s", path, res.Status, answer)
	}
	if out != nil {
		must(h.t, json.Unmarshal(answer, out))
	}
}

// Revoke voids the credentials of an id.
func (h *House) Revoke(kind, id string) {
	h.t.Helper()
	h.Admin(wire.AdminRevoke, map[string]string{"kind": kind, "id": id}, nil)
}

// Options of a link that joins as identity, such as "gateway/edge". The test
// may change them before it dials.
func (h *House) Options(identity, plane string) planelink.Options {
	h.t.Helper()
	var tok wire.JoinToken
	h.Admin(wire.AdminJoinToken, wire.JoinTokenRequest{Identity: identity}, &tok)
	roots, err := os.ReadFile(h.State.Path("ca.pem"))
	must(h.t, err)
	return planelink.Options{
		Control: h.addr, Domain: h.System.Info.TrustDomain, Roots: roots, Join: tok.Token, Plane: plane,
		Throwaway: h.State.Throwaway(), Logger: h.Logger,
	}
}

// Link dials and runs a link until the test ends; it has its configuration.
func (h *House) Link(opt planelink.Options) *planelink.Link {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	link, err := planelink.Dial(ctx, opt)
	must(h.t, err)
	done := make(chan struct{})
	go func() { defer close(done); link.Run(ctx) }()
	h.t.Cleanup(func() { cancel(); <-done })
	setup, end := context.WithTimeout(ctx, 10*time.Second)
	defer end()
	_, err = link.WaitSystem(setup)
	must(h.t, err)
	h.Until("the keys have arrived", func() bool { return len(link.State().Keys.Edge) > 0 && link.Age() < time.Minute })
	return link
}

// Log opens the audit log of a plane, once.
func (h *House) Log(plane string) *audit.Log {
	h.t.Helper()
	if l, ok := h.logs[plane]; ok {
		return l
	}
	l, err := audit.Open(h.State.Path("audit"), plane, audit.Options{Logger: h.Logger})
	must(h.t, err)
	h.logs[plane] = l
	return l
}

// Events returns what a plane has on record, oldest first. The folder is that
// of the plane, "/" written as "_".
func (h *House) Events(folder string) []audit.Event {
	h.t.Helper()
	for _, l := range h.logs { // what nobody waits for is written a moment later
		_ = l.Flush(context.WithoutCancel(h.t.Context())) // one that cannot is read as it is
	}
	files, err := filepath.Glob(h.State.Path("audit", folder, "*.jsonl"))
	must(h.t, err)
	var out []audit.Event
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(h.t, err)
		for line := range bytes.Lines(b) {
			var rec struct{ Event audit.Event }
			if json.Unmarshal(line, &rec) == nil { // the last line may be half written
				out = append(out, rec.Event)
			}
		}
	}
	return out
}

// Until waits for cond, for at most ten seconds.
func (h *House) Until(what string, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// File copies the rampart.yaml of this package's shop, with what it names, to a
// folder of the test. Pairs of old and new text change it.
func File(t testing.TB, change ...string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.CopyFS(dir, testdata()))
	path := filepath.Join(dir, "rampart.yaml")
	text, err := os.ReadFile(path)
	must(t, err)
	for i := 0; i+1 < len(change); i += 2 {
		if !bytes.Contains(text, []byte(change[i])) {
			t.Fatalf("the shop's file does not say %q", change[i])
		}
		text = bytes.Replace(text, []byte(change[i]), []byte(change[i+1]), 1)
	}
	must(t, os.WriteFile(path, text, 0o600))
	return path
}

//go:embed testdata
var shop embed.FS

func testdata() fs.FS {
	sub, err := fs.Sub(shop, "testdata")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}
