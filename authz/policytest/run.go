package policytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
)

// rowTimeout is long: what is tested is the answer, and the machine of a build
// may be busy.
const rowTimeout = 10 * time.Second

// defaultNow is what the time is in a file that does not say.
func defaultNow() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }

// Report is what the tests of one service found.
type Report struct {
	Service  string      `json:"service"`
	Results  []Result    `json:"results"` // in order of files and rows
	Grids    []Grid      `json:"grids,omitzero"`
	Coverage []Condition `json:"coverage,omitzero"`
}

// Result is the outcome of one row, one cell of a matrix or one native test.
type Result struct {
	File     string           `json:"file"`
	Line     int              `json:"line"`
	Name     string           `json:"name"`             // the row as a sentence
	Problem  string           `json:"problem,omitzero"` // "" when it passed
	Decision rampart.Decision `json:"decision,omitzero"`
	Note     string           `json:"note,omitzero"` // what could not be tried, such as a filter that no engine can say

	asks string // the question alone, whatever answer is wanted
}

// Passed reports whether the row found what it wanted.
func (r Result) Passed() bool { return r.Problem == "" }

// Grid is a matrix with its answers.
type Grid struct {
	File    string   `json:"file"`
	Line    int      `json:"line"`
	Name    string   `json:"name,omitzero"`
	Columns []string `json:"columns"`
	Rows    []string `json:"rows"`
	Cells   [][]Cell `json:"cells"` // by row, then column
}

// Cell is one answer of a grid.
type Cell struct {
	Allowed bool `json:"allowed"`
	Wanted  bool `json:"wanted"`
}

// Failed returns the rows that did not find what they wanted.
func (r Report) Failed() []Result {
	var out []Result
	for _, res := range r.Results {
		if !res.Passed() {
			out = append(out, res)
		}
	}
	return out
}

// Run asks every row of a service's test files of a decision point made from s.
// The error is of files that do not load: Problems when a test file is at fault.
func Run(ctx context.Context, s pap.Set, service string) (Report, error) {
	files, err := parseAll(s, service)
	if err != nil {
		return Report{}, err
	}
	t := &tester{set: s, service: service}
	if err := t.run(ctx, files); err != nil {
		return Report{}, fmt.Errorf("policytest: %w", err)
	}
	return t.report, nil
}

// parseAll reads the *.yaml tests of a service, and refuses names that nothing
// declares.
func parseAll(s pap.Set, service string) ([]*File, error) {
	return parseFiles(s, service, namesOf(s, service))
}

