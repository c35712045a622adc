package spec

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// The values that fill and check share.
const (
	roleGateway  = "gateway"
	bindClient   = "jwt.azp == api_key.client"
	defaultHuman = "users" // the one principal that needs no declaration
	tls12        = "1.2"
	tls13        = "1.3"
)

// fill gives every key that the file leaves out its safe default. It runs
// before check, so it must bear names that nothing declares.
func (s *System) fill() {
	or(&s.Info.Criticality, "medium")
	if s.Info.Name != "" {
		or(&s.Info.TrustDomain, s.Info.Name+".internal")
	}
	or(&s.Sessions.Idle, Duration(30*time.Minute))
	or(&s.Sessions.Absolute, Duration(12*time.Hour))
	or(&s.Revocation.Sensitive, Duration(5*time.Second))
	or(&s.Revocation.Other, Duration(2*time.Minute))
	or(&s.Verify.Freshness, Duration(24*time.Hour))
	s.fillPrincipals()
	s.fillZones()
	s.fillRoles()
	s.fillAuthz()
	each(s.Data, fillData)
	each(s.Stores, func(_ string, st *Store) { or(&st.Zone, "data") })
	each(s.Identity.Providers, fillProvider)
	each(s.External, func(_ string, e *External) { or(&e.Zone, "partner") })
	each(s.Services, fillService)
	if s.Limits != nil {
		or(&s.Limits.Gateways, 2)
	}
	each(s.Plans, func(_ string, p *Plan) { or(&p.Concurrency, 100) })
	s.fillTrust()
	for i := range s.Flows {
		s.fillFlow(&s.Flows[i], index("flows", i))
	}
}

// or sets *v to a default if it is zero.
func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// each lets change edit every value of a map.
func each[V any](m map[string]V, change func(name string, v *V)) {
	for name, v := range m {
		change(name, &v)
		m[name] = v
	}
}

// fillPrincipals adds the principal users when flows name it without declaring
// it. API keys need a declared client, so such a flow does not add it.
func (s *System) fillPrincipals() {
	implied := slices.ContainsFunc(s.Flows, func(f Flow) bool {
		return f.From == defaultHuman && !slices.Contains(f.Authn.All, "api_key")
	})
	if implied && s.kindOf(defaultHuman) == kindNone {
		put(&s.Principals, defaultHuman, Principal{})
	}
	each(s.Principals, func(_ string, p *Principal) {
		or(&p.Kind, "human")
		or(&p.Zone, "internet")
	})
}

func put[V any](m *map[string]V, name string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[name] = v
}

func (s *System) fillZones() {
	for name, zone := range map[string]Zone{
		"internet": {Trust: 0},
		"partner":  {Trust: 20},
		"edge":     {Trust: 40},
		"app":      {Trust: 70},
		"data":     {Trust: 80, Private: true},
	} {
		if _, ok := s.Zones[name]; !ok {
			put(&s.Zones, name, zone)
		}
	}
}

// fillRoles creates the roles that only allow names: they hold no permission
// beyond the flows that name them.
func (s *System) fillRoles() {
	for _, f := range s.Flows {
		for _, a := range f.Allow {
			role, ok := strings.CutPrefix(a, "role:")
			if _, declared := s.Authz.Roles[role]; ok && !declared && nameForm.MatchString(role) {
				put(&s.Authz.Roles, role, []string{})
			}
		}
	}
}

func fillData(_ string, d *Data) {
	if d.Kind == "credential" {
		or(&d.Class, "secret")
		or(&d.Cache, Duration(5*time.Minute))
	}
	or(&d.Class, "internal")
	or(&d.Integrity, "normal")
}

func fillService(name string, svc *Service) {
	if svc.Role == roleGateway {
		or(&svc.Zone, "edge")
		or(&svc.Listen, ":8443")
		fillEdge(svc)
		return
	}
	or(&svc.Zone, "app")
	for i, h := range svc.Headers {
		svc.Headers[i] = http.CanonicalHeaderKey(h)
	}
	if svc.OpenAPI != "" {
		or(&svc.Mount, "/")
		return
	}
	or(&svc.Mount, "/"+name+"/")
	if len(svc.Methods) == 0 {
		svc.Methods = []string{"GET", "HEAD"}
	}
}

func (s *System) fillFlow(f *Flow, key string) {
	if f.From != "" && f.To != "" {
		or(&f.ID, f.From+">"+f.To)
	}
	kind := s.flowKindOf(*f)
	if kind == flowNone {
		return
	}
	if s.Stores[f.To].Kind != "sqlite" { // a file has no transport
		or(&f.TLS.Min, tls13)
	}
	switch kind {
	case flowEntry:
		s.fillEntry(f)
	case flowRoute:
		s.fillInternal(f)
		s.fillRoute(f, key)
	case flowCall:
		s.fillInternal(f)
	case flowEgress:
		fillEgress(f)
	case flowQuery:
		if f.DB == nil {
			f.DB = &DB{}
		}
		or(&f.DB.Pool, 10)
		if s.Stores[f.To].Kind == "postgres" {
			or(&f.DB.Timeout, Duration(5*time.Second))
			or(&f.TLS.Verify, "full")
		}
	case flowDeliver:
		if f.Message != nil && len(f.Message.AcceptFrom) > 0 {
			or(&f.Message.ReplayWindow, Duration(10*time.Minute))
			or(&f.Message.Refuse, "dead_letter")
		}
	}
}

func (s *System) fillEntry(f *Flow) {
	or(&f.TLS.Certificate, "local")
	if len(f.Authn.All) == 0 && f.Authn.Pattern == "" && s.Principals[f.From].Kind == "human" {
		f.Authn.All = []string{"session"}
	}
	if slices.Contains(f.Authn.All, "api_key") {
		if slices.Contains(f.Authn.All, "jwt") {
			or(&f.Authn.Bind, bindClient)
		}
		f.Limit.Plan = f.Limit.APIKey == Rate{}
	}
	or(&f.Limit.IP, Rate{300, time.Minute})
	or(&f.Limit.User, Rate{120, time.Minute})
	or(&f.Validate.MaxBody, 64<<10)
}

func (s *System) fillInternal(f *Flow) {
	if len(f.Authn.All) == 0 {
		or(&f.Authn.Pattern, "exchange")
	}
	or(&f.Validate.MaxBody, 64<<10)
	if s.Services[f.To].OpenAPI != "" {
		or(&f.Validate.OpenAPI, "strict")
	}
	if len(f.ServerOwned.Fields) > 0 {
		or(&f.ServerOwned.Mode, "refuse")
	}
	if f.Idempotency != nil {
		or(&f.Idempotency.Header, "Idempotency-Key")
		or(&f.Idempotency.Keep, Duration(24*time.Hour))
	}
	if f.Nonce != nil {
		or(&f.Nonce.Header, "Rampart-Nonce")
		or(&f.Nonce.Window, Duration(5*time.Minute))
	}
}

func fillEgress(f *Flow) {
	or(&f.TLS.Verify, "public_ca")
	if f.Egress != nil {
		or(&f.Egress.PrivateIPs, "never")
	}
}
