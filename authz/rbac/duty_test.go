package rbac

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
)

// bank keeps clerk and approver apart for good, and teller and auditor at any
// one time.
func bank(t testing.TB) *Roles {
	t.Helper()
	r, err := Compile(map[string][]string{
		"clerk": {"orders:create"}, "approver": {"orders:approve"}, "teller": {"cash:*"}, "auditor": {"books:read"}, "guest": {},
		"boss": {"role:clerk", "role:guest"}, "head": {"role:boss"}, "chief": {"role:teller", "books:close"},
	}, Separation{Roles: []string{"clerk", "approver"}}, Separation{Roles: []string{"teller", "auditor"}, Dynamic: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func who(roles, scope string) rampart.Principal {
	p := rampart.Principal{Subject: "user:ann", Roles: strings.Fields(roles)}
	if scope != "" {
		p.Scope = strings.Fields(scope)
	}
	return p
}

func TestTenants(t *testing.T) {
	r := bank(t)
	for _, row := range []struct {
		roles, scope, tenant string
		action               rampart.Action
		want                 bool
	}{
		{"clerk", "", "acme", "orders:create", true},
		{"clerk@acme", "", "acme", "orders:create", true},
		{"clerk@acme", "", "globex", "orders:create", false},
		{"clerk@acme", "", "", "orders:create", true}, // which organization is not known yet
		{"boss@acme", "", "acme", "orders:create", true},
		{"clerk@", "", "", "orders:create", false},
		{"clerk@", "", "acme", "orders:create", false},
		{"@acme", "", "acme", "orders:create", false},
		{"clerk@acme@globex", "", "globex", "orders:create", false},
		{"guest@globex clerk@acme", "", "globex", "orders:create", false},

		{"clerk approver", "role:clerk", "acme", "orders:create", true},
		{"clerk approver", "role:clerk", "acme", "orders:approve", false},
		{"clerk approver", "role:teller", "acme", "orders:create", false}, // naming a role does not give it
		{"boss", "role:clerk", "acme", "orders:create", true},             // nor does a role that includes it go further
		{"boss", "role:guest", "acme", "orders:create", false},
		{"boss@globex", "role:clerk", "acme", "orders:create", false},
		{"clerk", "role:boss", "acme", "orders:create", false},
		{"clerk", "role:", "acme", "orders:create", false},
		{"clerk", "orders:read", "acme", "orders:create", true}, // permissions are the scope's own matter
	} {
		if got := r.Check(who(row.roles, row.scope), row.action, row.tenant); got != row.want {
			t.Errorf("%q limited to %q, %s in %q: got %t", row.roles, row.scope, row.action, row.tenant, got)
		}
	}
}

func TestHolds(t *testing.T) {
	r := bank(t)
	for _, row := range []struct {
		roles, scope, tenant, role string
		want                       bool
	}{
		{"boss", "", "acme", "boss", true},
		{"boss", "", "acme", "clerk", false},
		{"boss", "role:clerk", "acme", "boss", false},
		{"boss", "role:clerk", "acme", "clerk", true},
		{"boss@acme", "", "acme", "boss", true},
		{"boss@acme", "", "globex", "boss", false},
		{"boss@acme", "", "acme", "boss@acme", false},
		{"unknown", "", "acme", "unknown", true}, // a flow may name a role that holds no permission
		{"", "role:boss", "acme", "boss", false},
		{"", "", "", "", false},
	} {
		if got := r.Holds(who(row.roles, row.scope), row.role, row.tenant); got != row.want {
			t.Errorf("%q limited to %q, %s in %q: got %t", row.roles, row.scope, row.role, row.tenant, got)
		}
	}
}

// TestNarrow is what policies see of roles.
func TestNarrow(t *testing.T) {
	r := bank(t)
	for _, row := range []struct{ roles, scope, tenant, want string }{
		{"clerk teller", "", "", "clerk teller"},
		{"clerk@acme teller@globex guest", "", "acme", "clerk guest"},
		{"clerk@acme teller@globex guest", "", "", "guest"},
		{"clerk@acme clerk", "", "acme", "clerk"},
		{"boss clerk teller", "role:clerk", "acme", "clerk"},
		{"boss clerk", "role:teller", "acme", ""},
		{"boss@acme", "role:clerk role:guest", "acme", "clerk guest"},
	} {
		if diff := cmp.Diff(strings.Fields(row.want), append([]string{}, r.Narrow(who(row.roles, row.scope), row.tenant)...)); diff != "" {
			t.Errorf("%q limited to %q in %q (-want +got):\n%s", row.roles, row.scope, row.tenant, diff)
		}
	}
}

func TestConflict(t *testing.T) {
	r := bank(t)
	for roles, want := range map[string]string{
		"":                           "",
		"clerk guest":                "",
		"clerk approver":             "clerk approver",
		"guest approver head":        "approver head",
		"clerk@acme approver@globex": "",
		"clerk@acme approver@acme":   "clerk@acme approver@acme",
		"clerk@acme approver":        "clerk@acme approver",
		"clerk clerk@acme boss":      "",
		"teller auditor":             "", // a person may hold both, and acts with one at a time
	} {
		got, ok := r.Conflict(strings.Fields(roles))
		if text := strings.TrimSpace(got.A + " " + got.B); text != want || ok != (want != "") {
			t.Errorf("%q: got %q, %t", roles, text, ok)
		}
	}
}

func TestSeparated(t *testing.T) {
	r := bank(t)
	many := strings.Repeat("teller@acme ", maxDuties+1)
	for _, row := range []struct {
		roles, scope, tenant string
		want                 bool
	}{
		{"teller guest", "", "acme", false},
		{"teller auditor", "", "acme", true},
		{"chief auditor", "", "acme", true}, // by inheritance
		{"teller auditor", "role:teller", "acme", false},
		{"chief auditor", "role:teller", "acme", false},
		{"teller auditor", "role:teller role:auditor", "acme", true},
		{"teller auditor", "cash:*", "acme", true}, // a permission names no role
		{"teller auditor", "role:guest", "acme", false},
		{"teller@acme auditor", "", "acme", true},
		{"teller@acme auditor", "", "globex", false},
		{"teller@acme auditor@globex", "", "", false},
		{"teller@acme auditor@acme", "", "", true},
		{"clerk approver", "", "acme", false}, // that is for whoever grants them
		{many, "", "acme", true},
		{many, "", "globex", false},
	} {
		if got, ok := r.Separated(who(row.roles, row.scope), row.tenant); ok != row.want {
			t.Errorf("%.60q limited to %q in %q: got %v, %t", row.roles, row.scope, row.tenant, got, ok)
		}
	}
}

func TestSeparationRefused(t *testing.T) {
	roles := map[string][]string{"a": {}, "b": {}, "c": {"role:d"}, "d": {"role:a", "role:b"}}
	for name, row := range map[string]struct {
		apart []Separation
		want  string
	}{
		"one role":      {[]Separation{{Roles: []string{"a"}}}, "two roles or more"},
		"no such role":  {[]Separation{{Roles: []string{"a", "x"}}}, `names "x", which is no role`},
		"twice":         {[]Separation{{Roles: []string{"a", "a"}}}, `names "a" twice`},
		"united":        {[]Separation{{Roles: []string{"a", "b"}}}, `role "c" includes "a" and "b"`},
		"united at all": {[]Separation{{Roles: []string{"a", "b"}, Dynamic: true}}, `role "c" includes "a" and "b"`},
		"too many":      {make([]Separation, MaxSeparations+1), "at most 1024 separations"},
	} {
		if _, err := Compile(roles, row.apart...); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
}

func TestKnows(t *testing.T) {
	r := bank(t)
	for action, want := range map[rampart.Action]bool{"orders:create": true, "cash:count": true, "orders:delete": false, "cash:": false} {
		if r.Knows(action) != want {
			t.Errorf("%s: got %t", action, !want)
		}
	}
	if (*Roles)(nil).Knows("orders:create") {
		t.Error("no role model knows a permission")
	}
}

// TestNothingAllocates also covers scoped roles, activation and separation.
func TestNothingAllocates(t *testing.T) {
	r := bank(t)
	p := who("guest teller@globex boss@acme chief", "role:clerk role:teller")
	for name, f := range map[string]func() bool{
		"check":     func() bool { return r.Check(p, "orders:create", "acme") },
		"holds":     func() bool { return r.Holds(p, "clerk", "acme") },
		"separated": func() bool { _, ok := r.Separated(p, "acme"); return !ok },
	} {
		if n := testing.AllocsPerRun(100, func() {
			if !f() {
				t.Fatal(name)
			}
		}); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// BenchmarkSeparated is the price of a rule that knows nothing of the subject.
func BenchmarkSeparated(b *testing.B) {
	m := map[string][]string{}
	for i := range 1000 {
		m[fmt.Sprint("r", i)] = nil
	}
	r, err := Compile(m, Separation{Roles: []string{"r1", "r2"}, Dynamic: true})
	if err != nil {
		b.Fatal(err)
	}
	p := who("r3 r4", "")
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := r.Separated(p, "acme"); ok {
			b.Fatal("separated")
		}
	}
}
