package db

import (
	"context"
	"database/sql"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/test/pgtest"
)

const password = pgtest.Password

// TestPostgres runs a real server that takes TLS 1.3 and SCRAM only.
func TestPostgres(t *testing.T) {
	server := pgtest.Start(t)
	port, ca := server.Port, server.CA
	// Nothing of this may count: neither the mode nor the password.
	t.Setenv("PGSSLMODE", "disable")
	t.Setenv("PGPASSWORD", "wrong")
	t.Setenv("PGHOST", "/nowhere")
	t.Setenv("PGOPTIONS", "-c search_path=pg_temp")
	store := agent.StoreInfo{Kind: "postgres", URL: "postgres://app@localhost:" + port + "/postgres", Password: "store:orders_db", CA: ca, Pool: 4}
	d := openWhenUp(t, store)
	var version, path string
	err := d.View(t.Context(), func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(t.Context(), `SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()`).Scan(&version); err != nil {
			return err
		}
		return tx.QueryRowContext(t.Context(), `SHOW search_path`).Scan(&path)
	})
	if err != nil || version != "TLSv1.3" || path != "public" {
		t.Errorf("%q, search path %q: %v", version, path, err)
	}
	counts(t, d)
	subject(t, d)
	store.Timeout = 300 * time.Millisecond
	tooSlow(t, "directly", openWhenUp(t, store))
	server.Exec(t, `CREATE ROLE pooled LOGIN PASSWORD '`+password+`'`) // PgBouncer asks for nobody's verifier who is a superuser
	pooled := store
	pooled.URL, pooled.Pooler = "postgres://pooled@localhost:"+server.StartBouncer(t).Port+"/postgres", true
	tooSlow(t, "behind PgBouncer", openWhenUp(t, pooled))
	turns(t, server)

	_, other := pgtest.Certificate(t, "localhost")
	for name, change := range map[string]func(*agent.StoreInfo){
		"another CA":             func(s *agent.StoreInfo) { s.CA = other },
		"another name":           func(s *agent.StoreInfo) { s.URL = "postgres://app@127.0.0.1:" + port + "/postgres" },
		"no right to the secret": func(s *agent.StoreInfo) { s.Password = "store:other" },
	} {
		wrong := store
		change(&wrong)
		if _, err := open(t, wrong); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// counts has many transactions read, add one and write; none may be lost.
func counts(t *testing.T, d *DB) {
	t.Helper()
	steps := []Step{{Postgres: `CREATE TABLE counter (n BIGINT NOT NULL); INSERT INTO counter (n) VALUES (0)`}}
	if err := d.Migrate(t.Context(), steps); err != nil {
		t.Fatal(err)
	}
	add := func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(t.Context(), `SELECT n FROM counter`).Scan(&n); err != nil {
			return err
		}
		_, err := tx.ExecContext(t.Context(), `UPDATE counter SET n = $1`, n+1)
		return err
	}
	results := make(chan error, 8)
	for range cap(results) {
		go func() { results <- d.Update(t.Context(), add) }()
	}
	want := 0
	for range cap(results) {
		if err := <-results; err == nil {
			want++
		} else if !conflict(err) {
			t.Error(err)
		}
	}
	var got int
	err := d.View(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRowContext(t.Context(), `SELECT n FROM counter`).Scan(&got)
	})
	if err != nil || got != want || got == 0 {
		t.Errorf("counted %d of %d: %v", got, want, err)
	}
}

// tooSlow: no statement runs for longer than the flow's timeout, or its class's,
// and the next one on the connection has the flow's again.
func tooSlow(t *testing.T, how string, d *DB) {
	t.Helper()
	sleep := func(d *DB, seconds float64) error {
		return d.View(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), `SELECT pg_sleep($1)`, seconds)
			return err
		})
	}
	reports := d.With(Use{Slots: 4, Timeout: 20 * time.Second})
	for range 2 {
		if err := sleep(reports, 0.5); err != nil {
			t.Errorf("%s: a report was broken off: %v", how, err)
		}
		err := sleep(d, 30)
		if e, ok := errors.AsType[*rampart.Error](err); !ok || e.Kind != rampart.Unavailable || e.Control != control {
			t.Errorf("%s: a statement that takes too long: %v, want a refusal by %s", how, err, control)
		}
	}
}

// subject: row-level security learns for whom a transaction is, and of nobody
// after it.
func subject(t *testing.T, d *DB) {
	t.Helper()
	alice := rampart.Principal{Subject: "user:alice", Roles: []string{"o'neil"}}
	for range 5 { // connections are used again
		for who, run := range map[string]func(func(*sql.Tx) error) error{
			filter.SubjectSetting(alice): func(f func(*sql.Tx) error) error { return d.ViewAs(t.Context(), alice, f) },
			"":                           func(f func(*sql.Tx) error) error { return d.View(t.Context(), f) },
		} {
			var got sql.NullString
			err := run(func(tx *sql.Tx) error {
				return tx.QueryRowContext(t.Context(), `SELECT current_setting('rampart.subject', true)`).Scan(&got)
			})
			if err != nil || got.String != who {
				t.Errorf("the database sees %q, want %q: %v", got.String, who, err)
			}
		}
	}
}

func openWhenUp(t *testing.T, store agent.StoreInfo) *DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		d, err := open(t, store)
		if err == nil {
			return d
		}
		e, answered := errors.AsType[*pgconn.PgError](err)
		starting := answered && e.Code == "57P03" || errors.Is(err, syscall.ECONNREFUSED)
		if !starting || ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
