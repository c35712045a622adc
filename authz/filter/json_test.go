package filter_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/authz/filter"
)

func TestJSON(t *testing.T) {
	for text, f := range map[string]filter.Filter{
		`{"keep":"none"}`: filter.None(),
		`{"keep":"all"}`:  filter.All(),
		`{"keep":"where","where":{"cmp":"==","l":{"attr":"owner"},"r":{"string":"\u003calice"}}}`: filter.Where(is("owner", "<alice")),
		`{"keep":"where","where":{"and":[{"has":"a"},{"rel":"viewer"},{"undefined":true}]}}`: filter.Where(filter.And{
			L: filter.And{L: filter.Has{Attr: "a"}, R: filter.Rel{Name: "viewer"}}, R: filter.Undefined{}}),
		`{"keep":"where","where":{"or":[{"not":{"bool":{"attr":"a"}}},{"total":{"bool":{"subject":"id"}}}]}}`: filter.Where(filter.Or{
			L: filter.Not{X: filter.Bool{X: attr("a")}}, R: filter.Total{X: filter.Bool{X: filter.Subject{Name: "id"}}}}),
		`{"keep":"where","where":{"in":{"attr":"a"},"list":{"list":[{"long":9007199254740993},{"decimal":"0.1"},{"bool":true}]}}}`: filter.Where(
			filter.In{X: attr("a"), List: list(int64(1<<53+1), 0.1, true)}),
		`{"keep":"where","where":{"in":{"attr":"a"},"list":{"strings":["x","y"]}}}`: filter.Where(filter.In{X: attr("a"), List: list("x", "y")}),
		`{"keep":"where","where":{"part":{"string":"x"},"text":"prefix","x":{"attr":"a"}}}`: filter.Where(
			filter.Text{Op: filter.Prefix, X: attr("a"), Part: lit("x")}),
	} {
		got, err := json.Marshal(f)
		if err != nil || string(got) != text {
			t.Errorf("got  %s, %v\nwant %s", got, err, text)
		}
		var back filter.Filter
		if err := json.Unmarshal([]byte(text), &back); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if d := cmp.Diff(f, back, cmp.AllowUnexported(filter.Filter{})); d != "" {
			t.Errorf("%s (-want +got)\n%s", text, d)
		}
	}
}
