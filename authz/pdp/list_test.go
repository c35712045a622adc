package pdp

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// everybody are principals that differ in what lists depend on.
func everybody() []rampart.Principal {
	var out []rampart.Principal
	for _, roles := range []string{"", "approver", "approver@acme", "approver@globex clerk", "help@acme help@initech", "teller@acme auditor", "teller auditor"} {
		for i, name := range []string{"alice", "bob", "erin", "zoe"} {
			p := person(name, roles, []string{"", "orders:read", "role:approver role:teller", ""}[i])
			out = append(out, p)
			p.Organizations = []string{"globex"}
			out = append(out, p)
		}
	}
	return out
}

// rows are objects as a table holds them.
func rows() []rampart.Resource {
	var out []rampart.Resource
	for _, tenant := range []string{"", "acme", "globex", "initech"} {
		for _, id := range []string{"o1", "o2", "o3", "o4"} {
			for _, owner := range []any{"user:alice", "user:zoe", nil} {
				for _, total := range []any{nil, int64(5), 2.5} {
					out = append(out, rampart.Resource{Type: "order", ID: id, Tenant: tenant, Attrs: map[string]any{"owner": owner, "total": total}})
				}
			}
		}
	}
	return out
}

// TestListIsCheck is the promise of Filter: a row is in the list exactly when
// the check allows it.
func TestListIsCheck(t *testing.T) {
	d := build(t, func(o *Options) {
		o.Policies = map[string][]byte{
			"orders.cedar": []byte(strings.ReplaceAll(orderCedar, `@obligation("step-up; acr=aal2")`, "") +
				`@id("small") forbid (principal, action == Action::"orders:approve", resource is Order) when { resource has total && resource.total.lessThan(decimal("3.0")) };`),
			"orders.rego": []byte(orderRego),
		}
	})
	all := rows()
	pairs, kept := 0, 0
	for _, who := range everybody() {
		for _, action := range []rampart.Action{"orders:read", "orders:approve", "orders:close", "orders:note"} {
			for _, tenant := range []string{"", "acme"} {
				f, decision := d.Filter(t.Context(), authz.Request{Principal: who, Action: action, Resource: rampart.Resource{Type: "order", Tenant: tenant}})
				if decision.Code == rampart.CodeUntranslatable {
					t.Fatalf("%s: %s", action, decision.Reason)
				}
				for _, row := range all {
					if tenant != "" && row.Tenant != tenant {
						continue // the asker vouches for the rows
					}
					check := d.DecideObject(t.Context(), authz.Request{Principal: who, Action: action, Resource: row, Supported: []string{"step-up", "notification"}})
					if in := f.Match(columns(row), nil); in != check.Allowed() {
						t.Fatalf("%s with %q in %q limited to %q: %s of %+v: list %t, check %s (%s)\nlist decided %s", who.Subject, who.Roles, who.Organizations, who.Scope, action, row, in, outcome(check), check.Reason, outcome(decision))
					}
					pairs++
					if check.Allowed() {
						kept++
					}
				}
			}
		}
	}
	t.Logf("%d pairs agree, %d of them kept", pairs, kept)
	if kept < pairs/20 {
		t.Errorf("only %d of %d rows are kept, which proves little", kept, pairs)
	}
}

func columns(r rampart.Resource) map[string]any {
	out := map[string]any{"id": r.ID, "tenant": r.Tenant}
	for name, v := range r.Attrs {
		out[name] = v
	}
	return out
}

