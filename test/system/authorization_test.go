//go:build system

package system

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
)

// TestAuthorization asks the running example who may do what, who may see it
// and why not, and changes its policies under it. Its parts share one system
// and run in turn: the last leaves it with other policies.
func TestAuthorization(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	file := variant(t, "    erin: {", "    frank: { organizations: [acme] }\n    erin: {",
		"limit: { ip: 300/m, user: 60/m }", "limit: { ip: 60000/m, user: 60000/m }")
	r := start(t, file)
	for _, part := range []struct {
		name string
		run  func(*running, string)
	}{
		{"sharing", (*running).sharing}, {"why", (*running).why}, {"questions", (*running).questions}, {"policies", (*running).policies},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(r.in(t), file) })
	}
	r.auditHolds()
}

// reads returns what somebody's read of an order answers, 0 while nobody does,
// and whether their list shows it.
func (r *running) reads(c *http.Client, o order) (status int, listed bool) {
	r.t.Helper()
	status, _, err := r.try(c, http.MethodGet, "/orders/"+o.ID, nil)
	if err != nil {
		return 0, false
	}
	_, body, err := r.try(c, http.MethodGet, "/orders", nil)
	return status, err == nil && strings.Contains(body, o.ID)
}

// sees demands what somebody sees of an order, in a read and in a list alike.
func (r *running) sees(who string, c *http.Client, o order, want bool) {
	r.t.Helper()
	status, listed := r.reads(c, o)
	if (status == http.StatusOK) != want || listed != want || !want && status != http.StatusForbidden {
		r.t.Errorf("%s: read %d, listed %t; want %t for both", who, status, listed, want)
	}
}

// sharing: who is given an order to see sees it at once, and no longer than
// that, whichever process dies in between.
func (r *running) sharing(string) {
	alice, bob, erin := r.login("alice"), r.login("bob"), r.login("erin")
	o := r.order(alice, "acme")
	r.sees("bob, before", bob, o, false)
	for _, viewer := range []string{"user:bob", "user:erin", "team:green"} {
		if status, body := r.call(alice, http.MethodPut, "/orders/"+o.ID+"/viewers/"+viewer, nil); status != http.StatusNoContent {
			r.t.Fatalf("share with %s: %d %s", viewer, status, body)
		}
	}
	r.sees("bob, his very next read", bob, o, true)
	r.sees("erin, of another organization", erin, o, false)
	if status, _ := r.call(bob, http.MethodPut, "/orders/"+o.ID+"/viewers/user:dave", nil); status != http.StatusForbidden {
		r.t.Errorf("a viewer shares further: %d", status)
	}
	for _, dies := range []string{"orders", "sidecar/orders"} {
		r.kill(dies)
		r.await("bob's order after kill -9 of "+dies, time.Minute, func() bool {
			if status, listed := r.reads(erin, o); status == http.StatusOK || listed {
				r.t.Errorf("erin sees the order after kill -9 of %s", dies)
			}
			status, listed := r.reads(bob, o)
			return status == http.StatusOK && listed
		})
	}
	r.kill("sidecar/orders")
	r.await("the end of sharing", time.Minute, func() bool {
		status, _, err := r.try(alice, http.MethodDelete, "/orders/"+o.ID+"/viewers/user:bob", nil)
		return err == nil && status == http.StatusNoContent
	})
	r.sees("bob, after", bob, o, false)
	r.kill("orders")
	r.await("alice's order", time.Minute, func() bool {
		if status, listed := r.reads(bob, o); status == http.StatusOK || listed {
			r.t.Error("what was taken back is there again after kill -9")
		}
		status, listed := r.reads(alice, o)
		return status == http.StatusOK && listed
	})
	r.sees("bob, in the end", bob, o, false)
}

// explained is what `rampart policy why --json` says.
type explained struct {
	Plane    string           `json:"plane"`
	Decision rampart.Decision `json:"decision"`
	Same     bool             `json:"same"`
}

