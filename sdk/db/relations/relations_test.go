package relations

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/sdktest"
	"github.com/rampart-security/rampart/test/pgtest"
)

var writable = map[string][]string{"order": {"viewer", "owner"}, "team": {"member"}}

type world struct {
	*sdktest.Agent
	svc *sdk.Service
	db  *db.DB
}

func start(t testing.TB, store sdktest.Store) *world {
	t.Helper()
	w := &world{Agent: &sdktest.Agent{
		Info:    sdktest.Info{Name: "orders", Relations: writable, Stores: map[string]sdktest.Store{"orders_db": store}},
		Secrets: map[string][]byte{"store:orders_db": []byte(pgtest.Password)},
	}}
	sdktest.Start(t, w.Agent)
	var err error
	if w.svc, err = sdk.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // PostgreSQL may be starting
		w.db, err = db.Open(t.Context(), w.svc, "orders_db")
		if err == nil {
			break
		}
		if store.Kind == db.SQLite || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { w.db.Close() })
	return w
}

func sqlite(t testing.TB) *world {
	return start(t, sdktest.Store{Kind: db.SQLite, Path: filepath.Join(t.TempDir(), "orders.db"), Pool: 8})
}

func postgres(t *testing.T) *world {
	server := pgtest.Start(t)
	return start(t, sdktest.Store{Kind: db.Postgres, URL: "postgres://app@localhost:" + server.Port + "/postgres", Password: "store:orders_db", CA: server.CA, Pool: 8})
}

func (w *world) open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.Context(), w.svc, w.db, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *Store) must(t testing.TB, writes, deletes []Tuple) (rev uint64) {
	t.Helper()
	err := s.Update(t.Context(), func(tx *sql.Tx) (err error) {
		rev, err = s.Write(t.Context(), tx, writes, deletes)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// knows returns the tuples that the sidecar has, as one text each.
func (w *world) knows() (out []string) {
	tuples, _ := w.Relations()
	for _, c := range tuples {
		out = append(out, c.Object+" "+c.Relation+" "+c.Subject)
	}
	return out
}

func viewer(order, user string) Tuple {
	return Tuple{Object: "order:" + order, Relation: "viewer", Subject: "user:" + user}
}

// both runs a test on both databases.
func both(t *testing.T, f func(*testing.T, *world)) {
	t.Run("sqlite", func(t *testing.T) { f(t, sqlite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, postgres(t)) })
}

func TestTheSidecarKnowsWhatWasCommitted(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		s := w.open(t)
		conditional := viewer("2", "bob")
		conditional.Condition, conditional.Context = "in_hours", map[string]any{"from": "08:00"}
		for _, step := range []struct {
			name            string
			writes, deletes []Tuple
			want            []string
		}{
			{"one", []Tuple{viewer("1", "bob")}, nil, []string{"order:1 viewer user:bob"}},
			{"again", []Tuple{viewer("1", "bob")}, nil, []string{"order:1 viewer user:bob"}},
			{"a userset and a condition", []Tuple{{Object: "order:1", Relation: "viewer", Subject: "team:red#member"}, conditional}, nil,
				[]string{"order:1 viewer team:red#member", "order:1 viewer user:bob", "order:2 viewer user:bob"}},
			{"gone, and gone before", nil, []Tuple{viewer("1", "bob"), viewer("9", "eve")}, []string{"order:1 viewer team:red#member", "order:2 viewer user:bob"}},
			{"replaced", []Tuple{viewer("2", "bob")}, []Tuple{viewer("2", "bob")}, []string{"order:1 viewer team:red#member", "order:2 viewer user:bob"}},
		} {
			rev := s.must(t, step.writes, step.deletes)
			_, at := w.Relations()
			if diff := cmp.Diff(step.want, w.knows()); diff != "" || rev != at || s.Err() != nil {
				t.Fatalf("%s: revision %d, the sidecar has %d, %v: %s", step.name, rev, at, s.Err(), diff)
			}
		}
		w.Forget()
		err := s.turned(func() error {
			s.now = func() time.Time { return time.Now().Add(beat) }
			return s.sync(t.Context())
		})
		if err != nil || len(w.knows()) != 2 {
			t.Errorf("a new sidecar knows %q: %v", w.knows(), err)
		}
		other := w.open(t) // of another replica, on the same database
		other.must(t, []Tuple{viewer("3", "dan")}, nil)
		if err := s.Sync(t.Context()); err != nil || len(w.knows()) != 3 {
			t.Errorf("with another writer the sidecar knows %q: %v", w.knows(), err)
		}
	})
}

// A revision that is seen means that all before it are.
func TestRevisionsFollowCommits(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		s := w.open(t)
		const writers, each = 4, 25
		written := make(chan int, writers)
		for i := range writers {
			go func() {
				n := 0
				for j := range each {
					err := w.db.Update(t.Context(), func(tx *sql.Tx) error {
						_, err := s.Write(t.Context(), tx, []Tuple{viewer(fmt.Sprint(i, "-", j), "bob")}, nil)
						return err
					})
					if err == nil { // a conflict may outlast the tries
						n++
					}
				}
				written <- n
			}()
		}
		want, seen := 0, uint64(0)
		for done := 0; done < writers || seen < uint64(want); {
			select {
			case n := <-written:
				want, done = want+n, done+1
			default:
			}
			h, err := s.head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for seen < h.rev {
				changes, to, err := s.since(t.Context(), seen)
				if err != nil || uint64(len(changes)) != to-seen {
					t.Fatalf("from %d to %d: %d changes, %v", seen, to, len(changes), err)
				}
				seen = to
			}
		}
		if err := s.Sync(t.Context()); err != nil || len(w.knows()) != want || int(seen) != want || want < writers {
			t.Errorf("%d written, %d in the log, %d at the sidecar: %v", want, seen, len(w.knows()), err)
		}
	})
}

