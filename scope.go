package rampart

import (
	"slices"
	"strings"
)

// InScope reports whether p's credential may be used for a permission: it is
// not limited (a nil Scope), or its scope names the permission or, as "type:*",
// all of its type. Whether p holds the permission is another question.
func (p Principal) InScope(a Action) bool {
	return p.Scope == nil || covers(p.Scope, string(a))
}

// MeetScopes returns the permissions that both scopes cover; nil covers all. It
// never widens: what is in neither is not in the result, and two scopes that
// share nothing meet in an empty one, not in nil.
func MeetScopes(a, b []string) []string {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	out := []string{}
	for _, p := range slices.Concat(a, b) {
		if covers(a, p) && covers(b, p) && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

func covers(scope []string, permission string) bool {
	kind, verb, _ := strings.Cut(permission, ":")
	return verb != "" && slices.ContainsFunc(scope, func(s string) bool {
		all, wild := strings.CutSuffix(s, ":*")
		return s == permission || wild && all == kind
	})
}
