package filter_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// orders is a table in which nothing is known to be there but the id.
func orders() filter.Table {
	return filter.TableOf(authz.Type{
		Table: "orders", Columns: map[string]string{"owner": "user_id", "id": "orders.id"},
		Attrs: map[string]authz.Attr{
			"owner": {Kind: authz.KindString}, "team": {Kind: authz.KindString, Optional: true}, "frozen": {Kind: authz.KindBool},
			"count": {Kind: authz.KindLong}, "total": {Kind: authz.KindDecimal}, "tags": {Kind: authz.KindStrings},
			"risk": {Kind: authz.KindLong, Provider: "scores"},
		},
	})
}

func attr(name string) filter.Operand { return filter.Attr{Name: name} }
func lit(v any) filter.Operand        { return filter.Lit{Value: v} }
func list(v ...any) filter.Operand    { return filter.Lit{Value: v} }

func is(name string, v any) filter.Expr {
	return filter.Cmp{Op: filter.Eq, L: attr(name), R: lit(v)}
}

// TestSQL shows what filters look like in SQL.
func TestSQL(t *testing.T) {
	for name, row := range map[string]struct {
		cond             filter.Expr
		postgres, sqlite string
		args             []any // of PostgreSQL
	}{
		"everything": {filter.Const(true), "TRUE", "1=1", nil},
		"nothing":    {filter.Const(false), "FALSE", "1=0", nil},
		"undefined":  {filter.Undefined{}, "FALSE", "1=0", nil},
		"an owner": {is("owner", "alice"), `"user_id"::text = $3::text`,
			"((typeof([user_id]) = 'text') AND ([user_id] = ?3 AND CAST([user_id] AS BLOB) = CAST(?3 AS BLOB)))", []any{"alice"}},
		"not an owner": {filter.Not{X: is("owner", "alice")}, `"user_id"::text <> $3::text`,
			"((typeof([user_id]) = 'text') AND CAST([user_id] AS BLOB) <> CAST(?3 AS BLOB))", []any{"alice"}},
		"a side that may be absent": {filter.Or{L: is("team", "red"), R: is("owner", "alice")},
			`("team"::text = $3::text OR ("team"::text <> $3::text AND "user_id"::text = $4::text))`, "", []any{"red", "alice"}},
		"sides that count for themselves": {filter.Or{L: filter.Total{X: is("team", "red")}, R: filter.Total{X: is("owner", "alice")}},
			`("team"::text = $3::text OR "user_id"::text = $4::text)`, "", []any{"red", "alice"}},
		"nothing forbids": {filter.Not{X: filter.Total{X: is("frozen", true)}},
			`("frozen" IS NULL OR "frozen" <> $3::boolean)`, "", []any{true}},
		"a list is one argument": {filter.In{X: attr("owner"), List: list("a", "b")},
			`"user_id"::text = ANY($3::text[])`, "", []any{[]string{"a", "b"}}},
		"members of another kind": {filter.In{X: attr("count"), List: list("a", int64(1), 2.0, 2.5, true)}, `"count" = ANY($3::bigint[])`, "", []any{[]int64{1, 2}}},
		"a list without members":  {filter.In{X: attr("owner"), List: list()}, "FALSE", "1=0", nil},
		"not among none":          {filter.Not{X: filter.In{X: attr("owner"), List: list()}}, `"user_id" IS NOT NULL`, "(typeof([user_id]) = 'text')", nil},
		"two kinds":               {is("count", "1"), "FALSE", "1=0", nil},
		"two kinds differ":        {filter.Cmp{Op: filter.Ne, L: attr("count"), R: lit("1")}, `"count" IS NOT NULL`, "(typeof([count]) = 'integer')", nil},
		"two kinds in order":      {filter.Cmp{Op: filter.Lt, L: attr("owner"), R: lit(int64(1))}, "FALSE", "1=0", nil},
		"a decimal":               {filter.Cmp{Op: filter.Eq, L: lit(12.5), R: attr("total")}, `"total" = $3::text::numeric`, "", []any{"12.5"}},
		"its own id":              {is("id", "17"), `"orders"."id"::text = $3::text`, "([orders].[id] = ?3 AND CAST([orders].[id] AS BLOB) = CAST(?3 AS BLOB))", []any{"17"}},
		"the empty tenant":        {filter.Not{X: filter.Has{Attr: "tenant"}}, `("tenant" IS NULL OR "tenant"::text = '')`, "([tenant] IS NULL OR [tenant] = '')", nil},
		"a member of a column":    {filter.In{X: lit("red"), List: attr("tags")}, `(jsonb_typeof(to_jsonb("tags")) = 'array' AND to_jsonb("tags") @> to_jsonb($3::text))`, "", []any{"red"}},
		"a part of a text":        {filter.Text{Op: filter.Contains, X: attr("owner"), Part: lit("%")}, `strpos("user_id"::text COLLATE "C", $3::text) > 0`, "", []any{"%"}},
		"a zero byte":             {is("owner", "a\x00"), "FALSE", "", nil},
		"one value, bound once":   {filter.And{L: is("owner", "a"), R: is("team", "a")}, `("user_id"::text = $3::text AND "team"::text = $3::text)`, "", []any{"a"}},
		"what does not matter":    {filter.And{L: is("owner", "a"), R: is("count", "a")}, "FALSE", "1=0", nil},
	} {
		t.Run(name, func(t *testing.T) {
			text, args, err := filter.Where(row.cond).SQL(filter.Postgres, orders(), 3)
			if err != nil || text != row.postgres || !cmp.Equal(args, row.args) {
				t.Errorf("PostgreSQL: %s %#v, %v", text, args, err)
			}
			text, _, err = filter.Where(row.cond).SQL(filter.SQLite, orders(), 3)
			if err != nil || row.sqlite != "" && text != row.sqlite {
				t.Errorf("SQLite: %s, %v", text, err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	tower := func(levels int) filter.Expr { // each level says what is below it twice
		e := is("team", "a")
		for range levels {
			e = filter.And{L: filter.Or{L: e, R: is("owner", "b")}, R: is("frozen", true)}
		}
		return e
	}
	for name, row := range map[string]struct {
		cond filter.Expr
		want string
	}{
		"an unknown attribute":     {is("ownr", "a"), `no column for the attribute "ownr"`},
		"what a provider supplies": {is("risk", int64(1)), "no column"},
		"an unknown presence":      {filter.Has{Attr: "x"}, "the name"},
		"the principal":            {filter.Cmp{Op: filter.Eq, L: attr("owner"), R: filter.Subject{Name: "id"}}, "row-level security"},
		"a relation":               {filter.Rel{Name: "viewer"}, "resolved first"},
		"a whole list":             {filter.Cmp{Op: filter.Eq, L: attr("tags"), R: list("a")}, "whole list"},
		"no UTF-8":                 {is("owner", "\xff"), "UTF-8"},
		"not a number":             {is("owner", 0.00001), "not a decimal"},
		"a stranger's type":        {is("owner", 1), "no value"},
		"too deep":                 {tower(33), "deep"},
		"too wide":                 {tower(31), "too large"},
		"an order of what is none": {filter.Cmp{Op: filter.Lt, L: attr("owner"), R: lit("a\x00")}, "zero byte"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := filter.Where(row.cond).SQL(filter.Postgres, orders(), 1)
			if err == nil || !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), "filter: ") {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
	for _, name := range []string{"", "a b", `a"`, "a;", "1a", "a.b.c.d", "a]", strings.Repeat("a", 64), "ä"} {
		table := filter.Table{Columns: map[string]filter.Column{"owner": {Name: name, Kind: authz.KindString}}}
		for _, d := range []filter.Dialect{filter.Postgres, filter.SQLite} {
			if text, _, err := filter.Where(is("owner", "a")).SQL(d, table, 1); err == nil {
				t.Errorf("column %q: %s", name, text)
			}
		}
		if text, err := filter.RLS(filter.Table{Name: name}, "p", "SELECT", filter.All()); err == nil {
			t.Errorf("table %q: %s", name, text)
		}
		if text, err := filter.RLS(filter.Table{Name: "t"}, name, "SELECT", filter.All()); err == nil {
			t.Errorf("policy %q: %s", name, text)
		}
	}
	if _, _, err := filter.All().SQL("mysql", orders(), 1); err == nil {
		t.Error("an unknown dialect")
	}
	if _, _, err := filter.All().SQL(filter.Postgres, orders(), 0); err == nil {
		t.Error("a placeholder $0")
	}
	if _, err := filter.RLS(filter.Table{Name: "t"}, "p", "TRUNCATE", filter.All()); err == nil {
		t.Error("an unknown command")
	}
}

func TestValidate(t *testing.T) {
	for name, row := range map[string]struct {
		cond filter.Expr
		want string
	}{
		"fits":                 {filter.And{L: is("owner", "a"), R: filter.Cmp{Op: filter.Lt, L: attr("count"), R: attr("total")}}, ""},
		"a relation":           {filter.Rel{Name: "viewer"}, ""},
		"a presence":           {filter.Has{Attr: "team"}, ""},
		"an unknown presence":  {filter.Not{X: filter.Has{Attr: "tem"}}, `"tem"`},
		"two kinds":            {is("owner", true), "owner is a string, bool"},
		"an order of booleans": {filter.Cmp{Op: filter.Lt, L: attr("frozen"), R: lit(true)}, "two kinds"},
		"a text in a number":   {filter.Text{Op: filter.Prefix, X: attr("count"), Part: lit("1")}, "two kinds"},
		"a text as condition":  {filter.Bool{X: attr("owner")}, "two kinds"},
		"a list of numbers":    {filter.In{X: attr("owner"), List: list(int64(1))}, "two kinds"},
		"the principal":        {filter.In{X: attr("tenant"), List: filter.Subject{Name: "organizations"}}, `"organizations"`},
		"no operand":           {filter.Bool{}, "operand is missing"},
		"an unknown operator":  {filter.Cmp{Op: "~", L: attr("owner"), R: lit("a")}, "two kinds"},
	} {
		t.Run(name, func(t *testing.T) {
			err := filter.Where(row.cond).Validate(orders())
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

// TestFold: what is known is computed, and a filter tells whether it keeps all
// or nothing.
func TestFold(t *testing.T) {
	owner := is("owner", "a")
	if !(filter.Filter{}).IsNone() || filter.Where(nil).IsAll() || !filter.Combine().IsNone() {
		t.Error("the zero filter keeps something")
	}
	for name, row := range map[string]struct {
		cond      filter.Expr
		all, none bool
	}{
		"a comparison of values":       {filter.Cmp{Op: filter.Lt, L: lit(int64(1)), R: lit(1.5)}, true, false},
		"of two kinds":                 {filter.Cmp{Op: filter.Lt, L: lit("a"), R: lit(int64(1))}, false, true},
		"its opposite":                 {filter.Not{X: filter.Cmp{Op: filter.Lt, L: lit("a"), R: lit(int64(1))}}, false, true},
		"undefined counts as false":    {filter.Not{X: filter.Total{X: filter.Undefined{}}}, true, false},
		"behind what is false":         {filter.And{L: filter.Const(false), R: filter.Undefined{}}, false, true},
		"behind what is true":          {filter.Or{L: filter.Const(true), R: filter.Undefined{}}, true, false},
		"before what is true":          {filter.Or{L: owner, R: filter.Const(true)}, false, false}, // an absent owner is undefined
		"before what is false":         {filter.And{L: filter.Total{X: owner}, R: filter.Const(false)}, false, true},
		"a member of a list of values": {filter.In{X: lit(int64(1)), List: list(1.0)}, true, false},
	} {
		f := filter.Where(row.cond)
		if f.IsAll() != row.all || f.IsNone() != row.none {
			t.Errorf("%s: %#v", name, f)
		}
	}
}

func TestCombine(t *testing.T) {
	permit, forbid := is("owner", "a"), is("frozen", true)
	allRows := filter.Residual{Permits: []filter.Expr{filter.Const(true)}}
	for name, row := range map[string]struct {
		filter filter.Filter
		row    map[string]any
		want   bool
	}{
		"a permit":                       {filter.Combine(filter.Residual{Permits: []filter.Expr{permit}}), map[string]any{"owner": "a"}, true},
		"a permit that is undefined":     {filter.Combine(filter.Residual{Permits: []filter.Expr{permit}}), nil, false},
		"another permit then":            {filter.Combine(filter.Residual{Permits: []filter.Expr{permit}}, allRows), nil, true},
		"a forbid":                       {filter.Combine(allRows, filter.Residual{Forbids: []filter.Expr{forbid}}), map[string]any{"frozen": true}, false},
		"a forbid that does not hold":    {filter.Combine(allRows, filter.Residual{Forbids: []filter.Expr{forbid}}), map[string]any{"frozen": false}, true},
		"a forbid that is undefined":     {filter.Combine(allRows, filter.Residual{Forbids: []filter.Expr{forbid}}), nil, false},
		"a forbid alone":                 {filter.Combine(filter.Residual{Forbids: []filter.Expr{forbid}}), map[string]any{"frozen": false}, false},
		"both filters":                   {filter.All().And(filter.Where(permit), filter.Where(filter.Not{X: forbid})), map[string]any{"owner": "a", "frozen": false}, true},
		"one of two filters":             {filter.Where(permit).And(filter.None()), map[string]any{"owner": "a"}, false},
		"a filter and nothing else":      {filter.Where(permit).And(), map[string]any{"owner": "a"}, true},
		"an empty tenant is none":        {filter.Where(filter.Has{Attr: "tenant"}), map[string]any{"tenant": ""}, false},
		"a relation that nobody answers": {filter.Where(filter.Not{X: filter.Rel{Name: "blocked"}}), nil, false},
	} {
		if got := row.filter.Match(row.row, nil); got != row.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

func TestResolve(t *testing.T) {
	f := filter.Where(filter.Or{L: filter.Rel{Name: "viewer"}, R: filter.And{L: is("team", "red"), R: filter.Not{X: filter.Rel{Name: "viewer"}}}})
	asked := 0
	got, err := f.Resolve(t.Context(), func(name string) ([]string, error) {
		asked++
		return []string{"1", "2"}, nil
	})
	if err != nil || asked != 1 || !got.Match(map[string]any{"id": "2"}, nil) || got.Match(map[string]any{"id": "3"}, nil) {
		t.Errorf("%#v, %v, asked %d times", got, err, asked)
	}
	_, err = f.Resolve(t.Context(), func(string) ([]string, error) { return make([]string, filter.MaxList+1), nil })
	if u, ok := errors.AsType[*filter.Untranslatable](err); !ok || u.Policy != (rampart.PolicyRef{Engine: "relation", ID: "viewer", Effect: rampart.Allow}) {
		t.Errorf("too many objects: %v", err)
	}
	down := errors.New("down")
	if got, err := f.Resolve(t.Context(), func(string) ([]string, error) { return nil, down }); !errors.Is(err, down) || !got.IsNone() {
		t.Errorf("a failure: %v, %v", got, err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Resolve(over, func(string) ([]string, error) { return nil, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestSubjectSetting(t *testing.T) {
	for name, row := range map[string]struct {
		p    rampart.Principal
		want string
	}{
		"nobody":     {rampart.Principal{}, ""},
		"somebody":   {rampart.Principal{Subject: "user:a", Kind: rampart.KindHuman}, `{"id":"user:a","kind":"human","managed_teams":[],"organizations":[],"roles":[],"subject_id":"a","subject_type":"user"}`},
		"with facts": {rampart.Principal{Subject: "a", Team: "red", Tenant: "acme", Roles: []string{"x"}}, `{"id":"a","managed_teams":[],"org":"acme","organizations":[],"role":"x","roles":["x"],"team":"red"}`},
		"zero byte":  {rampart.Principal{Subject: "a", Roles: []string{"\x00"}}, ""},
		"no UTF-8":   {rampart.Principal{Subject: "a\xff"}, ""},
	} {
		if got := filter.SubjectSetting(row.p); got != row.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
