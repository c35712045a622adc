package policytest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/cedar"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
)

// Uses is what Lint must know beside a Set: what routes and flows ask for.
type Uses struct {
	Permissions map[string]bool // that some route or flow asks for
	Routes      map[string]bool // services that have routes of their own
}

// Lint returns what loads and is hardly meant, by file and line. A file that
// does not load is one finding. Rules are named by Problem.Key:
//
//	load          a policy, the model or a test file does not load
//	no-policy     a service has routes and no policy: its objects are nobody's
//	untested      a service has policies and no test
//	idle          an annotation of a policy that asks for nothing
//	undecided     no row of the tests is decided by a policy
//	unconditional a permit without a condition on a type with classified data
//	unlistable    an action that reads or lists, and no list can be made for it
//	unused        a permission that no route, flow or type asks for
//	ungranted     an action of a type that no role holds
func Lint(ctx context.Context, s pap.Set, services []string, uses Uses) []Problem {
	var out []Problem
	for _, name := range services {
		out = append(out, lintService(ctx, s, name, uses)...)
	}
	out = append(out, lintRoles(s, uses)...)
	slices.SortFunc(out, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Msg, b.Msg))
	})
	return slices.Compact(out)
}

func lintService(ctx context.Context, s pap.Set, name string, uses Uses) []Problem {
	svc, line := s.Services[name], s.Lines["service "+name]
	if len(svc.Policy) == 0 {
		if !uses.Routes[name] {
			return nil
		}
		return []Problem{{File: manifest, Line: line, Key: "no-policy", Msg: fmt.Sprintf("service %s has routes and no policy: every check of one of its objects is denied", name), Fix: "name a file under policy: of the service, if it has objects that belong to somebody"}}
	}
	decisions, err := pdp.New(s.Options(name))
	if err != nil {
		return []Problem{loadProblem(svc.Policy[0], err)}
	}
	var out []Problem
	if !slices.ContainsFunc(svc.Tests, isYAML) {
		out = append(out, Problem{File: manifest, Line: line, Key: "untested", Msg: fmt.Sprintf("the policies of service %s have no test", name), Fix: "write policy_tests: policy/" + name + "_test.yaml"})
	} else {
		out = append(out, lintTested(ctx, s, name)...)
	}
	out = append(out, lintUnconditional(ctx, s, name)...)
	out = append(out, lintIdle(s, name)...)
	return append(out, lintLists(ctx, s, decisions)...)
}

// placed finds the file and the line that an error of an engine names.
var placed = regexp.MustCompile(`(?s)^(?:[a-z]+: )*([^\s:]+\.[a-z]+):([0-9]+)(?::([0-9]+))?: (.*)$`)

// loadProblem is the finding of a file that does not load.
func loadProblem(file string, err error) Problem {
	p := Problem{File: file, Key: "load", Msg: err.Error(), Fix: "correct it; nothing starts before it loads"}
	if m := placed.FindStringSubmatch(p.Msg); m != nil {
		p.File, p.Msg = m[1], m[4]
		p.Line, _ = strconv.Atoi(m[2])
		p.Col, _ = strconv.Atoi(m[3]) // 0 when there is none
	}
	return p
}

// lintTested names policies that no row is decided by.
func lintTested(ctx context.Context, s pap.Set, name string) []Problem {
	report, err := Cover(ctx, s, name)
	if bad, ok := err.(Problems); ok {
		return bad
	}
	if err != nil {
		return []Problem{loadProblem(s.Services[name].Tests[0], err)}
	}
	var out []Problem
	for _, c := range report.Coverage {
		if c.Held == 0 {
			out = append(out, Problem{File: c.File, Line: c.Line, Key: "undecided", Msg: fmt.Sprintf("no test sees it hold: %s", clip(c.Text)), Fix: "add a row to the tests that it decides, or remove it"})
		}
	}
	return out
}

// lintUnconditional looks for permits that show classified data to whoever the
// scope fits.
func lintUnconditional(ctx context.Context, s pap.Set, name string) []Problem {
	files := byExt(s, name, ".cedar")
	e, err := cedar.New(files, s.Schema)
	if len(files) == 0 || err != nil || s.Schema == nil {
		return nil
	}
	conditions := map[string]int{}
	first := map[string]cedar.Covered{}
	for _, c := range e.Coverage(ctx, nil) {
		if conditions[c.Policy]++; c.Condition == "" {
			first[c.Policy] = c
		}
	}
	var out []Problem
	for _, p := range actionsOf(s) {
		secret := classified(s.Schema.Types[p.typ])
		if secret == "" {
			continue
		}
		who := rampart.Principal{Kind: rampart.KindHuman, Subject: "user:anybody"}
		v := e.Evaluate(ctx, authz.Request{Layer: rampart.LayerDomain, Principal: who, Action: p.action, Resource: rampart.Resource{Type: p.typ, ID: "any"}})
		for _, r := range v.Permits {
			if conditions[r.Policy.ID] == 1 && r.Fields == nil {
				out = append(out, Problem{File: r.Policy.File, Line: first[r.Policy.ID].Line, Key: "unconditional", Msg: fmt.Sprintf("%s permits %s of every %s, and %s is classified", r.Policy.ID, p.action, p.typ, secret), Fix: `add a condition, or @mask("pii")`})
			}
		}
	}
	return out
}

