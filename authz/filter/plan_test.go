package filter_test

import (
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/filter/filtertest"
)

// table has an index for each of its columns.
func indexed(t *testing.T, db filtertest.Database) filter.Table {
	t.Helper()
	table := filter.Table{Name: "indexed", Columns: map[string]filter.Column{
		"id":    {Name: "id", Kind: authz.KindString, Stored: filter.StoredLong},
		"owner": {Name: "owner", Kind: authz.KindString, Nullable: true},
		"count": {Name: "count", Kind: authz.KindLong, Nullable: true},
	}}
	series := "generate_series(1, 20000) AS s(n)"
	if db.Dialect == filter.SQLite {
		series = "(WITH RECURSIVE s(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM s LIMIT 20000) SELECT n FROM s) AS s"
	}
	for _, q := range []string{
		"DROP TABLE IF EXISTS indexed",
		"CREATE TABLE indexed (id bigint PRIMARY KEY, owner varchar(20), count int)",
		"INSERT INTO indexed SELECT n, 'u' || n, n FROM " + series,
		"CREATE INDEX by_owner ON indexed (owner)", "CREATE INDEX by_count ON indexed (count)", "ANALYZE indexed",
	} {
		if err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	return table
}

// usesIndexes: what filters say most often is found by index.
func usesIndexes(t *testing.T, db filtertest.Database) {
	table := indexed(t, db)
	for name, e := range map[string]filter.Expr{
		"equality":    is("owner", "u7"),
		"a list":      filter.In{X: attr("owner"), List: list("u7", "u8")},
		"ids":         filter.In{X: attr("id"), List: list("7", "8", "x")},
		"a number":    filter.Cmp{Op: filter.Lt, L: attr("count"), R: lit(int64(5))},
		"either":      filter.Or{L: filter.Total{X: is("owner", "u7")}, R: filter.Total{X: is("count", int64(3))}},
		"undefined":   filter.Or{L: is("owner", "u7"), R: is("count", int64(3))},
		"a principal": filter.Cmp{Op: filter.Eq, L: attr("owner"), R: filter.Subject{Name: "id"}},
		"its list":    filter.In{X: attr("owner"), List: filter.Subject{Name: "roles"}},
	} {
		explain := "EXPLAIN "
		if db.Dialect == filter.SQLite {
			explain = "EXPLAIN QUERY PLAN "
		}
		text, args, err := filter.Where(e).SQL(db.Dialect, table, 1)
		if err != nil && db.Guarded != nil {
			text, err = filter.RLSCondition(table, filter.Where(e))
		}
		if err != nil {
			continue // the principal is row-level security's
		}
		plan, err := db.IDs(explain+"SELECT id FROM indexed WHERE "+text, args...)
		if err != nil {
			t.Fatal(err)
		}
		whole := strings.Join(plan, "\n")
		if strings.Contains(whole, "Seq Scan") || strings.Contains(whole, "SCAN indexed") {
			t.Errorf("%s: %s\n%s", name, text, whole)
		}
	}
}

// TestMissingColumn: SQLite would read a quoted name that is no column as text.
func TestMissingColumn(t *testing.T) {
	db := sqlite(t)
	indexed(t, db)
	text, args, err := filter.Where(filter.Has{Attr: "owner"}).SQL(filter.SQLite, orders(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.IDs("SELECT id FROM indexed WHERE "+text, args...); err == nil {
		t.Errorf("%s is a condition though there is no such column", text)
	}
}
