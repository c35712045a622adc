package filtertest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// Database is a connection to a real one. IDs returns the first column of a
// query, as text.
type Database struct {
	Name    string
	Dialect filter.Dialect
	Exec    func(query string, args ...any) error
	IDs     func(query string, args ...any) ([]string, error)
	// Guarded returns the ids of all rows that row-level security shows to a
	// role that owns nothing, under filter.SettingName. If nil, there is no
	// row-level security to test.
	Guarded func(setting, query string) ([]string, error)
}

// Load creates the world's table, in the place of another, with its rows.
func (d Database) Load(w World) error {
	if err := d.Exec("DROP TABLE IF EXISTS things"); err != nil {
		return err
	}
	attrs := slices.Sorted(maps.Keys(w.Table.Columns))
	defs := make([]string, len(attrs))
	for i, a := range attrs {
		defs[i] = d.quote(w.Table.Columns[a].Name) + " " + d.columnType(w, a)
	}
	if err := d.Exec("CREATE TABLE things (" + strings.Join(defs, ", ") + ")"); err != nil {
		return err
	}
	for _, row := range w.Rows {
		if err := d.insert(w, attrs, row); err != nil {
			return fmt.Errorf("%v: %w", row, err)
		}
	}
	if d.Guarded == nil {
		return nil
	}
	return d.Exec("GRANT SELECT ON things TO PUBLIC")
}

func (d Database) quote(name string) string { return `"` + name + `"` }

func (d Database) columnType(w World, attr string) string {
	c := w.Table.Columns[attr]
	if d.Dialect == filter.SQLite {
		text := "TEXT"
		if w.nocase {
			text = "TEXT COLLATE NOCASE"
		}
		if c.Stored == filter.StoredLong {
			return "INTEGER"
		}
		return map[authz.AttrKind]string{authz.KindString: text, authz.KindBool: "BOOLEAN", authz.KindLong: "INTEGER", authz.KindDecimal: "REAL", authz.KindStrings: "TEXT"}[c.Kind]
	}
	switch {
	case c.Stored == filter.StoredLong:
		return "bigint"
	case c.Stored == filter.StoredUUID:
		return "uuid"
	case attr == "team":
		return `varchar(100) COLLATE "und-x-icu"`
	case attr == "tags" && w.nocase:
		return "text[]"
	}
	return map[authz.AttrKind]string{authz.KindString: "text", authz.KindBool: "boolean", authz.KindLong: "bigint", authz.KindDecimal: "numeric(19,4)", authz.KindStrings: "jsonb"}[c.Kind]
}

func (d Database) insert(w World, attrs []string, row Row) error {
	marks, args := []string{}, []any{}
	for _, a := range attrs {
		marks = append(marks, d.mark(len(args)+1, w, a))
		args = append(args, d.stored(w, a, row[a]))
	}
	return d.Exec("INSERT INTO things VALUES ("+strings.Join(marks, ", ")+")", args...)
}

func (d Database) mark(n int, w World, attr string) string {
	if d.Dialect == filter.SQLite {
		return "?" + strconv.Itoa(n)
	}
	typ, _, _ := strings.Cut(d.columnType(w, attr), " ")
	if typ == "text[]" {
		return "(SELECT CASE WHEN $" + strconv.Itoa(n) + "::text IS NULL THEN NULL ELSE ARRAY(SELECT jsonb_array_elements_text($" + strconv.Itoa(n) + "::text::jsonb)) END)"
	}
	return "$" + strconv.Itoa(n) + "::text::" + typ
}

// stored is the argument for a value: PostgreSQL takes all as text.
func (d Database) stored(w World, attr string, v any) any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		b, _ := json.Marshal(v)
		return string(b)
	case float64:
		if d.Dialect == filter.SQLite {
			return v
		}
		return strconv.FormatFloat(v, 'f', -1, 64)
	case string:
		return v
	default:
		if d.Dialect == filter.SQLite {
			return v
		}
		return fmt.Sprint(v)
	}
}

// Keep returns the ids of rows that f keeps, sorted.
func (d Database) Keep(w World, f filter.Filter) (ids []string, query string, err error) {
	text, args, err := f.SQL(d.Dialect, w.Table, 1)
	if err != nil {
		return nil, "", err
	}
	query = "SELECT id FROM things WHERE " + text
	ids, err = d.IDs(query, args...)
	slices.Sort(ids)
	return ids, fmt.Sprintf("%s %q", query, args), err
}

