package rebac

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// tuples reads one tuple per word: "order:17#viewer@team:red#member".
func tuples(t testing.TB, text string) []authz.Tuple {
	t.Helper()
	var out []authz.Tuple
	for _, word := range strings.Fields(text) {
		object, rest, ok := strings.Cut(word, "#")
		relation, subject, ok2 := strings.Cut(rest, "@")
		if !ok || !ok2 {
			t.Fatalf("%q is no tuple", word)
		}
		out = append(out, authz.Tuple{Object: object, Relation: relation, Subject: subject})
	}
	return out
}

func model(t testing.TB, src string) *Model {
	t.Helper()
	m, err := ParseModel("m.fga", []byte(src))
	must(t, err)
	return m
}

func index(t testing.TB, src, text string) *Index {
	t.Helper()
	x := NewIndex(model(t, src), Options{})
	must(t, x.Reset(1, slices.Values(tuples(t, text))))
	return x
}

const orders = `model
  schema 1.1
type user
type client
type team
  relations
    define member: [user, team#member]
    define manager: [user]
type org
  relations
    define member: [user]
type order
  relations
    define org: [org]
    define team: [team]
    define owner: [user]
    define blocked: [user, user:*]
    define viewer: [user, user:*, client] or owner or member from team
    define reader: viewer but not blocked
    define approver: manager from team and member from org
    define guest: [user with until]
condition until(now: timestamp, end: timestamp) {
  now < end
}
`

const orderTuples = `order:17#org@org:acme order:17#team@team:red order:17#owner@user:olga order:18#viewer@user:*
	team:red#member@user:alice team:red#member@team:blue#member team:blue#member@user:bob team:red#manager@user:mia
	org:acme#member@user:mia order:18#blocked@user:bob order:19#viewer@client:shop`

func TestRelated(t *testing.T) {
	x := index(t, orders, orderTuples)
	for _, row := range []struct {
		subject, relation, id string
		want                  bool
		path                  []string
	}{
		{"user:olga", "viewer", "17", true, []string{"order:17#owner@user:olga"}},
		{"user:bob", "viewer", "17", true, []string{"order:17#team@team:red", "team:red#member@team:blue#member", "team:blue#member@user:bob"}},
		{"team:blue#member", "viewer", "17", true, []string{"order:17#team@team:red", "team:red#member@team:blue#member"}},
		{"user:mia", "approver", "17", true, []string{"order:17#team@team:red", "team:red#manager@user:mia", "order:17#org@org:acme", "org:acme#member@user:mia"}},
		{"user:alice", "approver", "17", false, []string{"order:17#approver", "team:red#manager"}},
		{"user:eve", "viewer", "17", false, []string{"order:17#viewer", "order:17#owner", "team:red#member", "team:blue#member"}},
		{"user:eve", "viewer", "18", true, []string{"order:18#viewer@user:*"}},
		{"user:*", "viewer", "18", true, []string{"order:18#viewer@user:*"}},
		{"user:bob", "reader", "18", false, []string{"but not order:18#blocked@user:bob", "order:18#reader"}},
		{"user:eve", "reader", "18", true, []string{"order:18#viewer@user:*"}},
		{"client:shop", "viewer", "19", true, []string{"order:19#viewer@client:shop"}},
		{"user:shop", "viewer", "19", false, []string{"order:19#viewer", "order:19#owner"}},
		{"user:alice", "viewer", "unknown", false, []string{"order:unknown#viewer", "order:unknown#owner"}},
		{"order:17#viewer", "viewer", "17", true, nil},
	} {
		q := authz.RelationQuery{Subject: row.subject, Relation: row.relation, Type: "order", ID: row.id}
		got, err := x.Related(context.Background(), q, true)
		if err != nil || got.Holds != row.want || got.Revision != 1 || cmp.Diff(row.path, got.Path) != "" {
			t.Errorf("%s %s of %s: got %v, %v\n%s", row.subject, row.relation, row.id, got.Holds, err, cmp.Diff(row.path, got.Path))
		}
	}
}

