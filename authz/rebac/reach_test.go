package rebac

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authz"
)

// Long chains with a few shortcuts: whether the search from both ends finds a
// path depends on the length of the shortest, which a plain search, nearest
// first, tells.
func TestShortestPathDecides(t *testing.T) {
	outcomes := map[string]int{}
	for seed := range 30 {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		all := chains(r, 20+r.IntN(20))
		x := NewIndex(model(t, orgModel), Options{})
		must(t, x.Reset(1, slices.Values(all)))
		for i := range 20 {
			lists(t, x, all, fmt.Sprintf("user:%d", i))
		}
		for range 60 {
			doc, user := fmt.Sprint(r.IntN(20)), fmt.Sprintf("user:%d", r.IntN(20))
			got, err := x.Related(context.Background(), authz.RelationQuery{Subject: user, Relation: "viewer", Type: "doc", ID: doc}, false)
			want := "no"
			switch depth := shortest(all, "doc:"+doc, user); {
			case depth > MaxDepth:
				want = "too complex"
			case depth > 0:
				want = "yes"
			}
			outcomes[want]++
			if is := outcome(got, err); is != want {
				t.Fatalf("seed %d: doc:%s and %s: got %s, want %s\n%v", seed, doc, user, is, want, all)
			}
		}
	}
	if outcomes["yes"] < 100 || outcomes["no"] < 100 || outcomes["too complex"] < 100 {
		t.Errorf("the chains are too dull: %v", outcomes)
	}
}

// lists: the list is what the shortest paths say, or an error if one is too long.
func lists(t *testing.T, x *Index, all []authz.Tuple, user string) {
	t.Helper()
	var want []string
	tooLong := false
	for i := range 20 {
		depth := shortest(all, fmt.Sprintf("doc:%d", i), user)
		tooLong = tooLong || depth > MaxDepth
		if depth > 0 {
			want = append(want, fmt.Sprint(i))
		}
	}
	slices.Sort(want)
	got, _, err := x.Objects(context.Background(), authz.RelationQuery{Subject: user, Relation: "viewer", Type: "doc"})
	if errors.Is(err, authz.ErrTooComplex) != tooLong || err == nil && !slices.Equal(got, want) {
		t.Fatalf("%s: got %v, %v, want %v, too long %v\n%v", user, got, err, want, tooLong, all)
	}
}

func outcome(got authz.Relationship, err error) string {
	switch {
	case errors.Is(err, authz.ErrTooComplex):
		return "too complex"
	case err != nil:
		return err.Error()
	case got.Holds:
		return "yes"
	}
	return "no"
}

func chains(r *rand.Rand, n int) []authz.Tuple {
	var all []authz.Tuple
	put := func(object string, i int, relation, subject string, j int, suffix string) {
		all = append(all, authz.Tuple{Object: fmt.Sprintf("%s:%d", object, i), Relation: relation, Subject: fmt.Sprintf("%s:%d%s", subject, j, suffix)})
	}
	for i := range n {
		put("team", i, "member", "team", i+1, "#member")
		put("folder", i, "parent", "folder", i+1, "")
	}
	for range 3 {
		put("team", r.IntN(n), "member", "team", r.IntN(n), "#member")
		put("folder", r.IntN(n), "parent", "folder", r.IntN(n), "")
		put("folder", r.IntN(n), "viewer", "team", r.IntN(n), "#member")
	}
	for i := range 20 {
		put("doc", i, "parent", "folder", r.IntN(n), "")
		put("team", r.IntN(n), "member", "user", i, "")
	}
	return all
}

// shortest counts the relations on the shortest way; 0 if there is none.
func shortest(all []authz.Tuple, doc, user string) int {
	level, seen := []string{doc + "#viewer"}, map[string]bool{}
	for depth := 1; len(level) > 0; depth++ {
		var next []string
		for _, node := range level {
			if seen[node] {
				continue
			}
			seen[node] = true
			object, relation, _ := strings.Cut(node, "#")
			for _, t := range all {
				switch {
				case t.Object != object:
				case t.Relation == relation && t.Subject == user:
					return depth
				case t.Relation == relation:
					next = append(next, t.Subject)
				case t.Relation == "parent" && relation == "viewer":
					next = append(next, t.Subject+"#viewer")
				}
			}
		}
		level = next
	}
	return 0
}
