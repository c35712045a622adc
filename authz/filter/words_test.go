package filter_test

import (
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authz/filter"
)

func TestText(t *testing.T) {
	has := func(name string) filter.Expr { return filter.Has{Attr: name} }
	for want, cond := range map[string]filter.Expr{
		"all":                      filter.Const(true),
		"none":                     filter.Undefined{},
		"owner is user:ben":        filter.Total{X: filter.And{L: has("owner"), R: is("owner", "user:ben")}},
		"owner is not user:ben":    filter.Not{X: is("owner", "user:ben")},
		"in acme":                  is("tenant", "acme"),
		"count >= 3":               filter.Cmp{Op: filter.Le, L: lit(int64(3)), R: attr("count")},
		"not frozen":               filter.Not{X: filter.Bool{X: attr("frozen")}},
		"team is one of red, blue": filter.In{X: attr("team"), List: list("red", "blue")},
		"tags has vip":             filter.In{X: lit("vip"), List: attr("tags")},
		`team begins with "r d"`:   filter.Text{Op: filter.Prefix, X: attr("team"), Part: lit("r d")},
		"who asks is its viewer":   filter.Rel{Name: "viewer"},
		"team is unknown":          filter.Not{X: has("team")},
		"in no organization":       filter.Not{X: has("tenant")},
		"owner is a and count < 3": filter.And{L: filter.And{L: is("owner", "a"), R: has("owner")}, R: filter.Cmp{Op: filter.Lt, L: attr("count"), R: lit(int64(3))}},
		"(owner is user:ben or who asks is its viewer) and in acme and not frozen": filter.And{
			L: filter.And{
				L: filter.Or{L: filter.Total{X: is("owner", "user:ben")}, R: filter.Or{L: filter.Rel{Name: "viewer"}, R: is("owner", "user:ben")}},
				R: filter.In{X: attr("tenant"), List: list("acme")},
			},
			R: filter.Total{X: filter.Not{X: filter.And{L: has("frozen"), R: filter.Bool{X: attr("frozen")}}}},
		},
	} {
		if got := filter.Where(cond).Text(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	var long filter.Expr = is("team", strings.Repeat("ä", 300))
	for range 10 {
		long = filter.Or{L: long, R: is("owner", strings.Repeat("x", 90))}
	}
	if got := filter.Where(long).Text(); len(got) > 400 || !strings.HasSuffix(got, " ...") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}