// KeepGuarded returns the ids of rows that row-level security made of f shows,
// sorted.
func (d Database) KeepGuarded(w World, f filter.Filter, setting string) (ids []string, ddl string, err error) {
	ddl, err = filter.RLS(w.Table, "rampart", "SELECT", f)
	if err != nil {
		return nil, "", err
	}
	if err := d.Exec(ddl); err != nil {
		return nil, ddl, err
	}
	ids, err = d.Guarded(setting, "SELECT id FROM things")
	slices.Sort(ids)
	return ids, ddl, err
}

// Unguard switches row-level security off again.
func (d Database) Unguard() error {
	return d.Exec("ALTER TABLE things NO FORCE ROW LEVEL SECURITY; ALTER TABLE things DISABLE ROW LEVEL SECURITY")
}

// Allowed returns the ids of rows that check allows, sorted.
func (w World) Allowed(check func(Row) bool) []string {
	var ids []string
	for _, row := range w.Rows {
		if check(row) {
			ids = append(ids, row["id"].(string))
		}
	}
	slices.Sort(ids)
	return ids
}

// Disagreement compares what f keeps, in Go and in the database, with want, and
// describes the first row on which they differ. It is "" when they agree; err is
// the failure of the database.
func (w World) Disagreement(db Database, f filter.Filter, want []string) (string, error) {
	inGo := w.Allowed(func(row Row) bool { return f.Match(row, w.Relation(row)) })
	if d := w.differ("Go", inGo, want); d != "" {
		return d, nil
	}
	got, query, err := db.Keep(w, f)
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w", db.Name, query, err)
	}
	if d := w.differ(db.Name, got, want); d != "" {
		return d + "\n" + query, nil
	}
	return "", nil
}

// differ describes the first row that is in one list only.
func (w World) differ(where string, got, want []string) string {
	for _, row := range w.Rows {
		id := row["id"].(string)
		if in, allowed := slices.Contains(got, id), slices.Contains(want, id); in != allowed {
			return fmt.Sprintf("%s: row %v: in the filter %t, allowed %t", where, row, in, allowed)
		}
	}
	return ""
}

// Agree fails the test unless f keeps, in Go and in the database, exactly the
// rows that check allows. It returns how many these are.
func (w World) Agree(t *testing.T, db Database, f filter.Filter, check func(Row) bool) int {
	t.Helper()
	want := w.Allowed(check)
	d, err := w.Disagreement(db, f, want)
	if err != nil {
		t.Fatal(err)
	}
	if d != "" {
		text, _ := json.Marshal(f)
		t.Fatalf("%s\nfilter %s", d, text)
	}
	return len(want)
}

// Shrink returns the smallest condition within e, or e simplified, for which
// fails still holds.
func Shrink(e filter.Expr, fails func(filter.Expr) bool) filter.Expr {
	for {
		smaller, found := e, false
		for _, s := range simpler(e) {
			if fails(s) {
				smaller, found = s, true
				break
			}
		}
		if !found {
			return e
		}
		e = smaller
	}
}

// simpler lists conditions that are one step smaller than e.
func simpler(e filter.Expr) []filter.Expr {
	switch e := e.(type) {
	case filter.And:
		return around(e.L, e.R, func(l, r filter.Expr) filter.Expr { return filter.And{L: l, R: r} })
	case filter.Or:
		return around(e.L, e.R, func(l, r filter.Expr) filter.Expr { return filter.Or{L: l, R: r} })
	case filter.Not:
		return within(e.X, func(x filter.Expr) filter.Expr { return filter.Not{X: x} })
	case filter.Total:
		return within(e.X, func(x filter.Expr) filter.Expr { return filter.Total{X: x} })
	}
	return nil
}

func around(l, r filter.Expr, build func(l, r filter.Expr) filter.Expr) []filter.Expr {
	out := []filter.Expr{l, r}
	for _, s := range simpler(l) {
		out = append(out, build(s, r))
	}
	for _, s := range simpler(r) {
		out = append(out, build(l, s))
	}
	return out
}

func within(x filter.Expr, build func(filter.Expr) filter.Expr) []filter.Expr {
	out := []filter.Expr{x}
	for _, s := range simpler(x) {
		out = append(out, build(s))
	}
	return out
}
