package sidecar

import (
	"fmt"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
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
	api       *openapi.API  // nil: the service has no document
	pdp       *pdp.PDP      // of the policies in force
	schema    *authz.Schema // likewise; nil: they declare no types
	graph     keeper        // nil: the service keeps no relations
	providers map[string]authz.Provider
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
	t.graph, err = s.relations.prepare(sys)
	t.providers = s.providers(t)
	s.decideBy(t)
	return t, err
}

func (s *Sidecar) compileIn(t *table, name string) error {
	for _, f := range t.sys.FlowsTo(name) {
		if _, isService := t.sys.Services[f.From]; isService {
			t.callers[t.sys.ServiceID(f.From)] = f
			continue
		}
		sub, err := newSubscription(t.sys, f, s.opt.Link.Source(), s.subscribed(f))
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

// subscribed is the subscription in force to the topic of a flow, nil for none.
func (s *Sidecar) subscribed(f spec.Flow) *subscription {
	now := s.table.Load()
	if now == nil {
		return nil
	}
	for _, sub := range now.consumes {
		if sub.store == f.From && sub.flow.Topic == f.Topic {
			return sub
		}
	}
	return nil
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