// Two writers at once: the second waits for the first's commit, also when it
// began before.
func TestTheSecondWriterWaits(t *testing.T) {
	w := postgres(t)
	s := w.open(t)
	first, second := make(chan struct{}), make(chan error, 1)
	err := w.db.Update(t.Context(), func(tx *sql.Tx) error {
		rev, err := s.Write(t.Context(), tx, []Tuple{viewer("1", "bob")}, nil)
		if err != nil || rev != 1 {
			return fmt.Errorf("revision %d: %w", rev, err)
		}
		go func() {
			close(first)
			second <- w.db.Update(t.Context(), func(tx *sql.Tx) error {
				rev, err := s.Write(t.Context(), tx, []Tuple{viewer("2", "bob")}, nil)
				if err == nil && rev != 2 {
					err = fmt.Errorf("revision %d", rev)
				}
				return err
			})
		}()
		<-first
		if h, err := s.head(t.Context()); err != nil || h.rev != 0 {
			t.Errorf("revision %d is seen before the commit: %v", h.rev, err)
		}
		return nil
	})
	if err := errors.Join(err, <-second); err != nil {
		t.Error(err)
	}
}

func TestARollbackTakesTheTupleAlong(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		s := w.open(t)
		stop := errors.New("stop")
		err := s.Update(t.Context(), func(tx *sql.Tx) error {
			if _, err := s.Write(t.Context(), tx, []Tuple{viewer("1", "bob")}, nil); err != nil {
				t.Fatal(err)
			}
			return stop
		})
		if h, herr := s.head(t.Context()); !errors.Is(err, stop) || herr != nil || h.rev != 0 {
			t.Errorf("%v; revision %d: %v", err, h.rev, herr)
		}
		if rev := s.must(t, []Tuple{viewer("2", "bob")}, nil); rev != 1 {
			t.Errorf("the next revision is %d", rev)
		}
	})
}

