package sidecar

import (
	"fmt"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/authz/rebac"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

// table is rampart.yaml compiled for one service. It is immutable.
type table struct {
	sys       *spec.System
	name      string // of the service
	svc       spec.Service
	id        string               // SPIFFE ID of the service
	callers   map[string]spec.Flow // peer's SPIFFE ID -> the flow that leads here
	internal  map[string]spec.Flow // service name -> flow
	external  map[string]*exit     // external name -> flow with its transport
	publishes map[string]spec.Flow // store/topic -> flow
	consumes  []*subscription
	api       *openapi.API // nil: the service has no document
	pdp       *pdp.PDP
	graph     *rebac.Index  // nil: the service keeps no relations
	schema    *authz.Schema // nil: the file declares no types
}

func (s *Sidecar) compile(sys *spec.System) (*table, error) {
	name := s.opt.Service
	svc, ok := sys.Services[name]
	if !ok {
		return nil, fmt.Errorf("service %s is not in the file", name)
	}
	t := &table{
		sys: sys, name: name, svc: svc, id: sys.ServiceID(name), callers: map[string]spec.Flow{},
		internal: map[string]spec.Flow{}, external: map[string]*exit{}, publishes: map[string]spec.Flow{},
	}
	if err := s.compileIn(t, name); err != nil {
		return nil, err
	}
	for _, f := range sys.FlowsFrom(name) {
		if err := s.compileOut(t, f); err != nil {
			return nil, err
		}
	}
	var err error
	if t.graph, err = s.relations.prepare(sys); err != nil {
		return nil, err
	}
	t.pdp, err = pdp.New(s.decisions(t))
	return t, err
}

// decisions returns what the service's decisions are made from.
func (s *Sidecar) decisions(t *table) pdp.Options {
	o := pap.FromSystem(t.sys).Options(t.name)
	t.schema = o.Schema
	o.Now, o.Clock, o.Observe = s.opt.Now, s.opt.Clock, s.opt.Observe
	if t.graph != nil {
		o.Graph = t.graph
	}
	o.Providers = s.providers(t)
	return o
}

func (s *Sidecar) compileIn(t *table, name string) error {
	for _, f := range t.sys.FlowsTo(name) {
		if _, isService := t.sys.Services[f.From]; isService {
			t.callers[t.sys.ServiceID(f.From)] = f
			continue
		}
		sub, err := newSubscription(t.sys, f, s.opt.Link.Source())
		if err != nil {
			return fmt.Errorf("flow %s: %w", f.ID, err)
		}
		t.consumes = append(t.consumes, sub)
	}
	if t.svc.OpenAPI == "" {
		return nil
	}
	doc, _ := t.sys.Resource(t.svc.OpenAPI)
	api, err := openapi.Compile(name, doc)
	t.api = api
	return err
}

func (s *Sidecar) compileOut(t *table, f spec.Flow) error {
	if _, ok := t.sys.Services[f.To]; ok {
		t.internal[f.To] = f
		return nil
	}
	if ext, ok := t.sys.External[f.To]; ok {
		e, err := s.newExit(t.sys, f, ext)
		t.external[f.To] = e
		return err
	}
	if t.sys.Stores[f.To].Kind == "nats" {
		t.publishes[f.To+"/"+f.Topic] = f
	}
	return nil
}