// parseFiles is parseAll for files that are asked of other policies as well, if
// known is nil.
func parseFiles(s pap.Set, service string, known *names) ([]*File, error) {
	var files []*File
	var problems Problems
	for _, name := range s.Services[service].Tests {
		if !isYAML(name) {
			continue
		}
		f, err := Parse(name, s.Files[name])
		if err == nil {
			problems = append(problems, known.check(f)...)
		}
		if bad, ok := errors.AsType[Problems](err); ok {
			problems = append(problems, bad...)
			continue
		}
		files = append(files, f)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return files, nil
}

func isYAML(name string) bool { ext := path.Ext(name); return ext == ".yaml" || ext == ".yml" }

// tester runs the tests of one service against one Set. It serves one
// goroutine.
type tester struct {
	set     pap.Set
	service string
	fast    bool // stop at the first row that fails
	report  Report
	file    *File
	pdp     *pdp.PDP
	graph   authz.Graph // nil without a model
	now     time.Time
	cover   bool            // keep what is asked
	asked   []authz.Request // of the domain layer
}

// errStop ends a fast run.
var errStop = errors.New("a row failed")

func (t *tester) run(ctx context.Context, files []*File) error {
	t.report.Service = t.service
	for _, f := range files {
		if err := t.open(f); err != nil {
			return err
		}
		if err := t.rows(ctx); err != nil {
			return stopped(err)
		}
	}
	return stopped(t.native(ctx))
}

func stopped(err error) error {
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// open makes the decision point for the rows of one file, with its relations.
func (t *tester) open(f *File) error {
	t.file = f
	o := t.set.Options(t.service)
	o.Timeout = rowTimeout
	o.Now = func() time.Time { return t.now }
	graph, err := graphOf(t.set, f)
	if err != nil {
		return err
	}
	if t.graph = nil; graph != nil {
		t.graph = graph
		o.Graph = graph
	}
	o.Providers = providers(t.set.Schema, f)
	if t.cover {
		o.Observe = t.observe
	}
	t.pdp, err = pdp.New(o)
	return err
}

func (t *tester) rows(ctx context.Context) error {
	for _, row := range t.file.Tests {
		if err := t.note(t.row(ctx, row)); err != nil {
			return err
		}
	}
	for _, m := range t.file.Matrix {
		if err := t.matrix(ctx, m); err != nil {
			return err
		}
	}
	if ctx.Err() != nil { // every row fails then, for no fault of its own
		return fmt.Errorf("the tests take too long: %w", ctx.Err())
	}
	return nil
}

// note keeps a result, and ends a fast run at the first failure.
func (t *tester) note(r Result) error {
	t.report.Results = append(t.report.Results, r)
	if t.fast && !r.Passed() {
		return errStop
	}
	return nil
}

// matrix asks every cell.
func (t *tester) matrix(ctx context.Context, m Matrix) error {
	g := Grid{File: t.file.name, Line: m.line, Name: m.Name, Columns: m.Actions}
	lines := []map[string][]string{m.Roles, m.Subjects}
	for i, line := range lines {
		for _, name := range slices.Sorted(maps.Keys(line)) {
			p := t.file.Subjects[name].principal(name)
			if i == 0 {
				p = t.holder(name, m)
			}
			cells := make([]Cell, len(m.Actions))
			for j, a := range m.Actions {
				cells[j] = t.cell(ctx, m, p, name, a, slices.Contains(line[name], a))
			}
			g.Rows, g.Cells = append(g.Rows, name), append(g.Cells, cells)
		}
	}
	t.report.Grids = append(t.report.Grids, g)
	if t.fast && len(t.report.Failed()) > 0 {
		return errStop
	}
	return nil
}

// holder is somebody with one role alone, who belongs to the resource's tenant.
func (t *tester) holder(role string, m Matrix) rampart.Principal {
	tenant := t.file.Resources[m.Resource].Tenant
	s := Subject{ID: "user:" + role, Roles: []string{role}}
	if role == "nobody" {
		s.Roles = nil
	}
	if tenant != "" {
		s.Organizations = []string{tenant}
	}
	return s.principal(role)
}

func (t *tester) cell(ctx context.Context, m Matrix, p rampart.Principal, name, action string, wanted bool) Cell {
	row := Row{Subject: name, Action: action, Resource: m.Resource, At: m.At, Expect: Expect{set: true}}
	if m.Resource == "" && m.At == "" {
		row.At = string(rampart.LayerGateway)
	}
	if wanted {
		row.Expect.Effect = rampart.Allow
	}
	res := t.single(ctx, p, row)
	res.Line = m.line
	t.report.Results = append(t.report.Results, res)
	return Cell{res.Decision.Allowed(), wanted}
}

func (t *tester) row(ctx context.Context, row Row) Result {
	p := t.file.Subjects[row.Subject].principal(row.Subject)
	if row.Expect.list {
		return t.list(ctx, p, row)
	}
	return t.single(ctx, p, row)
}

// single asks about one resource, at every layer that the row is about.
func (t *tester) single(ctx context.Context, p rampart.Principal, row Row) Result {
	t.setNow(row)
	res := t.result(row)
	res.Decision = t.decide(ctx, p, row)
	res.Problem = differs(row, res.Decision)
	if row.Resource != "" && (row.At == "" || row.At == string(rampart.LayerDomain)) && res.Problem == "" {
		res.Problem, res.Note = t.filterAgrees(ctx, t.request(p, row, t.file.Resources[row.Resource].resource(row.Resource)))
	}
	return res
}

func (t *tester) result(row Row) Result {
	return Result{File: t.file.name, Line: row.line, Name: row.String(), asks: row.question()}
}

func (t *tester) setNow(row Row) {
	t.now = defaultNow()
	for _, at := range []time.Time{t.file.Now, row.Now} {
		if !at.IsZero() {
			t.now = at
		}
	}
}

// decide asks layer after layer; the first that denies has decided.
func (t *tester) decide(ctx context.Context, p rampart.Principal, row Row) rampart.Decision {
	var d rampart.Decision
	for _, layer := range layers {
		if row.At != "" && row.At != string(layer) {
			continue
		}
		if d = t.at(ctx, layer, p, row); !d.Allowed() {
			break
		}
	}
	return d
}

func (t *tester) at(ctx context.Context, layer rampart.Layer, p rampart.Principal, row Row) rampart.Decision {
	res := t.file.Resources[row.Resource].resource(row.Resource)
	route := pdp.Route{Permission: row.Action, Allow: row.Allow, Require: row.Require}
	switch layer {
	case rampart.LayerGateway:
		return t.pdp.DecideRoute(ctx, p, route)
	case rampart.LayerService:
		return t.pdp.DecideService(ctx, p, firstText(row.Tenant, res.Tenant), route)
	}
	r := t.request(p, row, res)
	return t.pdp.Decide(ctx, r)
}

// request is the question of the domain layer.
func (t *tester) request(p rampart.Principal, row Row, res rampart.Resource) authz.Request {
	return authz.Request{Layer: rampart.LayerDomain, Principal: p, Action: rampart.Action(row.Action), Resource: asked(t.set.Schema, res),
		Context: row.Context, Supported: supported(row)}
}

// supported: a row that does not say comes from an asker that can carry out
// the types of the standard and those that the row wants to see.
func supported(row Row) []string {
	if row.Supports != nil {
		return row.Supports
	}
	return append([]string{"step-up", "notification", "session_termination"}, row.Obligations...)
}

// differs says in what a decision is not the one that the row wants.
func differs(row Row, d rampart.Decision) string {
	if d.Effect != row.Expect.Effect {
		return fmt.Sprintf("want %s, got %s", row.Expect.Effect, sayDecision(d))
	}
	for _, part := range []struct{ what, want, got string }{
		{"layer", row.Layer, string(d.Layer)},
		{"code", row.Code, string(d.Code)},
	} {
		if part.want != "" && part.want != part.got {
			return fmt.Sprintf("want %s %s, got %s", part.what, part.want, sayDecision(d))
		}
	}
	if row.Policy != "" && !slices.ContainsFunc(d.Policies, row.cites) {
		return fmt.Sprintf("want it by %s, got %s", row.citation(), sayDecision(d))
	}
	if row.Reason != "" && !strings.Contains(d.Reason, row.Reason) {
		return fmt.Sprintf("want a reason with %q, got %s", row.Reason, sayDecision(d))
	}
	return fieldsDiffer(row, d)
}

func (r Row) cites(ref rampart.PolicyRef) bool {
	return ref.ID == r.Policy && (r.Line == 0 || ref.Line == r.Line)
}

func (r Row) citation() string {
	if r.Line == 0 {
		return r.Policy
	}
	return fmt.Sprintf("%s at line %d", r.Policy, r.Line)
}

// fieldsDiffer compares policies, field rules and obligations, if the row names
// all of them.
func fieldsDiffer(row Row, d rampart.Decision) string {
	fields := rampart.Fields{}
	if d.Fields != nil {
		fields = *d.Fields
	}
	var types, ids []string
	for _, o := range d.Obligations {
		types = append(types, o.Type)
	}
	for _, p := range d.Policies {
		ids = append(ids, p.ID)
	}
	for _, part := range []struct {
		what      string
		want, got []string
	}{{"policies", row.Policies, ids}, {"mask", row.Mask, fields.Mask}, {"only", row.Only, fields.Only}, {"obligations", row.Obligations, types}} {
		if part.want != nil && !sameWords(part.want, part.got) {
			return fmt.Sprintf("want %s [%s], got [%s]", part.what, strings.Join(part.want, " "), strings.Join(part.got, " "))
		}
	}
	return ""
}

func sameWords(a, b []string) bool {
	return slices.Equal(slices.Compact(slices.Sorted(slices.Values(a))), slices.Compact(slices.Sorted(slices.Values(b))))
}

// sayDecision tells a decision on one line.
func sayDecision(d rampart.Decision) string {
	if d.Allowed() {
		return "allow by " + refs(d.Policies)
	}
	out := fmt.Sprintf("deny at the %s layer (%s)", d.Layer, d.Code)
	if d.Reason != "" {
		out += ": " + d.Reason
	}
	return out
}

func refs(list []rampart.PolicyRef) string {
	names := make([]string, len(list))
	for i, r := range list {
		names[i] = r.String()
	}
	return strings.Join(names, ", ")
}

func firstText(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
