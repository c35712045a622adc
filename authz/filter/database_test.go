package filter_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/filter/filtertest"
	"github.com/rampart-security/rampart/test/pgtest"
)

func sqlite(t *testing.T) filtertest.Database {
	t.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // each connection has a memory of its own
	t.Cleanup(func() { db.Close() })
	return database("SQLite", filter.SQLite, db)
}

// postgres starts a server; rows are read back, under row-level security, by a
// role that logs in for itself and owns nothing.
func postgres(t *testing.T) filtertest.Database {
	t.Helper()
	server := pgtest.Start(t)
	admin := dial(t, server, pgtest.User)
	for end := time.Now().Add(time.Minute); admin.Ping() != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(admin.Ping())
		}
	}
	if _, err := admin.Exec("CREATE ROLE reader LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '" + pgtest.Password + "'"); err != nil {
		t.Fatal(err)
	}
	reader := dial(t, server, "reader")
	d := database("PostgreSQL", filter.Postgres, admin)
	d.Guarded = func(setting, query string) ([]string, error) { return guarded(t.Context(), reader, setting, query) }
	return d
}

func guarded(ctx context.Context, db *sql.DB, setting, query string) ([]string, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	if _, err := tx.Exec("SELECT set_config($1, $2, true)", filter.SettingName, setting); err != nil {
		return nil, err
	}
	rows, err := tx.Query(query)
	return ids(rows, err)
}

func dial(t *testing.T, s pgtest.Server, user string) *sql.DB {
	t.Helper()
	c, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%s dbname=postgres user=%s password=%s sslmode=disable", s.Port, user, pgtest.Password))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA)
	c.TLSConfig = &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}
	c.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec // tables come and go
	db := stdlib.OpenDB(*c)
	t.Cleanup(func() { db.Close() })
	return db
}

func database(name string, d filter.Dialect, db *sql.DB) filtertest.Database {
	return filtertest.Database{
		Name: name, Dialect: d,
		Exec: func(query string, args ...any) error {
			_, err := db.Exec(query, args...)
			return err
		},
		IDs: func(query string, args ...any) ([]string, error) {
			rows, err := db.Query(query, args...)
			return ids(rows, err)
		},
	}
}

func ids(rows *sql.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var out []string
	for rows.Next() {
		values := make([]any, len(columns))
		var last string // the only one, but for a plan of SQLite
		for i := range values {
			values[i] = new(any)
		}
		values[len(values)-1] = &last
		if err := rows.Scan(values...); err != nil {
			return nil, err
		}
		out = append(out, last)
	}
	return out, rows.Err()
}
