package cedar

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

func strict(src string) error {
	_, err := New(map[string][]byte{"p.cedar": []byte(src)}, orders())
	return err
}

const onOrders = `@id("x") permit (principal is User, action == Action::"orders:read", resource is Order)`

// TestSchemaRefuses: what a schema does not fit does not load, and the message
// names the line and what was meant.
func TestSchemaRefuses(t *testing.T) {
	for name, row := range map[string]struct{ src, want string }{
		"a misspelt attribute":   {onOrders + "\nwhen { resource.paid &&\n  resource.onwer == principal.id };", "p.cedar:3: attribute `onwer` on entity type `Order` not found; did you mean owner?"},
		"a misspelt fact":        {onOrders + "\nwhen { principal.managedTeam.contains(\"a\") };", "p.cedar:2: attribute `managedTeam` on entity type `User` not found; did you mean managedTeams?"},
		"a misspelt relation":    {onOrders + "\nwhen { context.relation.veiwer };", "p.cedar:2: attribute `veiwer` in context for Action::\"orders:read\" not found; did you mean viewer?"},
		"a misspelt action":      {`@id("x") permit (principal, action == Action::"orders:raed", resource);`, "p.cedar:1: unrecognized action `Action::\"orders:raed\"`; did you mean Action::\"orders:read\"?"},
		"a misspelt type":        {"\n" + `@id("x") permit (principal is Usr, action, resource);`, "p.cedar:2: unrecognized entity type `Usr`; did you mean User?"},
		"an action of another":   {`@id("x") permit (principal, action == Action::"cards:read", resource is Order);`, "p.cedar:1: unable to find an applicable action"},
		"an unguarded optional":  {onOrders + "\nwhen { resource.paid }\nunless { resource.frozen };", "p.cedar:3: frozen may be absent: ask `has frozen` before it"},
		"a guard in another":     {onOrders + "\nwhen { resource has frozen }\nwhen { resource.frozen };", "p.cedar:3: frozen may be absent"},
		"an unguarded tenant":    {onOrders + "\nwhen { principal.organizations.contains(resource.tenant) };", "p.cedar:2: tenant may be absent"},
		"two kinds":              {onOrders + "\nwhen { resource.total == \"5\" };", "p.cedar:2: the types Long and String are not compatible"},
		"no condition":           {onOrders + "\nwhen { resource.total };", "p.cedar:2: unexpected type: expected Bool but saw Long"},
		"what the asker says":    {onOrders + "\nwhen { context.ip == \"::1\" };", "p.cedar:2: attribute `ip` in context"},
		"a relation of no type":  {`@id("x") permit (principal, action == Action::"cards:read", resource) when { context.relation.viewer };`, "p.cedar:1: attribute `relation` in context"},
		"an optional of nesting": {onOrders + "\nwhen { (resource.paid && (\nresource.team == \"a\")) };", "p.cedar:3: team may be absent"},
	} {
		if err := strict(row.src); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s:\n got %v\nwant %s", name, err, row.want)
		}
	}
}

func TestSchemaAccepts(t *testing.T) {
	for _, condition := range []string{
		`resource.owner == principal.id && resource.total <= 5 && resource.rate.lessThan(decimal("0.5"))`,
		`resource has team && principal has team && resource.team == principal.team`,
		`resource has tenant && principal.organizations.contains(resource.tenant)`,
		`resource.tags.contains("gift") || context.relation.viewer`,
		`context.now > 1700000000 && context has flow && context.flow == "f-1"`,
		`principal is User && principal == User::"user:a" && resource == Order::"1"`,
	} {
		if err := strict(onOrders + " when { " + condition + " };"); err != nil {
			t.Errorf("%s: %v", condition, err)
		}
	}
}

func TestCedarSchema(t *testing.T) {
	b, err := CedarSchema(&authz.Schema{Types: map[string]authz.Type{
		"card": {Actions: []rampart.Action{"cards:read"}, Relations: []string{"owner"}, Attrs: map[string]authz.Attr{
			"last4": {Kind: authz.KindString, Optional: true}, "limits": {Kind: authz.KindStrings}, "rate": {Kind: authz.KindDecimal}, "used": {Kind: authz.KindLong}, "blocked": {Kind: authz.KindBool},
		}},
		"user": {}, // a subject of relations
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(string(b)), " ")
	for _, want := range []string{
		"entity Card { blocked: Bool, id?: String, last4?: String, limits: Set<String>, rate: decimal, tenant?: String, used: Long };",
		"entity User { client?: String, id: String, managedTeams: Set<String>, org?: String, organizations: Set<String>, roles: Set<String>, team?: String };",
		`action "cards:read" appliesTo { principal: [User, Client, Service, Nobody], resource: Card, context: { caller?: String, flow?: String, now: Long, relation: { owner: Bool } } };`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in\n%s", want, b)
		}
	}
}

func TestCedarSchemaRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		typ  authz.Type
		want string
	}{
		"user":   {authz.Type{Actions: []rampart.Action{"users:read"}}, "User is who asks"},
		"set":    {authz.Type{}, "Set means something else"},
		"action": {authz.Type{}, "Action means something else"},
		"order":  {authz.Type{Attrs: map[string]authz.Attr{"a": {Kind: "map"}}}, `type "order", attribute "a": there is no kind "map"`},
	} {
		s := &authz.Schema{Types: map[string]authz.Type{name: row.typ}}
		if _, err := CedarSchema(s); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
		if _, err := New(nil, s); err == nil {
			t.Errorf("%s: New took it", name)
		}
	}
}

