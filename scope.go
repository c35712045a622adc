package rampart

import (
	"slices"
	"strings"
)

// Entries of a scope that are no permissions. "role:NAME" lets the credential
// act with that role alone, of those that its subject holds; the other two say
// "nothing" where a list without entries would say "no limit".
const (
	scopeRole    = "role:"
	scopeNoRole  = "role:" // an entry of its own: it names no role, so none is active
	scopeNothing = "-"     // of no type, so it covers no permission
)

// InScope reports whether p's credential may be used for a permission: it is
// not limited (a nil Scope, or one that names roles alone), or its scope names
// the permission or, as "type:*", all of its type. Whether p holds the
// permission is another question.
func (p Principal) InScope(a Action) bool {
	return !limits(p.Scope) || covers(p.Scope, string(a))
}

// ActiveRole reports whether p's credential may act with a role that p holds:
// its scope names this role, or none at all. A role is named without the
// organization that it is for.
func (p Principal) ActiveRole(role string) bool {
	named := false
	for _, s := range p.Scope {
		name, ok := strings.CutPrefix(s, scopeRole)
		if ok && name == role && role != "" {
			return true
		}
		named = named || ok
	}
	return !named
}

// MeetScopes returns what both scopes cover; nil covers all. It never widens:
// what is in neither is not in the result, and two scopes that share nothing
// meet in one that covers nothing, not in nil. Permissions and roles meet each
// for themselves, as either limits the credential.
func MeetScopes(a, b []string) []string {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	permissions, limited := meet(a, b, false)
	roles, named := meet(a, b, true)
	if named && len(roles) == 0 {
		roles = []string{scopeNoRole}
	}
	if named && limited && len(permissions) == 0 {
		permissions = []string{scopeNothing}
	}
	return append(permissions, roles...)
}

// meet returns the permissions, or the roles, that both scopes cover, and
// whether one of them limits these at all.
func meet(a, b []string, roles bool) (out []string, limited bool) {
	out = []string{}
	in, with := limits, covers
	if roles {
		in, with = namesRole, slices.Contains[[]string]
	}
	byA, byB := in(a), in(b)
	for _, s := range slices.Concat(a, b) {
		if isRole(s) == roles && (!byA || with(a, s)) && (!byB || with(b, s)) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, byA || byB
}

func isRole(s string) bool { return strings.HasPrefix(s, scopeRole) }

func namesRole(scope []string) bool { return slices.ContainsFunc(scope, isRole) }

// limits reports whether a scope limits permissions: one that names roles and
// nothing else does not.
func limits(scope []string) bool {
	return scope != nil && (len(scope) == 0 || slices.ContainsFunc(scope, func(s string) bool { return !isRole(s) }))
}

func covers(scope []string, permission string) bool {
	kind, verb, _ := strings.Cut(permission, ":")
	return verb != "" && slices.ContainsFunc(scope, func(s string) bool {
		all, wild := strings.CutSuffix(s, ":*")
		return !isRole(s) && (s == permission || wild && all == kind)
	})
}
