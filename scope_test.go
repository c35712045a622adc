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
	} {
		for _, pair := range [][2]string{{row.a, row.b}, {row.b, row.a}} {
			got := rampart.MeetScopes(list(pair[0]), list(pair[1]))
			if diff := cmp.Diff(list(row.want), got); diff != "" {
				t.Errorf("%q and %q (-want +got):\n%s", pair[0], pair[1], diff)
			}
		}
	}
}