// whyOf asks why, of a decision.
func (r *running) whyOf(id string) explained {
	r.t.Helper()
	var e explained
	out := must(r.t, "", binary, "policy", "why", id, "--state", r.dir, "--json")
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		r.t.Fatalf("why %s: %v\n%s", id, err, out)
	}
	return e
}

// why: each denial of the example explains itself down to the condition and
// the line, and comes out the same when it is made again.
func (r *running) why(string) {
	alice, bob, dave, erin, frank := r.login("alice"), r.login("bob"), r.login("dave"), r.login("erin"), r.login("frank")
	o := r.order(alice, "acme")
	status, body, err := r.pay(alice, o, "why-1")
	var paid struct{ ID string }
	if err != nil || status != http.StatusCreated || json.Unmarshal([]byte(body), &paid) != nil {
		r.t.Fatalf("pay: %d %s %v", status, body, err)
	}
	for name, tc := range map[string]struct {
		who                *http.Client
		method, path       string
		plane, layer, code string
		says               string // in the reason for operators
	}{
		"no role":                                {frank, "GET", "/orders", "gateway/gateway", "gateway", "role_missing", `lacks the permission "orders:read"`},
		"another organization":                   {bob, "GET", "/orgs/globex/orders", "sidecar/orders", "service", "not_member", `"globex"`},
		"its object":                             {erin, "GET", "/orders/" + o.ID, "sidecar/orders", "service", "not_member", `"acme"`},
		"a colleague's order":                    {bob, "GET", "/orders/" + o.ID, "sidecar/orders", "domain", "no_permit", "policy/orders.rego:"},
		"an order to share, by an administrator": {dave, "PUT", "/orders/" + o.ID + "/viewers/user:dave", "sidecar/orders", "domain", "no_permit", "policy/sharing.cedar:"},
		"a colleague's payment":                  {bob, "GET", "/payments/" + paid.ID, "sidecar/payments", "domain", "no_permit", "policy/payments.cedar:"},
	} {
		before := len(r.denials(tc.plane))
		if status, body := r.call(tc.who, tc.method, tc.path, nil); status != http.StatusForbidden {
			r.t.Errorf("%s: %d %s", name, status, body)
			continue
		}
		seen := r.denials(tc.plane)[before:]
		if len(seen) != 1 || seen[0].Detail["decision"] == "" {
			r.t.Errorf("%s: want one denial with its decision on record at %s, got %+v", name, tc.plane, seen)
			continue
		}
		r.explains(name, seen[0], tc.layer, tc.code, tc.says)
	}
	r.frozen()
}

// denials lists what a plane refused by its policies.
func (r *running) denials(plane string) []event {
	return slices.DeleteFunc(r.events(plane), func(e event) bool { return e.Class != "authz_deny" || e.Code == "" })
}

// explains demands a reason that an operator can act on.
func (r *running) explains(name string, e event, layer, code, says string) {
	r.t.Helper()
	w := r.whyOf(e.Detail["decision"])
	d := w.Decision
	if !w.Same || string(d.Layer) != layer || string(d.Code) != code || e.Code != code || e.Layer != layer || !strings.Contains(d.Reason, says) {
		r.t.Errorf("%s: want %s of the %s layer about %s, got %+v for %+v", name, code, layer, says, w, e)
	}
	named := slices.ContainsFunc(d.Policies, func(p rampart.PolicyRef) bool { return p.File != "" && p.Line > 0 })
	near := slices.ContainsFunc(d.Missing, func(m rampart.NearMiss) bool { return m.Condition != "" && m.Line > 0 && m.Policy.File != "" })
	if code == "no_permit" && !near || (code == "role_missing" || code == "forbidden") && !named {
		r.t.Errorf("%s: no condition with its line: %+v", name, d)
	}
}

// frozen asks about a payment that a forbid stops, whoever asks: the payments
// service alone can freeze a row, which it seals.
func (r *running) frozen() {
	r.t.Helper()
	before := len(r.denials("sidecar/payments"))
	if r.mayOver("payments", "alice", "payments:read", "payment", `"tenant":"acme","owner":"user:alice","team_id":"red","frozen":true`) {
		r.t.Error("a frozen payment is read")
	}
	for _, e := range r.denials("sidecar/payments")[before:] {
		r.explains("a frozen payment", e, "domain", "forbidden", "policy/payments.cedar:")
	}
}

