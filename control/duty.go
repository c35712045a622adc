package control

import (
	"fmt"
	"maps"
	"slices"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/rbac"
	"github.com/rampart-security/rampart/spec"
)

// compileRoles prepares the roles of the file for granting them.
func compileRoles(sys *spec.System) (*rbac.Roles, error) {
	var apart []rbac.Separation
	for _, s := range sys.Authz.Separate {
		apart = append(apart, rbac.Separation{Roles: s.Roles, Dynamic: s.Kind == spec.SeparateDynamic})
	}
	return rbac.Compile(sys.Authz.Roles, apart...)
}

// checkRoles refuses what nobody is granted: a role that nothing defines, one
// for an organization that its holder does not belong to, and two that are kept
// apart. "manager@acme" is the role manager in acme alone.
func (p *Plane) checkRoles(roles, organizations []string) error {
	for _, text := range roles {
		role, org, scoped := spec.ScopedRole(text)
		if err := p.checkRole(role); err != nil {
			return err
		}
		if scoped && !slices.Contains(organizations, org) {
			return invalid("role %.128q is for an organization that its holder does not belong to; add the organization, or grant %.64q for all", text, role)
		}
	}
	return p.conflict(roles)
}

// checkRole refuses a role that nothing defines: most likely a typing error
// that would take a right away.
func (p *Plane) checkRole(role string) error {
	defined := p.system().Authz.Roles
	if _, ok := defined[role]; ok || len(defined) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(defined))
	if near, ok := spec.Nearest(role, names); ok {
		return invalid("role %.64q is not in authz.roles; did you mean %q?", role, near)
	}
	return invalid("role %.64q is not in authz.roles; there are: %s", role, some(names))
}

// separation is the control that keeps roles apart.
const separation = "authz.separation"

// conflict refuses roles that separation of duty keeps apart.
func (p *Plane) conflict(roles []string) error {
	now := p.living()
	clash, ok := now.roles.Conflict(roles)
	if !ok || now.sys.Off(separation) {
		return nil
	}
	key := fmt.Sprintf("authz.separate[%d]", clash.Separation)
	where := key
	if line := now.sys.Line(key); line > 0 {
		where = fmt.Sprintf("%s, line %d of rampart.yaml", key, line)
	}
	return rampart.Errorf(rampart.Conflict, separation, "control: nobody is granted both %.64q and %.64q (%s); grant one of them", clash.A, clash.B, where)
}
