package rampart_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
)

func TestInScope(t *testing.T) {
	for _, row := range []struct {
		scope  []string
		action rampart.Action
		want   bool
	}{
		{nil, "orders:read", true},
		{[]string{}, "orders:read", false},
		{[]string{"orders:read"}, "orders:read", true},
		{[]string{"orders:read"}, "orders:create", false},
		{[]string{"orders:*"}, "orders:create", true},
		{[]string{"orders:*"}, "orders:*", true},
		{[]string{"orders:*"}, "orders-old:read", false},
		{[]string{"*"}, "orders:read", false},
		{[]string{"*:*"}, "orders:read", false},
		{[]string{"openid"}, "openid", false},
		{[]string{"orders:*"}, "orders", false},
		{[]string{"orders:*"}, "orders:", false},
		{[]string{"orders:*"}, "", false},
		{[]string{"role:clerk"}, "orders:read", true}, // limits roles, not permissions
		{[]string{"role:clerk", "orders:read"}, "orders:read", true},
		{[]string{"role:clerk", "orders:read"}, "orders:create", false},
		{[]string{"role:clerk", "-"}, "orders:read", false},
		{[]string{"role:*", "orders:read"}, "role:clerk", false},
	} {
		if got := (rampart.Principal{Scope: row.scope}).InScope(row.action); got != row.want {
			t.Errorf("%q in %q: %v", row.action, row.scope, got)
		}
	}
}

func TestMeetScopes(t *testing.T) {
	list := func(s string) []string {
		if s == "all" {
			return nil
		}
		return strings.Fields(s)
	}
	for _, row := range []struct{ a, b, want string }{
		{"all", "all", "all"},
		{"all", "a:x", "a:x"},
		{"a:x", "all", "a:x"},
		{"a:x a:y", "a:y b:x", "a:y"},
		{"a:*", "a:x b:x", "a:x"},
		{"a:* b:y", "a:* b:*", "a:* b:y"},
		{"a:x", "b:x", ""},
		{"", "all", ""},
		{"", "a:*", ""},
		{"", "role:x", "- role:x"},
		{"a:x", "role:x", "a:x role:x"},
		{"a:* role:x role:y", "a:y role:y", "a:y role:y"},
		{"a:x role:x", "b:x role:x", "- role:x"},
		{"role:x", "role:y", "role:"},
		{"role:x", "a:x role:y", "a:x role:"},
		{"role:", "role:x", "role:"},
		{"- role:x", "a:x", "- role:x"},
	} {
		for _, pair := range [][2]string{{row.a, row.b}, {row.b, row.a}} {
			got := rampart.MeetScopes(list(pair[0]), list(pair[1]))
			if diff := cmp.Diff(list(row.want), got); diff != "" {
				t.Errorf("%q and %q (-want +got):\n%s", pair[0], pair[1], diff)
			}
		}
	}
}

func TestActiveRole(t *testing.T) {
	for _, row := range []struct {
		scope []string
		role  string
		want  bool
	}{
		{nil, "clerk", true},
		{[]string{}, "clerk", true},
		{[]string{"orders:read"}, "clerk", true},
		{[]string{"role:clerk"}, "clerk", true},
		{[]string{"orders:read", "role:clerk"}, "approver", false},
		{[]string{"role:clerk", "role:approver"}, "approver", true},
		{[]string{"role:"}, "clerk", false},
		{[]string{"role:"}, "", false},
		{[]string{"role:*"}, "clerk", false},
	} {
		if got := (rampart.Principal{Scope: row.scope}).ActiveRole(row.role); got != row.want {
			t.Errorf("%q in %q: %v", row.role, row.scope, got)
		}
	}
}

// FuzzMeetScopes: what two scopes meet in allows nothing that either forbids.
func FuzzMeetScopes(f *testing.F) {
	f.Add("a:x role:x", "a:* b:x role:y", "a:x", "x")
	f.Add("", "role:x", "a:x", "x")
	f.Add("- role:", "role:", "-", "")
	f.Add("role:x", "a:*", "role:x", "x")
	f.Fuzz(func(t *testing.T, a, b, action, role string) {
		in := func(scope []string) (bool, bool) {
			p := rampart.Principal{Scope: scope}
			return p.InScope(rampart.Action(action)), p.ActiveRole(role)
		}
		x, y := strings.Fields(a), strings.Fields(b)
		permissionX, roleX := in(x)
		permissionY, roleY := in(y)
		permission, active := in(rampart.MeetScopes(x, y))
		if permission && !(permissionX && permissionY) || active && !(roleX && roleY) {
			t.Errorf("%q and %q meet in %q, which is wider", x, y, rampart.MeetScopes(x, y))
		}
	})
}
