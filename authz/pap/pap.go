// Package pap is the policy administration point: it gathers everything that
// decisions of one system rest on, as one value that can be signed, compared,
// tested and handed to decision points.
package pap

import (
	"fmt"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/spec"
)

// Set is all that decisions of one system rest on, apart from what is asked.
// Two equal Sets decide alike. It is read-only.
type Set struct {
	System    string              `json:"system,omitzero"` // name of the system
	Domain    string              `json:"domain,omitzero"` // its trust domain
	Roles     map[string][]string `json:"roles"`
	Separate  []pdp.Separation    `json:"separate,omitzero"`
	Schema    *authz.Schema       `json:"schema,omitzero"`
	FromToken map[string]string   `json:"from_token,omitzero"`
	Model     string              `json:"model,omitzero"`    // key of Files
	Services  map[string]Service  `json:"services,omitzero"` // those that have policies
	Lines     map[string]int      `json:"lines,omitzero"`    // where rampart.yaml says it: "authz", "roles", "role NAME", "flow ID", "type NAME", "separate INDEX"
	Files     map[string][]byte   `json:"-"`                 // every file that the above names, by the name used in rampart.yaml
}

// Service names the files of one service.
type Service struct {
	Policy []string `json:"policy"`
	Tests  []string `json:"tests,omitzero"`
}

// FromSystem gathers the Set of a system.
func FromSystem(sys *spec.System) Set {
	s := Set{System: sys.Info.Name, Domain: sys.Info.TrustDomain, Roles: sys.Authz.Roles, FromToken: sys.Authz.FromToken, Model: sys.Authz.Model,
		Schema: schema(sys.Authz.Types), Lines: lines(sys), Services: map[string]Service{}, Files: map[string][]byte{}}
	for _, sep := range sys.Authz.Separate {
		s.Separate = append(s.Separate, pdp.Separation{Roles: sep.Roles, Dynamic: sep.Kind == spec.SeparateDynamic})
	}
	s.take(sys, s.Model)
	for name, svc := range sys.Services {
		if len(svc.Policy) == 0 && len(svc.Tests) == 0 {
			continue
		}
		s.Services[name] = Service{Policy: svc.Policy, Tests: svc.Tests}
		for _, files := range [][]string{svc.Policy, svc.Tests} {
			for _, f := range files {
				s.take(sys, f)
			}
		}
	}
	return s
}

func (s Set) take(sys *spec.System, name string) {
	if b, ok := sys.Resource(name); ok {
		s.Files[name] = b
	}
}

// lines notes where the file says what decisions cite.
func lines(sys *spec.System) map[string]int {
	out := map[string]int{}
	note := func(name, key string) {
		if line := sys.Line(key); line > 0 {
			out[name] = line
		}
	}
	note("authz", "authz")
	note("roles", "authz.roles")
	for role := range sys.Authz.Roles {
		note("role "+role, "authz.roles."+role)
	}
	for typ := range sys.Authz.Types {
		note("type "+typ, "authz.types."+typ)
	}
	for i := range sys.Authz.Separate {
		note(fmt.Sprintf("separate %d", i), fmt.Sprintf("authz.separate[%d]", i))
	}
	for _, f := range sys.Flows {
		out["flow "+f.ID] = f.Line
	}
	return out
}

// Options returns what a decision point of one service is made of; "" is the
// gateway, which has no policies and no relations. The caller adds what belongs
// to its process: clock, graph, providers, log.
func (s Set) Options(service string) pdp.Options {
	o := pdp.Options{Roles: s.Roles, Separate: s.Separate, Schema: s.Schema, FromToken: s.FromToken, Lines: s.Lines, Policies: map[string][]byte{}}
	if service != "" && s.Model != "" {
		o.ModelFile, o.Model = s.Model, s.Files[s.Model]
	}
	for _, f := range s.Services[service].Policy {
		o.Policies[f] = s.Files[f]
	}
	return o
}

func schema(types map[string]spec.AuthzType) *authz.Schema {
	if len(types) == 0 {
		return nil
	}
	out := &authz.Schema{Types: map[string]authz.Type{}}
	for name, t := range types {
		typ := authz.Type{Relations: t.Relations, Table: t.Table, Columns: t.Columns, Attrs: map[string]authz.Attr{}, Grants: map[rampart.Action]string{}}
		for _, a := range t.Actions {
			typ.Actions = append(typ.Actions, rampart.Action(a))
		}
		for attr, a := range t.Attrs {
			typ.Attrs[attr] = authz.Attr{Kind: authz.AttrKind(a.Type), Optional: a.Optional, Class: rampart.Class(a.Class), PII: a.PII, Provider: a.Provider}
		}
		for action, relation := range t.Grants {
			typ.Grants[rampart.Action(action)] = relation
		}
		out.Types[name] = typ
	}
	return out
}
