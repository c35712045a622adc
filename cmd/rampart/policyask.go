package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/policytest"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

// maxFacts bounds a file of attributes or relations.
const maxFacts = 8 << 20

// askFlags are what a question about one resource may say besides.
type askFlags struct {
	policyFlags
	subject   spec.DemoUser
	scope     []string
	attrs     string
	resource  string
	tenant    string
	context   string
	relations string
}

// addFacts adds the flags of the resource and of relations.
func (f *askFlags) addFacts(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.attrs, "attrs", "", `the resource's attributes, as JSON: {"owner":"user:bob"}`)
	fl.StringVar(&f.resource, "resource", "", "file of the resource's attributes, as JSON")
	fl.StringVar(&f.tenant, "tenant", "", "organization that the resource belongs to")
	fl.StringVar(&f.context, "context", "", "facts of the request that policies may use, as JSON")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error { return alone(cmd, "attrs", "resource") }
	fl.StringVar(&f.relations, "relations", "", `file of relations, one "order:17#viewer@user:bob" a line`)
}

// addSubject adds the flags of who asks.
func (f *askFlags) addSubject(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringSliceVar(&f.subject.Roles, "role", nil, "role of the subject, may be repeated")
	fl.StringSliceVar(&f.subject.Organizations, "org", nil, "organization of the subject, may be repeated")
	fl.StringVar(&f.subject.Team, "team", "", "team of the subject")
	fl.StringSliceVar(&f.subject.ManagedTeams, "manages", nil, "team that the subject manages, may be repeated")
	fl.StringSliceVar(&f.scope, "scope", nil, "permissions that the credential is limited to")
	cmd.RegisterFlagCompletionFunc("role", completeRoles)
}

// policyWorld is what a file knows without a running system: the people of demo:
// and what its test files declare.
func (f *askFlags) policyWorld(sys *spec.System, set pap.Set) (policytest.World, error) {
	w, err := policytest.WorldOf(set, f.services(set, hasTests)...)
	if err != nil {
		return w, placed(err)
	}
	for name, u := range sys.Demo.Users {
		if _, known := w.Subjects[name]; !known {
			w.Subjects[name] = person(name, u)
		}
	}
	return w, f.readRelations(&w)
}

// person is a local account as a token presents it.
func person(name string, u spec.DemoUser) rampart.Principal {
	p := rampart.Principal{Kind: rampart.KindHuman, Subject: "user:" + name, Organizations: u.Organizations,
		Roles: u.Roles, Team: u.Team, ManagedTeams: u.ManagedTeams}
	if len(p.Organizations) > 0 {
		p.Tenant = p.Organizations[0]
	}
	return p
}

func (f *askFlags) readRelations(w *policytest.World) error {
	if f.relations == "" {
		return nil
	}
	b, err := readBounded(f.relations)
	if err != nil {
		return err
	}
	w.Relations = nil
	for i, line := range strings.Split(string(b), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		t, err := policytest.Tuple(line)
		if err != nil {
			return usageError("%s:%d: %s", f.relations, i+1, strings.TrimPrefix(err.Error(), "policytest: "))
		}
		w.Relations = append(w.Relations, t)
	}
	return nil
}

