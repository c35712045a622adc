package policytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/cedar"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/rebac"
	"github.com/rampart-security/rampart/authz/rego"
)

// MaxMutants bounds a mutation run; Mutate refuses what would need more.
const MaxMutants = 20_000

// manifest is what findings about rampart.yaml name as their file.
const manifest = "rampart.yaml"

// Mutant is one small change of what decisions rest on.
type Mutant struct {
	File string `json:"file"`
	Line int    `json:"line,omitzero"`
	What string `json:"what"` // the change in words

	set      pap.Set
	services []string // whose tests may notice
}

func (m Mutant) String() string {
	if m.Line == 0 {
		return m.File + ": " + m.What
	}
	return fmt.Sprintf("%s:%d: %s", m.File, m.Line, m.What)
}

// Mutation is what a mutation run found. The score is Killed of Killed and
// Survivors: a change that does not load, Refused, needs no test.
type Mutation struct {
	Killed    int      `json:"killed"`
	Refused   int      `json:"refused"`
	Survivors []Mutant `json:"survivors"`
}

// Score is between 0 and 1; without mutants it is 1.
func (m Mutation) Score() float64 {
	if len(m.Survivors) == 0 {
		return 1
	}
	return float64(m.Killed) / float64(m.Killed+len(m.Survivors))
}

// ErrRed: as long as a row fails anyway, it would seem to notice everything.
var ErrRed = errors.New("a test fails without any change: mutation needs tests that pass")

// Mutate runs the tests of the services against every mutant of s. progress, if
// not nil, is called from several goroutines, after each mutant.
func Mutate(ctx context.Context, s pap.Set, services []string, progress func(done, total int)) (Mutation, error) {
	tests := map[string][]*File{}
	for _, name := range services {
		files, err := parseAll(s, name)
		if err != nil {
			return Mutation{}, err
		}
		tests[name] = files
	}
	if killed, err := kills(ctx, Mutant{set: s, services: services}, tests); err != nil || killed {
		return Mutation{}, errors.Join(err, red(killed))
	}
	mutants, err := mutants(s, services)
	if err != nil {
		return Mutation{}, fmt.Errorf("policytest: %w", err)
	}
	return runMutants(ctx, mutants, tests, progress)
}

func red(killed bool) error {
	if killed {
		return ErrRed
	}
	return nil
}

// outcome of one mutant.
type outcome uint8

const (
	survived outcome = iota
	killed
	refused
)

func runMutants(ctx context.Context, list []Mutant, tests map[string][]*File, progress func(done, total int)) (Mutation, error) {
	outcomes := make([]outcome, len(list))
	var next, done atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(list)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(list)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				outcomes[i] = try(ctx, list[i], tests)
				if n := done.Add(1); progress != nil {
					progress(int(n), len(list))
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return Mutation{}, ctx.Err()
	}
	return tally(list, outcomes), nil
}

func try(ctx context.Context, m Mutant, tests map[string][]*File) outcome {
	switch dead, err := kills(ctx, m, tests); {
	case err != nil:
		return refused
	case dead:
		return killed
	}
	return survived
}

func tally(list []Mutant, outcomes []outcome) Mutation {
	out := Mutation{Survivors: []Mutant{}}
	for i, o := range outcomes {
		switch o {
		case killed:
			out.Killed++
		case refused:
			out.Refused++
		case survived:
			out.Survivors = append(out.Survivors, list[i])
		}
	}
	return out
}

