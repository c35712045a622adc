// Package filtertest proves that a filter keeps the rows that a check allows:
// it generates types, rows, principals and conditions, and compares a check
// with the filter in Go and in real databases.
package filtertest

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// Action and Type are what policies of a world are asked about.
const (
	Action rampart.Action = "things:read"
	Type                  = "thing"
)

// Rand is a source of chance, such as *rand.Rand of math/rand/v2.
type Rand interface{ IntN(n int) int }

// Row holds the attributes of one resource, "id" and "tenant" among them.
// Absent attributes have no entry.
type Row map[string]any

// World is a type of resource with rows of it, and principals.
type World struct {
	Type       authz.Type
	Table      filter.Table
	Rows       []Row
	Principals []rampart.Principal
	// Relations are what any principal stands in, by name, to the ids listed.
	Relations map[string][]string
	nocase    bool // SQLite's columns ignore case
}

// Texts are values that break what is quoted, folded, padded or cut wrongly.
func Texts() []string {
	return []string{
		"", "a", "A", "b", "ab", "abc", "a ", " a", "ä", "Ä", "e\u0301", "\u00e9", "z", "Z", "%", "_", "a%", "a_c", "1", "17", "true", "null",
		"it's", `a\b`, `\`, `"`, "'; DROP TABLE x;--", "$1", "?1", "x\ny", "\U0001F600", "\uffff", "\x01", "{a,b}", `["a"]`, "user:alice", "red",
	}
}

// Longs are values at the edges of what numbers hold.
func Longs() []int64 {
	return []int64{0, 1, -1, 5, 17, 1<<53 - 1, 1<<53 + 1, math.MaxInt64, math.MinInt64}
}

// Decimals have at most four digits behind the point.
func Decimals() []float64 {
	return []float64{0, 0.1, 0.3, -0.3, 12.5, 99.9999, 100, 100.0001, -3.25, 1, 5, 123456789.0123}
}

func pick[T any](r Rand, list []T) T { return list[r.IntN(len(list))] }

func chance(r Rand, percent int) bool { return r.IntN(100) < percent }

// names of attributes, words of SQL among them.
func names(kind authz.AttrKind) []string {
	return map[authz.AttrKind][]string{
		authz.KindString:  {"owner", "team", "select"},
		authz.KindLong:    {"count", "limit"},
		authz.KindBool:    {"frozen", "order"},
		authz.KindDecimal: {"total", "value"},
		authz.KindStrings: {"tags"},
	}[kind]
}

// Generate makes a world with n rows. In the rows many optional attributes are
// absent, and some that the type demands.
func Generate(r Rand, n int) World {
	w := World{nocase: chance(r, 30), Type: authz.Type{
		Actions: []rampart.Action{Action}, Relations: []string{"viewer"}, Attrs: map[string]authz.Attr{}, Columns: map[string]string{}, Table: "things",
	}}
	for _, kind := range []authz.AttrKind{authz.KindString, authz.KindLong, authz.KindBool, authz.KindDecimal, authz.KindStrings} {
		for _, name := range names(kind) {
			w.Type.Attrs[name] = authz.Attr{Kind: kind, Optional: chance(r, 75)}
			if chance(r, 20) {
				w.Type.Columns[name] = name + "_1"
			}
		}
	}
	w.Table = filter.TableOf(w.Type)
	w.storeIDs(pick(r, []filter.Stored{"", "", filter.StoredLong, filter.StoredUUID}))
	for i := range n {
		w.Rows = append(w.Rows, w.row(r, i))
	}
	for range 4 {
		w.Principals = append(w.Principals, principal(r))
	}
	w.Relations = map[string][]string{"viewer": w.someIDs(r), "none": nil}
	return w
}

// Fill gives every row every attribute, and says of all columns that they are
// NOT NULL.
func (w *World) Fill(r Rand) {
	for name, c := range w.Table.Columns {
		c.Nullable = false
		w.Table.Columns[name] = c
	}
	for _, row := range w.Rows {
		for _, name := range slices.Sorted(maps.Keys(w.Type.Attrs)) {
			if row[name] == nil {
				row[name] = Value(r, w.Type.Attrs[name].Kind)
			}
		}
		if row["tenant"] == nil || row["tenant"] == "" {
			row["tenant"] = "a"
		}
	}
}

func (w *World) storeIDs(s filter.Stored) {
	c := w.Table.Columns["id"]
	c.Stored = s
	w.Table.Columns["id"] = c
}

// ID is the id of the row i.
func (w *World) ID(i int) string {
	switch w.Table.Columns["id"].Stored {
	case filter.StoredLong:
		return strconv.Itoa(i - 3)
	case filter.StoredUUID:
		return fmt.Sprintf("0000000a-0000-4000-8000-%012x", i)
	}
	return fmt.Sprintf("id'%d", i)
}

func (w *World) row(r Rand, i int) Row {
	row := Row{"id": w.ID(i)}
	if chance(r, 80) {
		row["tenant"] = pick(r, []string{"", "a", "A", "red"})
	}
	for _, name := range slices.Sorted(maps.Keys(w.Type.Attrs)) {
		absent := 45
		if !w.Type.Attrs[name].Optional {
			absent = 5
		}
		if !chance(r, absent) {
			row[name] = Value(r, w.Type.Attrs[name].Kind)
		}
	}
	return row
}

// Value is any value of a kind.
func Value(r Rand, kind authz.AttrKind) any {
	switch kind {
	case authz.KindBool:
		return chance(r, 50)
	case authz.KindLong:
		return pick(r, Longs())
	case authz.KindDecimal:
		if chance(r, 20) {
			return int64(r.IntN(6)) // a decimal may be whole
		}
		return pick(r, Decimals())
	case authz.KindStrings:
		return texts(r, 4)
	}
	if chance(r, 60) {
		return pick(r, []string{"a", "A", "ab", "red"}) // so that values meet
	}
	return pick(r, Texts())
}

func texts(r Rand, most int) []any {
	list := []any{}
	for range r.IntN(most) {
		list = append(list, Value(r, authz.KindString))
	}
	return list
}

func (w *World) someIDs(r Rand) []string {
	ids := []string{"no such", "007"}
	for _, row := range w.Rows {
		if chance(r, 40) {
			ids = append(ids, row["id"].(string))
		}
	}
	return ids
}

func principal(r Rand) rampart.Principal {
	some := func() []string {
		var list []string
		for _, v := range texts(r, 4) {
			list = append(list, v.(string))
		}
		return list
	}
	p := rampart.Principal{
		Kind: pick(r, []rampart.PrincipalKind{rampart.KindHuman, rampart.KindService}), Subject: pick(r, []string{"user:a", "user:alice", "user:it's"}),
		Roles: some(), Organizations: some(), ManagedTeams: some(),
	}
	if chance(r, 60) {
		p.Team = pick(r, Texts())
	}
	if chance(r, 60) {
		p.Tenant = pick(r, []string{"a", "A", "red"})
	}
	return p
}

// Relation answers for the row as filter.Filter.Match wants to know it.
func (w *World) Relation(row Row) func(string) (bool, error) {
	return func(name string) (bool, error) {
		id, _ := row["id"].(string)
		return slices.Contains(w.Relations[name], id), nil
	}
}

// IDs answers as filter.Filter.Resolve wants to know it.
func (w *World) IDs(name string) ([]string, error) { return w.Relations[name], nil }
