package pdp

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
)

// anybody is the allow rule that everyone who is authenticated meets.
const anybody = "any"

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
	// Flow is the id of the flow, so that a decision can cite its line; "" cites
	// none.
	Flow string `json:",omitzero"`
}

// DecideRoute decides at the gateway layer. Which organization is meant is not
// known there, so that a role for any organization counts.
func (d *PDP) DecideRoute(ctx context.Context, p rampart.Principal, r Route) rampart.Decision {
	return d.decide(ctx, &Question{Layer: rampart.LayerGateway, Principal: p, Route: r})
}

// DecideService decides at the service layer: p must belong to the
// organization that the request names, whatever roles it holds, and meet the
// route's demands with the roles that count there. An empty tenant means that
// the request names none: a role for one organization then counts only where
// policies will be asked about the object itself.
func (d *PDP) DecideService(ctx context.Context, p rampart.Principal, tenant string, r Route) rampart.Decision {
	return d.decide(ctx, &Question{Layer: rampart.LayerService, Principal: p, Tenant: tenant, Route: r})
}

func (d *PDP) service(q *Question) rampart.Decision {
	if q.Tenant != "" && !slices.Contains(q.Principal.Organizations, q.Tenant) {
		return d.stranger(&q.Principal, q.Tenant, q.Route.Flow)
	}
	if q.Tenant == "" && len(d.engines) == 0 && scoped(q.Principal.Roles) {
		// No policy of this service asks later whose the object is.
		p := q.Principal
		p.Roles = d.roles.Narrow(p, "")
		return d.route(q.Layer, &p, "", &q.Route)
	}
	return d.route(q.Layer, &q.Principal, q.Tenant, &q.Route)
}

// stranger denies who does not belong to the organization. No policy says so:
// it cites where the flow stands, or else all of authz.
func (d *PDP) stranger(p *rampart.Principal, tenant, flow string) rampart.Decision {
	ref := d.cite("rbac", "membership", "authz")
	if flow != "" {
		ref = d.cite("flow", "membership", "flow "+flow, "authz")
	}
	return deny(rampart.LayerService, rampart.CodeNotMember, fmt.Sprintf("%s does not belong to organization %q", p.Subject, clip(tenant)), ref)
}

func (d *PDP) route(layer rampart.Layer, p *rampart.Principal, tenant string, r *Route) rampart.Decision {
	if clash, ok := d.roles.Separated(*p, tenant); ok {
		return d.separated(layer, p, clash)
	}
	for _, permission := range [...]string{r.Permission, r.Require} {
		if permission != "" && !p.InScope(rampart.Action(permission)) {
			return d.outOfScope(layer, p, permission, r.Flow)
		}
	}
	if r.Require != "" && !d.roles.Check(*p, rampart.Action(r.Require), tenant) {
		return d.missing(layer, p, tenant, r.Require, r.Flow)
	}
	if len(r.Allow) > 0 {
		return d.anyOf(layer, p, tenant, r)
	}
	role, ok := d.roles.Grantor(*p, rampart.Action(r.Permission), tenant)
	if !ok {
		return d.missing(layer, p, tenant, r.Permission, r.Flow)
	}
	return allow(layer, d.cited.of(citation{"rbac", r.Permission, role}, func() rampart.PolicyRef {
		return d.cite("rbac", r.Permission, "role "+role, "roles")
	})...)
}

func (d *PDP) anyOf(layer rampart.Layer, p *rampart.Principal, tenant string, r *Route) rampart.Decision {
	for _, rule := range r.Allow {
		if d.meets(p, tenant, rule) {
			return allow(layer, d.cited.of(citation{"flow", rule, r.Flow}, func() rampart.PolicyRef {
				return d.cite("flow", "allow "+rule, "flow "+r.Flow)
			})...)
		}
	}
	list := strings.Join(r.Allow, ", ")
	return deny(layer, rampart.CodeRoleMissing,
		fmt.Sprintf("%s with roles %q meets none of the flow's allow rules: %s", p.Subject, p.Roles, list),
		d.cite("flow", "allow "+list, "flow "+r.Flow))
}

func (d *PDP) meets(p *rampart.Principal, tenant, rule string) bool {
	if rule == anybody {
		return true
	}
	if role, ok := strings.CutPrefix(rule, "role:"); ok {
		return d.roles.Holds(*p, role, tenant)
	}
	permission, ok := strings.CutPrefix(rule, "permission:")
	return ok && p.InScope(rampart.Action(permission)) && d.roles.Check(*p, rampart.Action(permission), tenant)
}

// outOfScope denies what the subject may hold and this credential may not use.
func (d *PDP) outOfScope(layer rampart.Layer, p *rampart.Principal, permission, flow string) rampart.Decision {
	return deny(layer, rampart.CodeScope,
		fmt.Sprintf("the credential of %s is limited to %q, which does not cover %q", p.Subject, p.Scope, permission),
		d.cite("flow", "scope "+permission, "flow "+flow))
}

func (d *PDP) missing(layer rampart.Layer, p *rampart.Principal, tenant, permission, flow string) rampart.Decision {
	holders := d.roles.Explain(*p, rampart.Action(permission), tenant).Holders
	reason := fmt.Sprintf("%s with roles %q lacks the permission %q, which these roles hold: %q", p.Subject, p.Roles, permission, holders)
	if tenant != "" && d.roles.Check(*p, rampart.Action(permission), "") {
		reason += fmt.Sprintf("; none of its roles that do counts in organization %q", tenant)
	}
	if len(holders) == 0 {
		reason = fmt.Sprintf("%s lacks the permission %q, which no role in authz.roles holds", p.Subject, permission)
	}
	return deny(layer, rampart.CodeRoleMissing, reason, d.cite("rbac", permission, "flow "+flow, "roles"))
}
