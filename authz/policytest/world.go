package policytest

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/pap"
)

// World is what is known without a running system: who there is, what there
// is, and how they stand to each other. The zero World is empty.
type World struct {
	Subjects  map[string]rampart.Principal // by the name that people use
	Resources []rampart.Resource
	Relations []authz.Tuple
}

// WorldOf gathers what the test files of the services declare. Of two subjects
// with one name the first stays.
func WorldOf(s pap.Set, services ...string) (World, error) {
	w := World{Subjects: map[string]rampart.Principal{}}
	for _, service := range services {
		files, err := parseAll(s, service)
		if err != nil {
			return World{}, err
		}
		for _, f := range files {
			w.add(f)
		}
	}
	return w, nil
}

func (w *World) add(f *File) {
	for name, s := range f.Subjects {
		if _, known := w.Subjects[name]; !known {
			w.Subjects[name] = s.principal(name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Resources)) {
		w.Resources = append(w.Resources, f.Resources[name].resource(name))
	}
	for _, r := range f.Relations {
		if t, err := r.tuple(); err == nil { // Parse refused the others
			w.Relations = append(w.Relations, t)
		}
	}
}

// Tuple reads "order:17#viewer@user:bob".
func Tuple(text string) (authz.Tuple, error) {
	t, err := Relation{Tuple: text}.tuple()
	if err != nil {
		return authz.Tuple{}, fmt.Errorf("policytest: %w; write \"order:17#viewer@user:bob\"", err)
	}
	return t, nil
}

// Question is what one subject wants to do to one resource.
type Question struct {
	Principal rampart.Principal
	Action    rampart.Action
	Resource  rampart.Resource
	Tenant    string // organization of the request; "" means the resource's
	Context   map[string]any
	Now       time.Time // zero means noon of 2026-01-01, UTC
}

// Ask puts a question to the layers in turn and returns their decisions, up to
// the first denial.
func (w World) Ask(ctx context.Context, s pap.Set, service string, q Question) ([]rampart.Decision, error) {
	t, err := w.tester(s, service, q)
	if err != nil {
		return nil, fmt.Errorf("policytest: %w", err)
	}
	row := Row{Subject: "who", Action: string(q.Action), Resource: "what", Tenant: q.Tenant, Context: q.Context, Now: q.Now}
	t.setNow(row)
	var out []rampart.Decision
	for _, layer := range layers {
		d := t.at(ctx, layer, q.Principal, row)
		d.Path = t.path(ctx, d, t.request(q.Principal, row, q.Resource))
		if out = append(out, d); !d.Allowed() {
			break
		}
	}
	return out, nil
}

// Conditions tells, for each condition of each policy that q could concern,
// whether it held: in the order of the files. A condition that was not reached
// neither held nor failed. When the gateway or the service layer denies, no
// policy was asked and there are none.
func (w World) Conditions(ctx context.Context, s pap.Set, service string, q Question) ([]Condition, error) {
	t, err := w.tester(s, service, q)
	if err != nil {
		return nil, fmt.Errorf("policytest: %w", err)
	}
	row := Row{Subject: "who", Action: string(q.Action), Resource: "what", Tenant: q.Tenant, Context: q.Context, Now: q.Now}
	t.setNow(row)
	t.decide(ctx, q.Principal, row)
	all, err := coverage(ctx, s, service, t.asked)
	if err != nil || len(t.asked) == 0 {
		return nil, err
	}
	apart := map[string]bool{} // policies about something else
	for _, c := range all {
		if c.Scope && c.Held == 0 {
			apart[c.Policy] = true
		}
	}
	return slices.DeleteFunc(all, func(c Condition) bool { return c.Scope || c.Policy != "" && apart[c.Policy] }), nil
}

// path is how relations lead to a permit: decisions themselves do not say it,
// since following a path costs more than knowing that there is one.
func (t *tester) path(ctx context.Context, d rampart.Decision, r authz.Request) []string {
	if !d.Allowed() || d.Path != nil || t.graph == nil {
		return d.Path
	}
	var out []string
	for _, p := range d.Policies {
		_, relation, ok := strings.Cut(p.ID, "#")
		if p.Engine != "rebac" || !ok {
			continue
		}
		answer, err := t.graph.Related(ctx, t.query(r, relation), true)
		if err == nil { // without a path the answer stands all the same
			out = append(out, answer.Path...)
		}
	}
	return out
}

// List asks which resources of q.Resource.Type q's subject may do q.Action to:
// the gateway first, then the policies, as a filter. A denial comes with a
// filter that keeps nothing.
func (w World) List(ctx context.Context, s pap.Set, service string, q Question) (filter.Filter, rampart.Decision, error) {
	t, err := w.tester(s, service, q)
	if err != nil {
		return filter.None(), rampart.Decision{}, fmt.Errorf("policytest: %w", err)
	}
	row := Row{Subject: "who", Action: string(q.Action), Resource: "what", Context: q.Context, Now: q.Now}
	t.setNow(row)
	if d := t.at(ctx, rampart.LayerGateway, q.Principal, row); !d.Allowed() {
		return filter.None(), d, nil
	}
	f, d := t.pdp.Filter(ctx, t.request(q.Principal, row, q.Resource))
	return f, d, nil
}

// tester asks about one resource of w.
func (w World) tester(s pap.Set, service string, q Question) (*tester, error) {
	f := &File{name: "question", Resources: map[string]Resource{
		"what": {Type: q.Resource.Type, ID: q.Resource.ID, Tenant: q.Resource.Tenant, Attrs: q.Resource.Attrs},
	}}
	if s.Model != "" {
		for _, t := range w.Relations {
			f.Relations = append(f.Relations, Relation{Tuple: t.Object + "#" + t.Relation + "@" + t.Subject, Condition: t.Condition, Context: t.Context})
		}
	}
	t := &tester{set: s, service: service, cover: true}
	return t, t.open(f)
}

// Change is one row that two Sets answer differently.
type Change struct {
	File   string           `json:"file"`
	Line   int              `json:"line"`
	Name   string           `json:"name"` // subject, action and resource
	Before rampart.Decision `json:"before"`
	After  rampart.Decision `json:"after"`
}

// Opens reports whether the change allows what was denied.
func (c Change) Opens() bool { return c.After.Allowed() && !c.Before.Allowed() }

// Diff asks the rows of a service's tests, those of both Sets, of both, and
// returns the rows whose answer changes: in effect, layer, code, the policies
// that decided, the fields shown or what is obliged. The wants of rows do not
// count.
func Diff(ctx context.Context, before, after pap.Set, service string) ([]Change, error) {
	files, err := filesOf(before, after, service)
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, f := range files {
		changes, err := diffFile(ctx, before, after, service, f)
		if err != nil {
			return nil, fmt.Errorf("policytest: %w", err)
		}
		out = append(out, changes...)
	}
	return out, nil
}

// filesOf are the tests of both; of two with one name, the later.
func filesOf(before, after pap.Set, service string) ([]*File, error) {
	files, err := parseFiles(after, service, nil)
	if err != nil {
		return nil, err
	}
	old, err := parseFiles(before, service, nil)
	if err != nil {
		return nil, err
	}
	for _, f := range old {
		if !slices.ContainsFunc(files, func(g *File) bool { return g.name == f.name }) {
			files = append(files, f)
		}
	}
	return files, nil
}

func diffFile(ctx context.Context, before, after pap.Set, service string, f *File) ([]Change, error) {
	a, err := answers(ctx, before, service, f)
	if err != nil {
		return nil, err
	}
	b, err := answers(ctx, after, service, f)
	if err != nil {
		return nil, err
	}
	var out []Change
	for i := range a {
		if said(a[i].Decision) != said(b[i].Decision) {
			out = append(out, Change{f.name, a[i].Line, a[i].Name, a[i].Decision, b[i].Decision})
		}
	}
	return out, nil
}

// answers are the decisions of every row and cell of f.
func answers(ctx context.Context, s pap.Set, service string, f *File) ([]Result, error) {
	t := &tester{set: s, service: service}
	if err := t.open(f); err != nil {
		return nil, err
	}
	if err := t.rows(ctx); err != nil {
		return nil, err
	}
	for i, r := range t.report.Results {
		t.report.Results[i].Name = r.asks
	}
	return t.report.Results, nil
}

// Questions counts the rows and cells that Diff asks of a service.
func Questions(before, after pap.Set, service string) (int, error) {
	files, err := filesOf(before, after, service)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, f := range files {
		n += len(f.Tests)
		for _, m := range f.Matrix {
			n += len(m.Actions) * (len(m.Roles) + len(m.Subjects))
		}
	}
	return n, nil
}

// Altered names what differs between two Sets, sorted: "role clerk", "type
// order", "policy/orders.cedar". Whether any answer differs, Diff finds out.
func Altered(before, after pap.Set) []string {
	out := alteredKeys("role ", before.Roles, after.Roles)
	out = append(out, alteredKeys("type ", typesOf(before), typesOf(after))...)
	out = append(out, alteredKeys("from_token ", before.FromToken, after.FromToken)...)
	if !reflect.DeepEqual(before.Separate, after.Separate) {
		out = append(out, "separate")
	}
	a, b := policyFiles(before), policyFiles(after)
	return append(out, alteredKeys("", a, b)...)
}

func alteredKeys[T any](kind string, before, after map[string]T) []string {
	var out []string
	all := maps.Clone(before)
	if all == nil {
		all = map[string]T{}
	}
	maps.Copy(all, after)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		a, was := before[key]
		b, is := after[key]
		switch {
		case !was:
			out = append(out, kind+key+" is new")
		case !is:
			out = append(out, kind+key+" is gone")
		case !reflect.DeepEqual(a, b):
			out = append(out, kind+key)
		}
	}
	return out
}

func typesOf(s pap.Set) map[string]authz.Type {
	if s.Schema == nil {
		return nil
	}
	return s.Schema.Types
}

// policyFiles are the policies of all services, and the model.
func policyFiles(s pap.Set) map[string]string {
	out := map[string]string{}
	for _, svc := range s.Services {
		for _, name := range svc.Policy {
			out[name] = string(s.Files[name])
		}
	}
	if s.Model != "" {
		out[s.Model] = string(s.Files[s.Model])
	}
	return out
}

// said is what of a decision counts as its answer.
func said(d rampart.Decision) string {
	out := fmt.Sprint(d.Effect, d.Layer, d.Code)
	for _, p := range d.Policies {
		out += " " + p.Engine + "/" + p.ID
	}
	if d.Fields != nil {
		out += fmt.Sprintf(" %q %q", d.Fields.Only, d.Fields.Mask)
	}
	for _, o := range d.Obligations {
		out += fmt.Sprintf(" %s %s %v", o.ID, o.Type, o.Properties)
	}
	return out
}
