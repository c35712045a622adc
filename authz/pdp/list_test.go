package pdp

import (
	"errors"
	"fmt"
	"slices"
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
	app := person("", "approver help", "")
	app.Kind, app.Subject = rampart.KindClient, "client:app" // of a type that the model does not have
	return append(out, app)
}

// rows are objects as a table holds them.
func rows() []rampart.Resource {
	var out []rampart.Resource
	for _, tenant := range []string{"", "acme", "globex", "initech"} {
		for _, id := range []string{"o1", "o2", "o3", "o 4", "order:o1", "o1#viewer@*"} {
			for _, owner := range []any{"user:alice", "user:zoe", nil} {
				for _, total := range []any{nil, int64(5), 2.5} {
					out = append(out, rampart.Resource{Type: "order", ID: id, Tenant: tenant, Attrs: map[string]any{"owner": owner, "total": total}})
				}
			}
		}
	}
	return out
}

const (
	listCedar = orderCedar + `
@id("small") forbid (principal, action == Action::"orders:approve", resource is Order) when { resource has total && resource.total.lessThan(decimal("3.0")) };
@id("no viewer") @obligation("audit") permit (principal, action == Action::"orders:note", resource is Order) unless { context.relation.viewer };
@id("app") @mask("pii") permit (principal, action == Action::"orders:note", resource is Order) when { principal is Client && resource.owner == "user:zoe" };
`
	listRego = orderRego + `
obligations contains {"type": "notification"} if input.user.id == "user:bob"
mask contains "total" if input.user.id != "user:alice"
fields contains "total"
fields contains "owner" if input.user.role == "approver"
`
)

// TestListIsCheck is the promise of Filter: a row is in the list exactly when
// the check allows it, and the list shows no more of it and asks for no less.
func TestListIsCheck(t *testing.T) {
	d := build(t, func(o *Options) {
		o.Policies = map[string][]byte{"orders.cedar": []byte(listCedar), "orders.rego": []byte(listRego)}
	})
	c := comparison{PDP: d, rows: rows()}
	for _, who := range everybody() {
		for i, action := range []rampart.Action{"orders:read", "orders:approve", "orders:close", "orders:note"} {
			for _, tenant := range []string{"", "acme"} {
				supported := [][]string{{"step-up", "notification", "audit"}, {"notification"}, nil}[(c.lists+i)%3]
				c.list(t, authz.Request{Principal: who, Action: action, Resource: rampart.Resource{Type: "order", Tenant: tenant}, Supported: supported})
			}
		}
	}
	t.Logf("%d pairs agree, %d of them kept, %d of these with fields and %d with obligations; %d denied as not enforceable", c.pairs, c.kept, c.limited, c.obliged, c.unenforceable)
	if few := c.pairs / 100; c.kept < few || c.limited < few || c.obliged < few || c.unenforceable < few {
		t.Error("that proves little")
	}
}

// comparison holds lists against checks.
type comparison struct {
	*PDP
	rows []rampart.Resource

	lists, pairs, kept, limited, obliged, unenforceable int
}

func (c *comparison) list(t *testing.T, r authz.Request) {
	t.Helper()
	f, decision := c.Filter(t.Context(), r)
	if decision.Code == rampart.CodeUntranslatable {
		t.Fatalf("%s: %s", r.Action, decision.Reason)
	}
	c.lists++
	tenant := r.Resource.Tenant
	for _, row := range c.rows {
		if tenant != "" && row.Tenant != tenant {
			continue // the asker vouches for the rows
		}
		r.Resource = row
		check := c.DecideObject(t.Context(), r)
		in := f.Match(columns(row), nil)
		if in != check.Allowed() || in && !covers(decision, check) {
			who := r.Principal
			t.Fatalf("%s with %q in %q limited to %q, supporting %q: %s of %+v: list %t, check %s (%s), %v %v\nlist decided %s, %v %v", who.Subject, who.Roles, who.Organizations, who.Scope, r.Supported, r.Action, row,
				in, outcome(check), check.Reason, check.Fields, check.Obligations, outcome(decision), decision.Fields, decision.Obligations)
		}
		c.count(check)
	}
}

func (c *comparison) count(check rampart.Decision) {
	c.pairs++
	if check.Code == rampart.CodeUnenforceable {
		c.unenforceable++
	}
	if !check.Allowed() {
		return
	}
	c.kept++
	if check.Fields != nil {
		c.limited++
	}
	if len(check.Obligations) > 0 {
		c.obliged++
	}
}

