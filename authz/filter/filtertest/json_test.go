// The fuzz test stands here and not beside what it tests, where the engines of
// the proof would be built for fuzzing with it.

package filtertest_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/filter/filtertest"
)

func refused() []string {
	owner := `{"cmp":"==","l":{"attr":"a"},"r":{"string":"b"}}`
	where := func(c string) string { return `{"keep":"where","where":` + c + `}` }
	return []string{
		``, `null`, `[]`, `"all"`, `{}`, `{"keep":"some"}`, `{"keep":"all","where":` + owner + `}`, `{"Keep":"all"}`, `{"keep":"none","keep":"all"}`,
		`{"keep":"all"} x`, `{"keep":"all"}{}`, `{"keep":"all"`, `{"keep":"where"}`, where(`{}`), where(`null`), where(`{"and":[]}`), where(`{"and":[` + owner + `]}`),
		where(`{"and":[` + owner + `,null]}`), where(`{"cmp":"~","l":{"attr":"a"},"r":{"string":"b"}}`), where(`{"cmp":"==","l":{"attr":"a"}}`),
		where(`{"cmp":"==","l":{"attr":"a"},"r":{"string":"b"},"x":1}`), where(`{"const":1}`), where(`{"undefined":false}`), where(`{"has":1}`),
		where(`{"bool":{"attr":1}}`), where(`{"bool":{"long":1.5}}`), where(`{"bool":{"long":9223372036854775808}}`), where(`{"bool":{"decimal":"1.50"}}`),
		where(`{"bool":{"decimal":"NaN"}}`), where(`{"in":{"attr":"a"},"list":{"decimal":"0.00001"}}`), where(`{"in":{"attr":"a"},"list":{"list":[{"list":[]}]}}`),
		where(`{"in":{"attr":"a"},"list":{"strings":[1]}}`), where(`{"text":"like","x":{"attr":"a"},"part":{"string":"b"}}`), "{\"keep\":\"\xff\"}",
		where(`{"in":{"attr":"a"},"list":{"strings":[""` + strings.Repeat(`,""`, filter.MaxList) + `]}}`),
		where(strings.Repeat(`{"not":`, 70) + owner + strings.Repeat(`}`, 70)), where(strings.Repeat(`[`, 100_000)),
		where(`{"or":[` + owner + strings.Repeat(`,`+owner, filter.MaxNodes) + `]}`),
		where(`{"in":{"attr":"a"},"list":{"string":"` + strings.Repeat("a", 64<<10+1) + `"}}`),
	}
}

func TestRefusedJSON(t *testing.T) {
	for _, text := range refused() {
		f := filter.All()
		if err := f.UnmarshalJSON([]byte(text)); err == nil || !f.IsNone() {
			t.Errorf("%.100s: %v, all %t", text, err, f.IsAll())
		}
	}
}

// FuzzJSON: what is read is written the same way again, and whatever is read can
// be rendered or is refused, with no value of it in the text.
func FuzzJSON(f *testing.F) {
	for _, text := range refused() {
		if len(text) < 1000 {
			f.Add([]byte(text))
		}
	}
	r := rand.New(rand.NewPCG(11, 12))
	w := filtertest.Generate(r, 1)
	for range 50 {
		text, err := json.Marshal(filter.Where(filtertest.Conditions{World: &w, Rel: true, Subject: true}.Expr(r, 4)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got, back filter.Filter
		if got.UnmarshalJSON(text) != nil {
			return
		}
		once, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(once, &back); err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if d := cmp.Diff(got, back, cmp.AllowUnexported(filter.Filter{})); d != "" {
			t.Fatalf("%s (-want +got)\n%s", once, d)
		}
		render(t, got, w.Table)
	})
}

func render(t *testing.T, f filter.Filter, table filter.Table) {
	t.Helper()
	f.Validate(table)
	f.UCAST()
	f.Match(map[string]any{"owner": "a"}, nil)
	filter.RLS(table, "p", "ALL", f)
	for _, d := range []filter.Dialect{filter.Postgres, filter.SQLite} {
		text, args, err := f.SQL(d, table, 1)
		if err != nil {
			continue
		}
		text = strings.NewReplacer("''", "", "'array'", "", "'text'", "", "'integer'", "", "'real'", "", "'[]'", "").Replace(text)
		if strings.ContainsAny(text, "'\x00;\\") {
			t.Errorf("%s %q", text, args)
		}
	}
}
