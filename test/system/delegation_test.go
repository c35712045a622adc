//go:build system

package system

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/test/freeport"
)

// relayProgram is a service that tells whom it was called for, and calls the
// next service of a list with the Authorization that it received.
const relayProgram = `
import http.server, json, os, urllib.error, urllib.parse, urllib.request

class Relay(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def do_GET(self):
        then = [s for s in urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query).get("then", [""])[0].split(",") if s]
        me = {"service": os.environ["RAMPART_SERVICE"], "identity": self.headers["Rampart-Identity"], "token": (self.headers["Authorization"] or "")[len("Bearer "):], "status": 0, "next": None}
        if then:
            url = os.environ["RAMPART_OUT"] + "/out/" + then[0] + "/" + then[0] + "/hop?then=" + ",".join(then[1:])
            req = urllib.request.Request(url, headers={"Authorization": self.headers["Authorization"] or ""})
            try:
                with urllib.request.urlopen(req, timeout=20) as r: me["status"], me["next"] = r.status, json.load(r)
            except urllib.error.HTTPError as e: me["status"] = e.code
        body = json.dumps(me).encode()
        self.send_response(200); self.send_header("Content-Type", "application/json"); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Relay).serve_forever()
`

// hop is what one service of the chain saw.
type hop struct {
	Service  string `json:"service"`
	Identity string `json:"identity"`
	Token    string `json:"token"`
	Status   int    `json:"status"` // of the call to the next one; 0: made none
	Next     *hop   `json:"next"`
}

// chain is the order in which the services of relaySystem may call each other.
var chain = []string{"gateway", "orders", "payments", "notifications", "ledger", "archive"}