func readBounded(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, usageError("%w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFacts+1))
	if err == nil && len(b) > maxFacts {
		err = errors.New("larger than 8 MiB")
	}
	if err != nil {
		return nil, usageError("%s: %w", name, err)
	}
	return b, nil
}

// who finds a subject by name or by id, and puts what flags say over it.
func (f *askFlags) who(cmd *cobra.Command, w policytest.World, name string) (rampart.Principal, error) {
	p, ok := w.Subjects[name]
	for _, other := range w.Subjects {
		if !ok && other.Subject == name {
			p, ok = other, true
		}
	}
	said := f.saysSubject(cmd)
	if !ok && !said {
		known := slices.Sorted(maps.Keys(w.Subjects))
		return p, usageError("nobody is called %q in demo: or in the test files; %s; or say who it is with --role, --org, --team", name, nearOf(name, known, "those are"))
	}
	if !ok {
		p = person(name, spec.DemoUser{})
		if strings.Contains(name, ":") {
			p.Subject = name
		}
	}
	return f.override(cmd, p), nil
}

func (f *askFlags) saysSubject(cmd *cobra.Command) bool {
	return slices.ContainsFunc([]string{"role", "org", "team", "manages"}, cmd.Flags().Changed)
}

func (f *askFlags) override(cmd *cobra.Command, p rampart.Principal) rampart.Principal {
	for name, take := range map[string]func(){
		"role":    func() { p.Roles = nonEmpty(f.subject.Roles) },
		"team":    func() { p.Team = f.subject.Team },
		"manages": func() { p.ManagedTeams = nonEmpty(f.subject.ManagedTeams) },
		"scope":   func() { p.Scope = f.scope },
		"org": func() {
			p.Organizations, p.Tenant = nonEmpty(f.subject.Organizations), ""
			if len(p.Organizations) > 0 {
				p.Tenant = p.Organizations[0]
			}
		},
	} {
		if cmd.Flags().Changed(name) {
			take()
		}
	}
	return p
}

// what reads TYPE/ID; attributes come from flags, else from the test files.
func (f *askFlags) what(cmd *cobra.Command, set pap.Set, w policytest.World, text string) (rampart.Resource, error) {
	typ, id, _ := strings.Cut(text, "/")
	r := rampart.Resource{Type: typ, ID: id}
	if types := set.Schema; types != nil && len(types.Types) > 0 {
		if _, ok := types.Types[typ]; !ok {
			return r, usageError("authz.types has no %q; %s", typ, nearOf(typ, slices.Sorted(maps.Keys(types.Types)), "the types are"))
		}
	}
	if i := slices.IndexFunc(w.Resources, func(o rampart.Resource) bool { return o.Type == typ && o.ID == id }); i >= 0 {
		r = w.Resources[i]
	}
	attrs, err := f.readAttrs(cmd)
	if err != nil {
		return r, err
	}
	if attrs != nil {
		r.Attrs = attrs
	}
	if cmd.Flags().Changed("tenant") {
		r.Tenant = f.tenant
	}
	return r, nil
}

func (f *askFlags) readAttrs(cmd *cobra.Command) (map[string]any, error) {
	switch {
	case cmd.Flags().Changed("attrs"):
		return jsonObject("--attrs", []byte(f.attrs))
	case cmd.Flags().Changed("resource"):
		b, err := readBounded(f.resource)
		if err != nil {
			return nil, err
		}
		return jsonObject(f.resource, b)
	}
	return nil, nil
}

// jsonObject reads values as rampart.Resource.Attrs holds them: whole numbers
// are int64.
func jsonObject(name string, b []byte) (map[string]any, error) {
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.UseNumber()
	var out map[string]any
	if err := dec.Decode(&out); err != nil || dec.More() {
		return nil, usageError(`%s: want one JSON object, such as {"owner":"user:bob"}`, name)
	}
	for k, v := range out {
		out[k] = plainValue(v)
	}
	return out, nil
}

func plainValue(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64() // out of range is infinite, which Request.Validate refuses
		return f
	case []any:
		for i := range v {
			v[i] = plainValue(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plainValue(v[k])
		}
	}
	return v
}

func nearOf(name string, known []string, what string) string {
	if near, ok := spec.Nearest(name, known); ok {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return what + ": " + strings.Join(known[:min(len(known), 24)], ", ")
}

// action finds what is meant by "orders:read", or by the verb "read" of a type.
func action(sys *spec.System, set pap.Set, text, typ string) (rampart.Action, error) {
	if strings.Contains(text, ":") {
		return rampart.Action(text), nil
	}
	known, err := actionsOn(sys, set, typ)
	if err != nil {
		return "", err
	}
	var verbs []string
	for _, a := range known {
		if verb := authz.Verb(rampart.Action(a)); verb == text {
			return rampart.Action(a), nil
		} else {
			verbs = append(verbs, verb)
		}
	}
	return "", usageError("nothing that can be done to %s is called %q; %s", typ, text, nearOf(text, verbs, "what can be done is"))
}

// actionsOn lists what can be done to a type: what authz.types declares, else
// the permissions whose kind is the type's name in singular or plural.
func actionsOn(sys *spec.System, set pap.Set, typ string) ([]string, error) {
	var out []string
	if set.Schema != nil {
		for _, a := range set.Schema.Types[typ].Actions {
			out = append(out, string(a))
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	known, err := permissions(sys)
	if err != nil {
		return nil, err
	}
	for _, p := range known {
		kind, _, _ := strings.Cut(p, ":")
		if kind == typ || kind == typ+"s" || kind == typ+"es" {
			out = append(out, p)
		}
	}
	return out, nil
}

// decider is the service whose policies answer for an action.
func (f *askFlags) decider(sys *spec.System, set pap.Set, a rampart.Action) (string, error) {
	if f.service != "" {
		return f.service, nil
	}
	return serviceOf(sys, set, a)
}

// serviceOf finds the service whose routes ask for the permission, else the one
// that bears its name, else the only one with policies.
func serviceOf(sys *spec.System, set pap.Set, a rampart.Action) (string, error) {
	ops, _, err := operations(sys)
	if err != nil {
		return "", err
	}
	all := (&policyFlags{}).services(set, hasPolicy)
	for _, name := range all {
		if slices.ContainsFunc(ops[name], func(op *openapi.Operation) bool { return op.Permission == string(a) }) {
			return name, nil
		}
	}
	kind, _, _ := strings.Cut(string(a), ":")
	switch {
	case slices.Contains(all, kind), len(all) == 0:
		return kind, nil
	case len(all) == 1:
		return all[0], nil
	}
	return "", usageError("which service's policies answer for %s? say it with --service; those with policies are: %s", a, strings.Join(all, ", "))
}
