package filter_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/filter/filtertest"
)

// reader reads UCAST as a mapper might: nulls compares null with a value, and
// is what such a comparison comes to.
type reader struct {
	row   filtertest.Row
	nulls bool
}

func (r reader) holds(c map[string]any) bool {
	name, _ := c["field"].(string)
	op, v := c["operator"].(string), c["value"]
	if c["type"] == "field" {
		return r.field(op, r.row[name], v)
	}
	for _, p := range v.([]any) {
		if h := r.holds(p.(map[string]any)); op == "not" || h != (op == "and") {
			return h != (op == "not")
		}
	}
	return op == "and"
}

func (r reader) field(op string, x, v any) bool {
	o := filtertest.Oracle{}
	cmp := map[string]filter.Op{"eq": filter.Eq, "ne": filter.Ne, "lt": filter.Lt, "le": filter.Le, "gt": filter.Gt, "ge": filter.Ge}
	look := map[string]filter.TextOp{"startswith": filter.Prefix, "endswith": filter.Suffix, "contains": filter.Contains}
	switch {
	case v == nil:
		return (x == nil) == (op == "eq")
	case x == nil:
		return r.nulls
	case cmp[op] != "":
		return o.Keeps(filter.Cmp{Op: cmp[op], L: lit(x), R: lit(v)})
	case look[op] != "":
		return o.Keeps(filter.Text{Op: look[op], X: lit(x), Part: lit(v)})
	}
	return o.Keeps(filter.In{X: lit(x), List: lit(v)}) == (op == "in")
}

// numbers turns JSON's numbers into those of rows.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	}
	return v
}

// TestUCAST: a row is kept by whoever reads UCAST exactly when the condition is
// defined and true, whatever a comparison with null is to them.
func TestUCAST(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	compared, kept := 0, 0
	for range 100 {
		w := filtertest.Generate(r, rowsOfWorld)
		for range 40 {
			e := filtertest.Conditions{World: &w}.Expr(r, r.IntN(5))
			text, err := filter.Where(e).UCAST()
			if err != nil || filter.Where(e).Validate(w.Table) != nil {
				continue
			}
			d := json.NewDecoder(strings.NewReader(string(text)))
			d.UseNumber()
			var c map[string]any
			if err := d.Decode(&c); err != nil {
				t.Fatal(err)
			}
			numbers(c)
			for _, row := range w.Rows {
				want := filtertest.Oracle{Row: row}.Keeps(e)
				for _, nulls := range []bool{false, true} {
					if got := (reader{row, nulls}).holds(c); got != want {
						t.Fatalf("row %v: got %t, want %t\n%#v\n%s", row, got, want, e, text)
					}
				}
				compared++
				if want {
					kept++
				}
			}
		}
	}
	t.Logf("%d pairs, %d kept", compared, kept)
	if kept < compared/20 {
		t.Error("the conditions decide too little for a proof")
	}
}

func TestUCASTForm(t *testing.T) {
	for want, f := range map[string]filter.Filter{
		`{"type":"compound","operator":"and","value":[]}`: filter.All(),
		`{"type":"compound","operator":"or","value":[]}`:  filter.None(),
		`{"type":"compound","operator":"and","value":[{"type":"field","operator":"ne","field":"owner","value":null},{"type":"field","operator":"eq","field":"owner","value":"a"}]}`: filter.Where(is("owner", "a")),
	} {
		if got, err := f.UCAST(); err != nil || string(got) != want {
			t.Errorf("got %s, %v", got, err)
		}
	}
	for name, e := range map[string]filter.Expr{
		"two attributes": filter.Cmp{Op: filter.Eq, L: attr("a"), R: attr("b")},
		"a relation":     filter.Rel{Name: "viewer"},
		"a column list":  filter.In{X: lit("a"), List: attr("tags")},
		"the principal":  filter.Cmp{Op: filter.Eq, L: attr("a"), R: filter.Subject{Name: "id"}},
	} {
		if got, err := filter.Where(e).UCAST(); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}
