// Package rbac answers "Does a role of this subject hold this permission?"
//
// A role is held everywhere ("manager") or for one organization
// ("manager@acme"), and separation of duty keeps roles apart that nobody may
// use together. Roles are compiled once: inheritance is flattened, so that a
// check is one or two map look-ups per role and allocates nothing.
package rbac

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
)

// Bounds of a role model; Compile enforces them.
const (
	MaxRoles  = 1024
	MaxGrants = 1 << 16 // permissions and inclusions over all roles, inheritance flattened
)

// include marks an entry that takes over another role's permissions.
const include = "role:"

// Roles is a compiled role model. It is read-only and safe for concurrent use.
// The zero Roles, and a nil *Roles, grant nothing.
type Roles struct {
	byName      map[string]grants
	all         grants // of all roles together
	separations []Separation
	dynamic     bool // some separation is
}

// grants are the permissions of one role.
type grants struct {
	exact    map[rampart.Action]bool
	types    map[string]bool // "orders" for "orders:*"
	includes map[string]bool // itself, and each role that it includes by any path
	duties   []duty
}

// Compile flattens roles: name to permissions "type:verb" or "type:*", or
// "role:OTHER" to include another role. It refuses a role that includes itself
// by any path, an unknown role, any other form, and a model beyond the bounds.
// Of separations it refuses those that name less than two known roles, and that
// one role alone would break.
func Compile(roles map[string][]string, separate ...Separation) (*Roles, error) {
	if len(roles) > MaxRoles {
		return nil, fmt.Errorf("rbac: at most %d roles", MaxRoles)
	}
	c := compiler{source: roles, done: make(map[string]grants, len(roles))}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		if _, err := c.role(name, nil); err != nil {
			return nil, fmt.Errorf("rbac: %v", err)
		}
	}
	r := &Roles{byName: c.done, all: grants{exact: map[rampart.Action]bool{}, types: map[string]bool{}}}
	for _, g := range c.done {
		maps.Copy(r.all.exact, g.exact)
		maps.Copy(r.all.types, g.types)
	}
	if err := r.separate(separate); err != nil {
		return nil, fmt.Errorf("rbac: %v", err)
	}
	return r, nil
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
	g := grants{exact: map[rampart.Action]bool{}, types: map[string]bool{}, includes: map[string]bool{name: true}}
	for _, entry := range c.source[name] {
		if err := c.add(g, name, entry, path); err != nil {
			return grants{}, err
		}
	}
	if c.total += len(g.exact) + len(g.types) + len(g.includes); c.total > MaxGrants {
		return grants{}, fmt.Errorf("at most %d permissions and inclusions over all roles", MaxGrants)
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
		maps.Copy(g.includes, inherited.includes)
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

// acting is a role that a principal acts with, and the organization that it is
// for; "" is all of them.
type acting struct{ role, org string }

func (a acting) String() string {
	if a.org == "" {
		return a.role
	}
	return a.role + "@" + a.org
}

// acts yields the roles that p acts with in a tenant, "" being any: "manager"
// everywhere, "manager@acme" in acme. A credential that names roles in its
// scope (rampart.Principal.ActiveRole) acts with these alone, as far as p holds
// them or a role that includes them. Naming a role only ever takes others away.
func (r *Roles) acts(p rampart.Principal, tenant string) iter.Seq[acting] {
	return func(yield func(acting) bool) {
		named := !p.ActiveRole("")
		for _, held := range p.Roles {
			role, org, scoped := strings.Cut(held, "@")
			if scoped && (org == "" || tenant != "" && org != tenant) {
				continue
			}
			if !named && !yield(acting{role, org}) || named && !r.actsAs(p.Scope, acting{role, org}, yield) {
				return
			}
		}
	}
}

// actsAs yields those roles of a scope that the held one is or includes.
func (r *Roles) actsAs(scope []string, held acting, yield func(acting) bool) bool {
	includes := r.byName[held.role].includes
	for _, s := range scope {
		name, ok := strings.CutPrefix(s, include)
		if ok && name != "" && (name == held.role || includes[name]) && !yield(acting{name, held.org}) {
			return false
		}
	}
	return true
}

// Check reports whether p acts with a role that holds action in the tenant that
// is asked about; "" is any, for where the tenant is not known yet. It
// allocates nothing.
func (r *Roles) Check(p rampart.Principal, action rampart.Action, tenant string) bool {
	_, ok := r.Grantor(p, action, tenant)
	return ok
}

// Grantor returns the first role by which Check is true.
func (r *Roles) Grantor(p rampart.Principal, action rampart.Action, tenant string) (role string, ok bool) {
	if r == nil || p.IsZero() {
		return "", false
	}
	for a := range r.acts(p, tenant) {
		if r.byName[a.role].hold(action) {
			return a.role, true
		}
	}
	return "", false
}

// Holds reports whether p acts with this very role in the tenant, "" being any.
// A role that includes it does not count. It allocates nothing.
func (r *Roles) Holds(p rampart.Principal, role, tenant string) bool {
	if r == nil || p.IsZero() || role == "" {
		return false
	}
	for a := range r.acts(p, tenant) {
		if a.role == role {
			return true
		}
	}
	return false
}

// Narrow returns the names of the roles that p acts with in a tenant, without
// organizations, as policies are to see them. For "", an unknown tenant, roles
// that are for one organization are left out. It returns p.Roles itself when
// nothing is to be narrowed; the caller must not change it.
func (r *Roles) Narrow(p rampart.Principal, tenant string) []string {
	plain := p.ActiveRole("") && !slices.ContainsFunc(p.Roles, func(held string) bool { return strings.Contains(held, "@") })
	if r == nil || plain {
		return p.Roles
	}
	out := []string{}
	for a := range r.acts(p, tenant) {
		if (a.org == "" || tenant != "") && !slices.Contains(out, a.role) {
			out = append(out, a.role)
		}
	}
	return out
}

// Knows reports whether any role at all holds action.
func (r *Roles) Knows(action rampart.Action) bool { return r != nil && r.all.hold(action) }

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
func (r *Roles) Explain(p rampart.Principal, action rampart.Action, tenant string) Explanation {
	var e Explanation
	if r == nil {
		return e
	}
	e.Role, _ = r.Grantor(p, action, tenant)
	for name, g := range r.byName {
		if g.hold(action) {
			e.Holders = append(e.Holders, name)
		}
	}
	slices.Sort(e.Holders)
	return e
}
