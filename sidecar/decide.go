package sidecar

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/monitor/audit"
)

const (
	maxManyBody = 4 << 20 // bytes of one ManyRequest
	maxFilter   = 768 << 10
)

// checkObject is layer 3: may this subject touch this very object? The subject
// is the one that this sidecar let in, never one that the service names.
func (s *Sidecar) checkObject(w http.ResponseWriter, r *http.Request) {
	var q agent.CheckRequest
	if err := ask(r, &q); err != nil {
		problem.Write(w, err, "")
		return
	}
	id, err := s.identified(q.Identity)
	if err != nil {
		problem.Write(w, err, "")
		return
	}
	t := s.table.Load()
	t.await(r.Context(), q.AtLeast)
	d := s.decideObject(r.Context(), t, id, q)
	e := judged(id, string(q.Action), q.Resource.Type+"/"+q.Resource.ID, d)
	if err := s.onRecord(r.Context(), e); err != nil {
		problem.Write(w, err, id.Trace)
		return
	}
	answer(w, forService(d))
}

// checkMany is checkObject for many objects, and at most two events in the log:
// what was allowed, and what was refused.
func (s *Sidecar) checkMany(w http.ResponseWriter, r *http.Request) {
	var q agent.ManyRequest
	err := askWithin(r, maxManyBody, &q)
	if err == nil && (len(q.Checks) == 0 || len(q.Checks) > agent.MaxMany) {
		err = rampart.Errorf(rampart.Invalid, "", "1 to %d checks at once", agent.MaxMany)
	}
	var id agent.Identified
	if err == nil {
		id, err = s.identified(q.Identity)
	}
	if err == nil {
		err = s.spendOwn(r.Context(), len(q.Checks))
	}
	if err != nil {
		problem.Write(w, err, "")
		return
	}
	all, err := s.decideMany(r.Context(), id, q.Checks)
	for _, e := range manyDecided(id, q.Checks, all) {
		if rerr := s.onRecord(r.Context(), e); rerr != nil {
			err = rerr
		}
	}
	if err != nil {
		problem.Write(w, err, id.Trace)
		return
	}
	out := agent.ManyAnswer{Decisions: make([]rampart.Decision, len(all))}
	for i, d := range all {
		out.Decisions[i] = forService(d)
	}
	answer(w, out)
}

// decideMany decides until nobody waits for the answer any more.
func (s *Sidecar) decideMany(ctx context.Context, id agent.Identified, checks []agent.CheckRequest) ([]rampart.Decision, error) {
	t, newest := s.table.Load(), uint64(0)
	for _, c := range checks {
		newest = max(newest, c.AtLeast)
	}
	t.await(ctx, newest)
	out := make([]rampart.Decision, 0, len(checks))
	for _, c := range checks {
		if ctx.Err() != nil {
			return out, &rampart.Error{Kind: rampart.Unavailable, Control: "authz.domain", Msg: "the answer took too long", Err: ctx.Err()}
		}
		out = append(out, s.decideObject(ctx, t, id, c))
	}
	return out, nil
}

// maxNamed is how many refused resources one event names.
const maxNamed = 20

// manyDecided are the events of many decisions: one of those that were allowed,
// one of those that were refused, each told by its first. Both count; the latter
// names what was refused.
func manyDecided(id agent.Identified, checks []agent.CheckRequest, all []rampart.Decision) []audit.Event {
	allowed, refused := []int{}, []int{}
	for i, d := range all {
		if d.Allowed() {
			allowed = append(allowed, i)
		} else {
			refused = append(refused, i)
		}
	}
	var out []audit.Event
	for _, list := range [][]int{allowed, refused} {
		if len(list) == 0 {
			continue
		}
		first := list[0]
		e := judged(id, string(checks[first].Action), nameOf(checks[first].Resource), all[first])
		if e.Detail == nil {
			e.Detail = map[string]string{}
		}
		e.Detail["asked"], e.Detail["refused"] = strconv.Itoa(len(all)), strconv.Itoa(len(refused))
		out = append(out, e)
	}
	if len(refused) > 0 {
		nameRefused(out[len(out)-1].Detail, checks, refused)
	}
	return out
}

// nameRefused names resources in an event; their ids are the asker's to choose.
func nameRefused(detail map[string]string, checks []agent.CheckRequest, refused []int) {
	const most = 100
	for n, i := range refused[:min(len(refused), maxNamed)] {
		name := nameOf(checks[i].Resource)
		detail[fmt.Sprintf("resource.%02d", n+1)] = strings.ToValidUTF8(name[:min(len(name), most)], "")
	}
	if more := len(refused) - maxNamed; more > 0 {
		detail["resource.more"] = fmt.Sprintf("and %d more", more)
	}
}

func nameOf(r rampart.Resource) string { return r.Type + "/" + r.ID }

