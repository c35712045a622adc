package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

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
	if err := routesAndScopes(file, sys); err != nil {
		return nil, &exitError{exitUsage, err}
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

// routesAndScopes refuses a step_up route that no operation has, and a scope
// that is no operation's permission: either would look like a control and be
// none.
func routesAndScopes(file string, sys *spec.System) error {
	ops, permissions, err := operations(sys)
	if err != nil {
		return err
	}
	known := slices.Sorted(maps.Keys(permissions))
	for _, f := range sys.Flows {
		for _, p := range f.Scope {
			if !strings.HasSuffix(p, ":*") && !permissions[p] {
				return fmt.Errorf("%s:%d: flow %s: scope: no operation asks for the permission %q; %s", file, f.Line, f.ID, p, meant(p, known))
			}
		}
		if ops[f.To] == nil {
			continue // no document says which routes there are
		}
		for _, s := range f.StepUp {
			for _, r := range s.Routes {
				if !coversAny(spec.StepUp{Routes: []string{r}}, ops[f.To]) {
					return fmt.Errorf("%s:%d: flow %s: step_up: no operation of %q is on the route %q; routes are those of its openapi document, without the mount", file, f.Line, f.ID, f.To, r)
				}
			}
		}
	}
	return nil
}

func meant(name string, known []string) string {
	if near, ok := spec.Nearest(name, known); ok {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "the permissions are: " + strings.Join(known[:min(len(known), 24)], ", ")
}

// coversAny: * is what covers a parameter of an operation's path.
func coversAny(s spec.StepUp, ops []*openapi.Operation) bool {
	return slices.ContainsFunc(ops, func(op *openapi.Operation) bool { return s.Covers(op.Method, op.Path) })
}

// operations returns the operations of every service with a document, and every
// permission that some route of the system asks for.
func operations(sys *spec.System) (map[string][]*openapi.Operation, map[string]bool, error) {
	ops, permissions := map[string][]*openapi.Operation{}, map[string]bool{}
	for name, svc := range sys.Services {
		doc, ok := sys.Resource(svc.OpenAPI)
		if !ok {
			for _, verb := range []string{"read", "create", "update", "delete"} {
				permissions[name+":"+verb] = svc.Role == ""
			}
			continue
		}
		api, err := openapi.Compile(name, doc)
		if err != nil {
			return nil, nil, err
		}
		ops[name] = api.Operations()
		for _, op := range ops[name] {
			permissions[op.Permission] = true
		}
	}
	maps.DeleteFunc(permissions, func(_ string, is bool) bool { return !is })
	return ops, permissions, nil
}

// permissions lists all that an operation asks for or a role names, sorted.
func permissions(sys *spec.System) ([]string, error) {
	_, known, err := operations(sys)
	if err != nil {
		return nil, err
	}
	for _, granted := range sys.Authz.Roles {
		for _, p := range granted {
			if !strings.HasPrefix(p, "role:") && !strings.HasSuffix(p, ":*") {
				known[p] = true
			}
		}
	}
	for _, f := range sys.Flows {
		for _, a := range f.Allow {
			if p, ok := strings.CutPrefix(a, "permission:"); ok {
				known[p] = true
			}
		}
		if f.Authz.Require != "" {
			known[f.Authz.Require] = true
		}
	}
	return slices.Sorted(maps.Keys(known)), nil
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
