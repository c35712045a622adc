package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/openfga/openfga/assets"
	"go.yaml.in/yaml/v3"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rebac"
)

// The suite's files, as OpenFGA writes them.
type (
	suite struct {
		Tests []struct {
			Name   string
			Stages []stage
		}
	}
	stage struct {
		Model       string
		Tuples      []tuple
		Check       []check       `yaml:"checkAssertions"`
		ListObjects []listObjects `yaml:"listObjectsAssertions"`
		ListUsers   []listUsers   `yaml:"listUsersAssertions"`
	}
	tuple struct {
		Object, Relation, User string
		Condition              struct {
			Name    string
			Context map[string]any
		}
	}
	with struct {
		Also    []tuple        `yaml:"contextualTuples"`
		Context map[string]any `yaml:"context"`
		Code    int            `yaml:"errorCode"`
	}
	check struct {
		with        `yaml:",inline"`
		Tuple       tuple
		Expectation bool
	}
	listObjects struct {
		with        `yaml:",inline"`
		Request     struct{ User, Type, Relation string }
		Expectation []string
	}
	listUsers struct {
		with    `yaml:",inline"`
		Request struct {
			Filters          []string
			Object, Relation string
		}
		Expectation []string
	}
)

// Codes of OpenFGA's API.
const (
	codeValidation      = 2000
	codeTooComplex      = 2002
	codeUnknownType     = 2021
	codeUnknownRelation = 2022
	codeInvalidTuple    = 2027
)

// newGraph makes the graph under test. Tuples that the model does not allow are
// left from an earlier model.
type newGraph func(t *testing.T, model []byte, tuples []authz.Tuple) (authz.Graph, error)

func TestIndex(t *testing.T) {
	run(t, "known.txt", func(t *testing.T, model []byte, tuples []authz.Tuple) (authz.Graph, error) {
		m, err := rebac.ParseModel("model.fga", model)
		if err != nil {
			return nil, err
		}
		x := rebac.NewIndex(m, rebac.Options{})
		return x, x.Reset(1, slices.Values(tuples))
	})
}

// run holds a graph against the whole suite, once with the tuples in the graph
// and once with the same tuples in the question. A failure that the file names
// is counted, any other is one; and so is a success that the file names, so that
// the list can only shrink.
func run(t *testing.T, file string, of newGraph) {
	r := runner{t: t, of: of, known: readKnown(t, file), seen: map[string]bool{}}
	for _, name := range []string{"tests/consolidated_1_1_tests.yaml", "tests/abac_tests.yaml"} {
		text, err := assets.EmbedTests.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var s suite
		if err := yaml.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		for _, test := range s.Tests {
			r.test(test.Name, test.Stages)
		}
	}
	r.report()
}

type runner struct {
	t      *testing.T
	of     newGraph
	known  map[string]string
	seen   map[string]bool
	counts [2][3]count // stored or brought; check, list objects, list users
}

type count struct{ passed, all int }

var kinds = []string{"check", "listObjects", "listUsers"}

func (r *runner) test(name string, stages []stage) {
	var tuples []authz.Tuple
	for i, s := range stages {
		tuples = append(tuples, convert(s.Tuples)...)
		id := fmt.Sprintf("%s/%d", name, i)
		r.stage(0, id, s, r.graph(s.Model, tuples), nil)
		if len(stages) == 1 && len(s.Tuples) <= 100 {
			r.stage(1, id, s, r.graph(s.Model, nil), tuples)
		}
	}
}

// graph that cannot be made answers everything with the reason.
func (r *runner) graph(model string, tuples []authz.Tuple) authz.Graph {
	g, err := r.of(r.t, []byte(model), tuples)
	if err != nil {
		return broken{err}
	}
	return g
}

type broken struct{ err error }

func (b broken) Related(context.Context, authz.RelationQuery, bool) (authz.Relationship, error) {
	return authz.Relationship{}, b.err
}

func (b broken) Objects(context.Context, authz.RelationQuery) ([]string, uint64, error) {
	return nil, 0, b.err
}

func (b broken) Subjects(context.Context, authz.RelationQuery) ([]string, uint64, error) {
	return nil, 0, b.err
}

// stage asks everything of one stage; mode 1 brings the tuples in the question.
func (r *runner) stage(mode int, id string, s stage, g authz.Graph, also []authz.Tuple) {
	for i, a := range s.Check {
		r.judge(mode, 0, id, i, a.ask(g, also))
	}
	for i, a := range s.ListObjects {
		r.judge(mode, 1, id, i, a.ask(g, also))
	}
	for i, a := range s.ListUsers {
		r.judge(mode, 2, id, i, a.ask(g, also))
	}
}

func (r *runner) judge(mode, kind int, id string, i int, err error) {
	name := fmt.Sprintf("%s/%s/%d", kinds[kind], id, i) // in either mode
	c := &r.counts[mode][kind]
	c.all++
	reason, known := r.known[name]
	r.seen[name] = true
	switch {
	case err == nil && !known:
		c.passed++
	case err == nil:
		r.t.Errorf("%s passes: take it off the list (%s)", name, reason)
	case !known:
		r.t.Errorf("%s: %v", name, err)
	}
}