// filterObjects is layer 3 for a list: which objects may this subject touch?
func (s *Sidecar) filterObjects(w http.ResponseWriter, r *http.Request) {
	var q agent.FilterRequest
	err := ask(r, &q)
	var id agent.Identified
	if err == nil {
		id, err = s.identified(q.Identity)
	}
	if err == nil {
		err = s.spendOwn(r.Context(), 1)
	}
	if err != nil {
		problem.Write(w, err, "")
		return
	}
	t := s.table.Load()
	t.await(r.Context(), q.AtLeast)
	f, d := s.filter(r.Context(), t, id, q)
	d.ID = cmp.Or(d.ID, rand.Text()) // the event is the list's record
	e := judged(id, string(q.Action), q.Type+"/*", d)
	if d.Allowed() {
		e.Detail = map[string]string{"list": extentOf(f)} // an allowed one has no other
	}
	if err := s.onRecord(r.Context(), e); err != nil {
		problem.Write(w, err, id.Trace)
		return
	}
	text, err := json.Marshal(f)
	table, terr := json.Marshal(t.columns(q.Type))
	if err != nil || terr != nil || len(text) > maxFilter {
		problem.Write(w, &rampart.Error{Kind: rampart.Unavailable, Control: "authz.domain", Msg: "the list cannot be told", Err: err}, id.Trace)
		return
	}
	answer(w, agent.FilterAnswer{Decision: forService(d), Filter: text, Table: table})
}

func extentOf(f filter.Filter) string {
	switch {
	case f.IsAll():
		return "all"
	case f.IsNone():
		return "none"
	}
	return "some"
}

// judged is the event of one decision.
func judged(id agent.Identified, action, resource string, d rampart.Decision) audit.Event {
	e := audit.Event{Class: audit.ClassAuthzAllow, Action: action, Outcome: audit.Allowed, Control: "authz.domain", Flow: id.Flow, Layer: string(cmp.Or(d.Layer, rampart.LayerDomain)),
		Code: string(d.Code), Policies: d.Policies, Subject: id.Principal.Subject, Actor: id.Caller, Resource: resource, Trace: id.Trace}
	if !d.Allowed() {
		e.Class, e.Outcome, e.Detail = audit.ClassAuthzDeny, audit.Refused, map[string]string{"reason": d.Reason}
	}
	e.Decision = d.ID
	return e
}

func (s *Sidecar) onRecord(ctx context.Context, e audit.Event) error {
	if err := s.opt.Audit.Record(ctx, e); err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Control: "audit.log", Msg: "the decision cannot be recorded", Err: err}
	}
	return nil
}

// forService is what a service learns of a decision: enough to enforce it. Why
// is for operators.
func forService(d rampart.Decision) rampart.Decision {
	return rampart.Decision{ID: d.ID, Effect: d.Effect, Code: d.Code, Obligations: d.Obligations, Fields: d.Fields, Revision: d.Revision, ReasonUser: d.ReasonUser}
}

// decideObject asks the policies about one object. The organization that owns
// it comes first: a route that names none could not be judged by it at layer 2,
// and an administrator of one organization is a stranger in another.
func (s *Sidecar) decideObject(ctx context.Context, t *table, id agent.Identified, q agent.CheckRequest) rampart.Decision {
	q.Resource.Attrs = numbers(q.Resource.Attrs)
	r := authz.Request{Layer: rampart.LayerDomain, Principal: id.Principal, Action: q.Action, Resource: q.Resource,
		Context: contextOf(id, q.Context), AtLeast: q.AtLeast, Supported: q.Supported}
	switch {
	case t.sys.Off("authz.domain"):
		return t.decideTenant(ctx, r)
	case t.sys.Off("authz.service"): // the organization is layer 2's question
		return t.pdp.Decide(ctx, r)
	}
	return t.pdp.DecideObject(ctx, r)
}

// decideTenant is what is left of a decision in a throw-away system that has no
// layer 3.
func (t *table) decideTenant(ctx context.Context, r authz.Request) rampart.Decision {
	if r.Resource.Tenant != "" && !t.sys.Off("authz.service") {
		if d := t.pdp.DecideService(ctx, r.Principal, r.Resource.Tenant, pdp.Route{Allow: []string{"any"}}); !d.Allowed() {
			return d
		}
	}
	return rampart.Decision{Effect: rampart.Allow, Layer: rampart.LayerDomain, Reason: "the control is off"}
}

// contextOf is what policies see of the request: what the service says of it,
// and what this sidecar knows itself, which nobody says otherwise.
func contextOf(id agent.Identified, said map[string]any) map[string]any {
	out := make(map[string]any, len(said)+2)
	maps.Copy(out, numbers(said))
	delete(out, "relation") // facts of the graph
	out["caller"], out["flow"] = id.Caller, id.Flow
	return out
}

// columns says where a type's attributes are stored.
func (t *table) columns(resourceType string) filter.Table {
	if t.schema == nil {
		return filter.Table{}
	}
	return filter.TableOf(t.schema.Types[resourceType])
}

// filter asks the policies about all objects of a type.
func (s *Sidecar) filter(ctx context.Context, t *table, id agent.Identified, q agent.FilterRequest) (filter.Filter, rampart.Decision) {
	if t.sys.Off("authz.domain") {
		return t.ofMembers(id.Principal), rampart.Decision{Effect: rampart.Allow, Layer: rampart.LayerDomain, Reason: "the control is off"}
	}
	return t.pdp.Filter(ctx, authz.Request{Principal: id.Principal, Action: q.Action, Resource: rampart.Resource{Type: q.Type, Tenant: q.Tenant},
		Context: contextOf(id, q.Context), AtLeast: q.AtLeast, Supported: q.Supported})
}

// ofMembers is decideTenant for a list.
func (t *table) ofMembers(p rampart.Principal) filter.Filter {
	if t.sys.Off("authz.service") {
		return filter.All()
	}
	list := make([]any, len(p.Organizations))
	for i, org := range p.Organizations {
		list[i] = org
	}
	return filter.Where(filter.In{X: filter.Attr{Name: "tenant"}, List: filter.Lit{Value: list}})
}
