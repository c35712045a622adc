// Package pdp is the policy decision point: it answers at all three layers,
// from roles and policies that it compiled once.
//
//   - gateway: may this subject use this route at all? (DecideRoute)
//   - service: may it act for this organization, with this permission?
//     (DecideService)
//   - domain: may it touch this very object? The service's policies answer, and
//     the relations that a type grants by. (Decide, DecideObject, Filter)
//
// Layers are joined by AND, and each denies by default. Inside the domain layer
// any forbid denies, then anything uncertain (a forbid that fails, a time limit,
// a fact that could not be had, a request out of bounds) denies, then one permit
// allows. A permit that fails permits nothing.
//
// A decision has two halves. The first gathers a Question: it alone reads the
// clock and asks the relation graph and the providers of attributes. The second,
// Answer, is a function of the Question, so that a logged one can be answered
// again.
package pdp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/cedar"
	"github.com/rampart-security/rampart/authz/rbac"
	"github.com/rampart-security/rampart/authz/rebac"
	"github.com/rampart-security/rampart/authz/rego"
)

// DefaultTimeout bounds one decision. An evaluation takes microseconds; the
// rest is room for a machine with many times more to do than it has cores, where
// 50 ms were seen to pass while an evaluation waited for its turn.
const DefaultTimeout = 250 * time.Millisecond

// Options of New. The zero value makes a PDP that denies everything but
// `allow` rules of routes.
type Options struct {
	Roles     map[string][]string       // as in rampart.yaml, see rbac.Compile
	Separate  []Separation              // separation of duty
	Schema    *authz.Schema             // if nil, input is bounded but not checked
	Policies  map[string][]byte         // file name, ending in .cedar or .rego, to its text
	ModelFile string                    // name of the model of relations; "" when there is none
	Model     []byte                    // its text
	FromToken map[string]string         // as in rampart.yaml: what a token says of relations
	Graph     authz.Graph               // if nil, every relation is unknown
	Providers map[string]authz.Provider // by the name that the schema uses; one that is missing is down
	Lines     map[string]int            // of rampart.yaml, see pap.Set
	Policy    uint64                    // version of the bundle that all this came from
	Timeout   time.Duration             // of one decision, without the time that providers take; 0 means DefaultTimeout
	Now       func() time.Time          // if nil, time.Now
	Clock     func() error              // if nil, the clock is trusted; an error denies with CodeClock
	Fresh     func() error              // if nil, policies do not age; an error denies with CodeStale
	// Observe is called with each decision and all that it was made from, and
	// with an ID to find it by. An error denies: what cannot be put on record
	// did not happen. If nil, decisions have no ID.
	Observe func(ctx context.Context, q Question, d rampart.Decision) error
}

// Separation names roles that nobody may use together.
type Separation = rbac.Separation

// Question is the whole input of one decision: the same Question gets the same
// Decision from the same Options, whenever it is asked (see PDP.Answer).
type Question struct {
	ID        string            `json:"id"`
	At        time.Time         `json:"at"`
	Layer     rampart.Layer     `json:"layer"`
	Principal rampart.Principal `json:"principal"`
	Tenant    string            `json:"tenant,omitzero"`  // service layer
	Route     Route             `json:"route,omitzero"`   // gateway and service layer
	Request   *authz.Request    `json:"request,omitzero"` // domain layer, with every fact that was looked up; its Principal has the roles that count for the resource. Service layer: for the record, what was asked about an object of a foreign organization
	Refused   *rampart.Decision `json:"refused,omitzero"` // denied before the policies were asked: a source was down, the clock had jumped
	Path      []string          `json:"path,omitzero"`    // the tuples behind the relation that the type grants by
	Revision  rampart.Revision  `json:"revision,omitzero"`
}

