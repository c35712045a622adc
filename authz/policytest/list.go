package policytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rebac"
)

// list asks which of some resources a list shows, and that a check of each says
// the same.
func (t *tester) list(ctx context.Context, p rampart.Principal, row Row) Result {
	t.setNow(row)
	res := t.result(row)
	shown := []string{}
	for _, name := range row.List {
		r := t.request(p, row, t.file.Resources[name].resource(name))
		keeps, d := t.keeps(ctx, r)
		if d.Code == rampart.CodeUntranslatable {
			res.Decision, res.Problem = d, "no list can be made: "+d.Reason
			return res
		}
		if keeps {
			shown = append(shown, name)
		}
		if check := t.pdp.DecideObject(ctx, r); check.Allowed() != keeps {
			res.Decision, res.Problem = check, disagree(name, keeps, check)
			return res
		}
	}
	if !slices.Equal(shown, row.Expect.Names) {
		res.Problem = fmt.Sprintf("want the list to show [%s], it shows [%s]", strings.Join(row.Expect.Names, " "), strings.Join(shown, " "))
	}
	return res
}

// filterAgrees holds the filter against the check of one resource. It notes
// what no filter can say.
func (t *tester) filterAgrees(ctx context.Context, r authz.Request) (problem, note string) {
	check := t.pdp.DecideObject(ctx, r)
	keeps, d := t.keeps(ctx, r)
	if d.Code == rampart.CodeUntranslatable {
		return "", d.Reason
	}
	if keeps != check.Allowed() {
		return disagree(r.Resource.ID, keeps, check), ""
	}
	return "", ""
}

func disagree(name string, keeps bool, check rampart.Decision) string {
	word := "leaves out"
	if keeps {
		word = "shows"
	}
	return fmt.Sprintf("a list %s %s, but a check says %s", word, name, sayDecision(check))
}

// keeps reports whether the list that r's subject gets shows r's resource.
func (t *tester) keeps(ctx context.Context, r authz.Request) (bool, rampart.Decision) {
	about := r
	about.Resource = rampart.Resource{Type: r.Resource.Type, Tenant: r.Resource.Tenant}
	f, d := t.pdp.Filter(ctx, about)
	row := t.stored(r.Resource)
	row["id"], row["tenant"] = r.Resource.ID, r.Resource.Tenant
	return f.Match(row, t.relation(ctx, r)), d
}

// stored are the attributes of a resource as its row has them, those included
// that a provider supplies: they may have a column.
func (t *tester) stored(asked rampart.Resource) map[string]any {
	row := map[string]any{}
	for name, r := range t.file.Resources {
		if r := r.resource(name); r.Type == asked.Type && r.ID == asked.ID {
			maps.Copy(row, r.Attrs)
		}
	}
	maps.Copy(row, asked.Attrs)
	return row
}

// relation answers for relations that a filter leaves open, as a join with the
// table of tuples would.
func (t *tester) relation(ctx context.Context, r authz.Request) func(string) (bool, error) {
	return func(name string) (bool, error) {
		if t.graph == nil {
			return false, errors.New("there is no model of relations")
		}
		answer, err := t.graph.Related(ctx, t.query(r, name), false)
		return answer.Holds, err
	}
}

func (t *tester) query(r authz.Request, relation string) authz.RelationQuery {
	return authz.RelationQuery{Subject: rebac.SubjectOf(r.Principal), Relation: relation, Type: r.Resource.Type, ID: r.Resource.ID,
		Context: r.Context, Also: rebac.FromToken(r.Principal, t.set.FromToken)}
}
