// Package db opens a service's database as rampart.yaml declares it: SQLite, or
// PostgreSQL over verified TLS 1.3 with the password from the secrets manager. A
// password that rotates is taken over while the service runs, connection by
// connection, and never within a transaction.
//
// Every use holds a slot of a bounded pool for its whole transaction, or several
// (With): a report weighs more than a lookup. A use that would wait too long is
// refused (control limit.pool), so that a flood costs the database nothing. In
// PostgreSQL no statement runs for longer than the flow's db.timeout.
package db

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/ratelimit/pool"
	"github.com/rampart-security/rampart/sdk"
)

// Kinds of store that this package opens.
const (
	SQLite   = "sqlite"
	Postgres = "postgres"
)

const (
	control  = "limit.pool"
	maxSlots = 200
	maxTries = 5
)

// DB is an open database. It is safe for concurrent use.
type DB struct {
	kind   string
	sql    *sql.DB
	pool   *pool.Pool // nil when the file disables the control
	logins *logins    // nil: nobody logs in
	use    Use
}

// Use is a class of work on a database. The zero Use is one slot and the flow's
// own db.timeout.
type Use struct {
	Slots   int           // of the pool, held for a transaction; below 1 counts as 1, and more than the pool has as all
	Timeout time.Duration // of each statement, in PostgreSQL; 0: the flow's
}

// With returns the same database for a class of work, such as reports:
//
//	reports := d.With(db.Use{Slots: 4, Timeout: time.Minute})
//
// Closing either closes both.
func (d *DB) With(u Use) *DB {
	out := *d
	out.use = u
	return &out
}

// Open opens a store of kind sqlite or postgres that rampart.yaml declares for
// this service. Close it when the service ends.
func Open(ctx context.Context, svc *sdk.Service, store string) (*DB, error) {
	info, ok := svc.Info().Stores[store]
	if !ok {
		return nil, fmt.Errorf("db: rampart.yaml has no flow from %s to a store %q", svc.Name(), store)
	}
	if info.Pool < 1 || info.Pool > maxSlots {
		return nil, fmt.Errorf("db: store %q: pool of %d, want 1 to %d", store, info.Pool, maxSlots)
	}
	var conns *sql.DB
	var who *logins
	var err error
	switch info.Kind {
	case SQLite:
		conns, err = openSQLite(info)
	case Postgres:
		conns, who, err = openPostgres(svc, store, info)
	default:
		return nil, fmt.Errorf("db: store %q is of kind %q, want sqlite or postgres", store, info.Kind)
	}
	if err != nil {
		return nil, fmt.Errorf("db: store %q: %w", store, err)
	}
	conns.SetMaxOpenConns(info.Pool)
	conns.SetMaxIdleConns(info.Pool)
	d := &DB{kind: info.Kind, sql: conns, logins: who}
	if err := conns.PingContext(ctx); err != nil {
		d.Close()
		return nil, fmt.Errorf("db: store %q: %w", store, err)
	}
	if !svc.Off(control) {
		d.pool = pool.New(pool.Options{Size: info.Pool})
	}
	return d, nil
}

// Kind returns SQLite or Postgres. Both take bind arguments as $1, $2.
func (d *DB) Kind() string { return d.kind }

// Close closes the database.
func (d *DB) Close() error {
	if d.logins != nil {
		d.logins.close()
	}
	return d.sql.Close()
}

// View runs f in a transaction that only reads, and ends it.
func (d *DB) View(ctx context.Context, f func(*sql.Tx) error) error {
	return d.run(ctx, &sql.TxOptions{ReadOnly: true}, f)
}

// Update runs f in a transaction and commits when f returns nil. Transactions
// are serializable: SQLite takes its one write lock at the start, PostgreSQL
// finds conflicts at the end. After a conflict f runs again, up to five times in
// all, so it must change nothing but the database, or bear repetition.
func (d *DB) Update(ctx context.Context, f func(*sql.Tx) error) error {
	for try := 1; ; try++ {
		err := d.run(ctx, &sql.TxOptions{Isolation: d.isolation()}, f)
		if try == maxTries || !conflict(err) {
			return err
		}
	}
}

func (d *DB) isolation() sql.IsolationLevel {
	if d.kind == Postgres {
		return sql.LevelSerializable
	}
	return sql.LevelDefault // SQLite has no other than serializable
}

func (d *DB) run(ctx context.Context, o *sql.TxOptions, f func(*sql.Tx) error) error {
	if d.pool != nil {
		release, err := d.pool.Acquire(ctx, d.use.Slots)
		if err != nil {
			return err
		}
		defer release()
	}
	tx, err := d.sql.BeginTx(ctx, o)
	if err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Msg: "the database is not available", Err: err}
	}
	defer tx.Rollback() // a no-op after Commit
	if err := d.patience(ctx, tx); err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return tooLong(err)
	}
	return tooLong(tx.Commit())
}

// patience gives the transaction the timeout of its class.
func (d *DB) patience(ctx context.Context, tx *sql.Tx) error {
	if d.kind != Postgres || d.use.Timeout <= 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, "SET LOCAL "+statementTimeout(d.use.Timeout))
	return err
}