// kills reports whether some row fails under m.
func kills(ctx context.Context, m Mutant, tests map[string][]*File) (bool, error) {
	for _, name := range m.services {
		t := &tester{set: m.set, service: name, fast: true}
		if err := t.run(ctx, tests[name]); err != nil {
			return false, err
		}
		if len(t.report.Failed()) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// mutants lists every change that is tried.
func mutants(s pap.Set, services []string) ([]Mutant, error) {
	out := slices.Concat(roleMutants(s), grantMutants(s), separationMutants(s), tokenMutants(s), modelMutants(s))
	for i := range out {
		out[i].services = services
	}
	policies, err := policyMutants(s, services)
	if err != nil {
		return nil, err
	}
	out = append(out, policies...)
	if len(out) > MaxMutants {
		return nil, fmt.Errorf("%d changes to try; at most %d", len(out), MaxMutants)
	}
	return out, nil
}

// roleMutants take away what a role holds, and give it each thing that it does
// not hold.
func roleMutants(s pap.Set) []Mutant {
	var out []Mutant
	all := actions(s)
	for _, role := range slices.Sorted(maps.Keys(s.Roles)) {
		line := s.Lines["role "+role]
		for i, entry := range s.Roles[role] {
			held := slices.Delete(slices.Clone(s.Roles[role]), i, i+1)
			out = append(out, Mutant{File: manifest, Line: line, What: fmt.Sprintf("role %s no longer has %s", role, entry), set: withRole(s, role, held)})
		}
		for _, a := range all {
			if !holds(s.Roles, role, a, 0) {
				more := append(slices.Clone(s.Roles[role]), a)
				out = append(out, Mutant{File: manifest, Line: line, What: fmt.Sprintf("role %s has %s as well", role, a), set: withRole(s, role, more)})
			}
		}
	}
	return out
}

func withRole(s pap.Set, role string, held []string) pap.Set {
	s.Roles = maps.Clone(s.Roles)
	s.Roles[role] = held
	return s
}

// actions are those that roles and types name, sorted.
func actions(s pap.Set) []string {
	known := map[string]bool{}
	for _, held := range s.Roles {
		for _, p := range held {
			if !strings.HasPrefix(p, "role:") && !strings.HasSuffix(p, ":*") {
				known[p] = true
			}
		}
	}
	if s.Schema != nil {
		for _, typ := range s.Schema.Types {
			for _, a := range typ.Actions {
				known[string(a)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(known))
}

// holds reports whether a role has an action, by itself or by another role.
func holds(roles map[string][]string, role, action string, depth int) bool {
	kind, _, _ := strings.Cut(action, ":")
	return depth <= len(roles) && slices.ContainsFunc(roles[role], func(entry string) bool {
		other, include := strings.CutPrefix(entry, "role:")
		return entry == action || entry == kind+":*" || include && holds(roles, other, action, depth+1)
	})
}

// grantMutants take away what a relation permits without any policy text.
func grantMutants(s pap.Set) []Mutant {
	var out []Mutant
	if s.Schema == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.Schema.Types)) {
		typ := s.Schema.Types[name]
		for _, a := range slices.Sorted(maps.Keys(typ.Grants)) {
			changed := typ
			changed.Grants = maps.Clone(typ.Grants)
			delete(changed.Grants, a)
			what := fmt.Sprintf("relation %s of %s no longer grants %s", typ.Grants[a], name, a)
			out = append(out, Mutant{File: manifest, Line: s.Lines["type "+name], What: what, set: withType(s, name, changed)})
		}
	}
	return out
}

func withType(s pap.Set, name string, typ authz.Type) pap.Set {
	schema := authz.Schema{Types: maps.Clone(s.Schema.Types)}
	schema.Types[name] = typ
	s.Schema = &schema
	return s
}

// separationMutants drop dynamic separations. Static ones are kept when a role
// is granted, which no row asks about.
func separationMutants(s pap.Set) []Mutant {
	var out []Mutant
	for i, sep := range s.Separate {
		if !sep.Dynamic {
			continue
		}
		changed := s
		changed.Separate = slices.Delete(slices.Clone(s.Separate), i, i+1)
		what := "roles " + strings.Join(sep.Roles, " and ") + " may be used together"
		out = append(out, Mutant{File: manifest, Line: s.Lines[fmt.Sprintf("separate %d", i)], What: what, set: changed})
	}
	return out
}

func tokenMutants(s pap.Set) []Mutant {
	var out []Mutant
	for _, relation := range slices.Sorted(maps.Keys(s.FromToken)) {
		changed := s
		changed.FromToken = maps.Clone(s.FromToken)
		delete(changed.FromToken, relation)
		out = append(out, Mutant{File: manifest, Line: s.Lines["from_token "+relation], What: "a token no longer says " + relation, set: changed})
	}
	return out
}

func modelMutants(s pap.Set) []Mutant {
	var out []Mutant
	for _, m := range rebac.Mutants(s.Model, s.Files[s.Model]) {
		out = append(out, Mutant{File: s.Model, Line: m.Line, What: m.What, set: withFile(s, s.Model, m.Src)})
	}
	return out
}

func withFile(s pap.Set, name string, src []byte) pap.Set {
	s.Files = maps.Clone(s.Files)
	s.Files[name] = src
	return s
}

// policyMutants change each policy file that a service of the run has.
func policyMutants(s pap.Set, services []string) ([]Mutant, error) {
	users := map[string][]string{}
	for _, name := range services {
		for _, f := range s.Services[name].Policy {
			users[f] = append(users[f], name)
		}
	}
	var out []Mutant
	for _, file := range slices.Sorted(maps.Keys(users)) {
		list, err := fileMutants(file, s.Files[file])
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			m.set, m.services = withFile(s, file, m.src), users[file]
			out = append(out, m.Mutant)
		}
	}
	return out, nil
}

// changed is a mutant before it stands in a Set.
type changed struct {
	Mutant
	src []byte
}

func fileMutants(file string, src []byte) ([]changed, error) {
	var out []changed
	switch path.Ext(file) {
	case ".cedar":
		list, err := cedar.Mutants(file, src)
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			out = append(out, changed{Mutant{File: file, Line: m.Line, What: m.What}, m.Src})
		}
	case ".rego":
		list, err := rego.Mutants(file, src)
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			out = append(out, changed{Mutant{File: file, Line: m.Line, What: m.What}, m.Src})
		}
	}
	return out, nil
}
