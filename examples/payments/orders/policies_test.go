package main

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/authz/rebac"
	"github.com/rampart-security/rampart/sdk/sdktest"
	"github.com/rampart-security/rampart/spec"
)

// decider decides as the sidecar of the order service does, by rampart.yaml.
type decider struct {
	t      *testing.T
	agent  *sdktest.Agent
	pdp    *pdp.PDP
	schema *authz.Schema
	graph  *rebac.Index
}

func policies(t *testing.T, a *sdktest.Agent) *decider {
	t.Helper()
	sys, err := spec.Load("../rampart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := sys.Resource(sys.Authz.Model)
	model, err := rebac.ParseModel(sys.Authz.Model, text)
	if err != nil {
		t.Fatal(err)
	}
	d := &decider{t: t, agent: a, graph: rebac.NewIndex(model, rebac.Options{})}
	o := pap.FromSystem(sys).Options("orders")
	o.Graph, d.schema = d.graph, o.Schema
	if d.pdp, err = pdp.New(o); err != nil {
		t.Fatal(err)
	}
	return d
}

// request is what the sidecar would ask, when the identity is one that it
// signed; it knows the relations that the service told.
func (d *decider) request(identity string) (authz.Request, bool) {
	id, signed := d.agent.Identified(identity)
	tuples, revision := d.agent.Relations()
	err := d.graph.Reset(revision, func(yield func(authz.Tuple) bool) {
		for _, c := range tuples {
			if !yield(authz.Tuple{Object: c.Object, Relation: c.Relation, Subject: c.Subject}) {
				return
			}
		}
	})
	if err != nil {
		d.t.Error(err)
	}
	return authz.Request{Layer: rampart.LayerDomain, Principal: id.Principal}, signed
}

func (d *decider) check(q sdktest.CheckRequest) rampart.Decision {
	r, signed := d.request(q.Identity)
	if !signed {
		return rampart.Decision{}
	}
	r.Action, r.Resource, r.Supported = q.Action, q.Resource, q.Supported
	return d.pdp.DecideObject(context.Background(), r)
}

func (d *decider) filter(q sdktest.FilterRequest) (out sdktest.FilterAnswer) {
	r, signed := d.request(q.Identity)
	if !signed {
		return out
	}
	r.Action, r.Resource, r.Supported = q.Action, rampart.Resource{Type: q.Type, Tenant: q.Tenant}, q.Supported
	var f filter.Filter
	f, out.Decision = d.pdp.Filter(context.Background(), r)
	var err, terr error
	out.Filter, err = json.Marshal(f)
	out.Table, terr = json.Marshal(filter.TableOf(d.schema.Types[q.Type]))
	if err != nil || terr != nil {
		d.t.Error(err, terr)
	}
	return out
}
