package pdp

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// now is the member of the context that holds the time, in whole seconds since
// 1970. It is always the PDP's own, so that nobody can ask in another hour.
const now = "now"

// decideObject asks every engine and joins what they found.
func (d *PDP) decideObject(ctx context.Context, r authz.Request) rampart.Decision {
	if denied, done := d.early(ctx, rampart.LayerDomain, r.Principal); done {
		return denied
	}
	if len(d.engines) == 0 {
		return deny(rampart.LayerDomain, rampart.CodeNoPermit, "the service has no policy: name a .cedar or .rego file under `policy` of the service in rampart.yaml")
	}
	if err := r.Validate(); err != nil {
		return deny(rampart.LayerDomain, rampart.CodeError, "the request is out of bounds: "+err.Error())
	}
	about := make(map[string]any, len(r.Context)+1)
	maps.Copy(about, r.Context)
	about[now] = d.now().Unix()
	r.Context = about

	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	var found authz.Verdict
	for _, e := range d.engines {
		v := e.Evaluate(ctx, r)
		found.Permits = append(found.Permits, v.Permits...)
		found.Forbids = append(found.Forbids, v.Forbids...)
		found.Failures = append(found.Failures, v.Failures...)
		found.Looked += v.Looked
	}
	return d.combine(ctx, r, found)
}

// combine is the one place where facts become a decision.
func (d *PDP) combine(ctx context.Context, r authz.Request, v authz.Verdict) rampart.Decision {
	if len(v.Forbids) > 0 {
		refs := refsOf(v.Forbids)
		return deny(rampart.LayerDomain, rampart.CodeForbidden, "forbidden by "+join(refs), refs...)
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
		return allow(rampart.LayerDomain, refsOf(v.Permits)...)
	}
	if len(v.Failures) > 0 {
		return failed(v.Failures[0])
	}
	return deny(rampart.LayerDomain, rampart.CodeNoPermit, d.noPermit(ctx, r, v.Looked))
}

func failed(f authz.Failure) rampart.Decision {
	reason := fmt.Sprintf("%s could not be evaluated: %v", f.Policy, f.Err)
	ref := f.Policy
	ref.Effect = rampart.Deny
	return deny(rampart.LayerDomain, f.Code, reason, ref)
}

// noPermit tells an operator which rule came closest and where it stopped.
func (d *PDP) noPermit(ctx context.Context, r authz.Request, looked int) string {
	reason := fmt.Sprintf("none of %d permits matched %s of %s by %s", looked, r.Action, r.Resource.Type, r.Principal.Subject)
	var misses []rampart.NearMiss
	for _, e := range d.engines {
		misses = append(misses, e.Explain(ctx, r)...)
	}
	if len(misses) == 0 {
		return reason
	}
	closest := slices.MaxFunc(misses, func(a, b rampart.NearMiss) int { return cmp.Compare(a.Held, b.Held) })
	reason += fmt.Sprintf("; closest is %s: %s %s", closest.Policy, shorten(closest.Condition), closest.Problem)
	if closest.Line > 0 {
		reason += fmt.Sprintf(" (line %d)", closest.Line)
	}
	return reason
}

// shorten keeps a long condition from filling the log.
func shorten(condition string) string {
	const limit = 300
	if len(condition) <= limit {
		return condition
	}
	return strings.ToValidUTF8(condition[:limit], "") + "..."
}

// refsOf names the policies of rulings, by file and line.
func refsOf(rulings []authz.Ruling) []rampart.PolicyRef {
	refs := make([]rampart.PolicyRef, len(rulings))
	for i, r := range rulings {
		refs[i] = r.Policy
	}
	slices.SortFunc(refs, func(a, b rampart.PolicyRef) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return refs
}

func join(refs []rampart.PolicyRef) string {
	names := make([]string, len(refs))
	for i, r := range refs {
		names[i] = r.String()
	}
	return strings.Join(names, ", ")
}
