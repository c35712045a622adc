package filter_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/filter/filtertest"
)

func truthTable() filtertest.World {
	w := filtertest.World{Type: authz.Type{Attrs: map[string]authz.Attr{}}}
	for _, name := range []string{"a", "b", "c"} {
		w.Type.Attrs[name] = authz.Attr{Kind: authz.KindBool, Optional: true}
	}
	w.Table = filter.TableOf(w.Type)
	for i := range 27 {
		row := filtertest.Row{"id": strconv.Itoa(i)}
		for name, v := range map[string]int{"a": i % 3, "b": i / 3 % 3, "c": i / 9} {
			if v < 2 {
				row[name] = v == 1
			}
		}
		w.Rows = append(w.Rows, row)
	}
	return w
}

// conditions lists all with exactly n connectives.
func conditions(n int) []filter.Expr {
	if n == 0 {
		attr := func(name string) filter.Expr { return filter.Bool{X: filter.Attr{Name: name}} }
		return []filter.Expr{attr("a"), attr("b"), attr("c"), filter.Undefined{}}
	}
	var out []filter.Expr
	for _, x := range conditions(n - 1) {
		out = append(out, filter.Not{X: x}, filter.Total{X: x})
	}
	for i := range n {
		for _, l := range conditions(i) {
			for _, r := range conditions(n - 1 - i) {
				out = append(out, filter.And{L: l, R: r}, filter.Or{L: l, R: r})
			}
		}
	}
	return out
}

// everyCondition compares all conditions of up to three connectives, over all
// rows of three attributes that are true, false or absent, as permit and as
// forbid. Where many pairs are not asked for, PostgreSQL, being the slower, is
// asked for a part of them.
func everyCondition(t *testing.T, db filtertest.Database) {
	w := truthTable()
	if err := db.Load(w); err != nil {
		t.Fatal(err)
	}
	every := 1
	if db.Dialect == filter.Postgres && pairs(t) < 100_000 {
		every = 7
	}
	total := 0
	for n := range 4 {
		parts := slices.Collect(slices.Chunk(conditions(n), 100))
		for i := 0; i < len(parts); i += every {
			comparePart(t, w, db, parts[i])
			total += len(parts[i])
		}
	}
	t.Logf("%d conditions, %d rows, permit and forbid", total, len(w.Rows))
}

// comparePart asks a database about many conditions in one query.
func comparePart(t *testing.T, w filtertest.World, db filtertest.Database, part []filter.Expr) {
	t.Helper()
	var filters []filter.Filter
	var want, inGo []string
	for i, e := range part {
		permit := filter.Combine(filter.Residual{Permits: []filter.Expr{e}})
		forbid := filter.Combine(filter.Residual{Permits: []filter.Expr{filter.Const(true)}, Forbids: []filter.Expr{e}})
		filters = append(filters, permit, forbid)
		for _, row := range w.Rows {
			o := filtertest.Oracle{Row: row}
			for j, keeps := range []bool{o.Keeps(e), o.Keeps(filter.Not{X: e})} {
				name := fmt.Sprintf("%d %s", 2*i+j, row["id"])
				if keeps {
					want = append(want, name)
				}
				if filters[2*i+j].Match(row, nil) {
					inGo = append(inGo, name)
				}
			}
		}
	}
	slices.Sort(want)
	slices.Sort(inGo)
	if d := cmp.Diff(want, inGo, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("Go (-want +got)\n%s", d)
	}
	if d := cmp.Diff(want, askMany(t, w, db, filters), cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("%s (-want +got)\n%s", db.Name, d)
	}
}

func askMany(t *testing.T, w filtertest.World, db filtertest.Database, filters []filter.Filter) []string {
	t.Helper()
	var query []string
	for i, f := range filters {
		text, args, err := f.SQL(db.Dialect, w.Table, 1)
		if err != nil || len(args) > 0 {
			t.Fatal(text, args, err)
		}
		query = append(query, fmt.Sprintf("SELECT '%d ' || id FROM things WHERE %s", i, text))
	}
	got, err := db.IDs(strings.Join(query, " UNION ALL "))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	return got
}
