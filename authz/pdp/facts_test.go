package pdp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// TestRelations: facts of the graph reach Cedar, Rego and types that grant by
// relation; a token may say of its subject what rampart.yaml lets it.
func TestRelations(t *testing.T) {
	d := build(t)
	red := person("dave", "", "")
	red.ManagedTeams = []string{"red"}
	for _, row := range []struct {
		who        rampart.Principal
		action, id string
		want       string
	}{
		{person("alice", "", ""), "orders:read", "o1", "allow order#viewer"},
		{person("alice", "", ""), "orders:read", "o2", "deny no_permit"},
		{person("erin", "", ""), "orders:read", "o2", "allow order#viewer"},
		{red, "orders:read", "o2", "allow order#viewer"},
		{person("dave", "", ""), "orders:read", "o2", "deny no_permit"},
		{person("bob", "", ""), "orders:read", "o3", "deny forbidden banned"},
		{person("alice", "approver", ""), "orders:approve", "o1", "allow approver"},
		{person("alice", "", ""), "orders:approve", "o1", "deny no_permit"},
		{person("alice", "", ""), "orders:close", "o1", "allow orders.allow"},
		{person("bob", "", ""), "orders:close", "o1", "deny no_permit"},
		{person("zoe", "", ""), "orders:read", "o1", "allow owner"},
		{rampart.Principal{Kind: rampart.KindService, Subject: "spiffe://x/odd"}, "orders:read", "o1", "deny no_permit"},
		{person("alice", "", ""), "orders:read", "", "deny error banned"}, // what does not exist yet has unknown relations
	} {
		r := about(row.who, row.action, row.id)
		r.Relations = map[string]bool{"viewer": true, "banned": false} // the asker's word does not count
		if got := d.Decide(t.Context(), r); outcome(got) != row.want {
			t.Errorf("%s %s %s: got %s (%s), want %s", row.who.Subject, row.action, row.id, outcome(got), got.Reason, row.want)
		}
	}
	got := d.Decide(t.Context(), about(person("alice", "", ""), "orders:read", "o1"))
	want := rampart.Decision{
		Effect: rampart.Allow, Layer: rampart.LayerDomain, Revision: rampart.Revision{Policy: 7, Relations: 5},
		Policies: []rampart.PolicyRef{{Engine: "rebac", ID: "order#viewer", File: "orders.fga", Line: 9, Effect: rampart.Allow}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPath: an allow that goes on record tells by which tuples; a denial always
// tells how far they led.
func TestPath(t *testing.T) {
	r := about(person("alice", "", ""), "orders:read", "o1")
	watched := build(t, func(o *Options) { o.Observe = func(context.Context, Question, rampart.Decision) error { return nil } })
	if got := watched.Decide(t.Context(), r); len(got.Path) == 0 || !strings.Contains(strings.Join(got.Path, " "), "user:alice") {
		t.Errorf("an allow on record came by %q", got.Path)
	}
	if got := build(t).Decide(t.Context(), r); got.Path != nil {
		t.Errorf("an allow that nobody asks about explains itself: %q", got.Path)
	}
	r.Principal = person("mallory", "", "")
	got := build(t).Decide(t.Context(), r)
	if outcome(got) != "deny no_permit" || len(got.Path) == 0 {
		t.Errorf("got %s, path %q", outcome(got), got.Path)
	}
}

// TestSourcesFail: what cannot be had denies, each in its own words.
func TestSourcesFail(t *testing.T) {
	for name, row := range map[string]struct {
		graph authz.Graph
		want  string
	}{
		"stale":         {&broken{err: authz.ErrStale}, "deny stale"},
		"too slow":      {&broken{err: fmt.Errorf("graph: %w", context.DeadlineExceeded)}, "deny timeout"},
		"too complex":   {&broken{err: authz.ErrTooComplex}, "deny source_down"},
		"gone":          {&broken{err: errors.New("connection refused")}, "deny source_down"},
		"never settles": {&broken{moves: true}, "deny stale"},
		"not there":     {nil, "deny error banned"}, // a forbid that reads what nobody knows
	} {
		d := build(t, func(o *Options) { o.Graph = row.graph })
		if got := d.Decide(t.Context(), about(person("alice", "", ""), "orders:read", "o1")); outcome(got) != row.want {
			t.Errorf("%s: got %s (%s), want %s", name, outcome(got), got.Reason, row.want)
		}
	}
	grants := build(t, func(o *Options) { o.Graph, o.Policies = nil, nil })
	if got := grants.Decide(t.Context(), about(person("alice", "", ""), "orders:read", "o1")); outcome(got) != "deny source_down order#viewer" {
		t.Errorf("a grant without a graph: got %s (%s)", outcome(got), got.Reason)
	}
	d := build(t)
	r := about(person("alice", "", ""), "orders:read", "o1")
	r.AtLeast = 6
	if got := d.Decide(t.Context(), r); outcome(got) != "deny stale" {
		t.Errorf("newer than there is: got %s (%s)", outcome(got), got.Reason)
	}
}

// TestNamesOfNothing: to what no tuple can name nobody is related, and it is
// related to nothing. The graph is not even asked.
func TestNamesOfNothing(t *testing.T) {
	app := rampart.Principal{Kind: rampart.KindClient, Subject: "client:app", Organizations: []string{"acme"}}
	service := rampart.Principal{Kind: rampart.KindService, Subject: "spiffe://shop/service/billing", Organizations: []string{"acme"}}
	zoe := person("zoe", "", "")
	for name, row := range map[string]struct {
		who      rampart.Principal
		id, want string
	}{
		"nobody is related":        {person("alice", "", ""), "order:1", "deny no_permit"},
		"a policy permits":         {zoe, "order:1", "allow owner"},
		"a group":                  {zoe, "team:red#member", "allow owner"},
		"everyone":                 {zoe, "*", "allow owner"},
		"a space":                  {zoe, "o 1", "allow owner"},
		"too long":                 {zoe, strings.Repeat("o", 300), "allow owner"},
		"a client without a type":  {app, "o1", "deny no_permit"},
		"a service without a type": {service, "o1", "deny no_permit"},
		"named, and asked":         {zoe, "o1", "deny source_down"},
	} {
		d := build(t, func(o *Options) { o.Graph = &broken{err: errors.New("asked")} })
		if got := d.Decide(t.Context(), about(row.who, "orders:read", row.id)); outcome(got) != row.want {
			t.Errorf("%s: got %s (%s), want %s", name, outcome(got), got.Reason, row.want)
		}
	}
}

// TestProviders: an attribute with a provider is the provider's to say.
func TestProviders(t *testing.T) {
	for name, row := range map[string]struct {
		provider *said
		id       string
		attrs    []any
		want     string
		asked    int
	}{
		"low risk":           {&said{attrs: map[string]any{"risk": 1.5, "other": 9}}, "o1", nil, "allow cautious", 1},
		"high risk":          {&said{attrs: map[string]any{"risk": int64(9)}}, "o1", nil, "deny no_permit", 1},
		"unknown":            {&said{}, "o1", nil, `deny error order`, 1},
		"null":               {&said{attrs: map[string]any{"risk": nil}}, "o1", nil, `deny error order`, 1},
		"of another kind":    {&said{attrs: map[string]any{"risk": "low"}}, "o1", nil, `deny error order`, 1},
		"no value":           {&said{attrs: map[string]any{"risk": []string{"x"}}}, "o1", nil, `deny error`, 1},
		"down":               {&said{err: errors.New("connection refused")}, "o1", nil, "deny source_down", 1},
		"not there":          {nil, "o1", nil, "deny source_down", 0},
		"said by the asker":  {&said{attrs: map[string]any{"risk": 1.5}}, "o1", []any{"risk", 0.5}, "deny error", 0},
		"nothing to ask for": {&said{attrs: map[string]any{"risk": 1.5}}, "", nil, "deny error order", 0},
	} {
		d := build(t, func(o *Options) {
			typ := o.Schema.Types["order"]
			typ.Attrs["risk"] = authz.Attr{Kind: authz.KindDecimal, Provider: "scores"}
			o.Policies = map[string][]byte{"p.cedar": []byte(`@id("cautious") permit (principal, action, resource is Order) when { resource.risk.lessThan(decimal("5.0")) };`)}
			if row.provider != nil {
				o.Providers = map[string]authz.Provider{"scores": row.provider}
			}
		})
		r := about(person("alice", "", ""), "orders:note", row.id, row.attrs...)
		got := d.Decide(t.Context(), r)
		if outcome(got) != row.want || row.provider != nil && row.provider.asked != row.asked {
			t.Errorf("%s: got %s (%s), want %s", name, outcome(got), got.Reason, row.want)
		}
		if _, there := r.Resource.Attrs["risk"]; there && row.attrs == nil {
			t.Errorf("%s: the asker's attributes were written to", name)
		}
	}
}

// TestSchema: input that differs from what is declared never reaches a policy.
func TestSchema(t *testing.T) {
	d := build(t)
	for name, row := range map[string]struct {
		change func(*authz.Request)
		want   string // of the reason; "" is an allow
	}{
		"as declared":       {func(r *authz.Request) {}, ""},
		"all there is":      {set("total", 12.5, "lines", int64(3), "tags", []any{"gift"}, "rush", true, "email", "z@x"), ""},
		"whole as float":    {set("lines", 3.0, "total", int64(12)), ""},
		"null is absent":    {set("total", nil), ""},
		"its own id":        {set("id", "o1", "tenant", "acme"), ""},
		"another id":        {set("id", "o2"), `has no attribute "id"`},
		"undeclared":        {set("owmer", "user:alice"), `the type "order" has no attribute "owmer"; it has: ["card" "email" "lines" "note" "owner" "rush" "tags" "total"]`},
		"required, absent":  {func(r *authz.Request) { delete(r.Resource.Attrs, "owner") }, `the attribute "owner" of "order" is missing`},
		"required, null":    {set("owner", nil), `the attribute "owner" of "order" is missing`},
		"no string":         {set("owner", int64(7)), `attribute "owner" of "order": want string, got a number`},
		"no truth":          {set("rush", "yes"), `want bool, got a string`},
		"no whole number":   {set("lines", 1.5), `want long, got a number`},
		"no exact number":   {set("lines", 1e17), `want long, got a number`},
		"five decimals":     {set("total", 0.12345), `at most four digits`},
		"no list":           {set("tags", "gift"), `want strings, got a string`},
		"no list of texts":  {set("tags", []any{"a", int64(1)}), `want strings, got a list`},
		"a map":             {set("owner", map[string]any{}), `want string, got a map`},
		"undeclared type":   {func(r *authz.Request) { r.Resource.Type = "invoice" }, `the type "invoice" is not declared`},
		"no declared verb":  {func(r *authz.Request) { r.Action = "orders:fly" }, "none of"},
		"no form of a type": {func(r *authz.Request) { r.Resource.Type = "Order" }, `out of bounds`},
	} {
		r := about(person("alice", "", ""), "orders:read", "o1")
		row.change(&r)
		got := d.Decide(t.Context(), r)
		if got.Allowed() != (row.want == "") || !strings.Contains(got.Reason, row.want) {
			t.Errorf("%s: got %s (%s), want %q", name, outcome(got), got.Reason, row.want)
		}
		if row.want != "" && row.want != "none of" && got.Code != rampart.CodeError {
			t.Errorf("%s: code %s", name, got.Code)
		}
	}
}

func set(pairs ...any) func(*authz.Request) {
	return func(r *authz.Request) {
		for i := 0; i+1 < len(pairs); i += 2 {
			r.Resource.Attrs[pairs[i].(string)] = pairs[i+1]
		}
	}
}
