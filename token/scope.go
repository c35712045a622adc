package token

import (
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
)

// Bounds of a scope parameter.
const (
	maxScope  = 4096 // bytes
	maxScopes = 64   // values
)

// The scopes that ask for something of this service and grant nothing.
const (
	scopeOpenID  = "openid"
	scopeOffline = "offline_access"
)

// scope is a scope parameter taken apart (RFC 6749 section 3.3).
type scope struct {
	permissions []string // nil: no scope was named, so the default is meant
	openid      bool     // an ID token is asked for
	offline     bool     // the grant is to outlive the browser session
}

// parseScope reads a scope parameter; "" names none. A scope of protocol
// values alone names no permission, which is not the same as naming none.
func parseScope(text string) (scope, error) {
	if text == "" {
		return scope{}, nil
	}
	values := strings.Split(text, " ")
	if len(text) > maxScope || len(values) > maxScopes {
		return scope{}, refuse("invalid_scope", "a scope has at most %d values", maxScopes)
	}
	s := scope{permissions: []string{}}
	for _, v := range values {
		switch {
		case v == scopeOpenID:
			s.openid = true
		case v == scopeOffline:
			s.offline = true
		case !isPermission(v):
			return scope{}, refuse("invalid_scope", "%.64q is no scope; scopes are permissions, \"type:verb\"", v)
		case !slices.Contains(s.permissions, v):
			s.permissions = append(s.permissions, v)
		}
	}
	return s, nil
}

// isPermission reports whether v is "type:verb" or "type:*" as rampart.yaml
// writes them.
func isPermission(v string) bool {
	kind, verb, ok := strings.Cut(v, ":")
	return ok && isWord(kind) && (verb == "*" || isWord(verb))
}

func isWord(s string) bool {
	outside := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' }
	return s != "" && s[0] >= 'a' && s[0] <= 'z' && !strings.ContainsFunc(s, outside)
}

// within reports whether every permission of want is covered by have. Nil have
// covers all; nil want is all.
func within(want, have []string) bool {
	if have == nil {
		return true
	}
	return want != nil && !slices.ContainsFunc(want, func(w string) bool { return !covered(w, have) })
}

// covered reports whether one of have covers the permission. A role that is
// named takes the others away, so that it needs no right of its own where no
// role was named before.
func covered(want string, have []string) bool {
	if isRole(want) && !slices.ContainsFunc(have, isRole) {
		return true
	}
	kind, _, _ := strings.Cut(want, ":")
	return slices.Contains(have, want) || slices.Contains(have, kind+":*")
}

// isRole tells the role to act with from a permission: "role:NAME".
func isRole(v string) bool { return strings.HasPrefix(v, "role:") }

// join adds what either covers; nil is all.
func join(a, b []string) []string {
	if a == nil || b == nil {
		return nil
	}
	return slices.Concat(a, b)
}

// narrow applies a requested scope to what may be had. It never widens, and
// what is left is never nothing: a token that may do nothing is a mistake that
// is better told than minted.
func narrow(have []string, requested string) ([]string, error) {
	want, err := parseScope(requested)
	switch {
	case err != nil:
		return nil, err
	case want.openid || want.offline:
		return nil, refuse("invalid_scope", "this grant knows permissions only")
	case want.permissions != nil && !within(want.permissions, have):
		return nil, refuse("invalid_scope", "the scope is more than may be had")
	case want.permissions != nil:
		return rampart.MeetScopes(want.permissions, have), nil
	case nothing(have):
		return nil, refuse("invalid_scope", "no permission is left")
	}
	return have, nil
}

// ask checks what a client wants of a person against what it is registered
// for. Where it names no permission and no protocol scope, it gets what it is
// registered for.
func ask(c Client, text string) (scope, error) {
	want, err := parseScope(text)
	if err != nil {
		return scope{}, err
	}
	if want.permissions == nil {
		want.permissions = permissionsOf(c.Scopes)
		return want, nil
	}
	if c.Scopes == nil {
		return want, nil
	}
	if !within(want.permissions, c.Scopes) || want.offline && !c.mayStay() {
		return scope{}, refuse("invalid_scope", "the client is not registered for this scope")
	}
	// Roles alone limit no permission: the registration's limit stays.
	want.permissions = rampart.MeetScopes(want.permissions, permissionsOf(c.Scopes))
	return want, nil
}

// mayStay reports whether c is registered for access that outlives sessions.
func (c Client) mayStay() bool { return c.Scopes == nil || slices.Contains(c.Scopes, scopeOffline) }

// registered is what a client still has of a scope that it was granted, now
// that it may be registered for less.
func (c Client) registered(had scope) (scope, error) {
	if had.offline && !c.mayStay() {
		return scope{}, refuse("invalid_grant", "the client is no longer registered for %s", scopeOffline)
	}
	left, err := c.still(had.permissions)
	had.permissions = left
	return had, err
}

// still returns those permissions that c is registered for. To lose all is an
// error; a scope of protocol values had none to lose.
func (c Client) still(had []string) ([]string, error) {
	left := rampart.MeetScopes(had, permissionsOf(c.Scopes))
	if nothing(left) && !nothing(had) {
		return nil, refuse("invalid_grant", "the client is no longer registered for any permission of this grant")
	}
	return left, nil
}

// nothing tells no permission from nil, which is all of them.
func nothing(permissions []string) bool { return permissions != nil && len(permissions) == 0 }

// permissionsOf leaves protocol scopes out; nil stays nil.
func permissionsOf(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(v string) bool { return v == scopeOpenID || v == scopeOffline })
}

// claim is the scope as a token carries it; nil: no claim.
func (s scope) claim() []string {
	out := slices.Clone(s.permissions)
	if s.offline {
		out = slices.Insert(out, 0, scopeOffline)
	}
	if s.openid {
		out = slices.Insert(out, 0, scopeOpenID)
	}
	return out
}
