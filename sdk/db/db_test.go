package db

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

func open(t *testing.T, store agent.StoreInfo, off ...string) (*DB, error) {
	t.Helper()
	sdktest.Start(t, &sdktest.Agent{
		Info:    agent.ServiceInfo{Name: "orders", Off: off, Stores: map[string]agent.StoreInfo{"orders_db": store}},
		Secrets: map[string][]byte{"store:orders_db": []byte(password)},
	})
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(t.Context(), svc, "orders_db")
	if err == nil {
		t.Cleanup(func() { d.Close() })
	}
	return d, err
}

func openFile(t *testing.T, pool int, off ...string) *DB {
	t.Helper()
	d, err := open(t, agent.StoreInfo{Kind: "sqlite", Path: filepath.Join(t.TempDir(), "a b?c.db"), Pool: pool}, off...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Every connection of the pool is durable and strict, not the first alone.
func TestSQLiteIsDurable(t *testing.T) {
	d := openFile(t, 3)
	for range 3 {
		conn, err := d.sql.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() // kept, so that the next round gets another one
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000", "trusted_schema": "0"} {
			var got string
			if err := conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %q, want %q: %v", pragma, got, want, err)
			}
		}
	}
}

// The file, and what SQLite puts beside it, is for the service's user alone,
// also one that was there before.
func TestSQLiteIsPrivate(t *testing.T) {
	for name, mode := range map[string]fs.FileMode{"new": 0, "readable before": 0o644} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "orders.db")
			if mode != 0 {
				if err := os.WriteFile(path, nil, mode); err != nil {
					t.Fatal(err)
				}
			}
			d, err := open(t, agent.StoreInfo{Kind: "sqlite", Path: path, Pool: 1})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.sql.ExecContext(t.Context(), `CREATE TABLE t (a)`); err != nil {
				t.Fatal(err)
			}
			files, err := os.ReadDir(dir)
			if err != nil || len(files) < 2 {
				t.Fatalf("%v, %v: want the file and its log", files, err)
			}
			for _, f := range files {
				if info, err := f.Info(); err != nil || info.Mode() != 0o600 {
					t.Errorf("%s has mode %v: %v", f.Name(), info.Mode(), err)
				}
			}
		})
	}
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	d := openFile(t, 2)
	if err := d.Migrate(t.Context(), []Step{{SQLite: `CREATE TABLE t (v INTEGER)`}}); err != nil {
		t.Fatal(err)
	}
	insert := func(fail error) error {
		return d.Update(t.Context(), func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO t (v) VALUES ($1)`, 1); err != nil {
				t.Fatal(err)
			}
			return fail
		})
	}
	stop := errors.New("stop")
	if err := insert(stop); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if err := insert(nil); err != nil {
		t.Error(err)
	}
	if got := count(t, d); got != 1 {
		t.Errorf("%d rows, want 1", got)
	}
}

func count(t *testing.T, d *DB) (n int) {
	t.Helper()
	err := d.View(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM t`).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The pool refuses, rather than queues without end, when all slots are held.
func TestPoolSheds(t *testing.T) {
	for name, tc := range map[string]struct {
		off  []string
		shed bool
	}{
		"with the control":           {nil, true},
		"off in a throw-away system": {[]string{"limit.pool"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := openFile(t, 1, tc.off...)
			held, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			go func() {
				done <- d.View(t.Context(), func(*sql.Tx) error { close(held); <-release; return nil })
			}()
			<-held
			results := make(chan error, 20)
			for range cap(results) {
				go func() { results <- d.View(t.Context(), func(*sql.Tx) error { return nil }) }()
			}
			if tc.shed { // at most four wait for one slot; the others are told at once
				for range cap(results) - 4 {
					err := <-results
					e, ok := errors.AsType[*rampart.Error](err)
					if !ok || e.Control != "limit.pool" || e.Kind != rampart.Unavailable {
						t.Fatalf("got %v, want a refusal of limit.pool", err)
					}
				}
			}
			close(release)
			if err := <-done; err != nil {
				t.Error(err)
			}
			for range len(results) {
				<-results
			}
		})
	}
}

// TestWithWeighsMore: a class of work holds as many slots as it says.
func TestWithWeighsMore(t *testing.T) {
	d := openFile(t, 3)
	reports := d.With(Use{Slots: 3})
	err := reports.View(t.Context(), func(*sql.Tx) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err := d.View(ctx, func(*sql.Tx) error { return nil })
		if e, ok := errors.AsType[*rampart.Error](err); !ok || e.Control != control {
			t.Errorf("beside a report that holds all slots: %v", err)
		}
		return nil
	})
	if err == nil {
		err = d.View(t.Context(), func(*sql.Tx) error { return nil })
	}
	if err != nil {
		t.Error(err)
	}
}

func TestMigrateGoesForwardOnly(t *testing.T) {
	d := openFile(t, 2)
	one := Step{SQLite: `CREATE TABLE t (v INTEGER)`}
	two := Step{SQLite: `INSERT INTO t (v) VALUES (7); INSERT INTO t (v) VALUES (8)`}
	bad := Step{SQLite: `INSERT INTO t (v) VALUES (9); INSERT INTO none (v) VALUES (9)`}
	for _, tc := range []struct {
		name  string
		steps []Step
		rows  int
		err   string
	}{
		{"first start", []Step{one}, 0, ""},
		{"a new step", []Step{one, two}, 2, ""},
		{"again", []Step{one, two}, 2, ""},
		{"a step that fails changes nothing", []Step{one, two, bad}, 2, "step 3"},
		{"an older program", []Step{one}, 2, "newer than this program"},
	} {
		err := d.Migrate(t.Context(), tc.steps)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.err)
		}
		if got := count(t, d); got != tc.rows {
			t.Errorf("%s: %d rows, want %d", tc.name, got, tc.rows)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		store agent.StoreInfo
		err   string
	}{
		"a queue":                     {agent.StoreInfo{Kind: "nats", Pool: 1}, `kind "nats"`},
		"a pool without places":       {agent.StoreInfo{Kind: "sqlite"}, "pool of 0"},
		"a password in the URL":       {agent.StoreInfo{Kind: "postgres", Pool: 1, URL: "postgres://u:secret@localhost:5432/d"}, "neither a password nor options"},
		"a TLS shortcut in the URL":   {agent.StoreInfo{Kind: "postgres", Pool: 1, URL: "postgres://u@localhost:5432/d?sslmode=disable"}, "neither a password nor options"},
		"a URL without user":          {agent.StoreInfo{Kind: "postgres", Pool: 1, URL: "postgres://localhost:5432/d"}, "postgres://USER@HOST:PORT/DB"},
		"a URL without port":          {agent.StoreInfo{Kind: "postgres", Pool: 1, URL: "postgres://u@localhost/d"}, "must name a port"},
		"a database without a CA":     {agent.StoreInfo{Kind: "postgres", Pool: 1, URL: "postgres://u@localhost:5432/d"}, ""},
		"a file that cannot be there": {agent.StoreInfo{Kind: "sqlite", Pool: 1, Path: "/nowhere/x.db"}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(t, tc.store)
			if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q", err, tc.err)
			}
		})
	}
}
