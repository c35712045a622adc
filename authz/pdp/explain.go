package pdp

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// maxMissing bounds the near misses of one denial.
const maxMissing = 8

// source is how decisions name the file that roles, flows and types stand in.
const source = "rampart.yaml"

// cite names what rampart.yaml says; the first of keys that it has gives the
// line.
func (d *PDP) cite(engine, id string, keys ...string) rampart.PolicyRef {
	ref := rampart.PolicyRef{Engine: engine, ID: id}
	for _, key := range keys {
		if line := d.opt.Lines[key]; line > 0 {
			ref.File, ref.Line = source, line
			break
		}
	}
	return ref
}

// maxCited and maxName bound what is kept of citations: a wildcard permits as
// many actions as the asker has names for.
const (
	maxCited = 1024
	maxName  = 256 // bytes
)

// citation names what allowed at the gateway or service layer: a permission and
// its role, or a rule and its flow.
type citation struct{ engine, what, by string }

// citations keeps what allowing decisions cite, so that the next costs no
// memory. The zero value is ready for use, by any number of goroutines.
type citations struct {
	mu    sync.Mutex // held to add
	known atomic.Pointer[map[citation][]rampart.PolicyRef]
}

// of returns the one policy that c names; all decisions share the list. word
// makes the policy.
func (s *citations) of(c citation, word func() rampart.PolicyRef) []rampart.PolicyRef {
	if known := s.known.Load(); known != nil {
		if refs, ok := (*known)[c]; ok {
			return refs
		}
	}
	ref := word()
	ref.Effect = rampart.Allow
	refs := []rampart.PolicyRef{ref}
	if len(c.what) <= maxName && len(c.by) <= maxName {
		s.add(c, refs)
	}
	return refs
}

func (s *citations) add(c citation, refs []rampart.PolicyRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[citation][]rampart.PolicyRef{}
	if known := s.known.Load(); known != nil {
		if len(*known) >= maxCited {
			return
		}
		maps.Copy(next, *known)
	}
	// The strings may be parts of a request, which must not be kept with them.
	c = citation{c.engine, strings.Clone(c.what), strings.Clone(c.by)}
	refs[0].ID = strings.Clone(refs[0].ID)
	next[c] = refs
	s.known.Store(&next)
}

// relationRef cites the relation of the model that permits.
func (d *PDP) relationRef(typ, relation string) rampart.PolicyRef {
	ref := rampart.PolicyRef{Engine: "rebac", ID: typ + "#" + relation, Effect: rampart.Allow}
	if d.model != nil {
		ref.File, ref.Line = d.model.Name(), d.model.Line(typ, relation)
	}
	return ref
}

// noPermit tells an operator which permits came closest and where each stopped.
func (d *PDP) noPermit(ctx context.Context, r *authz.Request, looked int) rampart.Decision {
	out := deny(rampart.LayerDomain, rampart.CodeNoPermit,
		fmt.Sprintf("none of %d permits matched %s of %s by %s", looked, r.Action, r.Resource.Type, r.Principal.Subject))
	out.Missing = d.near(ctx, r)
	if len(out.Missing) == 0 {
		return out
	}
	closest := out.Missing[0]
	out.Reason += fmt.Sprintf("; closest is %s: %s %s", closest.Policy, closest.Condition, closest.Problem)
	if closest.Line > 0 {
		out.Reason += fmt.Sprintf(" (line %d)", closest.Line)
	}
	return out
}

// near returns the permits that came close, closest first.
func (d *PDP) near(ctx context.Context, r *authz.Request) []rampart.NearMiss {
	var out []rampart.NearMiss
	if grant := d.grant(r.Action, r.Resource.Type); grant != "" {
		ref := d.relationRef(r.Resource.Type, grant)
		out = append(out, rampart.NearMiss{Policy: ref, Condition: ref.ID, Line: ref.Line, Problem: "does not hold for " + r.Principal.Subject})
	}
	for _, e := range d.engines {
		out = append(out, e.Explain(ctx, *r)...)
	}
	slices.SortStableFunc(out, func(a, b rampart.NearMiss) int { return cmp.Compare(b.Held, a.Held) })
	out = out[:min(len(out), maxMissing)]
	for i := range out {
		out[i].Condition, out[i].Problem = shorten(out[i].Condition), shorten(out[i].Problem)
	}
	return out
}

// shorten keeps a long condition from filling the log.
func shorten(condition string) string {
	const limit = 300
	if len(condition) <= limit {
		return condition
	}
	return strings.ToValidUTF8(condition[:limit], "") + "..."
}

// told adds what the user may read of a denial, unless the policy says it.
func told(d rampart.Decision) rampart.Decision {
	if !d.Allowed() && d.ReasonUser == "" {
		d.ReasonUser = forUser(d.Code)
	}
	return d
}

// forUser words a code without what was judged, or by which rule.
func forUser(code rampart.Code) string {
	switch code {
	case rampart.CodeForbidden:
		return "A rule forbids this."
	case rampart.CodeRoleMissing:
		return "Your role does not allow this."
	case rampart.CodeNotMember:
		return "You do not belong to this organization."
	case rampart.CodeScope:
		return "The application that you use was not given this permission."
	case rampart.CodeSeparation:
		return "You hold roles that may not be used together; sign in with one of them."
	case rampart.CodeUnenforceable:
		return "This is allowed only under a condition that cannot be met here."
	case rampart.CodeUntranslatable:
		return "This list cannot be shown to you."
	case rampart.CodeError, rampart.CodeTimeout, rampart.CodeStale, rampart.CodeSource, rampart.CodeClock:
		return "This cannot be decided at the moment, so it is refused. Try again later."
	}
	return "You may not do this."
}
