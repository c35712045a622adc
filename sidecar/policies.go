package sidecar

import (
	"bytes"
	"context"
	"errors"
	"strconv"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/monitor/audit"
)

// openPolicies takes the policies from the signed bundle that the link brings.
// rampart.yaml says which flows there are, the bundle who may use them; the
// table holds both, so that one request is judged by one state of each.
func (s *Sidecar) openPolicies(ctx context.Context) error {
	var err error
	s.policies, err = bundle.OpenPlane(ctx, bundle.PlaneOptions{
		Link: s.opt.Link, State: s.opt.State, Name: "sidecar/" + s.opt.Service, Service: s.opt.Service,
		Compile: s.compilePolicies, Test: s.opt.TestPolicies, Activated: s.activated, Clock: s.opt.Clock,
		Record: s.recordPolicies, Logger: s.opt.Logger, Now: s.opt.Now,
	})
	if err == nil {
		s.activated()
	}
	return err
}

// compilePolicies makes the decision point of a bundle. Graph and providers are
// those of whatever table is in force when they are asked.
func (s *Sidecar) compilePolicies(set pap.Set, o pdp.Options) (*pdp.PDP, error) {
	t := s.table.Load()
	if model, _ := t.sys.Resource(t.sys.Authz.Model); !bytes.Equal(set.Files[set.Model], model) {
		return nil, errors.New("the model of relations is not that of the configuration in force; change it in rampart.yaml and restart the control plane")
	}
	if t.graph != nil {
		o.Graph = graph{s}
	}
	o.Providers = map[string]authz.Provider{}
	for name := range t.providers {
		o.Providers[name] = source{s, name}
	}
	if observe, also := o.Observe, s.opt.Observe; also != nil {
		o.Observe = func(ctx context.Context, q pdp.Question, d rampart.Decision) error {
			if err := observe(ctx, q, d); err != nil {
				return err
			}
			return also(ctx, q, d)
		}
	}
	return pdp.New(o)
}

// activated puts the active bundle into the table.
func (s *Sidecar) activated() {
	s.loading.Lock()
	defer s.loading.Unlock()
	next := *s.table.Load()
	s.decideBy(&next)
	s.table.Store(&next)
}

// decideBy gives a table, which nobody uses yet, the policies in force.
func (s *Sidecar) decideBy(t *table) {
	if s.policies == nil {
		return // openPolicies comes next; until then a nil PDP denies
	}
	t.pdp, t.schema = s.policies.PDP(), nil
	if b := s.policies.Active(); b != nil {
		t.schema = b.Set.Schema
	}
}

// errNoGraph denies what asks for relations that the configuration has no more.
var errNoGraph = errors.New("sidecar: no relations are kept here")

// graph asks the graph of the table in force.
type graph struct{ s *Sidecar }

func (g graph) Related(ctx context.Context, q authz.RelationQuery, explain bool) (authz.Relationship, error) {
	if now := g.s.table.Load().graph; now != nil {
		return now.Related(ctx, q, explain)
	}
	return authz.Relationship{}, errNoGraph
}

func (g graph) Objects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	if now := g.s.table.Load().graph; now != nil {
		return now.Objects(ctx, q)
	}
	return nil, 0, errNoGraph
}

func (g graph) Subjects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	if now := g.s.table.Load().graph; now != nil {
		return now.Subjects(ctx, q)
	}
	return nil, 0, errNoGraph
}

// source asks a provider of the table in force.
type source struct {
	s    *Sidecar
	name string
}

func (p source) Attributes(ctx context.Context, resourceType, id string, names []string) (map[string]any, error) {
	now := p.s.table.Load().providers[p.name]
	if now == nil {
		return nil, errors.New("sidecar: the configuration has no such provider any more")
	}
	return now.Attributes(ctx, resourceType, id, names)
}

func (s *Sidecar) recordPolicies(ctx context.Context, e bundle.Event) error {
	out := audit.Refused
	if e.Allowed {
		out = audit.Allowed
	}
	return s.opt.Audit.Record(ctx, audit.Event{
		Class: audit.ClassConfig, Action: e.Action, Outcome: out, Control: "policy.bundle", Code: string(e.Code),
		Resource: "policies:" + strconv.FormatUint(e.Version, 10), Detail: e.Detail,
	})
}
