package policytest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pap"
)

// Fuzzed is what a run of Fuzz found.
type Fuzzed struct {
	Asked          int      `json:"asked"`          // rows that a list and a check were asked about
	Shown          int      `json:"shown"`          // of these, rows that both allow
	Differences    []string `json:"differences"`    // at most 10, each with its row
	Untranslatable []string `json:"untranslatable"` // action and reason, each once
}

const (
	maxDifferences = 10
	maxTries       = 3 // made-up rows for each that is wanted
)

// Fuzz generates n rows of the declared types, out of values that policies and
// tests name, and holds for each that a list shows it exactly when a check
// allows it. What a provider supplies is made up, too. Rows of which no list can
// be made are left out; if they are most, fewer than n are asked. Equal seeds
// generate equal rows.
func Fuzz(ctx context.Context, s pap.Set, service string, n int, seed uint64) (Fuzzed, error) {
	world, err := WorldOf(s, service)
	if err != nil {
		return Fuzzed{}, err
	}
	pairs := actionsOf(s)
	if len(pairs) == 0 || len(world.Subjects) == 0 {
		return Fuzzed{}, errors.New("policytest: fuzzing needs authz.types with actions and attrs, and a test file with subjects")
	}
	t, err := world.tester(s, service, Question{})
	if err != nil {
		return Fuzzed{}, fmt.Errorf("policytest: %w", err)
	}
	t.cover, t.asked = false, nil
	g := &generator{state: seed, schema: s.Schema, world: world, values: pool(s, service, world)}
	out := Fuzzed{Differences: []string{}, Untranslatable: []string{}}
	for i := 0; out.Asked < n && i < maxTries*n; i++ { // rows without a list do not count
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		r := g.request(pairs[i%len(pairs)])
		t.file.Resources["what"] = Resource{Type: r.Resource.Type, ID: r.Resource.ID, Tenant: r.Resource.Tenant, Attrs: r.Resource.Attrs} // for providers
		r.Resource = asked(s.Schema, r.Resource)
		t.fuzz(ctx, r, &out)
		if len(out.Differences) == maxDifferences {
			break
		}
	}
	return out, nil
}

func (t *tester) fuzz(ctx context.Context, r authz.Request, out *Fuzzed) {
	check := t.pdp.DecideObject(ctx, r)
	keeps, d := t.keeps(ctx, r)
	if d.Code == rampart.CodeUntranslatable {
		if what := string(r.Action) + ": " + d.Reason; !slices.Contains(out.Untranslatable, what) {
			out.Untranslatable = append(out.Untranslatable, what)
		}
		return
	}
	out.Asked++
	if keeps && check.Allowed() {
		out.Shown++
	}
	if keeps != check.Allowed() {
		out.Differences = append(out.Differences, fmt.Sprintf("%s %s: %s; the row is %v of tenant %q", r.Principal.Subject, r.Action, disagree(r.Resource.Type+"/"+r.Resource.ID, keeps, check), t.stored(r.Resource), r.Resource.Tenant))
	}
}

// pair is an action of a type.
type pair struct {
	typ    string
	action rampart.Action
}

func actionsOf(s pap.Set) []pair {
	var out []pair
	if s.Schema == nil {
		return nil
	}
	for _, typ := range slices.Sorted(maps.Keys(s.Schema.Types)) {
		for _, a := range s.Schema.Types[typ].Actions {
			out = append(out, pair{typ, a})
		}
	}
	return out
}

// pool holds values that a policy may compare with: those of subjects and
// resources of the tests, and the literals of policies.
func pool(s pap.Set, service string, w World) []string {
	seen := map[string]bool{"": true, "other": true, "true": true, "0": true, "1": true, "-1": true, "0.5": true}
	for _, p := range w.Subjects {
		for _, v := range slices.Concat([]string{p.Subject, p.Tenant, p.Team, p.Client}, p.Organizations, p.Roles, p.ManagedTeams) {
			seen[v] = true
		}
	}
	for _, r := range w.Resources {
		for _, v := range r.Attrs {
			seen[fmt.Sprint(v)] = true
		}
		seen[r.ID], seen[r.Tenant] = true, true
	}
	literal := regexp.MustCompile(`"([^"\\\n]{0,64})"|\b[0-9]{1,9}(\.[0-9]{1,4})?\b`)
	for _, f := range s.Services[service].Policy {
		for _, m := range literal.FindAllStringSubmatch(string(s.Files[f]), 1000) {
			if m[1] != "" {
				seen[m[1]] = true
				continue
			}
			seen[m[0]] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// generator makes rows. Its numbers are no secret and need not be random; that
// they come again with the seed matters.
type generator struct {
	state  uint64
	schema *authz.Schema
	world  World
	values []string
}

// next is splitmix64.
func (g *generator) next(n int) int {
	g.state += 0x9e3779b97f4a7c15
	z := g.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return int((z ^ z>>31) % uint64(n))
}

func (g *generator) text() string { return g.values[g.next(len(g.values))] }

// id is sometimes one that no tuple of the graph can name.
func (g *generator) id() string {
	if g.next(8) == 0 {
		return []string{"order:1", "team:red#member", "*", "a b", "a@b", "\u00e4"}[g.next(6)]
	}
	return cmp.Or(g.text(), "id")
}

func (g *generator) request(p pair) authz.Request {
	names := slices.Sorted(maps.Keys(g.world.Subjects))
	who := g.world.Subjects[names[g.next(len(names))]]
	r := rampart.Resource{Type: p.typ, ID: g.id(), Attrs: map[string]any{}}
	switch {
	case g.next(8) == 0:
		r.Tenant = g.text() // mostly foreign
	case len(who.Organizations) > 0 && g.next(4) > 0:
		r.Tenant = who.Organizations[g.next(len(who.Organizations))]
	}
	attrs := g.schema.Types[p.typ].Attrs
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		if !attrs[name].Optional || g.next(3) > 0 {
			r.Attrs[name] = g.value(attrs[name].Kind, who)
		}
	}
	return authz.Request{Layer: rampart.LayerDomain, Principal: who, Action: p.action, Resource: r, Supported: g.supported()}
}

// supported are the obligations that some asker can carry out.
func (g *generator) supported() []string {
	all := []string{"step-up", "notification", "session_termination"}
	return all[:g.next(len(all)+1)]
}

// value is often one of the subject's own, since most conditions compare with
// these.
func (g *generator) value(kind authz.AttrKind, who rampart.Principal) any {
	switch kind {
	case authz.KindBool:
		return g.next(2) == 0
	case authz.KindLong:
		return int64(g.number())
	case authz.KindDecimal:
		return g.number()
	case authz.KindStrings:
		list := []any{}
		for range g.next(4) {
			list = append(list, g.text())
		}
		return list
	}
	own := slices.Concat([]string{who.Subject, who.Team}, who.ManagedTeams, who.Organizations)
	if g.next(2) == 0 {
		return own[g.next(len(own))]
	}
	return g.text()
}

func (g *generator) number() float64 {
	for range 8 {
		if f, err := strconv.ParseFloat(g.text(), 64); err == nil && f > -1e9 && f < 1e9 {
			return f + float64(g.next(3)-1)
		}
	}
	return float64(g.next(100))
}