// covers reports whether a list asks for all that the check of a row asks for,
// and shows nothing that the check does not.
func covers(list, check rampart.Decision) bool {
	for _, o := range check.Obligations {
		if !slices.ContainsFunc(list.Obligations, func(l rampart.Obligation) bool { return l.ID == o.ID && l.Type == o.Type }) {
			return false
		}
	}
	for _, name := range []string{"id", "total", "card", "card.last4", "note", "email", "owner", "rush"} {
		if shows(list.Fields, name) && !shows(check.Fields, name) {
			return false
		}
	}
	return true
}

func shows(f *rampart.Fields, name string) bool {
	if f == nil {
		return true
	}
	within := func(outer string) bool { return name == outer || strings.HasPrefix(name, outer+".") }
	return !slices.ContainsFunc(f.Mask, within) && (f.Only == nil || slices.ContainsFunc(f.Only, within))
}

// TestListDuties: a list asks for what a row in it may ask for, and for nothing
// by which no row can be in it.
func TestListDuties(t *testing.T) {
	d := build(t, func(o *Options) {
		o.Schema.Types["order"].Grants["orders:read"] = ""
		o.Policies = map[string][]byte{"p.cedar": []byte(`
@id("seen") @obligation("step-up; acr=aal2") permit (principal, action, resource is Order) when { context.relation.viewer };
@id("own") @mask("email") permit (principal, action, resource is Order) when { resource.owner == principal.id };
@id("clerk") @fields("id") permit (principal, action, resource is Order) when { principal.roles.contains("clerk") };`)}
	})
	for name, row := range map[string]struct {
		who       rampart.Principal
		supported []string
		want      string
	}{
		"views an order":      {person("alice", "", ""), []string{"step-up"}, "step-up all [email]"},
		"cannot":              {person("alice", "", ""), nil, " all [email]"},
		"views none":          {person("zoe", "", ""), []string{"step-up"}, " all [email]"},
		"has a role, besides": {person("zoe", "clerk", ""), nil, " [id] [email]"},
	} {
		_, got := d.Filter(t.Context(), authz.Request{Principal: row.who, Action: "orders:read", Resource: rampart.Resource{Type: "order"}, Supported: row.supported})
		text := ""
		for _, o := range got.Obligations {
			text += o.Type
		}
		if only := got.Fields.Only; only == nil {
			text += fmt.Sprint(" all ", got.Fields.Mask)
		} else {
			text += fmt.Sprint(" ", only, " ", got.Fields.Mask)
		}
		if !got.Allowed() || text != row.want {
			t.Errorf("%s: got %s, %q, want %q", name, outcome(got), text, row.want)
		}
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
		"foreign":           {ask: func(r *authz.Request) { r.Resource.Tenant = "initech" }, want: "deny not_member membership"},
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
	f, _, err := d.RLS(t.Context(), "orders:note", "order")
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
	for name, ask := range map[string]func() (filter.Filter, []filter.Relation, error){
		"undeclared": func() (filter.Filter, []filter.Relation, error) { return d.RLS(t.Context(), "orders:note", "invoice") },
		"nil": func() (filter.Filter, []filter.Relation, error) {
			return (*PDP)(nil).RLS(t.Context(), "orders:note", "order")
		},
	} {
		if f, _, err := ask(); err == nil || !f.IsNone() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestListOfOneOrganization: it holds rows of that organization alone, whether
// or not the file renames the column that says so.
func TestListOfOneOrganization(t *testing.T) {
	for name, columns := range map[string]map[string]string{"its own name": nil, "another": {"tenant": "org"}} {
		d, err := New(Options{
			Schema:   &authz.Schema{Types: map[string]authz.Type{"order": {Actions: []rampart.Action{"orders:read"}, Table: "orders", Columns: columns}}},
			Policies: map[string][]byte{"all.cedar": []byte(`@id("all") permit (principal, action, resource);`)},
		})
		if err != nil {
			t.Fatal(err)
		}
		f, got := d.Filter(t.Context(), authz.Request{Principal: person("alice", "", ""), Action: "orders:read", Resource: rampart.Resource{Type: "order", Tenant: "acme"}})
		for tenant, want := range map[string]bool{"acme": true, "globex": false} {
			if f.Match(map[string]any{"id": "o1", "tenant": tenant}, nil) != want {
				t.Errorf("column of %s: a row of %s is in the list: %v (%s)", name, tenant, !want, got.Reason)
			}
		}
	}
}
