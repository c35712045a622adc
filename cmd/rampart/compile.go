package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/rampart-security/rampart/authz/pdp"
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
