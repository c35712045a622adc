package rbac

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
)

func model() map[string][]string {
	return map[string][]string{
		"viewer":  {"orders:read"},
		"manager": {"role:viewer", "orders:approve"},
		"lead":    {"role:manager"},
		"admin":   {"orders:*", "payments:*"},
	}
}

func TestCheck(t *testing.T) {
	roles, err := Compile(model())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		roles  string
		action rampart.Action
		want   bool
	}{
		{"viewer", "orders:read", true},
		{"viewer", "orders:approve", false},
		{"manager", "orders:read", true},
		{"lead", "orders:read", true},
		{"lead", "orders:approve", true},
		{"lead", "payments:read", false},
		{"admin", "orders:delete", true},
		{"admin", "invoices:read", false},
		{"guest viewer", "orders:read", true},
		{"guest", "orders:read", false},
		{"", "orders:read", false},
		{"admin", "orders", false},
		{"admin", "orders:", false},
		{"admin", "", false},
		{"viewer", "orders:*", false},
	} {
		p := rampart.Principal{Subject: "user:alice", Roles: strings.Fields(row.roles)}
		if got := roles.Check(p, row.action, ""); got != row.want {
			t.Errorf("roles %q, %s: got %t", row.roles, row.action, got)
		}
	}
}

func TestNobodyHoldsNothing(t *testing.T) {
	roles, err := Compile(model())
	if err != nil {
		t.Fatal(err)
	}
	if roles.Check(rampart.Principal{Roles: []string{"admin"}}, "orders:read", "") {
		t.Error("a principal without a subject was granted a permission")
	}
	var none *Roles
	alice := rampart.Principal{Subject: "user:alice", Roles: []string{"admin"}}
	if none.Check(alice, "orders:read", "") || new(Roles).Check(alice, "orders:read", "") {
		t.Error("no role model granted a permission")
	}
}

func TestExplain(t *testing.T) {
	roles, err := Compile(model())
	if err != nil {
		t.Fatal(err)
	}
	bob := rampart.Principal{Subject: "user:bob", Roles: []string{"guest", "manager"}}
	want := Explanation{Role: "manager", Holders: []string{"admin", "lead", "manager", "viewer"}}
	if diff := cmp.Diff(want, roles.Explain(bob, "orders:read", "")); diff != "" {
		t.Error(diff)
	}
	want = Explanation{Holders: []string{"admin"}}
	if diff := cmp.Diff(want, roles.Explain(bob, "payments:read", "")); diff != "" {
		t.Error(diff)
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		roles map[string][]string
		want  string
	}{
		"a cycle":          {map[string][]string{"a": {"role:b"}, "b": {"role:c"}, "c": {"role:a"}}, "a > b > c > a"},
		"a role of itself": {map[string][]string{"a": {"role:a"}}, "a > a"},
		"an unknown role":  {map[string][]string{"a": {"role:b"}}, `includes "b", which is no role`},
		"no verb":          {map[string][]string{"a": {"orders"}}, `"orders" is not`},
		"a bare star":      {map[string][]string{"a": {"*"}}, `"*" is not`},
		"every type":       {map[string][]string{"a": {"*:read"}}, `"*:read" is not`},
		"three parts":      {map[string][]string{"a": {"a:b:c"}}, `"a:b:c" is not`},
		"too many":         {tooMany(), "at most 1024 roles"},
	} {
		_, err := Compile(row.roles)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
}

func tooMany() map[string][]string {
	m := map[string][]string{}
	for i := range MaxRoles + 1 {
		m[fmt.Sprint("r", i)] = nil
	}
	return m
}

func TestCheckAllocatesNothing(t *testing.T) {
	roles, err := Compile(model())
	if err != nil {
		t.Fatal(err)
	}
	p := rampart.Principal{Subject: "user:dave", Roles: []string{"viewer", "admin"}}
	if n := testing.AllocsPerRun(100, func() { roles.Check(p, "payments:read", "") }); n != 0 {
		t.Errorf("a check allocates %v times", n)
	}
}

func BenchmarkRBAC(b *testing.B) {
	for _, extra := range []int{0, 1000} {
		b.Run(fmt.Sprintf("extra=%d", extra), func(b *testing.B) {
			m := model()
			for i := range extra {
				m[fmt.Sprint("r", i)] = []string{fmt.Sprintf("t%d:read", i)}
			}
			roles, err := Compile(m)
			if err != nil {
				b.Fatal(err)
			}
			p := rampart.Principal{Subject: "user:carol", Roles: []string{"viewer", "manager"}}
			b.ReportAllocs()
			for b.Loop() {
				if !roles.Check(p, "orders:approve", "acme") {
					b.Fatal("denied")
				}
			}
		})
	}
}