// lintIdle looks for annotations without a meaning.
func lintIdle(s pap.Set, name string) []Problem {
	e, err := cedar.New(byExt(s, name, ".cedar"), s.Schema)
	if err != nil {
		return nil // lintService has said so
	}
	var out []Problem
	for _, a := range e.Idle() {
		out = append(out, Problem{File: a.Policy.File, Line: a.Line, Key: "idle", Msg: fmt.Sprintf("@%s of %s asks for nothing: Rampart does not know it", a.Name, a.Policy.ID),
			Fix: "write @fields, @mask, @obligation, @reason or @doc, or begin its name with x_ if it is your own"})
	}
	return out
}

// classified returns an attribute of a type that is not for everybody, or "".
func classified(t authz.Type) string {
	for _, name := range slices.Sorted(maps.Keys(t.Attrs)) {
		a := t.Attrs[name]
		if a.PII || a.Class != "" && a.Class.Rank() >= rampart.ClassConfidential.Rank() {
			return name
		}
	}
	return ""
}

// lintLists names actions for which some subject gets no list. What can be said
// as a filter may depend on who asks, so one subject per role asks.
func lintLists(ctx context.Context, s pap.Set, decisions *pdp.PDP) []Problem {
	var out []Problem
	for _, p := range actionsOf(s) {
		if verb := authz.Verb(p.action); verb != "read" && verb != "list" {
			continue // nobody lists what may be created
		}
		for _, role := range append(slices.Sorted(maps.Keys(s.Roles)), "") {
			who := rampart.Principal{Kind: rampart.KindHuman, Subject: "user:anybody", Organizations: []string{"any"}, Team: "any", ManagedTeams: []string{"any"}}
			if role != "" {
				who.Roles = []string{role}
			}
			_, d := decisions.Filter(ctx, authz.Request{Layer: rampart.LayerDomain, Principal: who, Action: p.action, Resource: rampart.Resource{Type: p.typ}})
			if d.Code == rampart.CodeUntranslatable {
				at := Problem{File: manifest, Line: s.Lines["type "+p.typ]}
				if len(d.Policies) > 0 && d.Policies[0].File != "" {
					at.File, at.Line = d.Policies[0].File, d.Policies[0].Line
				}
				at.Key, at.Msg = "unlistable", fmt.Sprintf("no list of %s can be made for %s: %s", p.typ, p.action, d.Reason)
				at.Fix = "compare an attribute with a value, or ask about one object at a time"
				out = append(out, at)
				break
			}
		}
	}
	return out
}

// lintRoles holds what roles hold against what is asked for.
func lintRoles(s pap.Set, uses Uses) []Problem {
	asked := maps.Clone(uses.Permissions)
	if asked == nil {
		asked = map[string]bool{}
	}
	var out []Problem
	for _, p := range actionsOf(s) {
		asked[string(p.action)] = true
		held := slices.ContainsFunc(slices.Collect(maps.Keys(s.Roles)), func(role string) bool { return holds(s.Roles, role, string(p.action), 0) })
		if !held && s.Schema.Types[p.typ].Grants[p.action] == "" {
			out = append(out, Problem{File: manifest, Line: s.Lines["type "+p.typ], Key: "ungranted", Msg: fmt.Sprintf("%s is an action of %s that no role holds", p.action, p.typ), Fix: "add it to a role under authz.roles, or remove it from actions:"})
		}
	}
	for _, role := range slices.Sorted(maps.Keys(s.Roles)) {
		for _, entry := range s.Roles[role] {
			if strings.HasPrefix(entry, "role:") || used(entry, asked) {
				continue
			}
			out = append(out, Problem{File: manifest, Line: s.Lines["role "+role], Key: "unused", Msg: fmt.Sprintf("role %s holds %s, which no route, flow or type asks for", role, entry), Fix: "remove it, or correct its spelling: " + suggest(entry, slices.Sorted(maps.Keys(asked)))})
		}
	}
	return out
}

func used(entry string, asked map[string]bool) bool {
	kind, all := strings.CutSuffix(entry, ":*")
	for a := range asked {
		if typ, _, _ := strings.Cut(a, ":"); a == entry || all && typ == kind {
			return true
		}
	}
	return false
}
