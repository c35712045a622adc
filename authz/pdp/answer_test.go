package pdp

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// TestRolesOfTheObject: at the domain layer a role for one organization counts
// for objects of that organization, and a credential may act with less.
func TestRolesOfTheObject(t *testing.T) {
	d := build(t)
	for _, row := range []struct{ roles, scope, tenant, action, want string }{
		{"approver", "", "acme", "orders:approve", "allow approver"},
		{"approver@acme", "", "acme", "orders:approve", "allow approver"},
		{"approver@globex", "", "acme", "orders:approve", "deny role_missing orders:approve"},
		{"approver@acme", "", "", "orders:approve", "deny role_missing orders:approve"},
		{"approver@globex approver@acme", "", "acme", "orders:approve", "allow approver"},
		{"clerk@globex", "", "acme", "orders:close", "allow orders.allow"}, // an action of the service's own
		{"approver clerk", "role:approver", "acme", "orders:approve", "allow approver"},
		{"approver clerk", "role:clerk", "acme", "orders:approve", "deny role_missing orders:approve"},
		{"clerk", "role:approver", "acme", "orders:approve", "deny no_permit"}, // naming a role does not give it

		{"approver", "orders:read", "acme", "orders:approve", "deny insufficient_scope scope orders:approve"},
		{"approver", "orders:*", "acme", "orders:approve", "allow approver"},
		{"approver", "orders:read", "acme", "orders:close", "deny insufficient_scope scope orders:close"}, // no role of the system holds it, and the credential is limited
		{"approver", "orders:read role:approver", "acme", "orders:approve", "deny insufficient_scope scope orders:approve"},

		{"teller auditor", "", "acme", "orders:read", "deny separation_of_duty separate 0"},
		{"teller auditor", "role:teller", "acme", "orders:read", "allow order#viewer"},
		{"teller@acme auditor", "", "acme", "orders:close", "deny separation_of_duty separate 0"},
		{"teller@globex auditor", "", "acme", "orders:close", "allow orders.allow"},
	} {
		r := about(person("alice", row.roles, row.scope), row.action, "o1")
		r.Resource.Tenant = row.tenant
		if got := d.Decide(t.Context(), r); outcome(got) != row.want {
			t.Errorf("%q limited to %q, %s in %q: got %s (%s), want %s", row.roles, row.scope, row.action, row.tenant, outcome(got), got.Reason, row.want)
		}
	}
}

