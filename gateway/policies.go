package gateway

import (
	"context"
	"strconv"

	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/monitor/audit"
)

// openPolicies takes the policies from the signed bundle that the link brings:
// rampart.yaml says which flows there are, the bundle who may use them.
func (g *Gateway) openPolicies(ctx context.Context) error {
	var err error
	g.policies, err = bundle.OpenPlane(ctx, bundle.PlaneOptions{
		Link: g.opt.Link, State: g.opt.State, Name: "gateway/" + g.opt.Name, Clock: g.opt.Clock,
		Record: g.recordPolicies, Logger: g.opt.Logger, Now: g.opt.Now,
	})
	return err
}

func (g *Gateway) recordPolicies(ctx context.Context, e bundle.Event) error {
	out := audit.Refused
	if e.Allowed {
		out = audit.Allowed
	}
	return g.opt.Audit.Record(ctx, audit.Event{
		Class: audit.ClassConfig, Action: e.Action, Outcome: out, Control: "policy.bundle", Code: string(e.Code),
		Resource: "policies:" + strconv.FormatUint(e.Version, 10), Detail: e.Detail,
	})
}