// TestKill9: a process that is killed between the row and the tuple, or right
// after the commit, leaves neither or both.
func TestKill9(t *testing.T) {
	if path := os.Getenv("RELATIONS_KILL"); path != "" {
		diesAt(t, path, os.Getenv("RELATIONS_KILL_AT"))
	}
	for at, want := range map[string]int{"after the row": 0, "after the tuple": 0, "after the commit": 1} {
		path := filepath.Join(t.TempDir(), "orders.db")
		child := exec.Command(os.Args[0], "-test.run=^TestKill9$")
		child.Env = append(os.Environ(), "RELATIONS_KILL="+path, "RELATIONS_KILL_AT="+at)
		out, err := child.CombinedOutput()
		if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("%s: %v: %s", at, err, out)
		}
		w := start(t, sdktest.Store{Kind: db.SQLite, Path: path, Pool: 2})
		w.open(t)
		var rows int
		err = w.db.View(t.Context(), func(tx *sql.Tx) error {
			return tx.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM orders`).Scan(&rows)
		})
		if err != nil || rows != want || len(w.knows()) != want {
			t.Errorf("%s: %d rows and %d tuples, want %d: %v", at, rows, len(w.knows()), want, err)
		}
	}
}

// diesAt writes a row and its tuple, and dies.
func diesAt(t *testing.T, path, at string) {
	w := start(t, sdktest.Store{Kind: db.SQLite, Path: path, Pool: 2})
	s := w.open(t)
	die := func(here string) {
		if here == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if err := w.db.Migrate(t.Context(), []db.Step{{SQLite: `CREATE TABLE orders (id TEXT)`}}); err != nil {
		t.Fatal(err)
	}
	err := w.db.Update(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(t.Context(), `INSERT INTO orders (id) VALUES ('1')`); err != nil {
			return err
		}
		die("after the row")
		_, err := s.Write(t.Context(), tx, []Tuple{viewer("1", "bob")}, nil)
		die("after the tuple")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	die("after the commit")
}

// More than one part, while others write.
func TestResetInParts(t *testing.T) {
	w := sqlite(t)
	s := w.open(t)
	for i := range 25 {
		var batch []Tuple
		for j := range MaxWrite {
			batch = append(batch, viewer(fmt.Sprint(i, "-", j), "bob"))
		}
		s.must(t, batch, nil)
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ctx.Err() == nil; i++ {
			_ = w.db.Update(ctx, func(tx *sql.Tx) error { // ends with ctx
				_, err := s.Write(ctx, tx, []Tuple{viewer(fmt.Sprint("new-", i), "bob")}, []Tuple{viewer(fmt.Sprint(i/100, "-", i%100), "bob")})
				return err
			})
		}
	}()
	for range 3 {
		w.Forget()
		if err := s.turned(func() error { s.told = false; return s.sync(t.Context()) }); err != nil {
			t.Error(err)
		}
	}
	stop()
	<-stopped
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(w.knows()); got != 25*MaxWrite {
		t.Errorf("the sidecar knows %d tuples, want %d", got, 25*MaxWrite)
	}
}

// turned runs f in s's turn.
func (s *Store) turned(f func() error) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return f()
}

func TestTheLogIsBounded(t *testing.T) {
	w := sqlite(t)
	s := w.open(t)
	if err := s.turned(func() error { s.keep = 5; return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		s.must(t, []Tuple{viewer(fmt.Sprint(i), "bob")}, nil)
	}
	h, err := s.head(t.Context())
	if err != nil || h.rev != 40 || h.oldest < 25 {
		t.Errorf("revision %d, the log begins at %d: %v", h.rev, h.oldest, err)
	}
	if err := s.turned(func() error { s.at = 3; return s.sync(t.Context()) }); err != nil || len(w.knows()) != 40 {
		t.Errorf("a sidecar far behind knows %d tuples: %v", len(w.knows()), err)
	}
}

func TestForms(t *testing.T) {
	s := sqlite(t).open(t)
	for name, tc := range map[string]struct {
		tuple Tuple
		want  string // "" is accepted
	}{
		"a user":                    {viewer("1", "bob"), ""},
		"everybody":                 {viewer("1", "*"), ""},
		"members":                   {Tuple{Object: "order:1", Relation: "viewer", Subject: "team:red#member"}, ""},
		"a name with colons":        {Tuple{Object: "order:a:b/c", Relation: "viewer", Subject: "service:spiffe://x/y"}, ""},
		"no type":                   {Tuple{Object: "1", Relation: "viewer", Subject: "user:bob"}, "type:id"},
		"no id":                     {Tuple{Object: "order:", Relation: "viewer", Subject: "user:bob"}, "type:id"},
		"every object":              {Tuple{Object: "order:*", Relation: "viewer", Subject: "user:bob"}, "type:id"},
		"an object with a relation": {Tuple{Object: "order:1#owner", Relation: "viewer", Subject: "user:bob"}, "type:id"},
		"a space":                   {viewer("1 2", "bob"), "type:id"},
		"a second relation":         {Tuple{Object: "order:1", Relation: "viewer", Subject: "team:red#a#b"}, "type:id"},
		"members of everybody":      {Tuple{Object: "order:1", Relation: "viewer", Subject: "team:*#member"}, "everybody"},
		"too long":                  {viewer(strings.Repeat("1", 300), "bob"), "256 bytes"},
		"no text":                   {viewer("\xff", "bob"), "type:id"},
		"another type":              {Tuple{Object: "payment:1", Relation: "viewer", Subject: "user:bob"}, "no relations of type"},
		"another relation":          {Tuple{Object: "order:1", Relation: "reader", Subject: "user:bob"}, "cannot be written"},
		"a context of nothing":      {Tuple{Object: "order:1", Relation: "viewer", Subject: "user:bob", Context: map[string]any{"a": 1}}, "no condition"},
		"a large context":           {Tuple{Object: "order:1", Relation: "viewer", Subject: "user:bob", Condition: "c", Context: map[string]any{"a": strings.Repeat("x", maxContext)}}, "at most"},
	} {
		_, err := s.changes([]Tuple{tc.tuple}, nil)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	if _, err := s.changes(make([]Tuple, MaxWrite+1), nil); err == nil {
		t.Error("a write without bounds was accepted")
	}
	if _, err := s.changes(nil, []Tuple{{Object: "payment:1", Relation: "viewer", Subject: "user:bob"}}); err != nil {
		t.Errorf("what a former model allowed cannot be deleted: %v", err)
	}
}

func TestNoModelNoRelations(t *testing.T) {
	w := sqlite(t)
	w.Info.Relations = nil
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), svc, w.db, nil); err == nil || !strings.Contains(err.Error(), "authz.model") {
		t.Errorf("got %v", err)
	}
}

// FuzzParse: what is accepted is told as it was written.
func FuzzParse(f *testing.F) {
	f.Add("order:1", "team:red#member")
	f.Add("order:a:b", "user:*")
	f.Add("order:\x00", "a#b:c")
	f.Fuzz(func(t *testing.T, object, subject string) {
		o, s, err := Tuple{Object: object, Relation: "viewer", Subject: subject}.parse()
		if err == nil && (o.String() != object || s.String() != subject) {
			t.Errorf("%q and %q are told as %q and %q", object, subject, o, s)
		}
	})
}

// TestRejected: what the sidecar does not count is logged, once, and followed
// all the same.
func TestRejected(t *testing.T) {
	w := sqlite(t)
	first := w.open(t)
	write := func(tx *sql.Tx) error {
		_, err := first.Write(t.Context(), tx, []Tuple{{Object: "order:1", Relation: "viewer", Subject: "user:bob"}}, nil)
		return err
	}
	if err := errors.Join(w.db.Update(t.Context(), write), first.Close()); err != nil {
		t.Fatal(err)
	}
	w.Agent.Info.Relations = map[string][]string{"order": {"owner"}}
	var log bytes.Buffer
	s, err := Open(t.Context(), w.svc, w.db, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	w.Forget()
	if err := errors.Join(s.Sync(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "order:1"); n != 1 || !strings.Contains(log.String(), "the model has no order#viewer") {
		t.Errorf("logged %d times: %s", n, log.String())
	}
}
