package pdp

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

var _ authz.Decider = (*PDP)(nil)

// patient is a time limit that a busy machine does not reach.
const patient = 30 * time.Second

// roles are those of the policies in testdata.
func roles() map[string][]string {
	return map[string][]string{
		"customer": {"web:read", "orders:read", "orders:create", "payments:create", "payments:read"},
		"manager":  {"role:customer"},
		"admin":    {"web:*", "orders:*", "payments:*"},
	}
}

// people are those of the payment system, gus, a manager without a team, and
// zoe, who has no role.
func people() map[string]rampart.Principal {
	person := func(name, role, orgs, team, manages string) rampart.Principal {
		return rampart.Principal{
			Kind: rampart.KindHuman, Subject: "user:" + name, Roles: strings.Fields(role),
			Organizations: strings.Fields(orgs), Team: team, ManagedTeams: strings.Fields(manages),
		}
	}
	return map[string]rampart.Principal{
		"nobody": {},
		"alice":  person("alice", "customer", "acme", "red", ""),
		"bob":    person("bob", "customer", "acme", "blue", ""),
		"carol":  person("carol", "manager", "acme", "red", "green"),
		"dave":   person("dave", "admin", "acme globex", "", ""),
		"erin":   person("erin", "customer", "globex", "green", ""),
		"gus":    person("gus", "manager", "acme", "", ""),
		"zoe":    person("zoe", "", "acme", "", ""),
	}
}

