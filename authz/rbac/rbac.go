// Package rbac answers "Does a role of this subject hold this permission?"
//
// Roles are compiled once: inheritance is flattened, so that a check is one or
// two map look-ups per role and allocates nothing.
package rbac

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
)

// Bounds of a role model; Compile enforces them.
const (
	MaxRoles  = 1024
	MaxGrants = 1 << 16 // over all roles, inheritance flattened
)

// include marks an entry that takes over another role's permissions.
const include = "role:"

// Roles is a compiled role model. It is read-only and safe for concurrent use.
// The zero Roles, and a nil *Roles, grant nothing.
type Roles struct {
	byName map[string]grants
}

// grants are the permissions of one role.
type grants struct {
	exact map[rampart.Action]bool
	types map[string]bool // "orders" for "orders:*"
}

// Compile flattens roles: name to permissions "type:verb" or "type:*", or
// "role:OTHER" to include another role. It refuses a role that includes itself
// by any path, an unknown role, any other form, and a model beyond the bounds.
func Compile(roles map[string][]string) (*Roles, error) {
	if len(roles) > MaxRoles {
		return nil, fmt.Errorf("rbac: at most %d roles", MaxRoles)
	}
	c := compiler{source: roles, done: make(map[string]grants, len(roles))}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		if _, err := c.role(name, nil); err != nil {
			return nil, fmt.Errorf("rbac: %v", err)
		}
	}
	return &Roles{byName: c.done}, nil
}

type compiler struct {
	source map[string][]string
	done   map[string]grants
	total  int
}

// role returns the flattened grants of one role; path holds the roles that
// include it, outermost first.
func (c *compiler) role(name string, path []string) (grants, error) {
	if g, ok := c.done[name]; ok {
		return g, nil
	}
	if i := slices.Index(path, name); i >= 0 {
		return grants{}, fmt.Errorf("role %q includes itself: %s", name, strings.Join(append(path[i:], name), " > "))
	}
	g := grants{exact: map[rampart.Action]bool{}, types: map[string]bool{}}
	for _, entry := range c.source[name] {
		if err := c.add(g, name, entry, path); err != nil {
			return grants{}, err
		}
	}
	if c.total += len(g.exact) + len(g.types); c.total > MaxGrants {
		return grants{}, fmt.Errorf("at most %d permissions over all roles", MaxGrants)
	}
	c.done[name] = g
	return g, nil
}

func (c *compiler) add(g grants, name, entry string, path []string) error {
	if other, ok := strings.CutPrefix(entry, include); ok {
		if _, known := c.source[other]; !known {
			return fmt.Errorf("role %q includes %q, which is no role", name, other)
		}
		inherited, err := c.role(other, append(path, name))
		if err != nil {
			return err
		}
		maps.Copy(g.exact, inherited.exact)
		maps.Copy(g.types, inherited.types)
		return nil
	}
	typ, verb, ok := strings.Cut(entry, ":")
	if !ok || typ == "" || verb == "" || typ == "*" || strings.Contains(verb, ":") {
		return fmt.Errorf("role %q: permission %q is not \"type:verb\", \"type:*\" or \"role:OTHER\"", name, entry)
	}
	if verb == "*" {
		g.types[typ] = true
		return nil
	}
	g.exact[rampart.Action(entry)] = true
	return nil
}

// Check reports whether one of p's roles holds action. It allocates nothing.
func (r *Roles) Check(p rampart.Principal, action rampart.Action) bool {
	_, ok := r.grantor(p, action)
	return ok
}

// grantor returns the first of p's roles that holds action.
func (r *Roles) grantor(p rampart.Principal, action rampart.Action) (string, bool) {
	if r == nil || p.IsZero() {
		return "", false
	}
	for _, name := range p.Roles {
		if r.byName[name].hold(action) {
			return name, true
		}
	}
	return "", false
}

// hold: a bare "orders:" or "orders" names nothing, so no wildcard covers it.
func (g grants) hold(action rampart.Action) bool {
	if g.exact[action] {
		return true
	}
	typ, verb, _ := strings.Cut(string(action), ":")
	return verb != "" && g.types[typ]
}

// Explanation says why a check came out as it did.
type Explanation struct {
	Role    string   // the role of the subject that holds the permission; "" when none does
	Holders []string // every role that would hold it, sorted
}

// Explain repeats a check for an operator: which role granted action, and which
// roles could.
func (r *Roles) Explain(p rampart.Principal, action rampart.Action) Explanation {
	var e Explanation
	if r == nil {
		return e
	}
	e.Role, _ = r.grantor(p, action)
	for name, g := range r.byName {
		if g.hold(action) {
			e.Holders = append(e.Holders, name)
		}
	}
	slices.Sort(e.Holders)
	return e
}
