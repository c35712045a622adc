package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/db/relations"
	"github.com/rampart-security/rampart/sdk/sdktest"
	"github.com/rampart-security/rampart/test/pgtest"
)

// guarded is a world whose orders are in PostgreSQL behind row-level security;
// rows reads them as a role that owns nothing.
type guarded struct {
	*world
	rows *db.DB
	all  []rampart.Resource
}

func guard(t *testing.T) *guarded {
	t.Helper()
	server := pgtest.Start(t)
	store := func(role string) sdktest.Store {
		return sdktest.Store{Kind: db.Postgres, URL: "postgres://" + role + "@localhost:" + server.Port + "/postgres", Password: "store:orders_db", CA: server.CA, Pool: 4}
	}
	g := &guarded{world: startWith(t, map[string]sdktest.Store{"orders_db": store(pgtest.User), "rows": store("reader")})}
	g.exec(t, `CREATE ROLE reader LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '`+pgtest.Password+`'`)
	g.exec(t, `GRANT SELECT ON orders TO reader`)
	g.rows = openWhenUp(t, g.svc, "rows")
	rows, related, err := g.decider.pdp.RLS(t.Context(), "orders:read", "order")
	if err != nil {
		t.Fatal(err)
	}
	ddl, err := filter.RLS(filter.TableOf(g.decider.schema.Types["order"]), "rampart_read", "SELECT", rows, related...)
	if err != nil {
		t.Fatal(err)
	}
	g.exec(t, ddl)
	return g
}

func (g *guarded) exec(t *testing.T, query string) {
	t.Helper()
	err := g.store.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), query)
		return err
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
}

// fill makes orders of several owners, teams and organizations.
func (g *guarded) fill(t *testing.T) {
	t.Helper()
	g.exec(t, `DELETE FROM order_items; DELETE FROM orders`)
	add := func(id, org, owner, team string) {
		err := ledger{db: g.store}.add(t.Context(), order{ID: id, Org: org, Owner: owner, Team: team, Currency: "EUR", Total: 1, Created: time.UnixMilli(1)})
		if err != nil {
			t.Fatal(err)
		}
		g.all = append(g.all, rampart.Resource{Type: "order", ID: id, Tenant: org, Attrs: map[string]any{"owner": owner, "team_id": team}})
	}
	for _, org := range []string{"acme", "globex"} {
		for _, owner := range []string{"user:alice", "user:erin", "client:shop", "user:zoe"} {
			for _, team := range []string{"red", "blue", "green"} {
				add(fmt.Sprintf("o%d", len(g.all)), org, owner, team)
			}
		}
	}
	for _, id := range []string{"a b", "a:b", "a#b", "*", "o'x", "ö\\"} {
		add(id, "acme", "user:zoe", "white")
	}
}