// mayOver asks a service's decision point, as OpenID AuthZEN has it, with
// somebody else's program.
func (r *running) mayOver(service, user, action, kind, properties string) bool {
	r.t.Helper()
	q := fmt.Sprintf(`{"subject":{"type":"user","id":%q},"action":{"name":%q},"resource":{"type":%q,"id":"17","properties":{%s}}}`, user, action, kind, properties)
	out := r.atSocket(service, "/access/v1/evaluation", q)
	var a struct{ Decision *bool }
	if err := json.Unmarshal([]byte(out), &a); err != nil || a.Decision == nil {
		r.t.Fatalf("evaluation at %s: %s", service, out)
	}
	return *a.Decision
}

func (r *running) atSocket(service, path, body string) string {
	r.t.Helper()
	return must(r.t, body, "curl", "--silent", "--max-time", "10", "--unix-socket", r.Sockets[service], "--header", "Content-Type: application/json", "--data-binary", "@-", "http://sidecar"+path)
}

// questions: AuthZEN and the command line answer as the enforcement points do.
func (r *running) questions(file string) {
	const facts = `{"owner":"user:alice","team_id":"red"}`
	for user, want := range map[string]bool{"alice": true, "bob": false, "carol": true, "dave": true, "erin": false, "frank": false} {
		// AuthZEN asks layer 3 alone, for which frank is nobody either.
		if got := r.mayOver("orders", user, "orders:read", "order", `"tenant":"acme",`+strings.Trim(facts, "{}")); got != want {
			r.t.Errorf("AuthZEN: %s reads alice's order: %t", user, got)
		}
		out, code := command(r.t, "", binary, "can", user, "read", "order/17", "--tenant", "acme", "--attrs", facts, "-f", file, "--state", r.dir)
		if (code == 0) != want || code > 1 {
			r.t.Errorf("can %s read: exit code %d\n%s", user, code, out)
		}
	}
	var who []struct{ Subject string }
	out := must(r.t, "", binary, "who-can", "read", "order/17", "--tenant", "acme", "--attrs", facts, "-f", file, "--state", r.dir, "--json")
	if err := json.Unmarshal([]byte(out), &who); err != nil || fmt.Sprint(who) != "[{user:alice} {user:carol} {user:dave}]" {
		r.t.Errorf("who-can: %v %s", err, out)
	}
	for user, to := range map[string]string{"alice": "some", "frank": "none"} {
		var what []struct{ Action, To string }
		out = must(r.t, "", binary, "what-can", user, "order", "-f", file, "--state", r.dir, "--json")
		if err := json.Unmarshal([]byte(out), &what); err != nil || fmt.Sprint(what) != fmt.Sprintf("[{orders:create %[1]s} {orders:read %[1]s} {orders:share %[1]s}]", to) {
			r.t.Errorf("what-can %s: %v %s", user, err, out)
		}
	}
	var meta struct {
		Point string `json:"policy_decision_point"`
	}
	out = must(r.t, "", "curl", "--silent", "--max-time", "10", "--unix-socket", r.Sockets["orders"], "http://sidecar/.well-known/authzen-configuration")
	if err := json.Unmarshal([]byte(out), &meta); err != nil || !strings.Contains(meta.Point, "orders") {
		r.t.Errorf("metadata: %s", out)
	}
}

// policyStatus is what `rampart policy status --json` says.
func (r *running) policyStatus() wire.PolicyStatus {
	r.t.Helper()
	var st wire.PolicyStatus
	if err := json.Unmarshal([]byte(must(r.t, "", binary, "policy", "status", "--state", r.dir, "--json")), &st); err != nil {
		r.t.Fatal(err)
	}
	return st
}

// arrived waits until every plane decides by a version.
func (r *running) arrived(version uint64) {
	r.t.Helper()
	r.await(fmt.Sprintf("version %d everywhere", version), 30*time.Second, func() bool {
		st := r.policyStatus()
		return st.Version == version && len(st.Planes) > 0 && !slices.ContainsFunc(st.Planes, func(p wire.PlanePolicies) bool { return p.Version != version })
	})
}

