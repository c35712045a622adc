package pdp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rbac"
)

// object answers at the domain layer: first what needs no policy, then every
// engine, and what they found is joined.
func (d *PDP) object(ctx context.Context, q *Question, valid bool) rampart.Decision {
	r := *q.Request
	if !valid {
		denied := d.check(&r)
		if denied == nil {
			r.Principal, denied = d.admit(&q.Principal, r.Action, r.Resource.Tenant)
		}
		if denied != nil {
			return *denied
		}
	}
	grant := d.grant(r.Action, r.Resource.Type)
	if len(d.engines) == 0 && grant == "" {
		return deny(rampart.LayerDomain, rampart.CodeNoPermit, "the service has no policy: name a .cedar or .rego file under `policy` of the service in rampart.yaml")
	}
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	found := d.byRelation(grant, &r)
	for _, e := range d.engines {
		v := e.Evaluate(ctx, r)
		found.Permits = append(found.Permits, v.Permits...)
		found.Forbids = append(found.Forbids, v.Forbids...)
		found.Failures = append(found.Failures, v.Failures...)
		found.Looked += v.Looked
	}
	out := d.combine(ctx, &r, found)
	if grant != "" && (out.Allowed() || out.Code == rampart.CodeNoPermit) {
		out.Path = q.Path
	}
	return out
}

// admit denies what roles and the credential alone rule out, whatever the
// policies say, and returns the principal with the roles that count for a
// resource of the tenant: policies know nothing of roles for other
// organizations. An action that no role of the system holds is the service's
// own, and its policies alone decide it, within the credential's scope.
func (d *PDP) admit(p *rampart.Principal, action rampart.Action, tenant string) (rampart.Principal, *rampart.Decision) {
	in := *p
	in.Roles = d.roles.Narrow(in, tenant)
	if clash, ok := d.roles.Separated(*p, tenant); ok {
		out := d.separated(rampart.LayerDomain, p, clash)
		return in, &out
	}
	if !p.InScope(action) {
		out := d.outOfScope(rampart.LayerDomain, p, string(action), "")
		return in, &out
	}
	if !d.roles.Knows(action) {
		return in, nil
	}
	// Nothing was narrowed away unless the lists differ.
	if len(in.Roles) == len(p.Roles) && slices.Equal(in.Roles, p.Roles) || d.roles.Check(in, action, "") {
		return in, nil
	}
	all := *p
	all.Scope = nil
	if !d.roles.Check(all, action, "") {
		return in, nil // no role ever gave it: policies may still
	}
	reason := fmt.Sprintf("%s holds the permission %q by roles %q, of which only %q count for organization %q and this credential", p.Subject, action, p.Roles, in.Roles, tenant)
	return in, refuse(rampart.LayerDomain, rampart.CodeRoleMissing, reason, d.cite("rbac", string(action), "roles"))
}

func (d *PDP) separated(layer rampart.Layer, p *rampart.Principal, clash rbac.Clash) rampart.Decision {
	key := fmt.Sprintf("separate %d", clash.Separation)
	reason := fmt.Sprintf("%s acts with the roles %q and %q, which are kept apart; a credential whose scope names the role to act with, such as %q, may go on", p.Subject, clash.A, clash.B, "role:"+roleOf(clash.A))
	return deny(layer, rampart.CodeSeparation, reason, d.cite("rbac", key, key, "roles"))
}

func roleOf(held string) string {
	role, _, _ := strings.Cut(held, "@")
	return role
}

// byRelation is the verdict of a type that grants by relation. An unknown
// relation permits nothing.
func (d *PDP) byRelation(grant string, r *authz.Request) authz.Verdict {
	if grant == "" {
		return authz.Verdict{}
	}
	ref := d.relationRef(r.Resource.Type, grant)
	holds, known := r.Relations[grant]
	switch {
	case holds:
		return authz.Verdict{Looked: 1, Permits: []authz.Ruling{{Policy: ref}}}
	case !known && r.Resource.ID != "":
		err := errors.New("nobody told whether the relation holds")
		return authz.Verdict{Looked: 1, Failures: []authz.Failure{{Policy: ref, Code: rampart.CodeSource, Err: err}}}
	}
	return authz.Verdict{Looked: 1}
}

// combine is the one place where facts become a decision.
func (d *PDP) combine(ctx context.Context, r *authz.Request, v authz.Verdict) rampart.Decision {
	if len(v.Forbids) > 0 {
		return forbidden(v.Forbids)
	}
	for _, f := range v.Failures {
		if f.Policy.Effect == rampart.Deny {
			return failed(f)
		}
	}
	if ctx.Err() != nil {
		return deny(rampart.LayerDomain, rampart.CodeTimeout, "the time limit passed")
	}
	if len(v.Permits) > 0 {
		return permitted(v.Permits, r.Supported)
	}
	if len(v.Failures) > 0 {
		return failed(v.Failures[0])
	}
	return d.noPermit(ctx, r, v.Looked)
}

func forbidden(list []authz.Ruling) rampart.Decision {
	refs := refsOf(list)
	out := deny(rampart.LayerDomain, rampart.CodeForbidden, "forbidden by "+join(refs), refs...)
	for _, f := range list {
		out.ReasonUser = cmp.Or(out.ReasonUser, f.Reason)
		if f.Detail != "" {
			out.Reason += "; " + f.Policy.ID + " says: " + shorten(f.Detail)
		}
	}
	out.Obligations = obligations(list)
	return out
}

// permitted allows, unless the asker cannot carry out what the permits ask for.
func permitted(list []authz.Ruling, supported []string) rampart.Decision {
	out := allow(rampart.LayerDomain, refsOf(list)...)
	out.Obligations, out.Fields = obligations(list), fields(list)
	for _, o := range out.Obligations {
		if !slices.Contains(supported, o.Type) {
			out.Effect, out.Code = rampart.Deny, rampart.CodeUnenforceable
			out.Fields = nil
			out.Reason = fmt.Sprintf("%s asks for %q, which whoever asked cannot carry out", o.ID, o.Type)
			break
		}
	}
	return out
}

func failed(f authz.Failure) rampart.Decision {
	reason := fmt.Sprintf("%s could not be evaluated: %v", f.Policy, f.Err)
	ref := f.Policy
	ref.Effect = rampart.Deny
	code := f.Code
	if code == "" {
		code = rampart.CodeError
	}
	return deny(rampart.LayerDomain, code, reason, ref)
}

// refsOf names the policies of rulings, by file and line.
func refsOf(rulings []authz.Ruling) []rampart.PolicyRef {
	refs := make([]rampart.PolicyRef, len(rulings))
	for i, r := range rulings {
		refs[i] = r.Policy
	}
	if len(refs) > 1 {
		slices.SortFunc(refs, func(a, b rampart.PolicyRef) int {
			return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.ID, b.ID))
		})
	}
	return refs
}

func join(refs []rampart.PolicyRef) string {
	names := make([]string, len(refs))
	for i, r := range refs {
		names[i] = r.String()
	}
	return strings.Join(names, ", ")
}