// shared lets others see orders, and puts tuples beside it for which the model
// has no place: the graph leaves them out.
func (g *guarded) shared(t *testing.T) {
	t.Helper()
	tuples := []relations.Tuple{
		{Object: "order:o9", Relation: "viewer", Subject: "user:bob"},
		{Object: "order:o21", Relation: "viewer", Subject: "user:bob"}, // of an organization that is not his
		{Object: "order:o10", Relation: "viewer", Subject: "team:blue#member"},
		{Object: "order:o11", Relation: "viewer", Subject: "team:green#member"},
		{Object: "order:o'x", Relation: "viewer", Subject: "team:red#member"},
		{Object: "order:ö\\", Relation: "viewer", Subject: "user:alice"},
	}
	err := g.viewers.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := g.viewers.Write(t.Context(), tx, tuples, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, odd := range []string{
		`'order', 'o0', 'viewer', 'client', 'shop', '', ''`, `'order', 'o0', 'viewer', 'user', '*', '', ''`, `'order', 'o6', 'viewer', 'user', 'bob', '', 'in_hours'`,
		`'order', 'o7', 'editor', 'user', 'bob', '', ''`, `'order', 'a:b', 'viewer', 'user', 'bob', '', ''`, `'order', '*', 'viewer', 'user', 'bob', '', ''`,
		`'order', 'a b', 'viewer', 'user', 'bob', '', ''`, `'order', 'a#b', 'viewer', 'team', 'red', 'member', ''`, `'order', 'o8', 'viewer', 'team', 'blue', '', ''`,
		`'team', 'green', 'member', 'user', 'bob', '', ''`, // a token says it, and nobody else
	} {
		g.exec(t, `INSERT INTO rampart_tuples VALUES (`+odd+`, '', 0)`)
	}
}

func (g *guarded) sees(t *testing.T, view func(context.Context, func(*sql.Tx) error) error) (ids []string, err error) {
	t.Helper()
	err = view(t.Context(), func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(t.Context(), `SELECT id FROM orders`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return rows.Err()
	})
	slices.Sort(ids)
	return ids, err
}

// allowed is what the checks allow, one by one.
func (g *guarded) allowed(t *testing.T, p rampart.Principal) (ids []string) {
	t.Helper()
	r, _ := g.decider.request(g.agent.Identity(p, "10"))
	r.Action = "orders:read"
	for _, r.Resource = range g.all {
		if d := g.decider.pdp.DecideObject(t.Context(), r); d.Allowed() {
			ids = append(ids, r.Resource.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// TestRowsAreChecks: with the example's own policies and model, PostgreSQL
// itself shows a subject those rows that the checks allow.
func TestRowsAreChecks(t *testing.T) {
	g := guard(t)
	g.fill(t)
	g.shared(t)
	as := func(p rampart.Principal) func(context.Context, func(*sql.Tx) error) error {
		return func(ctx context.Context, f func(*sql.Tx) error) error { return g.rows.ViewAs(ctx, p, f) }
	}
	if ids, err := g.sees(t, as(people["bob"])); err == nil {
		t.Errorf("without the right to read relations: %q", ids)
	}
	g.exec(t, `GRANT SELECT ON rampart_tuples TO reader`)
	if ids, err := g.sees(t, g.rows.View); err != nil || len(ids) > 0 {
		t.Errorf("nobody sees %q: %v", ids, err)
	}
	who := map[string]rampart.Principal{
		"the shop":                {Kind: rampart.KindClient, Subject: "client:shop", Organizations: []string{"acme"}},
		"a service":               {Kind: rampart.KindService, Subject: "spiffe://pay.example/service/payments"},
		"without roles":           {Kind: rampart.KindHuman, Subject: "user:bob", Organizations: []string{"acme", "globex"}, Team: "green"},
		"everyone":                {Kind: rampart.KindHuman, Subject: "user:*", Organizations: []string{"acme"}, Team: "red"},
		"a manager's second role": {Kind: rampart.KindHuman, Subject: "user:mia", Organizations: []string{"acme"}, Roles: []string{"customer", "manager"}, Team: "red"},
	}
	for name, p := range people {
		who[name] = p
	}
	shown := 0
	for name, p := range who {
		got, err := g.sees(t, as(p))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		shown += len(got)
		if diff := cmp.Diff(g.allowed(t, p), got); diff != "" {
			t.Errorf("%s (-allowed +shown):\n%s", name, diff)
		}
	}
	t.Logf("%d rows shown to %d subjects", shown, len(who))
	got, err := g.sees(t, as(people["bob"]))
	if diff := cmp.Diff([]string{"o10", "o9"}, got); err != nil || diff != "" {
		t.Errorf("bob, a viewer by name and by team (-want +got):\n%s%v", diff, err)
	}
	acme := people["dave"]
	acme.Roles = []string{"admin@acme"}
	if ids, err := g.sees(t, as(acme)); err != nil || len(ids) > 0 {
		t.Errorf("a role for one organization counts for no row: %q %v", ids, err)
	}
}
