package pdp

import (
	"testing"

	"github.com/rampart-security/rampart"
)

// TestScope: a credential may be limited to less than its subject holds, never
// to more.
func TestScope(t *testing.T) {
	d := example(t)
	read := Route{Permission: "orders:read"}
	for _, row := range []struct {
		name, subject string
		scope         []string
		route         Route
		want          string
	}{
		{"no limit", "alice", nil, read, "allow orders:read"},
		{"the permission", "alice", []string{"orders:read"}, read, "allow orders:read"},
		{"all of its type", "alice", []string{"orders:*"}, read, "allow orders:read"},
		{"another permission", "alice", []string{"orders:create"}, read, "deny insufficient_scope scope orders:read"},
		{"nothing", "alice", []string{}, read, "deny insufficient_scope scope orders:read"},
		{"more than the subject holds", "alice", []string{"orders:*"}, Route{Permission: "orders:delete"}, "deny role_missing orders:delete"},
		{"a role lets in, the scope does not", "alice", []string{"web:read"}, Route{Permission: "orders:read", Allow: []string{"role:customer"}}, "deny insufficient_scope scope orders:read"},
		{"anybody may, the scope may not", "alice", []string{"web:read"}, Route{Permission: "orders:read", Allow: []string{"any"}}, "deny insufficient_scope scope orders:read"},
		{"a permission that lets in is in the scope too", "alice", []string{"orders:read"}, Route{Permission: "orders:read", Allow: []string{"permission:payments:read"}}, "deny role_missing allow permission:payments:read"},
		{"both are", "alice", []string{"orders:read", "payments:*"}, Route{Permission: "orders:read", Allow: []string{"permission:payments:read"}}, "allow allow permission:payments:read"},
		{"what the flow requires is in the scope too", "alice", []string{"orders:read"}, Route{Permission: "orders:read", Require: "payments:read"}, "deny insufficient_scope scope payments:read"},
		{"membership alone asks for no permission", "alice", []string{"web:read"}, Route{Allow: []string{"any"}}, "allow allow any"},
	} {
		who := people()[row.subject]
		who.Scope = row.scope
		for layer, got := range map[rampart.Layer]rampart.Decision{
			rampart.LayerGateway: d.DecideRoute(t.Context(), who, row.route),
			rampart.LayerService: d.DecideService(t.Context(), who, "acme", row.route),
		} {
			if outcome(got) != row.want || got.Layer != layer {
				t.Errorf("%s, %s: got %s (%s), want %s", row.name, layer, outcome(got), got.Reason, row.want)
			}
		}
	}
}
