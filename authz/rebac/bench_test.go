package rebac

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/rampart-security/rampart/authz"
)

const orgModel = `model
  schema 1.1
type user
type team
  relations
    define member: [user, team#member]
type folder
  relations
    define parent: [folder]
    define viewer: [user, team#member] or viewer from parent
type doc
  relations
    define parent: [folder]
    define blocked: [user]
    define viewer: [user, user:*, team#member] or viewer from parent
    define reader: viewer but not blocked
`

// organization yields about n tuples: users in teams, teams in teams three deep,
// folders two deep, and documents in folders. From a document to a user it is
// doc, folder, folder, team, team, team: five relations deep and more.
func organization(n int) iter.Seq[authz.Tuple] {
	users, docs := n/2, n/2
	teams, folders := max(16, n/100), max(16, n/100)
	return func(yield func(authz.Tuple) bool) {
		put := func(object, relation, subject string) bool {
			return yield(authz.Tuple{Object: object, Relation: relation, Subject: subject})
		}
		for i := range teams {
			if i > 0 && !put(fmt.Sprintf("team:%d", (i-1)/8), "member", fmt.Sprintf("team:%d#member", i)) {
				return
			}
		}
		for i := range folders {
			if i > 0 && !put(fmt.Sprintf("folder:%d", i), "parent", fmt.Sprintf("folder:%d", (i-1)/8)) {
				return
			}
			if i%8 == 1 && !put(fmt.Sprintf("folder:%d", i), "viewer", fmt.Sprintf("team:%d#member", i%teams)) {
				return
			}
		}
		for i := range users {
			if !put(fmt.Sprintf("team:%d", i%teams), "member", fmt.Sprintf("user:%d", i)) {
				return
			}
		}
		for i := range docs {
			if !put(fmt.Sprintf("doc:%d", i), "parent", fmt.Sprintf("folder:%d", i%folders)) {
				return
			}
		}
		// A chain of exactly five tuples, and a thousand documents for one user.
		for _, c := range [][3]string{
			{"doc:deep", "viewer", "team:a#member"}, {"team:a", "member", "team:b#member"}, {"team:b", "member", "team:c#member"},
			{"team:c", "member", "team:d#member"}, {"team:d", "member", "user:deep"},
		} {
			if !put(c[0], c[1], c[2]) {
				return
			}
		}
		for i := range 1000 {
			if !put(fmt.Sprintf("doc:%d", i), "viewer", "team:thousand#member") {
				return
			}
		}
		put("team:thousand", "member", "user:thousand")
	}
}

func benchTuples(b *testing.B) int {
	if testing.Short() {
		return 100_000
	}
	return 1_000_000
}

var million = sync.OnceValue(func() *Index { return loaded(1_000_000) })
var short = sync.OnceValue(func() *Index { return loaded(100_000) })

func loaded(n int) *Index {
	m, err := ParseModel("org.fga", []byte(orgModel))
	if err != nil {
		panic(err)
	}
	x := NewIndex(m, Options{})
	if err := x.Reset(1, organization(n)); err != nil {
		panic(err)
	}
	return x
}

func benchIndex(b *testing.B) *Index {
	if testing.Short() {
		return short()
	}
	return million()
}

func BenchmarkRelated(b *testing.B) {
	for _, row := range []struct {
		name, doc, relation, user string
		want                      bool
	}{
		{"allow/5-deep", "deep", "viewer", "user:deep", true},
		{"allow/folders-and-teams", "77777", "viewer", "user:1", true},
		{"allow/root-team", "7", "viewer", "user:thousand", true},
		{"deny/5-deep", "deep", "viewer", "user:4711", false},
		{"deny/unknown-user", "deep", "viewer", "user:nobody", false},
		{"deny/folders", "4711", "viewer", "user:deep", false},
		{"allow/but-not", "deep", "reader", "user:deep", true},
		{"deny/but-not", "4711", "reader", "user:deep", false},
	} {
		b.Run(row.name, func(b *testing.B) {
			x := benchIndex(b)
			q := authz.RelationQuery{Subject: row.user, Relation: row.relation, Type: "doc", ID: row.doc}
			b.ReportAllocs()
			for b.Loop() {
				got, err := x.Related(context.Background(), q, false)
				if err != nil || got.Holds != row.want {
					b.Fatal(got, err)
				}
			}
		})
	}
}

// Random pairs miss the processor's caches, as a real load does.
func BenchmarkRelatedAnywhere(b *testing.B) {
	x, n := benchIndex(b), benchTuples(b)/2
	b.ReportAllocs()
	i := 0
	users := make([]string, 4096)
	docs := make([]string, 4096)
	for i := range users {
		users[i], docs[i] = fmt.Sprintf("user:%d", i*7919%n), fmt.Sprint(i*104729%n)
	}
	for b.Loop() {
		i = (i + 1) % len(users)
		if _, err := x.Related(context.Background(), authz.RelationQuery{Subject: users[i], Relation: "viewer", Type: "doc", ID: docs[i]}, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkObjects(b *testing.B) {
	for _, relation := range []string{"viewer", "reader"} {
		b.Run(relation+"/1000", func(b *testing.B) {
			x := benchIndex(b)
			b.ReportAllocs()
			for b.Loop() {
				got, _, err := x.Objects(context.Background(), authz.RelationQuery{Subject: "user:thousand", Relation: relation, Type: "doc"})
				if err != nil || len(got) != 1000 {
					b.Fatal(len(got), err)
				}
			}
		})
	}
}

func BenchmarkReset(b *testing.B) {
	tuples := slices.Collect(organization(100_000))
	x := short()
	b.ReportAllocs()
	for b.Loop() {
		if err := x.Reset(1, slices.Values(tuples)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(tuples)), "tuples")
}

func BenchmarkApply(b *testing.B) {
	x := loaded(100_000)
	t := authz.Tuple{Object: "doc:new", Relation: "viewer", Subject: "user:5"}
	b.ReportAllocs()
	for i := uint64(1); b.Loop(); i++ {
		if err := x.Apply(i, i+1, []Change{{Tuple: t, Delete: i%2 == 0}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMemory(b *testing.B) {
	n := benchTuples(b)
	for b.Loop() {
		before := heap()
		x := loaded(n)
		live := heap() - before
		b.ReportMetric(float64(live)/float64(x.Stats().Tuples), "B/tuple")
		b.ReportMetric(float64(x.Stats().Tuples), "tuples")
		runtime.KeepAlive(x)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