// TestRolesOfTheRoute is the same at the two layers before.
func TestRolesOfTheRoute(t *testing.T) {
	d := build(t)
	read := Route{Permission: "orders:read", Flow: "2"}
	for _, row := range []struct {
		roles, scope, tenant string
		route                Route
		gateway, service     string
	}{
		{"clerk", "", "acme", read, "allow orders:read", "allow orders:read"},
		{"clerk@acme", "", "acme", read, "allow orders:read", "allow orders:read"},
		{"clerk@globex", "", "acme", read, "allow orders:read", "deny role_missing orders:read"},
		{"clerk@globex", "", "", read, "allow orders:read", "allow orders:read"}, // the object's tenant decides later
		{"clerk@initech", "", "initech", read, "allow orders:read", "deny not_member membership"},
		{"clerk@globex", "", "acme", Route{Allow: []string{"role:clerk"}}, "allow allow role:clerk", "deny role_missing allow role:clerk"},
		{"clerk", "role:approver", "acme", Route{Allow: []string{"role:clerk"}}, "deny role_missing allow role:clerk", "deny role_missing allow role:clerk"},
		{"clerk", "role:clerk", "acme", read, "allow orders:read", "allow orders:read"},
		{"teller auditor", "", "acme", Route{Allow: []string{"any"}}, "deny separation_of_duty separate 0", "deny separation_of_duty separate 0"},
		{"teller auditor", "role:auditor", "acme", Route{Allow: []string{"any"}}, "allow allow any", "allow allow any"},
		{"teller@acme auditor@globex", "", "acme", Route{Allow: []string{"any"}}, "allow allow any", "allow allow any"},
	} {
		p := person("alice", row.roles, row.scope)
		if got := d.DecideRoute(t.Context(), p, row.route); outcome(got) != row.gateway {
			t.Errorf("gateway, %q limited to %q: got %s (%s), want %s", row.roles, row.scope, outcome(got), got.Reason, row.gateway)
		}
		if got := d.DecideService(t.Context(), p, row.tenant, row.route); outcome(got) != row.service {
			t.Errorf("service, %q limited to %q in %q: got %s (%s), want %s", row.roles, row.scope, row.tenant, outcome(got), got.Reason, row.service)
		}
	}
	for key, got := range map[string]rampart.Decision{
		"rbac/orders:read at rampart.yaml:4":                   d.DecideRoute(t.Context(), person("alice", "clerk", ""), read),
		"rbac/orders:read at rampart.yaml:20":                  d.DecideRoute(t.Context(), person("alice", "", ""), read),
		"rbac/orders:read at rampart.yaml:3":                   d.DecideRoute(t.Context(), person("alice", "", ""), Route{Permission: "orders:read"}),
		"rbac/separate 0 at rampart.yaml:9":                    d.DecideRoute(t.Context(), person("alice", "teller auditor", ""), read),
		"flow/scope orders:read at rampart.yaml:20":            d.DecideRoute(t.Context(), person("alice", "clerk", "orders:note"), read),
		"flow/allow role:x at rampart.yaml:20":                 d.DecideRoute(t.Context(), person("alice", "", ""), Route{Allow: []string{"role:x"}, Flow: "2"}),
		"flow/membership at rampart.yaml:20":                   d.DecideService(t.Context(), person("alice", "clerk", ""), "initech", read),
		"rbac/membership at rampart.yaml:2":                    d.DecideService(t.Context(), person("alice", "clerk", ""), "initech", Route{Permission: "orders:read"}),
		"schema/order at rampart.yaml:12":                      d.Decide(t.Context(), about(person("alice", "", ""), "orders:read", "o1", "no", "x")),
		"rbac/orders:approve at rampart.yaml:3 (organization)": d.Decide(t.Context(), about(person("alice", "approver@globex", ""), "orders:approve", "o1")),
	} {
		want, _, _ := strings.Cut(key, " (")
		if len(got.Policies) != 1 || got.Policies[0].String() != want {
			t.Errorf("want %s, got %v", key, got.Policies)
		}
	}
}

// TestDecideObject: who does not belong to the organization is refused at the
// service layer before any policy is asked, and the record says what of.
func TestDecideObject(t *testing.T) {
	var asked *authz.Request
	d := build(t, func(o *Options) {
		o.Observe = func(_ context.Context, q Question, _ rampart.Decision) error { asked = q.Request; return nil }
	})
	for tenant, want := range map[string]string{"acme": "domain allow order#viewer", "": "domain allow order#viewer", "initech": "service deny not_member membership"} {
		r := about(person("alice", "", ""), "orders:read", "o1")
		r.Resource.Tenant = tenant
		got := d.DecideObject(t.Context(), r)
		layer := string(got.Layer)
		if layer+" "+outcome(got) != want {
			t.Errorf("in %q: got %s %s, want %s", tenant, layer, outcome(got), want)
		}
		if asked == nil || asked.Action != r.Action || asked.Resource.ID != "o1" || tenant == "initech" && asked.Resource.Attrs != nil {
			t.Errorf("in %q: %+v is on record", tenant, asked)
		}
	}
}

