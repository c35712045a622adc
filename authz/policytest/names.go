package policytest

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/cedar"
	"github.com/rampart-security/rampart/authz/pap"
)

// names is what the rows of a service may speak of. A misspelt one would be
// denied for a reason that nobody meant, and so pass as a "may not".
type names struct {
	set      pap.Set
	actions  []string
	types    []string
	roles    []string
	codes    []string
	policies []string // nil: the policies do not load, and nothing is known of them
	text     string   // of the policies
}

// standardCodes are those that decisions bear without a policy's doing.
func standardCodes() []string {
	list := []rampart.Code{rampart.CodeNoPermit, rampart.CodeForbidden, rampart.CodeRoleMissing, rampart.CodeNotMember, rampart.CodeError,
		rampart.CodeTimeout, rampart.CodeStale, rampart.CodeScope, rampart.CodeSeparation, rampart.CodeSource, rampart.CodeClock,
		rampart.CodeUnenforceable, rampart.CodeUntranslatable}
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = string(c)
	}
	return out
}

// namesOf gathers them; nil without declared types, when names are free.
func namesOf(s pap.Set, service string) *names {
	if s.Schema == nil {
		return nil
	}
	n := &names{set: s, actions: actions(s), types: slices.Sorted(maps.Keys(s.Schema.Types)),
		roles: append(slices.Sorted(maps.Keys(s.Roles)), "nobody"), codes: standardCodes()}
	for _, f := range s.Services[service].Policy {
		n.text += string(s.Files[f]) + "\n"
	}
	n.policies = n.policiesOf(service)
	return n
}

var regoPackage = regexp.MustCompile(`(?m)^\s*package\s+([A-Za-z0-9_.]+)`)

// policiesOf are the ids that decisions cite: of policies, of relations that
// grant, and of what the manifest says.
func (n *names) policiesOf(service string) []string {
	files := byExt(n.set, service, ".cedar")
	e, err := cedar.New(files, n.set.Schema)
	if err != nil {
		return nil
	}
	seen := map[string]bool{"membership": true, "input": true, "evaluation": true}
	for _, c := range e.Coverage(context.Background(), nil) {
		seen[c.Policy] = true
	}
	for _, f := range byExt(n.set, service, ".rego") {
		for _, m := range regoPackage.FindAllSubmatch(f, 100) {
			for _, rule := range []string{"allow", "deny", "obligations", "mask", "fields"} {
				seen[string(m[1])+"."+rule] = true
			}
		}
	}
	for typ, t := range n.set.Schema.Types {
		seen[typ] = true
		for _, relation := range t.Grants {
			seen[typ+"#"+relation] = true
		}
	}
	for key := range n.set.Lines {
		seen[key] = true
	}
	return slices.Concat(slices.Sorted(maps.Keys(seen)), n.actions)
}

// check names what f says and nothing declares.
func (n *names) check(f *File) Problems {
	if n == nil {
		return nil
	}
	d := &decoder{file: f.name}
	n.checkDeclared(d, f)
	for i, r := range f.Tests {
		n.checkRow(d, r, fmt.Sprintf("tests[%d]", i))
	}
	for i, m := range f.Matrix {
		at, path := &yaml.Node{Line: m.line, Column: m.col}, fmt.Sprintf("matrix[%d]", i)
		for _, a := range m.Actions {
			n.action(d, at, path+".actions", a)
		}
		for _, role := range slices.Sorted(maps.Keys(m.Roles)) {
			n.role(d, at, path+".roles", role)
		}
	}
	return d.problems
}

func (n *names) checkDeclared(d *decoder, f *File) {
	for _, name := range slices.Sorted(maps.Keys(f.Subjects)) {
		s := f.Subjects[name]
		for _, role := range s.Roles {
			n.role(d, &yaml.Node{Line: s.line, Column: s.col}, "subjects."+name+".roles", role)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Resources)) {
		r := f.Resources[name]
		if !slices.Contains(n.types, r.Type) {
			d.bad(&yaml.Node{Line: r.line, Column: r.col}, "resources."+name+".type", fmt.Sprintf("authz.types declares no %q", r.Type), suggest(r.Type, n.types))
		}
	}
}

func (n *names) checkRow(d *decoder, r Row, path string) {
	at := &yaml.Node{Line: r.line, Column: r.col}
	n.action(d, at, path+".action", r.Action)
	for _, rule := range r.Allow {
		if role, ok := strings.CutPrefix(rule, "role:"); ok {
			n.role(d, at, path+".allow", role)
		}
	}
	if r.Code != "" && !slices.Contains(n.codes, r.Code) && !strings.Contains(n.text, strconv.Quote(r.Code)) {
		d.bad(at, path+".code", fmt.Sprintf("no decision has the code %q", r.Code), suggest(r.Code, n.codes))
	}
	for _, id := range slices.Concat([]string{r.Policy}, r.Policies) {
		n.policy(d, at, path+".policy", id)
	}
}

// action accepts what a type or a role names, and what some role holds by a
// wildcard, unless it looks like one of these misspelt.
func (n *names) action(d *decoder, at *yaml.Node, path, action string) {
	if slices.Contains(n.actions, action) {
		return
	}
	kind, _, _ := strings.Cut(action, ":")
	near := slices.ContainsFunc(n.actions, func(a string) bool { return distance(a, action) <= 2 })
	for _, held := range n.set.Roles {
		if !near && slices.Contains(held, kind+":*") {
			return
		}
	}
	d.bad(at, path, fmt.Sprintf("no type and no role has the action %q", action), suggest(action, n.actions))
}

func (n *names) role(d *decoder, at *yaml.Node, path, role string) {
	role, _, _ = strings.Cut(role, "@")
	if len(n.set.Roles) > 0 && !slices.Contains(n.roles, role) {
		d.bad(at, path, fmt.Sprintf("authz.roles has no %q", role), suggest(role, n.roles))
	}
}

func (n *names) policy(d *decoder, at *yaml.Node, path, id string) {
	of, _, _ := strings.Cut(id, " ")
	if id == "" || n.policies == nil || of == "allow" || of == "scope" || slices.Contains(n.policies, id) {
		return
	}
	d.bad(at, path, fmt.Sprintf("no policy of this service is called %q", id), suggest(id, n.policies))
}
