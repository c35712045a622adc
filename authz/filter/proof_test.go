package filter_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/filter/filtertest"
)

// pairs is how many pairs of a row and a condition the proof compares in each
// renderer; RAMPART_FILTER_PAIRS sets it.
func pairs(t *testing.T) int {
	t.Helper()
	text := os.Getenv("RAMPART_FILTER_PAIRS")
	if text == "" {
		return 4000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const rowsOfWorld, filtersOfWorld = 40, 50

// TestRowInFilter: a row is in the filter exactly when its condition is defined
// and true, in Go, SQLite and PostgreSQL.
func TestRowInFilter(t *testing.T) {
	dbs := []filtertest.Database{sqlite(t)}
	t.Run("with PostgreSQL", func(t *testing.T) { dbs = append(dbs, postgres(t)); compareAll(t, dbs) })
	if len(dbs) == 1 {
		compareAll(t, dbs)
	}
}

func compareAll(t *testing.T, dbs []filtertest.Database) {
	r := rand.New(rand.NewPCG(1, 2))
	kept, compared := 0, 0
	for compared < pairs(t) {
		w := filtertest.Generate(r, rowsOfWorld)
		for _, db := range dbs {
			if err := db.Load(w); err != nil {
				t.Fatal(err)
			}
		}
		c := filtertest.Conditions{World: &w, Rel: true}
		for range filtersOfWorld {
			kept += compareOne(t, w, dbs, c.Expr(r, r.IntN(5)))
			compared += len(w.Rows)
		}
	}
	t.Logf("%d pairs, %d kept, in Go and %d databases", compared, kept, len(dbs))
	if kept < compared/20 || kept > compared*19/20 {
		t.Error("the conditions decide too little for a proof")
	}
}

// compareOne compares e as a permit; a forbid is its opposite, and so is a
// permit with it. It returns how many rows are kept.
func compareOne(t *testing.T, w filtertest.World, dbs []filtertest.Database, e filter.Expr) int {
	t.Helper()
	kept := 0
	problem := func(e filter.Expr) string {
		oracle := func(row filtertest.Row) bool { return filtertest.Oracle{Row: row, Relation: w.Relation(row)}.Keeps(e) }
		f, err := travelled(filter.Where(e)).Resolve(t.Context(), w.IDs)
		if err != nil {
			t.Fatal(err)
		}
		want := w.Allowed(oracle)
		kept = len(want)
		d, err := w.Disagreement(dbs, f, want)
		if err != nil {
			return err.Error()
		}
		return d
	}
	if d := problem(e); d != "" {
		small := filtertest.Shrink(e, func(e filter.Expr) bool { return problem(e) != "" })
		t.Fatalf("%s\ncondition %#v", problem(small), small)
	}
	return kept
}

// travelled is f as it arrives on the other side of a wire.
func travelled(f filter.Filter) filter.Filter {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	var out filter.Filter
	if err := json.Unmarshal(b, &out); err != nil {
		panic(fmt.Sprintf("%s: %v", b, err))
	}
	return out
}

// TestRowLevelSecurity: a role that logs in for itself sees exactly the rows
// for which the condition, which reads facts of the principal, is defined and
// true.
func TestRowLevelSecurity(t *testing.T) {
	db := postgres(t)
	r := rand.New(rand.NewPCG(3, 4))
	kept, compared := 0, 0
	for compared < pairs(t) {
		w := filtertest.Generate(r, rowsOfWorld)
		if err := db.Load(w); err != nil {
			t.Fatal(err)
		}
		c := filtertest.Conditions{World: &w, Subject: true}
		for range filtersOfWorld {
			kept += compareGuarded(t, w, db, c.Expr(r, r.IntN(4)), w.Principals[r.IntN(len(w.Principals))])
			compared += len(w.Rows)
		}
	}
	t.Logf("%d pairs, %d kept", compared, kept)
	if kept < compared/20 || kept > compared*19/20 {
		t.Error("the conditions decide too little for a proof")
	}
}

func compareGuarded(t *testing.T, w filtertest.World, db filtertest.Database, e filter.Expr, p rampart.Principal) int {
	t.Helper()
	kept := 0
	problem := func(e filter.Expr) string {
		want := w.Allowed(func(row filtertest.Row) bool { return filtertest.Oracle{Row: row, Principal: p}.Keeps(e) })
		kept = len(want)
		got, ddl, err := db.KeepGuarded(w, filter.Where(e), filter.SubjectSetting(p))
		if err != nil {
			return fmt.Sprintf("%v\n%s", err, ddl)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			return fmt.Sprintf("(-want +got)\n%s%s\n%s", d, ddl, filter.SubjectSetting(p))
		}
		return ""
	}
	if d := problem(e); d != "" {
		small := filtertest.Shrink(e, func(e filter.Expr) bool { return problem(e) != "" })
		t.Fatalf("%s\ncondition %#v", problem(small), small)
	}
	return kept
}