// TestNoList: whatever stops a list shows nothing and says why.
func TestNoList(t *testing.T) {
	const shown = `@id("p") permit (principal, action, resource);`
	policy := func(text string) func(*Options) {
		return func(o *Options) { o.Policies = map[string][]byte{"p.cedar": []byte(text)} }
	}
	many := person("alice", "", "")
	for i := range maxHouses + 1 {
		many.Organizations = append(many.Organizations, fmt.Sprint("org", i))
		many.Roles = append(many.Roles, fmt.Sprint("clerk@org", i))
	}
	for name, row := range map[string]struct {
		who    rampart.Principal
		change func(*Options)
		ask    func(*authz.Request)
		want   string
	}{
		"untranslatable": {change: policy(shown + `@id("q") permit (principal, action, resource is Order) when { resource has tags && resource.tags.containsAll([resource.owner]) };`), want: "deny untranslatable q"},
		"of a provider": {change: func(o *Options) {
			policy(`@id("q") permit (principal, action, resource is Order) when { resource has risk && resource.risk == "low" };`)(o)
			typ := o.Schema.Types["order"]
			typ.Attrs["risk"] = authz.Attr{Kind: authz.KindString, Optional: true, Provider: "x"}
		}, ask: func(r *authz.Request) { r.Action = "orders:note" }, want: "deny untranslatable"},
		"stale":             {change: func(o *Options) { o.Graph = &broken{err: authz.ErrStale} }, want: "deny stale"},
		"never settles":     {change: func(o *Options) { policy(shown)(o); o.Graph = &broken{moves: true} }, want: "allow"}, // everything is shown, so no relation is asked for
		"gone":              {change: func(o *Options) { o.Graph = &broken{err: errors.New("refused")} }, want: "deny source_down"},
		"not there":         {change: func(o *Options) { o.Graph = nil }, want: "deny source_down"},
		"foreign":           {ask: func(r *authz.Request) { r.Resource.Tenant = "initech" }, want: "deny not_member"},
		"undeclared":        {ask: func(r *authz.Request) { r.Resource.Type = "invoice" }, want: "deny error"},
		"no action":         {ask: func(r *authz.Request) { r.Action = "read" }, want: "deny error"},
		"nobody":            {ask: func(r *authz.Request) { r.Principal = rampart.Principal{} }, want: "deny no_permit"},
		"no policy":         {change: func(o *Options) { o.Policies = nil }, ask: func(r *authz.Request) { r.Action = "orders:note" }, want: "deny no_permit"},
		"scope":             {who: person("alice", "clerk", "orders:note"), want: "deny insufficient_scope scope orders:read"},
		"separation":        {who: person("alice", "teller auditor", ""), want: "deny separation_of_duty separate 0"},
		"roles of too many": {who: many, want: "deny untranslatable roles"},
		"token's own roles": {who: person("alice", "clerk@acme", ""), change: func(o *Options) { o.FromToken = map[string]string{"team#member": "roles"} }, want: "deny untranslatable viewer"},
	} {
		if row.change == nil {
			row.change = func(*Options) {}
		}
		if row.who.IsZero() {
			row.who = person("alice", "", "")
		}
		r := authz.Request{Principal: row.who, Action: "orders:read", Resource: rampart.Resource{Type: "order"}}
		if row.ask != nil {
			row.ask(&r)
		}
		f, got := build(t, row.change).Filter(t.Context(), r)
		if text := outcome(got); text != row.want && !strings.HasPrefix(text, row.want+" ") {
			t.Errorf("%s: got %s (%s), want %s", name, text, got.Reason, row.want)
		}
		if !got.Allowed() && !f.IsNone() {
			t.Errorf("%s: a denial shows rows", name)
		}
	}
	f, got := (*PDP)(nil).Filter(t.Context(), authz.Request{})
	if outcome(got) != "deny error" || !f.IsNone() {
		t.Errorf("nil: got %s", outcome(got))
	}
}

// TestRLS: what the database adds by itself, for anyone.
func TestRLS(t *testing.T) {
	d := build(t, func(o *Options) {
		o.Policies = map[string][]byte{"p.cedar": []byte(`@id("own") permit (principal, action == Action::"orders:note", resource is Order) when { resource.owner == principal.id };`)}
	})
	f, err := d.RLS(t.Context(), "orders:note", "order")
	if err != nil {
		t.Fatal(err)
	}
	text, err := filter.RLS(filter.TableOf(orderSchema().Types["order"]), "own", "SELECT", f)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"owner"`, `"tenant"`, "organizations"} {
		if !strings.Contains(text, want) {
			t.Errorf("the policy does not speak of %s:\n%s", want, text)
		}
	}
	for name, ask := range map[string]func() (filter.Filter, error){
		"undeclared": func() (filter.Filter, error) { return d.RLS(t.Context(), "orders:note", "invoice") },
		"nil":        func() (filter.Filter, error) { return (*PDP)(nil).RLS(t.Context(), "orders:note", "order") },
	} {
		if f, err := ask(); err == nil || !f.IsNone() {
			t.Errorf("%s: %v", name, err)
		}
	}
}