// PDP decides. It is read-only and safe for concurrent use. A nil *PDP denies.
type PDP struct {
	roles   *rbac.Roles
	engines []authz.Engine
	types   map[string]*declared // nil: nothing is declared, nothing is checked
	model   *rebac.Model         // nil when there is none
	cited   citations
	opt     Options // Timeout and Now are set
}

// New compiles roles and policies; any fault in either is an error that names
// file and line where it can.
func New(o Options) (*PDP, error) {
	d, err := compile(o)
	if err != nil {
		return nil, fmt.Errorf("pdp: %w", err)
	}
	return d, nil
}

func compile(o Options) (*PDP, error) {
	if o.Timeout < 0 {
		return nil, fmt.Errorf("a time limit of %v leaves no time", o.Timeout)
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &PDP{opt: o}
	var errs [3]error
	d.roles, errs[0] = rbac.Compile(o.Roles, o.Separate...)
	d.engines, errs[1] = engines(o)
	if o.ModelFile != "" {
		d.model, errs[2] = rebac.ParseModel(o.ModelFile, o.Model)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	d.types = d.declare(o.Schema)
	return d, d.related()
}

func engines(o Options) ([]authz.Engine, error) {
	byExt := map[string]map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(o.Policies)) {
		ext := path.Ext(name)
		if ext != ".cedar" && ext != ".rego" {
			return nil, fmt.Errorf("%s: a policy file ends in .cedar or .rego", name)
		}
		if byExt[ext] == nil {
			byExt[ext] = map[string][]byte{}
		}
		byExt[ext][name] = o.Policies[name]
	}
	var out []authz.Engine
	if files := byExt[".cedar"]; files != nil {
		e, err := cedar.New(files, o.Schema)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if files := byExt[".rego"]; files != nil {
		e, err := rego.New(files, o.Schema)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// Decide implements authz.Decider. The gateway layer asks for the permission
// of the action, the service layer for it and for membership in the resource's
// tenant, the domain layer asks the policies; any other layer denies.
// Relations of the request are looked up anew, whatever the asker says of them.
func (d *PDP) Decide(ctx context.Context, r authz.Request) rampart.Decision {
	route := Route{Permission: string(r.Action)}
	switch r.Layer {
	case rampart.LayerGateway:
		return d.DecideRoute(ctx, r.Principal, route)
	case rampart.LayerService:
		return d.DecideService(ctx, r.Principal, r.Resource.Tenant, route)
	case rampart.LayerDomain:
		return d.decideObject(ctx, r)
	}
	return d.decide(ctx, &Question{Layer: r.Layer, Principal: r.Principal})
}

// decideObject stands apart from Decide, since its request goes to the heap.
func (d *PDP) decideObject(ctx context.Context, r authz.Request) rampart.Decision {
	return d.decide(ctx, &Question{Layer: r.Layer, Principal: r.Principal, Request: &r})
}

// DecideObject decides about one object as the sidecar does. The organization
// that owns it comes first: a route that names none could not be judged by it
// at the service layer, and an administrator of one organization is a stranger
// in another.
func (d *PDP) DecideObject(ctx context.Context, r authz.Request) rampart.Decision {
	if r.Resource.Tenant != "" && !slices.Contains(r.Principal.Organizations, r.Resource.Tenant) {
		return d.foreign(ctx, r)
	}
	r.Layer = rampart.LayerDomain
	return d.Decide(ctx, r)
}

// foreign decides at the service layer about an object of an organization to
// which the principal does not belong. What was asked goes on record, without
// what the object holds.
func (d *PDP) foreign(ctx context.Context, r authz.Request) rampart.Decision {
	q := &Question{Layer: rampart.LayerService, Principal: r.Principal, Tenant: r.Resource.Tenant, Route: Route{Allow: []string{anybody}}}
	asked := authz.Request{Layer: q.Layer, Action: r.Action, Resource: rampart.Resource{Type: r.Resource.Type, ID: r.Resource.ID, Tenant: r.Resource.Tenant}}
	if asked.Validate() == nil {
		q.Request = &asked
	}
	return d.decide(ctx, q)
}

// decide gathers what q lacks, answers it and puts both on record.
func (d *PDP) decide(ctx context.Context, q *Question) rampart.Decision {
	if d == nil {
		return told(deny(q.Layer, rampart.CodeError, "there is no policy decision point"))
	}
	q.Revision.Policy = d.opt.Policy
	if d.opt.Observe != nil {
		q.ID, q.At = rand.Text(), d.opt.Now()
	}
	if q.Refused = d.refusal(ctx, q.Layer); q.Refused == nil && q.Layer == rampart.LayerDomain && q.Request != nil && !q.Principal.IsZero() {
		d.gather(ctx, q)
	}
	out := d.answer(ctx, q, true)
	if out.Code == rampart.CodeNoPermit && out.Path == nil {
		d.trace(ctx, q)
		out.Path = q.Path
	}
	if d.opt.Observe == nil {
		return out
	}
	if err := d.opt.Observe(ctx, *q, out); err != nil {
		return told(deny(q.Layer, rampart.CodeError, "the decision cannot be put on record: "+err.Error()))
	}
	return out
}

// refusal denies what no layer needs to look at; nil goes on.
func (d *PDP) refusal(ctx context.Context, layer rampart.Layer) *rampart.Decision {
	if err := ctx.Err(); err != nil {
		return refuse(layer, rampart.CodeTimeout, "the request was over before it was decided: "+err.Error())
	}
	if d.opt.Clock != nil {
		if err := d.opt.Clock(); err != nil {
			return refuse(layer, rampart.CodeClock, err.Error())
		}
	}
	if d.opt.Fresh != nil {
		if err := d.opt.Fresh(); err != nil {
			return refuse(layer, rampart.CodeStale, err.Error())
		}
	}
	return nil
}

func refuse(layer rampart.Layer, code rampart.Code, reason string, refs ...rampart.PolicyRef) *rampart.Decision {
	d := deny(layer, code, reason, refs...)
	return &d
}

// Answer decides a question from the question alone: it asks neither the clock
// nor the graph nor a provider, and records nothing. ctx bounds its time. What
// a domain question says of relations and attributes is taken as it is.
func (d *PDP) Answer(ctx context.Context, q Question) rampart.Decision {
	if d == nil {
		return told(deny(q.Layer, rampart.CodeError, "there is no policy decision point"))
	}
	return d.answer(ctx, &q, false)
}

// answer is Answer; valid says that q.Request was checked before.
func (d *PDP) answer(ctx context.Context, q *Question, valid bool) rampart.Decision {
	out := d.layer(ctx, q, valid)
	out.ID, out.Revision = q.ID, q.Revision
	return told(out)
}

func (d *PDP) layer(ctx context.Context, q *Question, valid bool) rampart.Decision {
	switch {
	case q.Refused != nil && !q.Refused.Allowed():
		return *q.Refused
	case q.Principal.IsZero():
		return deny(q.Layer, rampart.CodeNoPermit, "nobody is authenticated")
	case q.Layer == rampart.LayerGateway:
		return d.route(q.Layer, &q.Principal, "", &q.Route)
	case q.Layer == rampart.LayerService:
		return d.service(q)
	case q.Layer == rampart.LayerDomain && q.Request != nil:
		return d.object(ctx, q, valid)
	}
	return deny(q.Layer, rampart.CodeError, fmt.Sprintf("there is no layer %q", q.Layer))
}

// deny builds a denial; refs name the policies that decided.
func deny(layer rampart.Layer, code rampart.Code, reason string, refs ...rampart.PolicyRef) rampart.Decision {
	return rampart.Decision{Effect: rampart.Deny, Layer: layer, Code: code, Policies: refs, Reason: reason}
}

func allow(layer rampart.Layer, refs ...rampart.PolicyRef) rampart.Decision {
	return rampart.Decision{Effect: rampart.Allow, Layer: layer, Policies: refs}
}
