package filter_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/filter/filtertest"
	"github.com/rampart-security/rampart/authz/pdp"
)

// graph holds the relations of a world.
type graph struct{ w *filtertest.World }

func (g graph) Related(_ context.Context, q authz.RelationQuery, _ bool) (authz.Relationship, error) {
	return authz.Relationship{Holds: slices.Contains(g.w.Relations[q.Relation], q.ID), Revision: 1}, nil
}

func (g graph) Objects(_ context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	return g.w.Relations[q.Relation], 1, nil
}

func (g graph) Subjects(context.Context, authz.RelationQuery) ([]string, uint64, error) {
	return nil, 1, nil
}

// tally counts what was compared.
type tally struct {
	policies, refused, unsaid, guarded int
	pairs, kept                        int
}

// policies compares lists of the decision point with its checks, for generated
// policies, and row-level security where the database has it.
func policies(t *testing.T, db filtertest.Database, file string, write func(filtertest.Policies) string) {
	r := rand.New(rand.NewPCG(5, 6))
	var n tally
	for n.pairs < pairs(t) {
		w := filtertest.Generate(r, rowsOfWorld)
		if err := db.Load(w); err != nil {
			t.Fatal(err)
		}
		for range filtersOfWorld {
			n.compare(t, &w, db, file, write(filtertest.Policies{World: &w, Rand: r}), w.Principals[r.IntN(len(w.Principals))])
		}
	}
	t.Logf("%+v", n)
	if n.kept < n.pairs/20 || n.kept > n.pairs*19/20 || n.unsaid > n.policies/2 || n.refused > n.policies/2 {
		t.Error("the policies decide too little for a proof")
	}
}

func (n *tally) compare(t *testing.T, w *filtertest.World, db filtertest.Database, file, text string, p rampart.Principal) {
	t.Helper()
	n.policies++
	d, err := pdp.New(pdp.Options{
		Policies: map[string][]byte{file: []byte(text)}, Graph: graph{w}, Timeout: time.Minute,
		Schema: &authz.Schema{Types: map[string]authz.Type{filtertest.Type: w.Type}},
	})
	if err != nil {
		n.refuse(t, err, text)
		return
	}
	f, decision := d.Filter(t.Context(), authz.Request{Principal: p, Action: filtertest.Action, Resource: rampart.Resource{Type: filtertest.Type}})
	if decision.Code == rampart.CodeUntranslatable {
		if n.unsaid++; n.unsaid%50 == 1 {
			t.Log(decision.Reason)
		}
		return
	}
	if !decision.Allowed() {
		t.Fatalf("%+v\n%s", decision, text)
	}
	check := func(row filtertest.Row) bool { return allows(t.Context(), d, p, row) }
	want := w.Allowed(check)
	problem, err := w.Disagreement(db, travelled(f), want)
	if err != nil || problem != "" {
		t.Fatalf("%v\n%s\nby %+v\n%s\n%#v", err, problem, p, text, f)
	}
	n.pairs += len(w.Rows)
	n.kept += len(want)
	if db.Guarded != nil {
		n.guard(t, d, w, db, f, p, want, text)
	}
}

// guard compares row-level security: that of the policies, which learn from the
// session who asks, or else that of this principal's filter.
func (n *tally) guard(t *testing.T, d *pdp.PDP, w *filtertest.World, db filtertest.Database, f filter.Filter, p rampart.Principal, want []string, text string) {
	t.Helper()
	setting := filter.SubjectSetting(p)
	if general, _, err := d.RLS(t.Context(), filtertest.Action, filtertest.Type); err == nil {
		if _, err := filter.RLS(w.Table, "rampart", "SELECT", general); err == nil {
			n.guarded++
			f = general
		}
	}
	got, ddl, err := db.KeepGuarded(*w, f, setting)
	if err != nil {
		t.Fatalf("%v\n%s", err, ddl)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("row-level security (-want +got)\n%s%s\n%s\n%s", diff, text, ddl, setting)
	}
}

func (n *tally) refuse(t *testing.T, err error, text string) {
	if n.refused++; n.refused%50 == 1 {
		t.Logf("%v\n%s", err, text)
	}
}

// allows asks for one row.
func allows(ctx context.Context, d *pdp.PDP, p rampart.Principal, row filtertest.Row) bool {
	res := rampart.Resource{Type: filtertest.Type, Attrs: map[string]any{}}
	for name, v := range row {
		switch name {
		case "id":
			res.ID = fmt.Sprint(v)
		case "tenant":
			res.Tenant = fmt.Sprint(v)
		default:
			res.Attrs[name] = v
		}
	}
	return d.DecideObject(ctx, authz.Request{Principal: p, Action: filtertest.Action, Resource: res}).Allowed()
}
