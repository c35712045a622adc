// Package pdp is the policy decision point: it answers at all three layers,
// from roles and policies that it compiled once, without leaving the process.
//
//   - gateway: may this subject use this route at all? (DecideRoute)
//   - service: may it act for this organization, with this permission?
//     (DecideService)
//   - domain: may it touch this very object? The service's policies answer.
//
// Layers are joined by AND, and each denies by default. Inside the domain layer
// any forbid denies, then anything uncertain (a forbid that fails, a time limit,
// a request out of bounds) denies, then one permit allows. A permit that fails
// permits nothing.
package pdp

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/cedar"
	"github.com/rampart-security/rampart/authz/rbac"
	"github.com/rampart-security/rampart/authz/rego"
)

// DefaultTimeout bounds one decision. An evaluation takes microseconds; the
// rest is room for a busy machine.
const DefaultTimeout = 50 * time.Millisecond

// Options of New. The zero value makes a PDP that denies everything but
// `allow` rules of routes.
type Options struct {
	Roles     map[string][]string       // as in rampart.yaml, see rbac.Compile
	Separate  []Separation              // separation of duty
	Schema    *authz.Schema             // if nil, input is bounded but not checked
	Policies  map[string][]byte         // file name, ending in .cedar or .rego, to its text
	FromToken map[string]string         // as in rampart.yaml: what a token says of relations
	Graph     authz.Graph               // if nil, every relation is unknown
	Providers map[string]authz.Provider // by the name that the schema uses
	Lines     map[string]int            // of rampart.yaml, see pap.Set
	Policy    uint64                    // version of the bundle that all this came from
	Timeout   time.Duration             // of one decision; 0 means DefaultTimeout
	Now       func() time.Time          // if nil, time.Now
	Clock     func() error              // if nil, the clock is trusted; an error denies with CodeClock
	Fresh     func() error              // if nil, policies do not age; an error denies with CodeStale
	// Observe is called with each decision and all that it was made from, and
	// with an ID to find it by. An error denies: what cannot be put on record
	// did not happen. If nil, decisions have no ID.
	Observe func(ctx context.Context, q Question, d rampart.Decision) error
}

// Separation names roles that nobody may use together.
type Separation struct {
	Roles   []string `json:"roles"`
	Dynamic bool     `json:"dynamic,omitzero"` // nobody acts with two of them at once; otherwise nobody is granted two
}

// Question is the whole input of one decision: the same Question gets the same
// Decision from the same Options, whenever it is asked (see PDP.Answer).
type Question struct {
	ID        string            `json:"id"`
	At        time.Time         `json:"at"`
	Layer     rampart.Layer     `json:"layer"`
	Principal rampart.Principal `json:"principal"`
	Tenant    string            `json:"tenant,omitzero"`  // service layer
	Route     Route             `json:"route,omitzero"`   // gateway and service layer
	Request   *authz.Request    `json:"request,omitzero"` // domain layer, with every fact that was looked up
	Refused   *rampart.Decision `json:"refused,omitzero"` // denied before the policies were asked: a source was down, the clock had jumped
	Path      []string          `json:"path,omitzero"`    // the tuples behind the facts
	Revision  rampart.Revision  `json:"revision,omitzero"`
}

// PDP decides. It is read-only and safe for concurrent use. A nil *PDP denies.
type PDP struct {
	roles   *rbac.Roles
	engines []authz.Engine
	timeout time.Duration
	now     func() time.Time
	fresh   func() error
}

// New compiles roles and policies; any fault in either is an error that names
// file and line where it can.
func New(o Options) (*PDP, error) {
	if o.Timeout < 0 {
		return nil, fmt.Errorf("pdp: a time limit of %v leaves no time", o.Timeout)
	}
	d := &PDP{timeout: o.Timeout, now: o.Now, fresh: o.Fresh}
	if d.timeout == 0 {
		d.timeout = DefaultTimeout
	}
	if d.now == nil {
		d.now = time.Now
	}
	var err error
	if d.roles, err = rbac.Compile(o.Roles); err != nil {
		return nil, fmt.Errorf("pdp: %v", err)
	}
	if d.engines, err = engines(o); err != nil {
		return nil, fmt.Errorf("pdp: %v", err)
	}
	return d, nil
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
	return deny(r.Layer, rampart.CodeError, fmt.Sprintf("there is no layer %q", r.Layer))
}

// deny builds a denial; refs name the policies that decided.
func deny(layer rampart.Layer, code rampart.Code, reason string, refs ...rampart.PolicyRef) rampart.Decision {
	return rampart.Decision{Effect: rampart.Deny, Layer: layer, Code: code, Policies: refs, Reason: reason}
}

func allow(layer rampart.Layer, refs ...rampart.PolicyRef) rampart.Decision {
	return rampart.Decision{Effect: rampart.Allow, Layer: layer, Policies: refs}
}

// early denies what no layer needs to look at.
func (d *PDP) early(ctx context.Context, layer rampart.Layer, p rampart.Principal) (rampart.Decision, bool) {
	switch {
	case d == nil:
		return deny(layer, rampart.CodeError, "there is no policy decision point"), true
	case ctx.Err() != nil:
		return deny(layer, rampart.CodeTimeout, "the request was over before it was decided: "+ctx.Err().Error()), true
	case p.IsZero():
		return deny(layer, rampart.CodeNoPermit, "nobody is authenticated"), true
	}
	if d.fresh != nil {
		if err := d.fresh(); err != nil {
			return deny(layer, rampart.CodeStale, err.Error()), true
		}
	}
	return rampart.Decision{}, false
}
