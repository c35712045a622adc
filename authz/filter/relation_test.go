package filter_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/filter/filtertest"
	"github.com/rampart-security/rampart/authz/rebac"
)

const relationModel = `model
  schema 1.1
type user
type service
type organization
  relations
    define member: [user, service]
type team
  relations
    define manager: [user]
    define member: [user, organization#member] or manager
type order
  relations
    define owner: [user, service]
    define editor: [user, team#manager] or owner
    define viewer: [user, user:*, team#member] or editor
    define follower: [team#member, organization#member]
`

var relationRules = map[string]string{"organization#member": "organizations", "team#manager": "managed_teams"}

// relationTuples fit the model; each has an order of its own, or a team.
var relationTuples = []string{
	"order:1 viewer user:alice", "order:2 viewer user:*", "order:3 viewer team:red#member", "order:4 owner user:alice",
	"order:5 editor team:red#manager", "order:6 editor team:blue#manager", "order:7 follower organization:acme#member",
	"order:8 follower team:red#member", "order:9 owner service:payments", "order:10 viewer team:green#member", "order:11 editor user:bob",
	"order:x'y viewer user:o'x", "team:red member user:bob", "team:green member organization:acme#member",
}

// relationsAreTheGraph compares relations of the database with the graph's.
func relationsAreTheGraph(t *testing.T, db filtertest.Database) {
	m, err := rebac.ParseModel("model.fga", []byte(relationModel))
	if err != nil {
		t.Fatal(err)
	}
	index := rebac.NewIndex(m, rebac.Options{})
	ids := loadRelations(t, db, index)
	table := filter.Table{Name: "object_id", Columns: map[string]filter.Column{"id": {Name: "object_id", Kind: authz.KindString}}}
	held := 0
	for _, name := range m.Relations("order") {
		r, err := m.Direct("order", name, relationRules)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []filter.Expr{filter.Rel{Name: name}, filter.Not{X: filter.Rel{Name: name}}, filter.Total{X: filter.Not{X: filter.Total{X: filter.Rel{Name: name}}}}} {
			ddl, err := filter.RLS(table, "p", "SELECT", filter.Where(e), r)
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Exec(ddl); err != nil {
				t.Fatalf("%v\n%s", err, ddl)
			}
			for _, p := range relationSubjects() {
				var want []string
				for _, id := range ids {
					got, err := index.Related(t.Context(), authz.RelationQuery{Subject: rebac.SubjectOf(p), Relation: name, Type: "order", ID: id, Also: rebac.FromToken(p, relationRules)}, false)
					if err != nil {
						t.Fatal(err)
					}
					if _, positive := e.(filter.Rel); got.Holds == positive {
						want = append(want, id)
					}
				}
				got, err := db.Guarded(filter.SubjectSetting(p), "SELECT object_id FROM object_id")
				slices.Sort(got)
				if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
					t.Fatalf("%s %#v (-graph +database):\n%s%v\n%s", p.Subject, e, diff, err, ddl)
				}
				held += len(got)
			}
		}
	}
	t.Logf("%d rows", held)
}

// loadRelations fills the graph, the table of tuples and one of orders, whose
// names are those of a column of tuples.
func loadRelations(t *testing.T, db filtertest.Database, index *rebac.Index) (ids []string) {
	t.Helper()
	queries := []string{
		"CREATE TABLE object_id (object_id text PRIMARY KEY)", "GRANT SELECT ON object_id TO PUBLIC",
		"CREATE TABLE rampart_tuples (object_type TEXT, object_id TEXT, relation TEXT, subject_type TEXT, subject_id TEXT, subject_relation TEXT, condition TEXT)",
		"GRANT SELECT ON rampart_tuples TO PUBLIC",
	}
	var tuples []authz.Tuple
	for _, text := range relationTuples {
		f := strings.Fields(text)
		tuples = append(tuples, authz.Tuple{Object: f[0], Relation: f[1], Subject: f[2]})
		typ, id, _ := strings.Cut(f[0], ":")
		subject, relation, _ := strings.Cut(f[2], "#")
		subjectType, subjectID, _ := strings.Cut(subject, ":")
		row := []string{typ, id, f[1], subjectType, subjectID, relation, ""}
		for i := range row {
			row[i] = filter.Quote(row[i])
		}
		queries = append(queries, "INSERT INTO rampart_tuples VALUES ("+strings.Join(row, ", ")+")")
		if typ == "order" {
			ids = append(ids, id)
			queries = append(queries, "INSERT INTO object_id VALUES ("+row[1]+")")
		}
	}
	queries = append(queries, "ANALYZE object_id", "ANALYZE rampart_tuples") // else it plans, and compiles, for thousands of rows
	for _, q := range queries {
		if err := db.Exec(q); err != nil {
			t.Fatalf("%v\n%s", err, q)
		}
	}
	if err := index.Reset(1, slices.Values(tuples)); err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	return ids
}

