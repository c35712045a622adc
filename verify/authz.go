package verify

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/internal/wire"
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
		{ID: "P-028", Title: "a list shows no object that a check refuses", SeedRow: "authz: layer 3", Controls: []string{"authz.domain"},
			Proves: []string{"owasp2021:A01", "api2023:API1"}, Vantage: asOtherTenant, Safety: intrusive, Needs: all(needObject, needList), Run: listLikeCheck},
		{ID: "P-029", Title: "nobody is granted two roles that are kept apart, at once or one after the other", SeedRow: "checklist: AuthZ at every service boundary", Controls: []string{"authz.separation"},
			Proves: []string{"owasp2021:A01"}, Vantage: asAdmin, Safety: intrusive, Needs: needSeparation, Run: rolesApart},
	}
}

func needSeparation(sys *spec.System) (bool, string) {
	return slices.ContainsFunc(sys.Authz.Separate, grantedApart), "no authz.separate keeps two roles from being granted"
}

func grantedApart(s spec.Separation) bool { return s.Kind == spec.SeparateStatic && len(s.Roles) > 1 }

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

// listLikeCheck compares what somebody may read with what a list shows them. A
// list answers 200 whoever asks, so that nothing but its content tells.
func listLikeCheck(ctx context.Context, e *Env) (Result, error) {
	owner, err := e.beginUsual(ctx)
	if err != nil {
		return Result{}, err
	}
	id, err := e.objectID(ctx, owner)
	if err != nil {
		return Result{}, err
	}
	if shown, err := e.listed(ctx, owner, owner.who, id); err != nil || !shown {
		return unsure("the owner's own list lacks %s", id), err
	}
	for _, other := range []struct {
		name  string
		facts spec.DemoUser
	}{{"another user of the same organization", e.facts()}, {"a user of another organization", e.otherFacts()}} {
		who, err := e.visitor(ctx, other.facts)
		if err != nil {
			return Result{}, err
		}
		shown, err := e.listed(ctx, owner, who, id)
		if err != nil {
			return Result{}, err
		}
		e.note("%s: shown %t", other.name, shown)
		if shown {
			return failed("%s: the list shows %s", other.name, id), nil
		}
	}
	return passed("the list shows %s to its owner and to neither of two others", id), nil
}

// objectID makes the scenario's object and returns the id that it goes by.
func (e *Env) objectID(ctx context.Context, owner *story) (string, error) {
	method, path, err := splitCall(e.sys.Verify.Scenario.Object)
	if err != nil {
		return "", err
	}
	res, err := e.mustPass(ctx, "the owner", request{method: method, path: owner.text(path)}.with(owner.who))
	if err != nil {
		return "", err
	}
	var object struct{ ID any }
	if err := decode(res.body, &object); err != nil || object.ID == nil {
		return "", fmt.Errorf("verify.scenario.object answers nothing with an id: %.200s", res.body)
	}
	return fmt.Sprint(object.ID), nil
}

// listed reports whether the scenario's list shows somebody an object.
func (e *Env) listed(ctx context.Context, st *story, who caller, id string) (bool, error) {
	method, path, err := splitCall(e.sys.Verify.Scenario.List)
	if err != nil {
		return false, err
	}
	res, err := e.mustPass(ctx, "a list", request{method: method, path: st.text(path)}.with(who))
	if err != nil {
		return false, err
	}
	var rows []struct{ ID any }
	if err := decode(res.body, &rows); err != nil {
		return false, fmt.Errorf("verify.scenario.list answers no JSON array: %w", err)
	}
	return slices.ContainsFunc(rows, func(r struct{ ID any }) bool { return fmt.Sprint(r.ID) == id }), nil
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

// rolesApart grants one of two roles that are kept apart, which must work, and
// then both, to somebody new and to who has the one.
func rolesApart(ctx context.Context, e *Env) (Result, error) {
	list := e.sys.Authz.Separate
	two := list[slices.IndexFunc(list, grantedApart)].Roles[:2]
	facts := e.facts()
	facts.Roles = two[:1]
	one, err := e.account(ctx, facts)
	if err != nil {
		return Result{}, fmt.Errorf("granting %s alone: %w", two[0], err)
	}
	e.note("%s alone is granted", two[0])
	facts.Roles = two
	facts.Organizations = []string{"verify-apart"}
	attempts := []struct {
		name  string
		grant func() error
	}{
		{"to somebody new", func() error { _, err := e.account(ctx, facts); return err }},
		{"to who has the one", func() error { return e.admin.user(ctx, wire.User{Name: one.name, Facts: facts}) }},
	}
	for _, a := range attempts {
		before := e.now()
		err := a.grant()
		if err == nil {
			return failed("%s and %s are granted %s", two[0], two[1], a.name), nil
		}
		seen, ok, terr := e.trail.wait(ctx, patience, func(v event) bool { return v.refused() && v.Control == "authz.separation" && !v.Time.Before(before) })
		if terr != nil || !ok {
			return unsure("%s: refused (%v), and nothing on record names authz.separation", a.name, err), terr
		}
		e.note("%s: refused, on record as %s", a.name, seen.Action)
	}
	return passed("%s and %s are refused together, twice", two[0], two[1]), nil
}
