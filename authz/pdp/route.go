package pdp

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
)

// Route is what a flow asks of whoever uses one of its routes.
type Route struct {
	// Permission is that of the route, "type:verb". Roles must hold it when
	// Allow is empty; a credential's scope must cover it in any case, unless it
	// is "".
	Permission string
	// Allow holds "role:NAME", "permission:TYPE:VERB" or "any" (anyone who is
	// authenticated); one suffices. Anything else allows nobody.
	Allow []string
	// Require is a permission that must be held besides; "" asks for none.
	Require string
}

// DecideRoute decides at the gateway layer.
func (d *PDP) DecideRoute(ctx context.Context, p rampart.Principal, r Route) rampart.Decision {
	return d.route(ctx, rampart.LayerGateway, p, r)
}

// DecideService decides at the service layer: p must belong to the
// organization that the request names, whatever roles it holds, and meet the
// route's demands. An empty tenant means that the request names none.
func (d *PDP) DecideService(ctx context.Context, p rampart.Principal, tenant string, r Route) rampart.Decision {
	if denied, done := d.early(ctx, rampart.LayerService, p); done {
		return denied
	}
	if tenant != "" && !slices.Contains(p.Organizations, tenant) {
		return deny(rampart.LayerService, rampart.CodeNotMember, fmt.Sprintf("%s does not belong to organization %q", p.Subject, tenant))
	}
	return d.route(ctx, rampart.LayerService, p, r)
}

func (d *PDP) route(ctx context.Context, layer rampart.Layer, p rampart.Principal, r Route) rampart.Decision {
	if denied, done := d.early(ctx, layer, p); done {
		return denied
	}
	for _, permission := range []string{r.Permission, r.Require} {
		if permission != "" && !p.InScope(rampart.Action(permission)) {
			return outOfScope(layer, p, permission)
		}
	}
	if r.Require != "" && !d.roles.Check(p, rampart.Action(r.Require), "") {
		return d.missing(layer, p, r.Require)
	}
	if len(r.Allow) > 0 {
		return d.anyOf(layer, p, r.Allow)
	}
	if !d.roles.Check(p, rampart.Action(r.Permission), "") {
		return d.missing(layer, p, r.Permission)
	}
	return allow(layer, rampart.PolicyRef{Engine: "rbac", ID: r.Permission, Effect: rampart.Allow})
}

func (d *PDP) anyOf(layer rampart.Layer, p rampart.Principal, rules []string) rampart.Decision {
	for _, rule := range rules {
		if d.meets(p, rule) {
			return allow(layer, rampart.PolicyRef{Engine: "flow", ID: "allow " + rule, Effect: rampart.Allow})
		}
	}
	list := strings.Join(rules, ", ")
	return deny(layer, rampart.CodeRoleMissing,
		fmt.Sprintf("%s with roles %q meets none of the flow's allow rules: %s", p.Subject, p.Roles, list),
		rampart.PolicyRef{Engine: "flow", ID: "allow " + list})
}

func (d *PDP) meets(p rampart.Principal, rule string) bool {
	if rule == "any" {
		return true
	}
	if role, ok := strings.CutPrefix(rule, "role:"); ok {
		return role != "" && p.HasRole(role)
	}
	permission, ok := strings.CutPrefix(rule, "permission:")
	return ok && p.InScope(rampart.Action(permission)) && d.roles.Check(p, rampart.Action(permission), "")
}

// outOfScope denies what the subject may hold and this credential may not use.
func outOfScope(layer rampart.Layer, p rampart.Principal, permission string) rampart.Decision {
	return deny(layer, rampart.CodeScope,
		fmt.Sprintf("the credential of %s is limited to %q, which does not cover %q", p.Subject, p.Scope, permission),
		rampart.PolicyRef{Engine: "flow", ID: "scope " + permission})
}

func (d *PDP) missing(layer rampart.Layer, p rampart.Principal, permission string) rampart.Decision {
	holders := d.roles.Explain(p, rampart.Action(permission), "").Holders
	reason := fmt.Sprintf("%s with roles %q lacks the permission %q, which these roles hold: %q", p.Subject, p.Roles, permission, holders)
	if len(holders) == 0 {
		reason = fmt.Sprintf("%s lacks the permission %q, which no role in authz.roles holds", p.Subject, permission)
	}
	return deny(layer, rampart.CodeRoleMissing, reason, rampart.PolicyRef{Engine: "rbac", ID: permission})
}
