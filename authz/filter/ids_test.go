package filter

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIDs(t *testing.T) {
	id, owner := Attr{"id"}, Attr{"owner"}
	one := Cmp{Eq, id, Lit{"1"}}
	list := In{id, Lit{[]any{"3", "2", "3", int64(7)}}}
	mine := Cmp{Eq, owner, Lit{"user:alice"}}
	for name, row := range map[string]struct {
		f    Filter
		want []string
		all  bool
	}{
		"nothing":                    {None(), nil, true},
		"everything":                 {All(), nil, false},
		"one":                        {Where(one), []string{"1"}, true},
		"turned round":               {Where(Cmp{Eq, Lit{"1"}, id}), []string{"1"}, true},
		"a list":                     {Where(list), []string{"2", "3"}, true},
		"either":                     {Where(Or{one, list}), []string{"1", "2", "3"}, true},
		"either, one of them open":   {Where(Or{one, mine}), nil, false},
		"both, one of them open":     {Where(And{mine, Total{one}}), []string{"1"}, true},
		"all but one":                {Where(Not{one}), nil, false},
		"another than":               {Where(Cmp{Ne, id, Lit{"1"}}), nil, false},
		"an attribute that is no id": {Where(mine), nil, false},
	} {
		got, all := row.f.IDs()
		if diff := cmp.Diff(row.want, got); all != row.all || all && diff != "" {
			t.Errorf("%s: %v %s", name, all, diff)
		}
	}
}