func example(t testing.TB) *PDP {
	t.Helper()
	policies := map[string][]byte{}
	for _, name := range []string{"policy/orders.rego", "policy/payments.cedar"} {
		src, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		policies[name] = src
	}
	d, err := New(Options{Roles: roles(), Policies: policies, Timeout: patient})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// outcome renders a decision as a table writes it: "allow ID..." or
// "deny CODE ID...".
func outcome(d rampart.Decision) string {
	words := []string{d.Effect.String()}
	if !d.Allowed() {
		words = append(words, string(d.Code))
	}
	for _, p := range d.Policies {
		words = append(words, p.ID)
	}
	return strings.Join(words, " ")
}

// TestDomain is the policy of the example, row by row. An order and a payment
// are written "owner/team", "-" for absent, and "!" marks a frozen one.
func TestDomain(t *testing.T) {
	d := example(t)
	who := people()
	for _, row := range []struct{ subject, action, object, want string }{
		{"alice", "orders:read", "alice/red", "allow orders.allow"},
		{"alice", "orders:create", "alice/red", "allow orders.allow"},
		{"alice", "orders:create", "bob/red", "deny no_permit"},
		{"alice", "orders:delete", "alice/red", "deny no_permit"},
		{"bob", "orders:read", "alice/red", "deny no_permit"},
		{"zoe", "orders:read", "bob/-", "deny no_permit"},
		{"dave", "orders:read", "alice/red", "allow orders.allow"},
		{"dave", "orders:create", "alice/red", "deny no_permit"},
		{"nobody", "orders:read", "alice/red", "deny no_permit"},

		// A manager is in team red and manages team green. For orders the team
		// that one is in counts, for payments the teams that one manages.
		{"carol", "orders:read", "alice/red", "allow orders.allow"},
		{"carol", "orders:read", "erin/green", "deny no_permit"},
		{"carol", "payments:read", "alice/red", "deny no_permit"},
		{"carol", "payments:read", "erin/green", "allow payment-team-manager"},
		{"carol", "payments:create", "erin/green", "deny no_permit"},
		{"gus", "orders:read", "bob/-", "deny no_permit"}, // no team is not the same team
		{"gus", "orders:read", "bob/", "deny no_permit"},

		{"alice", "payments:read", "alice/red", "allow payment-owner"},
		{"alice", "payments:create", "alice/-", "allow payment-owner"},
		{"alice", "payments:create", "bob/red", "deny no_permit"},
		{"bob", "payments:read", "alice/red", "deny no_permit"},
		{"dave", "payments:read", "alice/red", "allow payment-admin"},
		{"dave", "payments:create", "alice/red", "deny no_permit"},
		{"dave", "payments:read", "dave/red", "allow payment-owner payment-admin"},
		{"dave", "payments:read", "alice/red!", "deny forbidden frozen"},
		{"alice", "payments:read", "alice/red!", "deny forbidden frozen"},
		{"bob", "payments:read", "alice/red!", "deny forbidden frozen"},
		{"alice", "payments:read", "-/-", "deny error payment-owner"},
	} {
		got := d.Decide(t.Context(), authz.Request{
			Layer: rampart.LayerDomain, Principal: who[row.subject], Action: rampart.Action(row.action),
			Resource: object(row.action, row.object),
		})
		if outcome(got) != row.want || got.Layer != rampart.LayerDomain {
			t.Errorf("%s %s %s: got %s at layer %q (%s), want %s", row.subject, row.action, row.object, outcome(got), got.Layer, got.Reason, row.want)
		}
	}
}

func object(action, text string) rampart.Resource {
	typ, _, _ := strings.Cut(action, ":")
	text, frozen := strings.CutSuffix(text, "!")
	owner, team, _ := strings.Cut(text, "/")
	attrs := map[string]any{}
	if owner != "-" {
		attrs["owner"] = "user:" + owner
	}
	if team != "-" {
		attrs["team_id"] = team
	}
	if frozen {
		attrs["frozen"] = true
	}
	return rampart.Resource{Type: strings.TrimSuffix(typ, "s"), ID: "17", Tenant: "acme", Attrs: attrs}
}

func TestService(t *testing.T) {
	d := example(t)
	who := people()
	for _, row := range []struct{ subject, tenant, action, want string }{
		{"alice", "acme", "orders:read", "allow orders:read"},
		{"alice", "", "orders:read", "allow orders:read"},
		{"alice", "globex", "orders:read", "deny not_member membership"},
		{"alice", "acme", "orders:delete", "deny role_missing orders:delete"},
		{"dave", "acme", "orders:delete", "allow orders:delete"},
		{"dave", "initech", "orders:read", "deny not_member membership"}, // an admin needs the organization too
		{"zoe", "acme", "orders:read", "deny role_missing orders:read"},
		{"nobody", "", "orders:read", "deny no_permit"},
	} {
		got := d.Decide(t.Context(), authz.Request{
			Layer: rampart.LayerService, Principal: who[row.subject], Action: rampart.Action(row.action),
			Resource: rampart.Resource{Type: "order", Tenant: row.tenant},
		})
		if outcome(got) != row.want || got.Layer != rampart.LayerService {
			t.Errorf("%s %s in %q: got %s at layer %q, want %s", row.subject, row.action, row.tenant, outcome(got), got.Layer, row.want)
		}
	}
}

func TestRoute(t *testing.T) {
	d := example(t)
	who := people()
	for _, row := range []struct {
		subject string
		route   Route
		want    string
	}{
		{"alice", Route{Permission: "orders:read"}, "allow orders:read"},
		{"zoe", Route{Permission: "orders:read"}, "deny role_missing orders:read"},
		{"alice", Route{}, "deny role_missing "},
		{"zoe", Route{Allow: []string{"any"}}, "allow allow any"},
		{"nobody", Route{Allow: []string{"any"}}, "deny no_permit"},
		{"carol", Route{Allow: []string{"role:admin", "role:manager"}}, "allow allow role:manager"},
		{"alice", Route{Allow: []string{"role:admin", "role:manager"}}, "deny role_missing allow role:admin, role:manager"},
		{"alice", Route{Permission: "orders:read", Allow: []string{"role:admin"}}, "deny role_missing allow role:admin"},
		{"dave", Route{Allow: []string{"permission:orders:delete"}}, "allow allow permission:orders:delete"},
		{"zoe", Route{Allow: []string{"role:"}}, "deny role_missing allow role:"},
		{"dave", Route{Allow: []string{"admin"}}, "deny role_missing allow admin"},
		{"alice", Route{Allow: []string{"any"}, Require: "orders:delete"}, "deny role_missing orders:delete"},
		{"dave", Route{Allow: []string{"any"}, Require: "orders:delete"}, "allow allow any"},
	} {
		got := d.DecideRoute(t.Context(), who[row.subject], row.route)
		if outcome(got) != row.want || got.Layer != rampart.LayerGateway {
			t.Errorf("%s %+v: got %s at layer %q, want %s", row.subject, row.route, outcome(got), got.Layer, row.want)
		}
	}
}

// TestDeniesWhenUncertain: one permit always matches; each row adds what makes
// the answer uncertain.
func TestDeniesWhenUncertain(t *testing.T) {
	const (
		cedarYes = `@id("yes") permit (principal, action, resource);`
		regoYes  = "package p\nallow if true\n"
	)
	for name, row := range map[string]struct {
		cedar, rego string
		want        string
	}{
		"nothing added":             {"", "", "allow yes p.allow"},
		"a permit that fails":       {`@id("bad") permit (principal, action, resource) when { resource.absent };`, "", "allow yes p.allow"},
		"a forbid that fails":       {`@id("bad") forbid (principal, action, resource) when { resource.absent };`, "", "deny error bad"},
		"a forbid in Cedar":         {`@id("no") forbid (principal, action, resource);`, "", "deny forbidden no"},
		"a deny in Rego":            {"", "deny if true\n", "deny forbidden p.deny"},
		"a deny that cannot read":   {"", "deny if input.resource.absent\n", "deny error p.deny"},
		"a builtin that fails":      {"", "deny if to_number(input.resource.name) > 1\n", "deny error evaluation"},
		"a builtin fails in allow":  {"", "allow if to_number(input.resource.name) > 1\n", "deny error evaluation"},
		"a rule that takes forever": {"", "deny if count([x | some x in numbers.range(1, 100000000); x < 0]) > 0\n", "deny timeout evaluation"},
		"a forbid and a failure":    {`@id("no") forbid (principal, action, resource);`, "deny if input.resource.absent\n", "deny forbidden no"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := New(Options{Timeout: time.Second, Policies: map[string][]byte{
				"p.cedar": []byte(cedarYes + row.cedar),
				"p.rego":  []byte(regoYes + row.rego),
			}})
			if err != nil {
				t.Fatal(err)
			}
			got := d.Decide(t.Context(), authz.Request{
				Layer: rampart.LayerDomain, Principal: people()["alice"], Action: "orders:read",
				Resource: rampart.Resource{Type: "order", Attrs: map[string]any{"name": "abc"}},
			})
			if outcome(got) != row.want {
				t.Errorf("got %s (%s), want %s", outcome(got), got.Reason, row.want)
			}
		})
	}
}

