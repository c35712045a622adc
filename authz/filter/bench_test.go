package filter_test

import (
	"testing"

	"github.com/rampart-security/rampart/authz/filter"
)

// typical is what the policies of an order leave: one's own, one's team's below
// a limit, or those one was given, unless frozen.
func typical() filter.Filter {
	return filter.Combine(filter.Residual{
		Permits: []filter.Expr{
			is("owner", "user:alice"),
			filter.And{L: is("team", "red"), R: filter.Cmp{Op: filter.Lt, L: attr("total"), R: lit(500.0)}},
			filter.In{X: attr("id"), List: list("17", "18", "19")},
		},
		Forbids: []filter.Expr{is("frozen", true)},
	}).And(filter.Where(filter.In{X: attr("tenant"), List: list("acme", "globex")}))
}

func BenchmarkSQL(b *testing.B) {
	f, table := typical(), orders()
	for name, d := range map[string]filter.Dialect{"postgres": filter.Postgres, "sqlite": filter.SQLite} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := f.SQL(d, table, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	f := typical()
	row := map[string]any{"id": "4", "tenant": "acme", "owner": "user:bob", "team": "red", "total": 12.5, "frozen": false}
	b.ReportAllocs()
	for b.Loop() {
		if !f.Match(row, nil) {
			b.Fatal("dropped")
		}
	}
}

func BenchmarkJSON(b *testing.B) {
	f := typical()
	b.ReportAllocs()
	for b.Loop() {
		text, err := f.MarshalJSON()
		if err != nil {
			b.Fatal(err)
		}
		if err := f.UnmarshalJSON(text); err != nil {
			b.Fatal(err)
		}
	}
}
