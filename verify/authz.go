package verify

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/spec"
)

func authzProbes() []Probe {
	return []Probe{
		{ID: "P-020", Title: "layer 1: a user without the permission cannot use the route", SeedRow: "authz: layer 1", Controls: []string{"authz.gateway"},
			Proves: []string{"owasp2021:A01", "api2023:API5"}, Vantage: asUser, Safety: safe, Run: layerOne},
		{ID: "P-021", Title: "layer 2: a user cannot act for another organization", SeedRow: "authz: layer 2", Controls: []string{"authz.service"},
			Proves: []string{"owasp2021:A01", "api2023:API1"}, Vantage: asOtherTenant, Safety: safe, Needs: needTenant, Run: layerTwo},
		{ID: "P-022", Title: "layer 3: a user cannot read another user's object, in the same organization or another", SeedRow: "authz: layer 3", Controls: []string{"authz.domain"},
			Proves: []string{"owasp2021:A01", "api2023:API1"}, Vantage: asOtherTenant, Safety: intrusive, Needs: needObject, Run: layerThree},
		{ID: "P-023", Title: "a denial tells nothing of policies, roles or the inside", SeedRow: "authz: layer 1", Controls: []string{"authz.gateway"},
			Proves: []string{"owasp2021:A01", "owasp2021:A05"}, Vantage: asUser, Safety: safe, Run: silentDenial,
			Blind: "what a denial says is judged, not that it is one"},
	}
}

func needTenant(sys *spec.System) (bool, string) {
	ops, err := operations(sys)
	return err == nil && slices.ContainsFunc(ops, func(o operation) bool { return o.tenant != "" }), "no operation names an organization (x-rampart tenant)"
}

// guardedRead is a GET that needs a role: one that lets "any" in proves
// nothing about rights.
func (e *Env) guardedRead() (request, error) {
	r, op, err := e.readable()
	if err != nil {
		return r, err
	}
	if slices.Contains(op.flow.Allow, "any") {
		return r, errors.New("the flow to " + op.service + " allows any authenticated user, so there is no right to lack")
	}
	return r, nil
}

func layerOne(ctx context.Context, e *Env) (Result, error) {
	r, err := e.guardedRead()
	if err != nil {
		return absent("%v", err), nil
	}
	who, err := e.visitor(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustEnter(ctx, "with the role", r.with(who)); err != nil {
		return Result{}, err
	}
	stranger, err := e.visitor(ctx, e.strangerFacts())
	if err != nil {
		return Result{}, err
	}
	return e.refused(ctx, attack{"without any role", r.with(stranger), []string{"authz.gateway"}})
}

func layerTwo(ctx context.Context, e *Env) (Result, error) {
	who, err := e.visitor(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	own, other := who.organization(e.facts()), e.otherFacts().Organizations[0]
	var attacks []attack
	for _, o := range e.ops {
		name, ok := strings.CutPrefix(o.tenant, "path.")
		if !ok || o.method != "GET" {
			continue
		}
		path, err := o.url(map[string]string{name: own})
		if err != nil {
			return Result{}, err
		}
		if _, err := e.mustEnter(ctx, "for one's own organization", get(path).with(who)); err != nil {
			return Result{}, err
		}
		if path, err = o.url(map[string]string{name: other}); err != nil {
			return Result{}, err
		}
		attacks = append(attacks, attack{"GET " + o.path + " of another organization", get(path).with(who), []string{"authz.service"}})
	}
	inBody, err := e.tenantInBody(who, other)
	if err != nil {
		return Result{}, err
	}
	return e.refusedAll(ctx, append(attacks, inBody...))
}

// organization is the subject's home, as the facts say.
func (c caller) organization(f spec.DemoUser) string {
	if len(f.Organizations) == 0 {
		return ""
	}
	return f.Organizations[0]
}

// tenantInBody names another organization in the body of each operation that
// takes one there; the scenario knows bodies that are valid otherwise.
func (e *Env) tenantInBody(who caller, other string) ([]attack, error) {
	var out []attack
	for _, o := range e.ops {
		name, ok := strings.CutPrefix(o.tenant, "body.")
		if !ok {
			continue
		}
		body, err := e.validBody(o)
		if err != nil {
			return nil, err
		}
		r, err := e.jsonRequest(o, altered(body, name, other))
		if err != nil {
			return nil, err
		}
		out = append(out, attack{o.method + " " + o.path + " for another organization", r.with(who), []string{"authz.service"}})
	}
	return out, nil
}

func layerThree(ctx context.Context, e *Env) (Result, error) {
	owner, err := e.beginUsual(ctx)
	if err != nil {
		return Result{}, err
	}
	method, path, err := splitCall(e.sys.Verify.Scenario.Object)
	if err != nil {
		return Result{}, err
	}
	object := request{method: method, path: owner.text(path)}
	if _, err := e.mustPass(ctx, "the owner", object.with(owner.who)); err != nil {
		return Result{}, err
	}
	colleague, err := e.visitor(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	stranger, err := e.visitor(ctx, e.otherFacts())
	if err != nil {
		return Result{}, err
	}
	verdict, err := e.refusedAll(ctx, []attack{
		{"another user of the same organization", object.with(colleague), []string{"authz.domain"}},
		{"a user of another organization", object.with(stranger), []string{"authz.domain", "authz.service"}},
	})
	if err != nil || verdict.Verdict != Pass {
		return verdict, err
	}
	seen, ok, err := e.trail.wait(ctx, patience, func(v event) bool {
		return v.Subject == colleague.subject() && v.Control == "authz.domain" && v.refused()
	})
	if err != nil || !ok || seen.Layer != "domain" {
		return unsure("the denial does not name its layer"), err
	}
	if len(seen.Policies) == 0 && seen.Detail["reason"] == "" {
		return failed("the denial names neither a policy nor a reason"), nil
	}
	e.note("on record with layer %s, %d policies and a reason", seen.Layer, len(seen.Policies))
	return verdict, nil
}

func silentDenial(ctx context.Context, e *Env) (Result, error) {
	r, err := e.guardedRead()
	if err != nil {
		return absent("%v", err), nil
	}
	stranger, err := e.visitor(ctx, e.strangerFacts())
	if err != nil {
		return Result{}, err
	}
	res, err := e.do(ctx, r.with(stranger))
	if err != nil {
		return Result{}, err
	}
	if res.status != 403 {
		return unsure("the denial was answered %d", res.status), nil
	}
	text := strings.ToLower(string(res.body))
	e.note("403 with %d bytes of %s", len(text), res.header.Get("Content-Type"))
	for _, word := range e.innerWords() {
		if strings.Contains(text, strings.ToLower(word)) {
			return failed("the denial says %q", word), nil
		}
	}
	if !strings.HasPrefix(res.header.Get("Content-Type"), "application/problem+json") {
		return failed("the denial is no problem document"), nil
	}
	return passed("the denial names no policy, role, control or identity"), nil
}

// innerWords are what only operators may read.
func (e *Env) innerWords() []string {
	words := []string{"rego", "cedar", "rbac", "policy", "spiffe", "authz.", "goroutine", ".go:", "127.0.0.1"}
	for role := range e.sys.Authz.Roles {
		words = append(words, role)
	}
	for _, s := range e.sys.Services {
		for _, p := range s.Policy {
			words = append(words, filepath.Base(p))
		}
	}
	return words
}