func TestDeniesBadRequests(t *testing.T) {
	d := example(t)
	deep := map[string]any{}
	deep["again"] = deep // no end
	for name, change := range map[string]func(*authz.Request){
		"no layer":        func(r *authz.Request) { r.Layer = "" },
		"no verb":         func(r *authz.Request) { r.Action = "orders" },
		"no type":         func(r *authz.Request) { r.Resource.Type = "" },
		"a capital":       func(r *authz.Request) { r.Resource.Type = "Order" },
		"a Go struct":     func(r *authz.Request) { r.Resource.Attrs["x"] = struct{}{} },
		"no number":       func(r *authz.Request) { r.Resource.Attrs["x"] = nan() },
		"a bottomless":    func(r *authz.Request) { r.Resource.Attrs["x"] = deep },
		"too many":        func(r *authz.Request) { r.Context = map[string]any{"x": make([]any, authz.MaxValues+1)} },
		"a long text":     func(r *authz.Request) { r.Resource.Attrs["x"] = strings.Repeat("x", authz.MaxText+1) },
		"no text":         func(r *authz.Request) { r.Resource.Attrs["x"] = "\xff" },
		"too many groups": func(r *authz.Request) { r.Principal.ManagedTeams = make([]string, authz.MaxValues+1) },
	} {
		r := authz.Request{Layer: rampart.LayerDomain, Principal: people()["alice"], Action: "orders:read", Resource: object("orders:", "alice/red")}
		if got := d.Decide(t.Context(), r); !got.Allowed() {
			t.Fatalf("the request is denied before it is spoilt: %s", got.Reason)
		}
		change(&r)
		if got := d.Decide(t.Context(), r); got.Allowed() || got.Code != rampart.CodeError {
			t.Errorf("%s: got %s (%s)", name, outcome(got), got.Reason)
		}
	}
}

func nan() float64 {
	zero := 0.0
	return zero / zero
}

func TestDeniesWithoutEngine(t *testing.T) {
	ask := authz.Request{Layer: rampart.LayerDomain, Principal: people()["dave"], Action: "orders:read", Resource: object("orders:", "dave/red")}
	empty, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := empty.Decide(t.Context(), ask)
	if outcome(got) != "deny no_permit" || !strings.Contains(got.Reason, "rampart.yaml") {
		t.Errorf("no policy: got %s (%s)", outcome(got), got.Reason)
	}
	var none *PDP
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, layer := range []rampart.Layer{rampart.LayerGateway, rampart.LayerService, rampart.LayerDomain} {
		ask.Layer = layer
		if got := none.Decide(t.Context(), ask); outcome(got) != "deny error" || got.Layer != layer {
			t.Errorf("nil at %s: got %s", layer, outcome(got))
		}
		if got := example(t).Decide(over, ask); outcome(got) != "deny timeout" {
			t.Errorf("cancelled at %s: got %s", layer, outcome(got))
		}
	}
}