func (r *runner) report() {
	var all, passed int
	for mode, how := range []string{"tuples in the graph", "tuples in the question"} {
		line := how + ":"
		for kind, c := range r.counts[mode] {
			line += fmt.Sprintf(" %s %d of %d,", kinds[kind], c.passed, c.all)
			if mode == 0 {
				all, passed = all+c.all, passed+c.passed
			}
		}
		fmt.Println(strings.TrimSuffix(line, ","))
	}
	if all != 1264 {
		r.t.Errorf("the suite has %d assertions, not 1264: a newer one? Look at it and count again", all)
	}
	if 100*(all-passed) >= 5*all {
		r.t.Errorf("%d of %d assertions fail: 5 percent is the limit", all-passed, all)
	}
	for name := range r.known {
		if !r.seen[name] {
			r.t.Errorf("%s is on the list but not in the suite", name)
		}
	}
}

// readKnown reads lines of the form "name: reason".
func readKnown(t *testing.T, file string) map[string]string {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	known := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, ok := strings.Cut(line, ": ")
		if !ok || reason == "" {
			t.Fatalf("%s: %q gives no reason", file, line)
		}
		known[name] = reason
	}
	return known
}

func (a check) ask(g authz.Graph, also []authz.Tuple) error {
	typ, id, _ := strings.Cut(a.Tuple.Object, ":")
	q := a.query(a.Tuple.User, a.Tuple.Relation, typ, id, also)
	got, err := g.Related(context.Background(), q, false)
	if e := a.code(err, true); e != nil || err != nil {
		return e
	}
	if got.Holds != a.Expectation {
		return fmt.Errorf("%s#%s@%s: got %v", a.Tuple.Object, a.Tuple.Relation, a.Tuple.User, got.Holds)
	}
	explained, err := g.Related(context.Background(), q, true)
	if err != nil || explained.Holds != got.Holds {
		return fmt.Errorf("explained it is %v, %v", explained.Holds, err)
	}
	return nil
}

func (a listObjects) ask(g authz.Graph, also []authz.Tuple) error {
	q := a.query(a.Request.User, a.Request.Relation, a.Request.Type, "", also)
	got, _, err := g.Objects(context.Background(), q)
	if e := a.code(err, false); e != nil || err != nil {
		return e
	}
	for i, id := range got {
		q.ID = id
		if err := holds(g, q); err != nil {
			return err
		}
		got[i] = a.Request.Type + ":" + id
	}
	return same(got, a.Expectation)
}

func (a listUsers) ask(g authz.Graph, also []authz.Tuple) error {
	typ, id, _ := strings.Cut(a.Request.Object, ":")
	var all []string
	for _, filter := range a.Request.Filters {
		q := a.query(filter, a.Request.Relation, typ, id, also)
		got, _, err := g.Subjects(context.Background(), q)
		if e := a.code(err, false); e != nil || err != nil {
			return e
		}
		for _, q.Subject = range got {
			if err := holds(g, q); err != nil {
				return err
			}
		}
		all = append(all, got...)
	}
	return same(all, a.Expectation)
}

// holds: whatever is on a list passes the check.
func holds(g authz.Graph, q authz.RelationQuery) error {
	r, err := g.Related(context.Background(), q, false)
	if err != nil || !r.Holds {
		return fmt.Errorf("%s is on the list of %s:%s#%s, the check says %v, %v", q.Subject, q.Type, q.ID, q.Relation, r.Holds, err)
	}
	return nil
}

func (w with) query(subject, relation, typ, id string, also []authz.Tuple) authz.RelationQuery {
	return authz.RelationQuery{
		Subject: subject, Relation: relation, Type: typ, ID: id,
		Context: jsonLike(w.Context), Also: append(convert(w.Also), also...),
	}
}

// code compares errors. A check reports every fault of its own tuple as one, and
// a list the fault of a condition as one of the request.
func (w with) code(err error, check bool) error {
	got := codeOf(err)
	switch {
	case check && (got == codeUnknownType || got == codeUnknownRelation):
		got = codeValidation
	case !check && got == codeInvalidTuple && errors.Is(err, rebac.ErrCondition):
		got = codeValidation
	}
	if got != w.Code {
		return fmt.Errorf("error %d (%v), want %d", got, err, w.Code)
	}
	return nil
}

func codeOf(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, authz.ErrTooComplex):
		return codeTooComplex
	case errors.Is(err, rebac.ErrInvalidTuple):
		return codeInvalidTuple
	case errors.Is(err, rebac.ErrUnknownType):
		return codeUnknownType
	case errors.Is(err, rebac.ErrUnknownRelation):
		return codeUnknownRelation
	case errors.Is(err, rebac.ErrInvalid), errors.Is(err, rebac.ErrCondition):
		return codeValidation
	}
	return -1
}

func same(got, want []string) error {
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		return fmt.Errorf("got %v, want %v", got, want)
	}
	return nil
}

func convert(in []tuple) []authz.Tuple {
	var out []authz.Tuple
	for _, t := range in {
		out = append(out, authz.Tuple{
			Object: t.Object, Relation: t.Relation, Subject: t.User,
			Condition: t.Condition.Name, Context: jsonLike(t.Condition.Context),
		})
	}
	return out
}

// jsonLike makes of YAML's values those that a JSON API would receive.
func jsonLike(in map[string]any) map[string]any {
	text, err := json.Marshal(in)
	if err != nil {
		panic(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		panic(err)
	}
	return out
}