// TestDuties: what policies ask for besides, and who cannot carry it out.
func TestDuties(t *testing.T) {
	d := build(t)
	duty := []rampart.Obligation{{ID: "help-desk", Type: "step-up", Properties: map[string]string{"acr": "aal2"}}}
	for name, row := range map[string]struct {
		who         rampart.Principal
		id          string
		supported   []string
		want        string
		obligations []rampart.Obligation
		fields      *rampart.Fields
		told        string
	}{
		"no duty": {person("alice", "", ""), "o1", nil, "allow order#viewer", nil, nil, ""},
		"owner":   {person("zoe", "", ""), "o1", nil, "allow owner", nil, &rampart.Fields{Only: []string{"card", "id", "total"}}, ""},
		"step up": {person("eve", "help", ""), "o1", []string{"step-up"}, "allow help-desk", duty,
			&rampart.Fields{Only: []string{"card.last4", "id", "note"}, Mask: []string{"email"}}, ""},
		"owner and help": {person("zoe", "help", ""), "o1", []string{"step-up"}, "allow owner help-desk", duty,
			&rampart.Fields{Only: []string{"card.last4", "id"}, Mask: []string{"email"}}, ""},
		"cannot": {person("eve", "help", ""), "o1", []string{"notification"}, "deny unenforceable help-desk", duty, nil,
			"This is allowed only under a condition that cannot be met here."},
		"forbidden": {person("bob", "help", ""), "o3", nil, "deny forbidden banned",
			[]rampart.Obligation{{ID: "banned", Type: "notification", Properties: map[string]string{"to": "compliance"}}}, nil, "You were shut out of this order."},
	} {
		r := about(row.who, "orders:read", row.id)
		r.Supported = row.supported
		got := d.Decide(t.Context(), r)
		if outcome(got) != row.want || got.ReasonUser != row.told {
			t.Errorf("%s: got %s, told %q, want %s", name, outcome(got), got.ReasonUser, row.want)
		}
		if diff := cmp.Diff(row.obligations, got.Obligations); diff != "" {
			t.Errorf("%s: obligations (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(row.fields, got.Fields); diff != "" {
			t.Errorf("%s: fields (-want +got):\n%s", name, diff)
		}
	}
}

func TestMeetFields(t *testing.T) {
	for _, row := range []struct{ a, b, want string }{
		{"all", "a b", "a b"},
		{"a b", "b c", "b"},
		{"a", "b", ""},
		{"a.b c", "a c.d", "a.b c.d"},
		{"a.b", "a.bc", ""},
		{"", "a", ""},
		{"", "all", ""},
	} {
		list := func(s string) []string {
			if s == "all" {
				return nil
			}
			return append([]string{}, strings.Fields(s)...)
		}
		for _, pair := range [][2]string{{row.a, row.b}, {row.b, row.a}} {
			if diff := cmp.Diff(list(row.want), meet(list(pair[0]), list(pair[1]))); diff != "" {
				t.Errorf("%q and %q (-want +got):\n%s", pair[0], pair[1], diff)
			}
		}
	}
}

// TestMissing: an operator sees how close permits came, closest first, and the
// user does not.
func TestMissing(t *testing.T) {
	got := build(t).Decide(t.Context(), about(person("alice", "approver", ""), "orders:approve", "o2"))
	if outcome(got) != "deny no_permit" || len(got.Missing) != 2 {
		t.Fatalf("got %s, missing %+v", outcome(got), got.Missing)
	}
	m := got.Missing[0]
	if m.Policy.ID != "approver" || m.Line != 4 || m.Condition != "context.relation.viewer" || m.Problem != "is false" {
		t.Errorf("missing %+v", m)
	}
	if strings.Contains(got.ReasonUser, "viewer") || got.ReasonUser == "" {
		t.Errorf("the user reads %q", got.ReasonUser)
	}
	many := strings.Repeat(`@id("N") permit (principal, action, resource) when { false };`, 20)
	for i := range 20 {
		many = strings.Replace(many, `"N"`, `"p`+string(rune('a'+i))+`"`, 1)
	}
	d, err := New(Options{Policies: map[string][]byte{"p.cedar": []byte(many)}, Timeout: patient})
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Decide(t.Context(), about(person("alice", "", ""), "orders:read", "o1")); len(got.Missing) != maxMissing {
		t.Errorf("%d near misses", len(got.Missing))
	}
}

// TestReplay: a question that was put on record is answered again, byte for
// byte, by a decision point that can ask nobody and lives at another time.
func TestReplay(t *testing.T) {
	type entry struct {
		question Question
		decision rampart.Decision
	}
	var log []entry
	observe := func(_ context.Context, q Question, d rampart.Decision) error {
		log = append(log, entry{q, d})
		return nil
	}
	live := build(t, withClock(time.Unix(1000, 0)), func(o *Options) { o.Observe = observe })
	down := build(t, func(o *Options) { o.Observe, o.Graph = observe, &broken{err: authz.ErrStale} })
	for _, who := range []rampart.Principal{
		person("alice", "approver", ""), person("bob", "help", ""), person("zoe", "clerk@acme", "orders:read"),
		person("erin", "teller auditor", ""), person("erin", "approver@globex", ""), {},
	} {
		for _, action := range []string{"orders:read", "orders:approve", "orders:close", "orders"} {
			for _, id := range []string{"o1", "o2", "o3", ""} {
				live.DecideObject(t.Context(), about(who, action, id))
				down.DecideObject(t.Context(), about(who, action, id, "total", 1.25))
			}
			live.DecideRoute(t.Context(), who, Route{Permission: action, Flow: "2"})
			live.DecideService(t.Context(), who, "globex", Route{Permission: action})
		}
	}
	o := orderOptions()
	o.Clock = func() error { return errors.New("another time") }
	again, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, e := range log {
		was, _ := json.Marshal(e.decision)
		now, _ := json.Marshal(again.Answer(t.Context(), e.question))
		if diff := cmp.Diff(string(was), string(now)); diff != "" {
			t.Errorf("%+v\n(-was +again):\n%s", e.question, diff)
		}
		if e.decision.ID == "" || ids[e.decision.ID] {
			t.Errorf("the id %q is empty or taken", e.decision.ID)
		}
		ids[e.decision.ID] = true
		if r := e.question.Request; r != nil && e.question.Refused == nil && !e.question.Principal.IsZero() && r.Context["now"] == nil {
			t.Errorf("a question without its time: %+v", r)
		}
	}
	if len(log) != 6*4*(2*4+2) {
		t.Errorf("%d decisions are on record", len(log))
	}
}

// TestNotOnRecord: what cannot be put on record did not happen.
func TestNotOnRecord(t *testing.T) {
	d := build(t, func(o *Options) {
		o.Observe = func(context.Context, Question, rampart.Decision) error { return errors.New("the disk is full") }
	})
	p := person("alice", "clerk", "")
	for layer, got := range map[string]rampart.Decision{
		"gateway": d.DecideRoute(t.Context(), p, Route{Permission: "orders:read"}),
		"service": d.DecideService(t.Context(), p, "acme", Route{Permission: "orders:read"}),
		"domain":  d.DecideObject(t.Context(), about(p, "orders:read", "o1")),
	} {
		if outcome(got) != "deny error" || string(got.Layer) != layer || !strings.Contains(got.Reason, "the disk is full") {
			t.Errorf("%s: got %s (%s)", layer, outcome(got), got.Reason)
		}
	}
}

// TestProcessFails: a clock that jumped and policies that are too old deny at
// every layer, lists too.
func TestProcessFails(t *testing.T) {
	fault := func() error { return errors.New("out of order") }
	for want, change := range map[string]func(*Options){
		"deny clock": func(o *Options) { o.Clock = fault },
		"deny stale": func(o *Options) { o.Fresh = fault },
	} {
		d := build(t, change)
		p := person("alice", "clerk", "")
		f, list := d.Filter(t.Context(), about(p, "orders:read", ""))
		for layer, got := range map[string]rampart.Decision{
			"gateway": d.DecideRoute(t.Context(), p, Route{Permission: "orders:read"}),
			"service": d.DecideService(t.Context(), p, "acme", Route{Permission: "orders:read"}),
			"domain":  d.DecideObject(t.Context(), about(p, "orders:read", "o1")),
			"list":    list,
		} {
			if outcome(got) != want || got.ReasonUser == "" {
				t.Errorf("%s: got %s, want %s", layer, outcome(got), want)
			}
		}
		if !f.IsNone() {
			t.Error("a list is shown")
		}
	}
}

// TestRolesWithoutOrganization: where a request names no organization and no
// policy asks later, a role for one organization opens nothing.
func TestRolesWithoutOrganization(t *testing.T) {
	roles := map[string][]string{"admin": {"users:delete"}}
	bare, err := New(Options{Roles: roles})
	if err != nil {
		t.Fatal(err)
	}
	judged, err := New(Options{Roles: roles, Policies: map[string][]byte{"p.cedar": []byte(`@id("none") forbid (principal, action, resource);`)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		d            *PDP
		role, tenant string
		want         rampart.Effect
	}{
		{bare, "admin", "", rampart.Allow},
		{bare, "admin@acme", "acme", rampart.Allow},
		{bare, "admin@acme", "", rampart.Deny},
		{judged, "admin@acme", "", rampart.Allow},
	} {
		for _, route := range []Route{{Permission: "users:delete"}, {Allow: []string{"role:admin"}}} {
			if got := row.d.DecideService(t.Context(), person("alice", row.role, ""), row.tenant, route); got.Effect != row.want {
				t.Errorf("%s for %q, policies: %v: got %s", row.role, row.tenant, row.d == judged, outcome(got))
			}
		}
	}
}