func TestQuestionsThatAreRefused(t *testing.T) {
	x := index(t, orders, orderTuples)
	ok := authz.RelationQuery{Subject: "user:alice", Relation: "viewer", Type: "order", ID: "17"}
	for name, row := range map[string]struct {
		change func(*authz.RelationQuery)
		want   error
	}{
		"unknown type":             {func(q *authz.RelationQuery) { q.Type = "invoice" }, ErrUnknownType},
		"unknown relation":         {func(q *authz.RelationQuery) { q.Relation = "boss" }, ErrUnknownRelation},
		"nobody":                   {func(q *authz.RelationQuery) { q.Subject = "" }, ErrInvalid},
		"subject of unknown type":  {func(q *authz.RelationQuery) { q.Subject = "robot:1" }, ErrInvalid},
		"group without relation":   {func(q *authz.RelationQuery) { q.Subject = "team:red#boss" }, ErrInvalid},
		"everyone of a group":      {func(q *authz.RelationQuery) { q.Subject = "team:*#member" }, ErrInvalid},
		"no object":                {func(q *authz.RelationQuery) { q.ID = "" }, ErrInvalid},
		"all objects":              {func(q *authz.RelationQuery) { q.ID = "*" }, ErrInvalid},
		"object with a hash":       {func(q *authz.RelationQuery) { q.ID = "17#viewer" }, ErrInvalid},
		"control characters":       {func(q *authz.RelationQuery) { q.ID = "17\n" }, ErrInvalid},
		"too long":                 {func(q *authz.RelationQuery) { q.ID = strings.Repeat("x", 256) }, ErrInvalid},
		"a tuple that cannot be":   {func(q *authz.RelationQuery) { q.Also = tuples(t, "order:17#viewer@org:acme") }, ErrInvalidTuple},
		"a tuple about everyone":   {func(q *authz.RelationQuery) { q.Also = tuples(t, "order:17#owner@user:*") }, ErrInvalidTuple},
		"tuples without end":       {func(q *authz.RelationQuery) { q.Also = make([]authz.Tuple, MaxAlso+1) }, ErrInvalid},
		"a revision to come":       {func(q *authz.RelationQuery) { q.AtLeast = 2 }, authz.ErrStale},
		"a parameter that is gone": {func(q *authz.RelationQuery) { q.Relation = "guest"; q.Also = guest(t, "2030-01-01T00:00:00Z") }, ErrCondition},
		"a parameter of no use":    {func(q *authz.RelationQuery) { q.Also = guest(t, "tomorrow") }, ErrInvalidTuple},
	} {
		q := ok
		row.change(&q)
		if got, err := x.Related(context.Background(), q, false); !errors.Is(err, row.want) || got.Holds {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := NewIndex(x.model, Options{}).WaitFor(ctx, 1); !errors.Is(err, authz.ErrStale) {
		t.Errorf("waiting in vain: %v", err)
	}
}

func guest(t *testing.T, end string) []authz.Tuple {
	out := tuples(t, "order:17#guest@user:alice")
	out[0].Condition, out[0].Context = "until", map[string]any{"end": end}
	return out
}

// A condition reads what the question says; what the tuple fixes the question
// cannot change.
func TestConditions(t *testing.T) {
	x := index(t, orders, "")
	q := authz.RelationQuery{Subject: "user:alice", Relation: "guest", Type: "order", ID: "17", Also: guest(t, "2030-01-01T00:00:00Z")}
	for name, row := range map[string]struct {
		context map[string]any
		want    bool
	}{
		"in time":   {map[string]any{"now": "2029-12-31T23:59:59Z"}, true},
		"too late":  {map[string]any{"now": "2030-01-01T00:00:00Z"}, false},
		"own ticks": {map[string]any{"now": "2030-01-01T00:00:00Z", "end": "2099-01-01T00:00:00Z"}, false},
	} {
		q.Context = row.context
		if got, err := x.Related(context.Background(), q, false); err != nil || got.Holds != row.want {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestLists(t *testing.T) {
	x := index(t, orders, orderTuples)
	objects := map[string][]string{"user:bob viewer": {"17", "18"}, "user:bob reader": {"17"}, "user:mia approver": {"17"}, "client:shop viewer": {"19"}, "user:eve owner": {}}
	for ask, want := range objects {
		subject, relation, _ := strings.Cut(ask, " ")
		got, rev, err := x.Objects(context.Background(), authz.RelationQuery{Subject: subject, Relation: relation, Type: "order"})
		if err != nil || rev != 1 || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", ask, got, err, want)
		}
	}
	subjects := map[string][]string{"user viewer 17": {"user:alice", "user:bob", "user:olga"}, "user viewer 18": {"user:*"}, "user reader 18": {"user:*"},
		"team#member viewer 17": {"team:blue#member", "team:red#member"}, "client viewer 19": {"client:shop"}, "user approver 17": {"user:mia"}}
	for ask, want := range subjects {
		f := strings.Fields(ask)
		got, _, err := x.Subjects(context.Background(), authz.RelationQuery{Subject: f[0], Relation: f[1], Type: "order", ID: f[2]})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", ask, got, err, want)
		}
	}
}

// What is too deep or too broad is an error, never a no or a shorter list.
func TestTooComplex(t *testing.T) {
	var deep, broad []authz.Tuple
	for i := range MaxDepth + 2 {
		deep = append(deep, authz.Tuple{Object: "team:" + string(rune('A'+i)), Relation: "member", Subject: "team:" + string(rune('A'+i+1)) + "#member"})
	}
	deep = append(deep, tuples(t, "team:"+string(rune('A'+MaxDepth+1))+"#member@user:deep team:X#member@user:near")...)
	for i := range MaxResults + 1 {
		broad = append(broad, authz.Tuple{Object: "order:" + time.Duration(i).String(), Relation: "owner", Subject: "user:broad"})
	}
	x := index(t, orders, "")
	must(t, x.Reset(2, slices.Values(append(deep, broad...))))
	ask := func(subject, id string) error {
		_, err := x.Related(context.Background(), authz.RelationQuery{Subject: subject, Relation: "member", Type: "team", ID: id}, false)
		return err
	}
	if err := ask("user:deep", "A"); !errors.Is(err, authz.ErrTooComplex) {
		t.Errorf("too deep: %v", err)
	}
	must(t, ask("user:deep", "F"))
	must(t, ask("user:near", "A"))
	for relation, typ := range map[string]string{"owner": "order", "reader": "order"} {
		if got, _, err := x.Objects(context.Background(), authz.RelationQuery{Subject: "user:broad", Relation: relation, Type: typ}); !errors.Is(err, authz.ErrTooComplex) {
			t.Errorf("too broad: %d, %v", len(got), err)
		}
	}
}

func TestApply(t *testing.T) {
	x := NewIndex(model(t, orders), Options{})
	if err := x.Apply(0, 1, nil); !errors.Is(err, ErrGap) {
		t.Errorf("before Reset: %v", err)
	}
	must(t, x.Reset(5, slices.Values(tuples(t, orderTuples+" order:1#boss@user:eve"))))
	for name, err := range map[string]error{"too old": x.Apply(4, 6, nil), "too new": x.Apply(6, 7, nil), "backwards": x.Apply(5, 4, nil)} {
		if !errors.Is(err, ErrGap) {
			t.Errorf("%s: %v", name, err)
		}
	}
	before := x.Stats()
	add := tuples(t, "order:90#owner@user:new order:91#owner@user:new")
	must(t, x.Apply(5, 8, []Change{{Tuple: add[0]}, {Tuple: add[1]}, {Tuple: add[0], Delete: true}}))
	got, rev, err := x.Objects(context.Background(), authz.RelationQuery{Subject: "user:new", Relation: "owner", Type: "order", AtLeast: 8})
	if err != nil || rev != 8 || !slices.Equal(got, []string{"91"}) {
		t.Errorf("got %v at %d, %v", got, rev, err)
	}
	must(t, x.Apply(8, 9, []Change{{Tuple: add[1], Delete: true}, {Tuple: tuples(t, "order:1#boss@user:eve")[0], Delete: true}}))
	before.Misfits = 0
	if after := x.Stats(); after != before {
		t.Errorf("something was left behind: %+v, %+v", after, before)
	}
	again := NewIndex(x.Model(), Options{})
	must(t, again.Reset(9, x.Tuples()))
	if again.Stats() != x.Stats() {
		t.Errorf("copied %+v, got %+v", x.Stats(), again.Stats())
	}
}

func TestReadYourWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := index(t, orders, "")
		q := authz.RelationQuery{Subject: "user:a", Relation: "owner", Type: "order", ID: "1", AtLeast: 2}
		go func() {
			time.Sleep(MaxWait / 2)
			must(t, x.Apply(1, 2, []Change{{Tuple: tuples(t, "order:1#owner@user:a")[0]}}))
		}()
		if got, err := x.Related(t.Context(), q, false); err != nil || !got.Holds || got.Revision != 2 {
			t.Errorf("got %+v, %v", got, err)
		}
		start := time.Now()
		q.AtLeast = 3
		if _, err := x.Related(t.Context(), q, false); !errors.Is(err, authz.ErrStale) || time.Since(start) != MaxWait {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestStaleness(t *testing.T) {
	now := time.Unix(1000, 0)
	x := NewIndex(model(t, orders), Options{Now: func() time.Time { return now }, MaxStaleness: time.Minute})
	ask := func() error {
		_, err := x.Related(context.Background(), authz.RelationQuery{Subject: "user:a", Relation: "owner", Type: "order", ID: "1"}, false)
		return err
	}
	if err := ask(); !errors.Is(err, authz.ErrStale) {
		t.Errorf("nothing loaded: %v", err)
	}
	must(t, x.Reset(1, slices.Values(tuples(t, orderTuples))))
	must(t, ask())
	now = now.Add(time.Minute + time.Second)
	if err := ask(); !errors.Is(err, authz.ErrStale) {
		t.Errorf("not heard for long: %v", err)
	}
	x.Fresh(now)
	must(t, ask())
	now = now.Add(-time.Hour)
	if err := ask(); !errors.Is(err, authz.ErrStale) {
		t.Errorf("the clock jumped: %v", err)
	}
}

// Readers see whole revisions while a writer works: alice moves from one team to
// another, and is never in both or in none.
func TestReadersSeeOneRevision(t *testing.T) {
	x := index(t, orders, "team:red#member@user:alice order:1#team@team:red order:1#team@team:blue")
	done := make(chan struct{})
	go func() {
		defer close(done)
		red, blue := tuples(t, "team:red#member@user:alice")[0], tuples(t, "team:blue#member@user:alice")[0]
		for i := uint64(1); i < 500; i++ {
			if err := x.Apply(i, i+1, []Change{{Tuple: red, Delete: true}, {Tuple: blue}}); err != nil {
				t.Error(err)
			}
			red, blue = blue, red
		}
	}()
	for {
		got, _, err := x.Objects(context.Background(), authz.RelationQuery{Subject: "user:alice", Relation: "member", Type: "team"})
		if err != nil || len(got) != 1 {
			t.Fatalf("got %v, %v", got, err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestSubjectOf(t *testing.T) {
	for in, want := range map[string]string{
		"user:alice": "user:alice", "client:shop": "client:shop", "spiffe://corp.example/service/payments": "service:payments",
		"": "", "user:*": "", "user:a#member": "", "user:": "", "alice": "", "user:a b": "", "user:a:b": "",
		"spiffe://corp.example/service/a/b": "", "spiffe://corp.example/sidecar/a": "", "spiffe://corp.example/service/*": "", "spiffe://x": "",
	} {
		if got := SubjectOf(rampart.Principal{Subject: in}); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestFromToken(t *testing.T) {
	rules := map[string]string{"team#member": "team", "team#manager": "managed_teams", "org#member": "organizations", "role#assignee": "roles", "bad": "roles"}
	p := rampart.Principal{Subject: "user:a", Team: "red", ManagedTeams: []string{"red", "blue"}, Roles: []string{"viewer"}}
	want := tuples(t, "role:viewer#assignee@user:a team:red#manager@user:a team:blue#manager@user:a team:red#member@user:a")
	if diff := cmp.Diff(want, FromToken(p, rules)); diff != "" {
		t.Error(diff)
	}
	p.Subject = "user:*"
	if got := FromToken(p, rules); got != nil {
		t.Errorf("everyone brings %v", got)
	}
	if TokenFact("scope") || !TokenFact("roles") {
		t.Error("TokenFact")
	}
}
