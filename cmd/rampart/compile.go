package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/authz/rbac"
	"github.com/rampart-security/rampart/sidecar"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/threat"
	"github.com/rampart-security/rampart/validate/openapi"
)

// loadCompiled reads the file and compiles everything it names, so that what a
// plane would refuse at start is refused here, with the name of the file that
// is wrong.
func loadCompiled(file string) (*spec.System, error) {
	sys, err := spec.Load(file)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(sys.Services)) {
		if err := compileService(sys, name, sys.Services[name]); err != nil {
			return nil, &exitError{exitUsage, err}
		}
	}
	for _, f := range sys.Flows {
		if f.Guard == nil {
			continue
		}
		if err := sidecar.CheckGuard(f.Guard.Recipient); err != nil {
			return nil, &exitError{exitUsage, fmt.Errorf("%s:%d: flow %s: guard.recipient: %w", file, f.Line, f.ID, err)}
		}
	}
	if _, err := threat.Analyze(sys, threat.Evidence{}); err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("%s: %w", file, err)}
	}
	return sys, nil
}

// unreachable lists operations that ask for a permission which no role holds:
// nobody can use them, which is safe and hardly meant.
func unreachable(sys *spec.System) ([]string, error) {
	roles, err := rbac.Compile(sys.Authz.Roles)
	if err != nil {
		return nil, err
	}
	everybody := rampart.Principal{Subject: "user:everybody", Roles: slices.Collect(maps.Keys(sys.Authz.Roles))}
	var out []string
	for _, f := range sys.FlowsFrom(sys.Gateway()) {
		svc := sys.Services[f.To]
		doc, ok := sys.Resource(svc.OpenAPI)
		if !ok || len(f.Allow) > 0 {
			continue
		}
		api, err := openapi.Compile(f.To, doc)
		if err != nil {
			return nil, err
		}
		for _, op := range api.Operations() {
			if !roles.Check(everybody, rampart.Action(op.Permission)) {
				out = append(out, fmt.Sprintf("%s: %s %s asks for %s, which no role holds, so nobody can use it; grant it in authz.roles, or say allow: on flow %s", svc.OpenAPI, op.Method, op.Path, op.Permission, f.ID))
			}
		}
	}
	return out, nil
}

func compileService(sys *spec.System, name string, svc spec.Service) error {
	if svc.OpenAPI != "" {
		doc, _ := sys.Resource(svc.OpenAPI)
		if _, err := openapi.Compile(name, doc); err != nil {
			return fmt.Errorf("%s: %w", svc.OpenAPI, err)
		}
	}
	policies := map[string][]byte{}
	for _, f := range svc.Policy {
		policies[f], _ = sys.Resource(f)
	}
	if _, err := pdp.New(pdp.Options{Roles: sys.Authz.Roles, Policies: policies}); err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	return nil
}