// relaySystem writes a system whose services call each other in a row, and only
// so.
func relaySystem(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "relay.py")
	if err := os.WriteFile(program, []byte(relayProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	var y strings.Builder
	y.WriteString("rampart: v1\nsystem: { name: relay, trust_domain: relay.example }\nzones: { internet: { trust: 0 }, edge: { trust: 40 }, app: { trust: 70 } }\n")
	y.WriteString("principals: { customer: { kind: human, zone: internet } }\nauthz: { roles: { customer: [")
	for _, s := range chain[1:] {
		fmt.Fprintf(&y, "%q, ", s+":read")
	}
	y.WriteString("] } }\nservices:\n  gateway: { role: gateway, zone: edge, listen: \":" + freeport.Take(t) + "\" }\n")
	for _, s := range chain[1:] {
		fmt.Fprintf(&y, "  %s: { zone: app, upstream: \"http://127.0.0.1:%s\", run: [python3, %q] }\n", s, freeport.Take(t), program)
	}
	y.WriteString("flows:\n  - { from: customer, to: gateway, authn: session, limit: { ip: 600000/m, user: 600000/m } }\n")
	for i := range len(chain) - 1 {
		fmt.Fprintf(&y, "  - { from: %s, to: %s, authn: exchange, scope: [\"%s:read\"", chain[i], chain[i+1], chain[i+1])
		for _, later := range chain[i+2:] {
			fmt.Fprintf(&y, ", \"%s:read\"", later)
		}
		y.WriteString("] }\n")
	}
	y.WriteString("demo: { users: { alice: { roles: [customer], organizations: [acme] } } }\n")
	file := filepath.Join(dir, "rampart.yaml")
	if err := os.WriteFile(file, []byte(y.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestDelegation follows one browser request through a row of services: the
// token names everybody it came through, it only ever narrows, and whoever may
// not have it is refused by the token service itself.
func TestDelegation(t *testing.T) {
	t.Parallel()
	need(t, "python3", "curl")
	r := start(t, relaySystem(t))
	alice := r.login("alice")

	status, body := r.call(alice, http.MethodGet, "/orders/hop?then=payments,notifications,ledger,archive", nil)
	if status != http.StatusOK {
		t.Fatalf("the chain: %d %s", status, body)
	}
	var first hop
	if err := json.Unmarshal([]byte(body), &first); err != nil {
		t.Fatal(err)
	}
	seen := map[string]*hop{}
	for h := &first; h != nil; h = h.Next {
		seen[h.Service] = h
	}
	for i, s := range []string{"orders", "payments", "notifications", "ledger"} {
		if seen[s] == nil {
			t.Fatalf("%s was never reached: %s", s, body)
		}
		var want []string
		for _, actor := range slices.Backward(chain[:i+1]) {
			want = append(want, relayID(actor))
		}
		if diff := cmp.Diff(want, actors(claimsOf(t, seen[s].Token))); diff != "" {
			t.Errorf("act chain at %s, -want +got\n%s", s, diff)
		}
		t.Logf("%s: sub %v, act %v, scope %v", s, claimsOf(t, seen[s].Token)["sub"], actors(claimsOf(t, seen[s].Token)), claimsOf(t, seen[s].Token)["scope"])
	}
	t.Run("a fifth actor is refused", func(t *testing.T) {
		if got := seen["ledger"]; got.Status == http.StatusOK || got.Next != nil || seen["archive"] != nil {
			t.Errorf("archive was reached with five actors: status %d", got.Status)
		}
	})

	cert := map[string][2]string{}
	for _, s := range []string{"orders", "payments", "notifications"} {
		c, k := r.join("service/" + s)
		cert[s] = [2]string{c, k}
	}
	exchange := func(t *testing.T, as, subjectToken, audience, scope string) map[string]any {
		form := []string{"grant_type=" + wire.GrantExchange, "subject_token=" + subjectToken, "subject_token_type=" + wire.TypeJWT, "audience=" + audience}
		if scope != "" {
			form = append(form, "scope="+scope)
		}
		return r.asService(t, cert[as], wire.PathToken, form...)
	}
	for name, tc := range map[string]struct{ as, token, to, scope, code string }{
		"the declared hop":                 {"orders", seen["orders"].Token, "payments", "", ""},
		"the declared hop, narrower":       {"orders", seen["orders"].Token, "payments", "payments:read", ""},
		"a scope that the subject has not": {"orders", seen["orders"].Token, "payments", "payments:delete", "invalid_scope"},
		"a scope lost on the way":          {"payments", seen["payments"].Token, "notifications", "orders:read", "invalid_scope"},
		"an undeclared edge":               {"orders", seen["orders"].Token, "notifications", "", "invalid_target"},
		"a token that it overheard":        {"payments", seen["orders"].Token, "notifications", "", "invalid_grant"},
	} {
		t.Run(name, func(t *testing.T) {
			got := exchange(t, tc.as, tc.token, relayID(tc.to), tc.scope)
			if code, _ := got["error"].(string); code != tc.code || (code == "") != (got["access_token"] != nil) {
				t.Errorf("answer %v, want error %q", got, tc.code)
			}
		})
	}
	t.Run("introspection equals the token", func(t *testing.T) {
		for _, s := range []string{"payments", "notifications"} {
			want := claimsOf(t, seen[s].Token)
			got := r.asService(t, cert[s], "/oauth2/introspect", "token="+seen[s].Token)
			if got["active"] != true {
				t.Fatalf("%s: %v", s, got)
			}
			delete(got, "active")
			delete(got, "token_type")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: -token +introspection\n%s", s, diff)
			}
		}
		if got := r.asService(t, cert["orders"], "/oauth2/introspect", "token="+seen["notifications"].Token); len(got) != 1 || got["active"] != false {
			t.Errorf("orders learns of a token that is not for it: %v", got)
		}
	})
	t.Run("a disabled actor ends every chain it is in", func(t *testing.T) {
		before := exchange(t, "payments", seen["payments"].Token, relayID("notifications"), "")
		if before["access_token"] == nil {
			t.Fatalf("before: %v", before)
		}
		must(t, "", binary, "service", "disable", "orders", "--state", r.dir, "--yes")
		after := exchange(t, "payments", seen["payments"].Token, relayID("notifications"), "")
		if after["access_token"] != nil || after["error"] == nil {
			t.Errorf("a token that came through a disabled actor was exchanged: %v", after)
		}
		if status := r.refusedWithin(alice, "/orders/hop", time.Second); status != http.StatusServiceUnavailable && status != http.StatusForbidden {
			t.Errorf("the edge still sends requests to a disabled service: %d", status)
		}
	})
	r.auditHolds()
}

// refusedWithin asks until the answer is no success, for a while at the most, and
// returns the status of the last answer.
func (r *running) refusedWithin(c *http.Client, path string, bound time.Duration) int {
	status := http.StatusOK
	for end := time.Now().Add(bound); status == http.StatusOK && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		status, _ = r.call(c, http.MethodGet, path, nil)
	}
	return status
}

// asService posts a form to the control plane with a service's own certificate
// and returns the JSON answer.
func (r *running) asService(t *testing.T, cert [2]string, path string, form ...string) map[string]any {
	t.Helper()
	// The certificate names a SPIFFE ID, which curl does not know.
	args := []string{"--silent", "--insecure", "--noproxy", "*", "--max-time", "10", "--cert", cert[0], "--key", cert[1]}
	var stdin strings.Builder
	for i, f := range form {
		if i > 0 {
			stdin.WriteByte('&')
		}
		name, value, _ := strings.Cut(f, "=")
		stdin.WriteString(name + "=" + strings.NewReplacer("%", "%25", "&", "%26", "+", "%2B", " ", "%20").Replace(value))
	}
	out, _ := command(t, stdin.String(), "curl", append(args, "--data-binary", "@-", "https://"+r.Control+path)...)
	var answer map[string]any
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("%s: %v: %s", path, err, out)
	}
	return answer
}

func relayID(name string) string {
	if name == "gateway" {
		return "spiffe://relay.example/gateway/gateway"
	}
	return "spiffe://relay.example/service/" + name
}

// claimsOf decodes a token without any check: what it says, not whether it may.
func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("no token: %q", token)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(b, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// actors lists the act chain of claims, current actor first.
func actors(claims map[string]any) []string {
	var out []string
	for act, _ := claims["act"].(map[string]any); act != nil; act, _ = act["act"].(map[string]any) {
		sub, _ := act["sub"].(string)
		out = append(out, sub)
	}
	return out
}