// TestNoActions: a policy about a type that declares no action could never be
// asked; the fault is the type's.
func TestNoActions(t *testing.T) {
	s := &authz.Schema{Types: map[string]authz.Type{"cake": {}, "order": {Actions: []rampart.Action{"orders:read"}}}}
	for _, action := range []string{"action", `action == Action::"cakes:eat"`, `action == Action::"orders:read"`} {
		text := `@id("x") permit (principal, ` + action + `, resource is Cake);`
		_, err := New(map[string][]byte{"p.cedar": []byte(text)}, s)
		if err == nil || !strings.Contains(err.Error(), `p.cedar:1: no action applies to the type "cake": declare actions: of type "cake"`) {
			t.Errorf("%s: got %v", action, err)
		}
	}
}

// TestKinds: with a schema an attribute has its declared kind whatever number
// the asker wrote, and one of another kind fails.
func TestKinds(t *testing.T) {
	e := unchecked(t, `@id("x") permit (principal, action, resource) when { resource.rate == decimal("2.0") && !(resource has more) && (resource has owner || resource has tags || true) };`)
	r := authz.Request{Action: "orders:read", Resource: rampart.Resource{Type: "order"}}
	for name, row := range map[string]struct {
		attrs map[string]any
		want  bool
	}{
		"whole":      {map[string]any{"rate": int64(2)}, true},
		"float":      {map[string]any{"rate": 2.0, "more": true}, true}, // what is not declared is not seen
		"other":      {map[string]any{"rate": 2.5}, false},
		"text":       {map[string]any{"rate": "2.0"}, false},
		"too fine":   {map[string]any{"rate": 2.00001}, false},
		"a wrong id": {map[string]any{"rate": 2.0, "owner": true}, false},
		"a number":   {map[string]any{"rate": 2.0, "tags": []any{int64(1)}}, false},
		"a set":      {map[string]any{"rate": 2.0, "tags": []any{"a"}, "paid": true, "total": int64(1)}, true},
	} {
		r.Resource.Attrs = row.attrs
		if got := allowed(e.Evaluate(t.Context(), r)); got != row.want {
			t.Errorf("%s: allowed %v", name, got)
		}
	}
}

func TestRelations(t *testing.T) {
	e := load(t, `
@id("a") permit (principal, action == Action::"orders:read", resource is Order) when { context.relation.viewer || context.relation has editor };
@id("b") forbid (principal, action, resource is Order) when { context.relation.blocked };
@id("c") permit (principal, action in [Action::"orders:list", Action::"cards:list"], resource) when { if context.relation.member then true else !context.relation.viewer };
@id("d") permit (principal is User, action == Action::"orders:list", resource is Bill);
`)
	for _, row := range []struct{ action, typ, want string }{
		{"orders:read", "order", "blocked editor viewer"},
		{"orders:delete", "order", "blocked"},
		{"orders:list", "order", "blocked member viewer"}, // from an action and from a type
		{"orders:list", "bill", "member viewer"},
		{"orders:read", "bill", ""},
	} {
		if got := strings.Join(e.Relations(rampart.Action(row.action), row.typ), " "); got != row.want {
			t.Errorf("%s of %s: %q, want %q", row.action, row.typ, got, row.want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { e.Relations("orders:read", "order") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestFacts: a policy reads what the decision point looked up, and fails on
// what is unknown; what an asker says of relations is not heard.
func TestFacts(t *testing.T) {
	e := load(t, `@id("may") permit (principal, action, resource) when { context.relation.viewer };
@id("not") forbid (principal, action, resource) when { context.relation.blocked };`)
	for name, row := range map[string]struct {
		facts map[string]bool
		want  string
	}{
		"viewer":          {map[string]bool{"viewer": true, "blocked": false}, "may"},
		"blocked":         {map[string]bool{"viewer": true, "blocked": true}, "not"},
		"neither":         {map[string]bool{"viewer": false, "blocked": false}, ""},
		"unknown blocked": {map[string]bool{"viewer": true}, "may fails:not"},
		"nothing known":   {nil, "fails:may fails:not"},
	} {
		r := payment(nil)
		r.Relations = row.facts
		r.Context = map[string]any{"relation": map[string]any{"viewer": true, "blocked": false}}
		v := e.Evaluate(t.Context(), r)
		var got []string
		for _, x := range slices.Concat(v.Permits, v.Forbids) {
			got = append(got, x.Policy.ID)
		}
		for _, f := range v.Failures {
			got = append(got, "fails:"+f.Policy.ID)
		}
		slices.Sort(got[min(len(got), 1):])
		if diff := cmp.Diff(row.want, strings.Join(got, " ")); diff != "" {
			t.Error(name, diff)
		}
	}
}