// policies: other policies count at once and without a restart, so do the old
// ones again, and nothing that is broken counts at all.
func (r *running) policies(file string) {
	alice := r.login("alice")
	o := r.order(alice, "acme")
	pid, first := r.pid("sidecar/orders"), r.policyStatus().Version
	push := func(more ...string) (string, int) {
		return command(r.t, "", binary, append([]string{"policy", "push", "--state", r.dir}, more...)...)
	}
	const both, tests = "policy: [policy/orders.rego, policy/sharing.cedar]", "policy_tests: [policy/orders_test.yaml, policy/orders_test.rego], "
	failing := variant(r.t, `"orders:create", "orders:share", `, `"orders:create", `) // nobody may share, and the tests say who may
	r.refusedPolicies("bundle_tests", func() (string, int) { return push("-f", failing) })
	r.sees("alice, after failing tests", alice, o, true)

	if out, code := push("-f", variant(r.t, both, "policy: policy/sharing.cedar", tests, "")); code != 0 {
		r.t.Fatalf("push: exit code %d\n%s", code, out)
	}
	r.arrived(first + 1)
	r.sees("alice, without a rule for owners", alice, o, false)
	if out, code := push("--rollback", fmt.Sprint(first)); code != 0 {
		r.t.Fatalf("rollback: exit code %d\n%s", code, out)
	}
	r.arrived(first + 2)
	r.sees("alice, after the rollback", alice, o, true)

	newest := r.archived(first + 2)
	for code, raw := range map[string][]byte{
		"bundle_rollback":  r.archived(first + 1),
		"bundle_altered":   rewritten(r.t, newest, "files/policy/orders.rego", func(b []byte) []byte { b[len(b)-2] ^= 1; return b }),
		"bundle_signature": rewritten(r.t, newest, "manifest.json", func(b []byte) []byte { return bytes.Replace(b, []byte("pay.example"), []byte("pay.exampla"), 1) }),
		"bundle_unsigned":  rewritten(r.t, newest, "manifest.jws", func([]byte) []byte { return nil }),
		"bundle_format":    newest[:len(newest)/2],
	} {
		name := filepath.Join(r.t.TempDir(), "policies.tar.gz")
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			r.t.Fatal(err)
		}
		r.refusedPolicies(code, func() (string, int) { return push("--bundle", name) })
	}
	r.arrived(first + 2)
	r.sees("alice, by the last good ones", alice, o, true)
	if r.pid("sidecar/orders") != pid {
		r.t.Error("the sidecar was started again")
	}
}

// refusedPolicies demands that a push is refused with this code, said and on
// record.
func (r *running) refusedPolicies(code string, push func() (string, int)) {
	r.t.Helper()
	before := len(r.events("control"))
	out, exit := push()
	on := slices.ContainsFunc(r.events("control")[before:], func(e event) bool {
		return e.Control == "policy.bundle" && e.Outcome == "refused" && e.Code == code
	})
	if exit == 0 || !strings.Contains(out, code) || !on {
		r.t.Errorf("%s: exit code %d, on record %t\n%s", code, exit, on, out)
	}
}

// archived returns the bundle of a version, as the sidecar of orders keeps it.
func (r *running) archived(version uint64) []byte {
	return []byte(r.file(fmt.Sprintf("policies/sidecar_orders/%012d.tar.gz", version)))
}

// rewritten packs a bundle again with one of its files changed; nil leaves it
// out.
func rewritten(t *testing.T, raw []byte, name string, change func([]byte) []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	in, pack := tar.NewReader(z), gzip.NewWriter(&out)
	to := tar.NewWriter(pack)
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == name {
			if b = change(b); b == nil {
				continue
			}
		}
		h.Size = int64(len(b))
		if err := to.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := to.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if to.Close() != nil || pack.Close() != nil {
		t.Fatal("the bundle does not pack")
	}
	return out.Bytes()
}
