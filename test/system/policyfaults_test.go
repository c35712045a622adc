//go:build system

package system

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// shelf is a system of two services that this test plays: docs asks its
// sidecar before it answers, levels tells the sidecar how high a document is.
type shelf struct {
	*running
	dir, file string
	levels    *httptest.Server
	down      atomic.Bool // levels answers nobody
}

const ownersOnly = "package docs\n\nallow if {\n\tinput.action == \"read\"\n\tinput.resource.owner == input.user.id\n\tinput.resource.level < 3\n}\n"

// newShelf writes the system and starts it. more is what authz says besides.
func newShelf(t *testing.T, more string) *shelf {
	t.Helper()
	s := &shelf{dir: t.TempDir()}
	docs := httptest.NewServer(http.HandlerFunc(s.doc))
	s.levels = httptest.NewServer(http.HandlerFunc(s.level))
	t.Cleanup(docs.Close)
	t.Cleanup(s.levels.Close)
	s.file = filepath.Join(s.dir, "rampart.yaml")
	s.write(t, "rampart.yaml", `rampart: v1
system: { name: shelf, trust_domain: shelf.example }
data: { doc: { class: internal } }
authz:
  roles: { reader: ["docs:read"] }
  types:
    doc: { actions: ["docs:read"], attrs: { owner: string, level: { type: long, provider: levels } } }
  providers: { levels: { service: levels, timeout: 1s } }
`+more+`services:
  gateway: { role: gateway }
  docs: { upstream: "`+docs.URL+`", policy: docs.rego }
  levels: { upstream: "`+s.levels.URL+`" }
flows:
  - { from: users, to: gateway, authn: session, limit: { ip: 60000/m, user: 60000/m } }
  - { from: gateway, to: docs, carries: [doc], authn: exchange }
  - { from: docs, to: levels, carries: [doc], authn: exchange }
demo:
  users: { alice: { roles: [reader], organizations: [home] } }
`)
	s.write(t, "docs.rego", ownersOnly)
	s.running = start(t, s.file)
	return s
}

func (s *shelf) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// doc answers 200 when the policies let the caller read, and 403 with their
// code when they do not.
func (s *shelf) doc(w http.ResponseWriter, r *http.Request) {
	q, _ := json.Marshal(map[string]any{"identity": r.Header.Get("Rampart-Identity"), "action": "docs:read",
		"resource": map[string]any{"type": "doc", "id": "1", "tenant": "home", "attrs": map[string]any{"owner": "user:alice"}}})
	var d net.Dialer
	agent := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", s.Sockets["docs"])
	}}}
	res, err := agent.Post("http://sidecar/v1/authz/check", "application/json", bytes.NewReader(q))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	var a struct{ Effect, Code string }
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil || res.StatusCode != http.StatusOK {
		http.Error(w, "the sidecar answers "+res.Status, http.StatusBadGateway)
		return
	}
	if a.Effect != "allow" {
		w.WriteHeader(http.StatusForbidden)
	}
	io.WriteString(w, a.Effect+" "+a.Code)
}

func (s *shelf) level(w http.ResponseWriter, r *http.Request) {
	if s.down.Load() {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"level":2}`)
}

// answers demands what a read of the document comes to, within a minute where
// policies are on their way.
func (s *shelf) answers(c *http.Client, status int, text string) {
	s.t.Helper()
	var got string
	s.await(fmt.Sprintf("%d %q", status, text), time.Minute, func() bool {
		code, body, err := s.try(c, http.MethodGet, "/docs/x", nil)
		got = fmt.Sprint(code, body, err)
		return err == nil && code == status && strings.Contains(body, text)
	})
	if s.t.Failed() {
		s.t.Logf("the last answer: %s", got)
	}
}

// onRecord demands a denial with this code.
func (s *shelf) onRecord(plane, code string) {
	s.t.Helper()
	if !slices.ContainsFunc(s.events(plane), func(e event) bool {
		return e.Class == "authz_deny" && e.Outcome == "refused" && e.Code == code && e.Detail["reason"] != ""
	}) {
		s.t.Errorf("%s has no denial %s on record", plane, code)
	}
}

// TestPolicyFaults: a source of attributes that is down and a policy that runs
// away deny, each with its code and on record, and the rest lives on.
func TestPolicyFaults(t *testing.T) {
	t.Parallel()
	s := newShelf(t, "")
	alice := s.login("alice")
	s.answers(alice, http.StatusOK, "allow")
	pid := s.pid("sidecar/docs")

	s.down.Store(true)
	s.answers(alice, http.StatusForbidden, "source_down")
	s.onRecord("sidecar/docs", "source_down")
	s.down.Store(false)
	s.answers(alice, http.StatusOK, "allow")
	s.levels.CloseClientConnections()
	s.levels.Close() // nobody listens any more
	s.answers(alice, http.StatusForbidden, "source_down")

	s.write(t, "docs.rego", "package docs\n\nallow if {\n\tinput.resource.owner == input.user.id\n\tcount([x | some x in numbers.range(1, 100000000); x % 7 == 3]) > 5\n}\n")
	s.write(t, "rampart.yaml", strings.Replace(s.text(), "level: { type: long, provider: levels }", "level: { type: long, optional: true }", 1))
	must(t, "", binary, "policy", "push", "-f", s.file, "--state", s.running.dir)
	s.answers(alice, http.StatusForbidden, "timeout")
	s.onRecord("sidecar/docs", "timeout")
	s.write(t, "docs.rego", strings.Replace(ownersOnly, "\tinput.resource.level < 3\n", "", 1))
	must(t, "", binary, "policy", "push", "-f", s.file, "--state", s.running.dir)
	s.answers(alice, http.StatusOK, "allow")
	if s.pid("sidecar/docs") != pid {
		t.Error("the sidecar was started again")
	}
	s.auditHolds()
}

func (s *shelf) text() string {
	s.t.Helper()
	b, err := os.ReadFile(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// TestForeignPolicies: where the file names who signs policies, the control
// plane cannot, everything is denied until they have, and theirs count then.
func TestForeignPolicies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, stranger, signed := filepath.Join(dir, "policy.key"), filepath.Join(dir, "stranger.key"), filepath.Join(dir, "policies.tar.gz")
	keys := must(t, "", binary, "policy", "keygen", "--out", key)
	must(t, "", binary, "policy", "keygen", "--out", stranger)
	s := newShelf(t, strings.TrimPrefix(keys, "authz:\n"))
	alice := s.login("alice")
	s.answers(alice, http.StatusForbidden, "")
	s.onRecord("gateway/gateway", "stale")

	push := func(args ...string) (string, int) {
		return command(t, "", binary, append([]string{"policy", "push", "--state", s.running.dir}, args...)...)
	}
	if out, code := push("-f", s.file); code == 0 || !strings.Contains(out, "authz.bundle.keys") {
		t.Errorf("the control plane signs: exit code %d\n%s", code, out)
	}
	must(t, "", binary, "policy", "sign", "-f", s.file, "--key", stranger, "--out", signed)
	s.refusedPolicies("bundle_key", func() (string, int) { return push("--bundle", signed) })
	s.answers(alice, http.StatusForbidden, "")

	must(t, "", binary, "policy", "sign", "-f", s.file, "--key", key, "--out", signed)
	if out, code := push("--bundle", signed); code != 0 {
		t.Fatalf("push: exit code %d\n%s", code, out)
	}
	s.answers(alice, http.StatusOK, "allow")
	s.auditHolds()
}