// TestReasons pins what an operator reads, file and line included.
func TestReasons(t *testing.T) {
	d := example(t)
	who := people()
	for _, row := range []struct{ subject, action, object, want string }{
		{"bob", "orders:read", "alice/red",
			`none of 4 permits matched orders:read of order by user:bob; closest is rego/orders.allow at policy/orders.rego:14: input.resource.owner == input.user.id does not hold (line 17)`},
		{"bob", "payments:read", "alice/red",
			`none of 7 permits matched payments:read of payment by user:bob; closest is cedar/payment-team-manager at policy/payments.cedar:17: principal.managedTeams.contains(resource.team_id) is false`},
		{"bob", "payments:read", "alice/red!", "forbidden by cedar/frozen at policy/payments.cedar:36"},
		{"alice", "payments:read", "-/-", "cedar/payment-owner at policy/payments.cedar:6 could not be evaluated: "},
	} {
		got := d.Decide(t.Context(), authz.Request{
			Layer: rampart.LayerDomain, Principal: who[row.subject], Action: rampart.Action(row.action), Resource: object(row.action, row.object),
		})
		if !strings.HasPrefix(got.Reason, row.want) {
			t.Errorf("%s %s %s:\n got %s\nwant %s", row.subject, row.action, row.object, got.Reason, row.want)
		}
	}
	got := d.DecideRoute(t.Context(), who["zoe"], Route{Permission: "orders:read"})
	if want := `user:zoe with roles [] lacks the permission "orders:read", which these roles hold: ["admin" "customer" "manager"]`; got.Reason != want {
		t.Errorf("got %s", got.Reason)
	}
}

// TestTimeIsThePDPs: a caller cannot bring its own clock.
func TestTimeIsThePDPs(t *testing.T) {
	at := time.Unix(1000, 0)
	d, err := New(Options{Timeout: patient, Now: func() time.Time { return at }, Policies: map[string][]byte{
		"hours.cedar": []byte(`@id("early") permit (principal, action, resource) when { context.now < 2000 };`),
		"hours.rego":  []byte("package hours\nallow if input.context.now < 2000\n"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := authz.Request{
		Layer: rampart.LayerDomain, Principal: people()["alice"], Action: "orders:read",
		Resource: rampart.Resource{Type: "order"}, Context: map[string]any{"now": int64(5000)},
	}
	if got := outcome(d.Decide(t.Context(), r)); got != "allow early hours.allow" {
		t.Errorf("early: got %s", got)
	}
	at = time.Unix(3000, 0)
	r.Context["now"] = int64(0)
	if got := outcome(d.Decide(t.Context(), r)); got != "deny no_permit" {
		t.Errorf("late: got %s", got)
	}
	if diff := cmp.Diff(map[string]any{"now": int64(0)}, r.Context); diff != "" {
		t.Errorf("the caller's context was written to: %s", diff)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		o    Options
		want string
	}{
		"an unknown language": {Options{Policies: map[string][]byte{"p.txt": nil}}, "pdp: p.txt: a policy file ends in .cedar or .rego"},
		"bad Cedar":           {Options{Policies: map[string][]byte{"p.cedar": []byte("permit")}}, "pdp: cedar: p.cedar: "},
		"bad Rego":            {Options{Policies: map[string][]byte{"p.rego": []byte("package p\nallow if http.send({})")}}, "p.rego:2: rego_type_error: undefined function http.send"},
		"bad roles":           {Options{Roles: map[string][]string{"a": {"role:a"}}}, `pdp: rbac: role "a" includes itself`},
		"no time":             {Options{Timeout: -1}, "leaves no time"},
		"bad separation":      {Options{Separate: []Separation{{Roles: []string{"a"}}}}, "two roles or more"},
		"no model":            {Options{ModelFile: "m.fga"}, "m.fga"},
		"an unknown relation": {Options{ModelFile: "m.fga", Model: []byte(orderModel), Schema: &authz.Schema{Types: map[string]authz.Type{"order": {Relations: []string{"viewr"}}}}},
			`type "order" uses the relation "viewr", which m.fga does not define; it has: ["banned" "viewer"]`},
	} {
		_, err := New(row.o)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	d := example(t)
	who := people()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			subject, want := "alice", rampart.Allow
			if i%2 == 1 {
				subject, want = "bob", rampart.Deny
			}
			for _, action := range []string{"orders:read", "payments:read"} {
				got := d.Decide(t.Context(), authz.Request{
					Layer: rampart.LayerDomain, Principal: who[subject], Action: rampart.Action(action), Resource: object(action, "alice/red"),
				})
				if got.Effect != want {
					t.Errorf("%s %s: got %s (%s)", subject, action, outcome(got), got.Reason)
				}
			}
		})
	}
	wg.Wait()
}

func ExamplePDP_DecideRoute() {
	d, err := New(Options{Roles: map[string][]string{"viewer": {"orders:read"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	alice := rampart.Principal{Subject: "user:alice", Roles: []string{"viewer"}}
	fmt.Println(d.DecideRoute(context.Background(), alice, Route{Permission: "orders:read"}).Effect)
	fmt.Println(d.DecideRoute(context.Background(), alice, Route{Permission: "orders:create"}).Reason)
	// Output:
	// allow
	// user:alice lacks the permission "orders:create", which no role in authz.roles holds
}
