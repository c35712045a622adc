package filter_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
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

// TestInSQLite and TestInPostgreSQL prove, each in its database and in Go, that
// a row is in a filter exactly when the check allows it.
func TestInSQLite(t *testing.T) { prove(t, sqlite(t)) }

func TestInPostgreSQL(t *testing.T) { prove(t, postgres(t)) }

func prove(t *testing.T, db filtertest.Database) {
	t.Run("conditions", func(t *testing.T) { anyConditions(t, db) })
	t.Run("every condition", func(t *testing.T) { everyCondition(t, db) })
	t.Run("Cedar policies", func(t *testing.T) { policies(t, db, "p.cedar", filtertest.Policies.Cedar) })
	t.Run("Rego policies", func(t *testing.T) { policies(t, db, "p.rego", filtertest.Policies.Rego) })
	t.Run("indexes", func(t *testing.T) { usesIndexes(t, db) })
	if db.Guarded != nil {
		t.Run("row-level security", func(t *testing.T) { rowLevelSecurity(t, db) })
		t.Run("nobody", func(t *testing.T) { nobody(t, db) })
		t.Run("relations", func(t *testing.T) { relationsAreTheGraph(t, db) })
		t.Run("quoting", func(t *testing.T) { quoting(t, db) })
	}
}

// anyConditions compares generated conditions.
func anyConditions(t *testing.T, db filtertest.Database) {
	r := rand.New(rand.NewPCG(1, 2))
	kept, compared := 0, 0
	for compared < pairs(t) {
		w := filtertest.Generate(r, rowsOfWorld)
		if r.IntN(4) == 0 {
			w.Fill(r)
		}
		if err := db.Load(w); err != nil {
			t.Fatal(err)
		}
		c := filtertest.Conditions{World: &w, Rel: true}
		for range filtersOfWorld {
			kept += compareOne(t, w, db, c.Expr(r, r.IntN(5)))
			compared += len(w.Rows)
		}
	}
	t.Logf("%d pairs, %d kept", compared, kept)
	if kept < compared/20 || kept > compared*19/20 {
		t.Error("the conditions decide too little for a proof")
	}
}

// compareOne compares e as a permit; a forbid is its opposite, and so is a
// permit with it. It returns how many rows are kept.
func compareOne(t *testing.T, w filtertest.World, db filtertest.Database, e filter.Expr) int {
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
		d, err := w.Disagreement(db, f, want)
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

// rowLevelSecurity: a role that logs in for itself sees exactly the rows for
// which the condition, which reads facts of the principal, is defined and true.
func rowLevelSecurity(t *testing.T, db filtertest.Database) {
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

// nobody sees a row, whatever the policy says, as long as the session does not
// tell who asks.
func nobody(t *testing.T, db filtertest.Database) {
	r := rand.New(rand.NewPCG(7, 8))
	w := filtertest.Generate(r, rowsOfWorld)
	if err := db.Load(w); err != nil {
		t.Fatal(err)
	}
	for _, f := range []filter.Filter{filter.All(), filter.Where(filter.Not{X: filter.In{X: filter.Attr{Name: "id"}, List: filter.Subject{Name: "roles"}}})} {
		for _, setting := range []string{"", "{}", "null", "[]", `"x"`, `{"id":""}`, `{"id":null}`, `{"roles":["x"]}`} {
			got, ddl, err := db.KeepGuarded(w, f, setting)
			if err != nil || len(got) > 0 {
				t.Errorf("setting %q shows %q, %v\n%s", setting, got, err, ddl)
			}
		}
		if got, _, err := db.KeepGuarded(w, f, "{no JSON"); err == nil || len(got) > 0 {
			t.Errorf("a setting that is no JSON shows %q", got)
		}
	}
	got, _, err := db.KeepGuarded(w, filter.All(), filter.SubjectSetting(rampart.Principal{Subject: "user:a"}))
	if err != nil || len(got) != len(w.Rows) {
		t.Errorf("somebody sees %d of %d rows, %v", len(got), len(w.Rows), err)
	}
}

// quoting: what is quoted reads as it was, whatever the session's settings.
func quoting(t *testing.T, db filtertest.Database) {
	r := rand.New(rand.NewPCG(9, 10))
	texts := filtertest.Texts()
	for len(texts) < pairs(t) {
		var b []rune
		for range r.IntN(8) {
			b = append(b, []rune{rune(1 + r.IntN(0x7f)), rune(1 + r.IntN(0xd7ff)), rune(0xe000 + r.IntN(0x101fff)), '\\', '\'', '"', 'u', 'x', '0'}[r.IntN(9)])
		}
		texts = append(texts, string(b))
	}
	for _, settings := range []string{"on; SET LOCAL client_encoding = 'UTF8'", "off; SET LOCAL client_encoding = 'SJIS'", "off; SET LOCAL client_encoding = 'LATIN1'"} {
		for part := range slices.Chunk(texts, 500) {
			var want, list []string
			for _, s := range part {
				want = append(want, hex.EncodeToString([]byte(s)))
				list = append(list, filter.Quote(s))
			}
			err := db.Exec("BEGIN; SET LOCAL standard_conforming_strings = " + settings + "; DROP TABLE IF EXISTS quoted; CREATE TABLE quoted AS " +
				"SELECT encode(convert_to(s, 'UTF8'), 'hex') AS s, n FROM unnest(ARRAY[" + strings.Join(list, ", ") + "]) WITH ORDINALITY AS x(s, n); COMMIT")
			if err != nil {
				t.Fatal(err)
			}
			got, err := db.IDs("SELECT s FROM quoted ORDER BY n")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatal(d)
			}
		}
	}
}

// TestProofCanFail plants the mistake that SQL's NULL invites, a side that is
// undefined and counts as false, and demands that it is seen.
func TestProofCanFail(t *testing.T) {
	db := sqlite(t)
	w := filtertest.Generate(rand.New(rand.NewPCG(15, 16)), rowsOfWorld)
	if err := db.Load(w); err != nil {
		t.Fatal(err)
	}
	team, owned := is("team", "a"), filter.Has{Attr: "id"}
	want := w.Allowed(func(row filtertest.Row) bool {
		return filtertest.Oracle{Row: row}.Keeps(filter.Or{L: team, R: owned})
	})
	d, err := w.Disagreement(db, filter.Where(filter.Or{L: filter.Total{X: team}, R: owned}), want)
	if err != nil || d == "" {
		t.Errorf("nobody saw it: %q, %v", d, err)
	}
}