func relationSubjects() []rampart.Principal {
	return []rampart.Principal{
		{Subject: "user:alice"}, {Subject: "user:bob", Organizations: []string{"globex"}}, {Subject: "user:o'x", Organizations: []string{"globex", "acme"}},
		{Subject: "user:carol", ManagedTeams: []string{"blue"}}, {Subject: "user:dan", ManagedTeams: []string{"red", "green"}},
		{Subject: "spiffe://d.example/service/payments"}, {Subject: "service:payments", Organizations: []string{"acme"}},
	}
}

// TestTuplesNameSubjects: the setting names a principal as the graph does.
func TestTuplesNameSubjects(t *testing.T) {
	for _, subject := range []string{
		"user:alice", "user:*", "user:a:b", "user:a#b", "user:a b", "user:", ":a", "alice", "user:a\x7f", "user:\u00a0ö", "user:" + strings.Repeat("x", 251), "user:" + strings.Repeat("x", 252),
		"spiffe://d/service/orders", "spiffe://d/service/a/b", "spiffe://d/plane/x", "spiffe://d", "spiffe://d/service/", "spiffe:a", "spiffe://d/service/*",
	} {
		p := rampart.Principal{Subject: subject}
		typ, id := filter.InTuples(p)
		got := typ + ":" + id
		if typ == "" {
			got = ""
		}
		if want := rebac.SubjectOf(p); got != want {
			t.Errorf("%q: got %q, the graph says %q", subject, got, want)
		}
	}
}

// TestSubjectSettingRoles: what counts for some rows only is left out.
func TestSubjectSettingRoles(t *testing.T) {
	for name, row := range map[string]struct{ roles, scope, want string }{
		"no role":                  {"", "", `"roles":[]`},
		"two roles":                {"clerk admin", "", `"role":"clerk","roles":["clerk","admin"]`},
		"first for one house":      {"admin@acme clerk", "", `"roles":["clerk"]`},
		"second for one house":     {"clerk admin@acme", "", `"role":"clerk","roles":["clerk"]`},
		"a credential for a role":  {"clerk admin", "role:admin", `"roles":["admin"]`},
		"a credential for reading": {"clerk", "orders:read", `"role":"clerk","roles":["clerk"]`},
	} {
		p := rampart.Principal{Subject: "user:a", Roles: strings.Fields(row.roles), Scope: strings.Fields(row.scope)}
		want := fmt.Sprintf(`{"id":"user:a","managed_teams":[],"organizations":[],%s,"subject_id":"a","subject_type":"user"}`, row.want)
		if got := filter.SubjectSetting(p); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestRelationsAreRefused(t *testing.T) {
	table := filter.Table{Name: "t", Columns: map[string]filter.Column{"id": {Name: "id", Kind: authz.KindString}}}
	deep := filter.Relation{Type: "a", Name: "r", Ways: []filter.Way{{Relation: "r", Subject: "user"}}}
	for range 5 {
		inner := deep
		deep = filter.Relation{Type: "a", Name: "r", Ways: []filter.Way{{Relation: "r", Subject: "a", Members: &inner}}}
	}
	for name, list := range map[string][]filter.Relation{
		"none":                    nil,
		"another":                 {{Type: "a", Name: "x"}},
		"too deep":                {deep},
		"a type with a zero byte": {{Type: "a\x00", Name: "r"}},
		"no name of a relation":   {{Type: "a", Name: "r", Ways: []filter.Way{{Subject: "user"}}}},
		"an unknown fact":         {{Type: "a", Name: "r", Ways: []filter.Way{{Relation: "r", Subject: "user", Fact: "x' OR '1"}}}},
	} {
		if text, err := filter.RLS(table, "p", "SELECT", filter.Where(filter.Rel{Name: "r"}), list...); err == nil {
			t.Errorf("%s: %s", name, text)
		}
	}
}
