package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/authz/policytest"
	"github.com/rampart-security/rampart/authz/rbac"
	"github.com/rampart-security/rampart/gateway"
	"github.com/rampart-security/rampart/sidecar"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/threat"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/validate/openapi"
)

// loadCompiled reads the file and compiles everything it names, so that what a
// plane would refuse at start is refused here, with the name of the file that
// is wrong.
func loadCompiled(file string) (*spec.System, error) {
	sys, err := spec.Load(file)
	if err == nil {
		err = compiled(sys, file)
	}
	return sys, err
}

// examined is what a running control plane asks of a file before it applies it.
func examined(sys *spec.System) ([]string, error) {
	if err := compiled(sys, "rampart.yaml"); err != nil {
		return nil, err
	}
	return permissions(sys)
}

// compiled compiles all that planes will.
func compiled(sys *spec.System, file string) error {
	for _, name := range slices.Sorted(maps.Keys(sys.Services)) {
		if err := compileService(sys, name, sys.Services[name]); err != nil {
			return placed(err)
		}
	}
	if err := compileEdge(sys); err != nil {
		return &exitError{exitUsage, fmt.Errorf("%s: %w", file, err)}
	}
	for i, f := range sys.Flows {
		if err := compileSchema(sys, f); err != nil {
			return &exitError{exitUsage, spec.Problems{sys.Problem(fmt.Sprintf("flows[%d].message.schema", i), err.Error(), "")}}
		}
		if f.Guard == nil {
			continue
		}
		if err := sidecar.CheckGuard(f.Guard.Recipient); err != nil {
			return &exitError{exitUsage, spec.Problems{sys.Problem(fmt.Sprintf("flows[%d].guard.recipient", i), err.Error(), "")}}
		}
	}
	if err := routesAndScopes(sys); err != nil {
		return &exitError{exitUsage, err}
	}
	if err := knownRules(sys); err != nil {
		return &exitError{exitUsage, err}
	}
	if _, err := threat.Analyze(sys, threat.Evidence{}); err != nil {
		return &exitError{exitUsage, fmt.Errorf("%s: %w", file, err)}
	}
	return nil
}

// compileEdge compiles what a gateway alone does: its routes, and the CA of the store
// of its limits.
func compileEdge(sys *spec.System) error {
	if err := gateway.Check(sys); err != nil {
		return err
	}
	if sys.Limits == nil {
		return nil
	}
	ca, _ := sys.Resource(sys.Limits.CA)
	if _, err := profile.Database(ca, "localhost"); err != nil {
		return fmt.Errorf("limits.ca: %s: %w", sys.Limits.CA, err)
	}
	return nil
}

func compileSchema(sys *spec.System, f spec.Flow) error {
	if f.Message == nil || f.Message.Schema == "" {
		return nil
	}
	doc, _ := sys.Resource(f.Message.Schema)
	_, err := openapi.CompileSchema(f.Message.Schema, doc)
	return err
}

// unreachable lists operations that ask for a permission which no role holds:
// nobody can use them, which is safe and hardly meant.
func unreachable(sys *spec.System) ([]spec.Problem, error) {
	roles, err := rbac.Compile(sys.Authz.Roles)
	if err != nil {
		return nil, err
	}
	everybody := rampart.Principal{Subject: "user:everybody", Roles: slices.Collect(maps.Keys(sys.Authz.Roles))}
	var out []spec.Problem
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
			if !roles.Check(everybody, rampart.Action(op.Permission), "") {
				out = append(out, spec.Problem{
					File: svc.OpenAPI, Msg: fmt.Sprintf("%s %s asks for %s, which no role holds, so nobody can use it", op.Method, op.Path, op.Permission),
					Fix: fmt.Sprintf("grant it in authz.roles, or say allow: on flow %s, line %d", f.ID, f.Line),
				})
			}
		}
	}
	return out, nil
}

// routesAndScopes refuses a step_up route that no operation has, and a scope
// that is no operation's permission: either would look like a control and be
// none.
func routesAndScopes(sys *spec.System) error {
	ops, permissions, err := operations(sys)
	if err != nil {
		return err
	}
	known := slices.Sorted(maps.Keys(permissions))
	var out spec.Problems
	for i, f := range sys.Flows {
		for j, p := range f.Scope {
			if !strings.HasSuffix(p, ":*") && !permissions[p] {
				out = append(out, sys.Problem(fmt.Sprintf("flows[%d].scope[%d]", i, j), fmt.Sprintf("no operation asks for the permission %q", p), meant(p, known)))
			}
		}
		if ops[f.To] == nil {
			continue // no document says which routes there are
		}
		for j, s := range f.StepUp {
			for k, r := range s.Routes {
				if !coversAny(spec.StepUp{Routes: []string{r}}, ops[f.To]) {
					out = append(out, sys.Problem(fmt.Sprintf("flows[%d].step_up[%d].routes[%d]", i, j, k),
						fmt.Sprintf("no operation of %q is on the route %q", f.To, r), "write a route of its openapi document, without the mount"))
				}
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// idleScopes lists what flows let a token keep though neither the service that
// they reach nor any behind it asks for it.
func idleScopes(sys *spec.System) ([]spec.Problem, error) {
	ops, _, err := operations(sys)
	if err != nil {
		return nil, err
	}
	var out []spec.Problem
	for i, f := range sys.Flows {
		for j, p := range f.Scope {
			if !strings.HasSuffix(p, ":*") && !asksFor(sys, ops, f.To, p, map[string]bool{}) {
				out = append(out, sys.Problem(fmt.Sprintf("flows[%d].scope[%d]", i, j),
					fmt.Sprintf("no operation of %q, or of a service that it calls, asks for %q", f.To, p), "remove it: a token that is stolen there opens it elsewhere"))
			}
		}
	}
	return out, nil
}

// asksFor reports whether a service, or one that it reaches, asks for a
// permission. Without a document the permissions of a service have its name.
func asksFor(sys *spec.System, ops map[string][]*openapi.Operation, service, permission string, seen map[string]bool) bool {
	if seen[service] {
		return false
	}
	seen[service] = true
	kind, _, _ := strings.Cut(permission, ":")
	asks := func(op *openapi.Operation) bool { return op.Permission == permission }
	if ops[service] == nil && kind == service || slices.ContainsFunc(ops[service], asks) {
		return true
	}
	return slices.ContainsFunc(sys.FlowsFrom(service), func(f spec.Flow) bool { return asksFor(sys, ops, f.To, permission, seen) })
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

// documentError is the fault of a document that rampart.yaml names.
type documentError struct {
	file string
	err  error
}

func (e *documentError) Error() string { return e.file + ": " + e.err.Error() }

func (e *documentError) Unwrap() error { return e.err }

func compileService(sys *spec.System, name string, svc spec.Service) error {
	if svc.OpenAPI != "" {
		doc, _ := sys.Resource(svc.OpenAPI)
		if _, err := openapi.Compile(name, doc); err != nil {
			return &documentError{svc.OpenAPI, err}
		}
	}
	set := pap.FromSystem(sys)
	if _, err := pdp.New(set.Options(name)); err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	_, err := policytest.WorldOf(set, name)
	return err
}
