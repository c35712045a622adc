package pdp

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rebac"
)

const (
	orderModel = `model
  schema 1.1
type user
type team
  relations
    define member: [user]
type order
  relations
    define viewer: [user, team#member]
    define banned: [user]
`
	orderCedar = `@id("banned") @reason("You were shut out of this order.") @obligation("notification; to=compliance")
forbid (principal, action, resource is Order) when { context.relation.banned };
@id("approver") permit (principal, action == Action::"orders:approve", resource is Order)
when { context.relation.viewer && principal.roles.contains("approver") };
@id("owner") @fields("id, total, card") permit (principal, action in [Action::"orders:read", Action::"orders:note"], resource is Order)
when { resource.owner == principal.id };
@id("help-desk") @fields("id, card.last4, note") @mask("pii") @obligation("step-up; acr=aal2")
permit (principal, action == Action::"orders:read", resource is Order)
when { principal.roles.contains("help") };
`
	orderRego = "package orders\nallow if {\n\tinput.action == \"close\"\n\tinput.relation.viewer\n}\n"
)

func orderSchema() *authz.Schema {
	return &authz.Schema{Types: map[string]authz.Type{"order": {
		Actions: []rampart.Action{"orders:read", "orders:approve", "orders:close", "orders:note"},
		Attrs: map[string]authz.Attr{
			"owner": {Kind: authz.KindString},
			"total": {Kind: authz.KindDecimal, Optional: true},
			"lines": {Kind: authz.KindLong, Optional: true},
			"tags":  {Kind: authz.KindStrings, Optional: true},
			"rush":  {Kind: authz.KindBool, Optional: true},
			"email": {Kind: authz.KindString, Optional: true, PII: true},
			"card":  {Kind: authz.KindString, Optional: true},
			"note":  {Kind: authz.KindString, Optional: true},
		},
		Relations: []string{"viewer", "banned"},
		Grants:    map[rampart.Action]string{"orders:read": "viewer"},
		Table:     "orders",
	}}}
}

func orderOptions() Options {
	return Options{
		Roles:     map[string][]string{"approver": {"orders:approve"}, "help": {"orders:read"}, "clerk": {"orders:read", "orders:note"}, "teller": {}, "auditor": {}},
		Separate:  []Separation{{Roles: []string{"teller", "auditor"}, Dynamic: true}},
		Schema:    orderSchema(),
		Policies:  map[string][]byte{"orders.cedar": []byte(orderCedar), "orders.rego": []byte(orderRego)},
		ModelFile: "orders.fga", Model: []byte(orderModel),
		FromToken: map[string]string{"team#member": "managed_teams"},
		Lines:     map[string]int{"authz": 2, "roles": 3, "role clerk": 4, "separate 0": 9, "type order": 12, "flow 2": 20},
		Policy:    7,
		Timeout:   patient,
	}
}

// graph is a real index with: alice views o1, whoever is of team red views o2,
// bob views o3 and is banned from it.
func graph(t testing.TB) *rebac.Index {
	t.Helper()
	m, err := rebac.ParseModel("orders.fga", []byte(orderModel))
	if err != nil {
		t.Fatal(err)
	}
	x := rebac.NewIndex(m, rebac.Options{})
	tuples := []authz.Tuple{
		{Object: "order:o1", Relation: "viewer", Subject: "user:alice"},
		{Object: "order:o2", Relation: "viewer", Subject: "team:red#member"},
		{Object: "order:o3", Relation: "viewer", Subject: "user:bob"},
		{Object: "order:o3", Relation: "banned", Subject: "user:bob"},
		{Object: "team:red", Relation: "member", Subject: "user:erin"},
	}
	if err := x.Reset(5, slices.Values(tuples)); err != nil {
		t.Fatal(err)
	}
	return x
}

func build(t testing.TB, change ...func(*Options)) *PDP {
	t.Helper()
	o := orderOptions()
	o.Graph = graph(t)
	for _, c := range change {
		c(&o)
	}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// person is "alice", who belongs to acme and globex, with roles and a scope.
func person(name, roles, scope string) rampart.Principal {
	p := rampart.Principal{Kind: rampart.KindHuman, Subject: "user:" + name, Roles: strings.Fields(roles), Organizations: []string{"acme", "globex"}}
	if scope != "" {
		p.Scope = strings.Fields(scope)
	}
	return p
}

// about asks at the domain layer about an order of acme that zoe owns.
func about(p rampart.Principal, action, id string, attrs ...any) authz.Request {
	r := authz.Request{
		Layer: rampart.LayerDomain, Principal: p, Action: rampart.Action(action), Supported: []string{"step-up"},
		Resource: rampart.Resource{Type: "order", ID: id, Tenant: "acme", Attrs: map[string]any{"owner": "user:zoe"}},
	}
	for i := 0; i+1 < len(attrs); i += 2 {
		r.Resource.Attrs[attrs[i].(string)] = attrs[i+1]
	}
	return r
}

// broken is a graph that answers with an error, or moves on with each question.
type broken struct {
	err      error
	moves    bool
	revision uint64
}

func (b *broken) at() uint64 {
	if b.moves {
		b.revision++
	}
	return b.revision
}

func (b *broken) Related(context.Context, authz.RelationQuery, bool) (authz.Relationship, error) {
	return authz.Relationship{Holds: true, Revision: b.at()}, b.err
}

func (b *broken) Objects(context.Context, authz.RelationQuery) ([]string, uint64, error) {
	return []string{"o1"}, b.at(), b.err
}

func (b *broken) Subjects(context.Context, authz.RelationQuery) ([]string, uint64, error) {
	return nil, b.at(), b.err
}

// said is a provider that knows one answer, and counts.
type said struct {
	attrs map[string]any
	err   error
	asked int
}

func (s *said) Attributes(_ context.Context, typ, id string, names []string) (map[string]any, error) {
	s.asked++
	if typ != "order" || id == "" || !slices.IsSorted(names) {
		return nil, errors.New("asked wrongly")
	}
	return maps.Clone(s.attrs), s.err
}

func withClock(at time.Time) func(*Options) {
	return func(o *Options) { o.Now = func() time.Time { return at } }
}
