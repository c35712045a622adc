// Package relational is a store.Store in SQL that SQLite and PostgreSQL both
// read. The drivers above it open connections and bring the schema; here is
// everything else, so that two databases cannot come to differ.
//
// What must happen once (a code used, a ticket taken, a family rotated) is one
// conditional statement that counts its rows, or one transaction around such
// statements. No method reads, decides and writes back. That holds for several
// processes on one database, without any lock of our own.
//
// Times are nanoseconds since 1970, zero for the zero time. Facts that nothing
// is looked up by are a JSON object in the column data.
package relational

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rampart-security/rampart/store"
)

// Database is one open database and what its errors mean. All fields but Scrub
// are required.
type Database struct {
	Write *sql.DB // for transactions and statements that change something
	Read  *sql.DB // for queries; may be Write

	// Exists reports whether err says that a unique key exists already.
	Exists func(err error) bool
	// Unspeakable reports whether err says that a text cannot be one of this
	// database's, such as one with a NUL: no row holds it then.
	Unspeakable func(err error) bool
	// Again reports whether err says that the database gave a transaction up for
	// another's sake, and would take it now.
	Again func(err error) bool
	// Scrub overwrites what was deleted, in the files of the database. If nil, it is
	// left to the database.
	Scrub func(ctx context.Context) error
}

// rounds is how often a transaction is tried that Again asks for.
const rounds = 5

// Store is a store.Store in a Database. Safe for concurrent use, also by
// several processes.
type Store struct {
	db Database
}

// New returns a Store. The schema must be in place. It panics when a field of
// db is nil, which is an error of the program.
func New(db Database) *Store {
	if db.Write == nil || db.Read == nil || db.Exists == nil || db.Unspeakable == nil || db.Again == nil {
		panic("relational: a database has connections and knows its errors")
	}
	return &Store{db: db}
}

// Close waits for running statements and closes the connections.
func (s *Store) Close() error {
	if s.db.Read == s.db.Write {
		return s.db.Write.Close()
	}
	return errors.Join(s.db.Read.Close(), s.db.Write.Close())
}

// runner is a database or a transaction.
type runner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// change runs one statement and returns how many rows it changed.
func (s *Store) change(ctx context.Context, on runner, query string, args ...any) (int64, error) {
	res, err := on.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, s.classify(err)
	}
	return res.RowsAffected()
}

// exec runs one statement on its own and returns how many rows it changed.
func (s *Store) exec(ctx context.Context, query string, args ...any) (int64, error) {
	return s.change(ctx, s.db.Write, query, args...)
}

// run runs one statement whose count of rows says nothing.
func (s *Store) run(ctx context.Context, query string, args ...any) error {
	_, err := s.exec(ctx, query, args...)
	return err
}

// hit runs one statement and reports whether it changed a row.
func (s *Store) hit(ctx context.Context, query string, args ...any) (bool, error) {
	n, err := s.exec(ctx, query, args...)
	return n > 0, err
}

// inTx runs fn in one transaction. It may run it again: fn changes nothing but
// rows and what it sets at each run.
func (s *Store) inTx(ctx context.Context, fn func(*sql.Tx) error) (err error) {
	for range rounds {
		if err = s.oneTx(ctx, fn); err == nil || !s.db.Again(err) {
			return err
		}
	}
	return err
}

func (s *Store) oneTx(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := s.db.Write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	if err := fn(tx); err != nil {
		return s.classify(err)
	}
	return tx.Commit()
}

// classify names the one failure callers expect.
func (s *Store) classify(err error) error {
	if s.db.Exists(err) {
		return fmt.Errorf("%w: %v", store.ErrExists, err)
	}
	return err
}

// orMissing replaces "no rows" by the error of the caller's contract.
func (s *Store) orMissing(err, missing error) error {
	if err != nil && (errors.Is(err, sql.ErrNoRows) || s.db.Unspeakable(err)) {
		return missing
	}
	return err
}

// list runs a query and reads every row with scan.
func list[T any](ctx context.Context, db *sql.DB, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

type scanner interface{ Scan(dest ...any) error }

func scanText(sc scanner) (text string, err error) { return text, sc.Scan(&text) }

// nanos writes a time as instant reads it.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// instant scans nanoseconds since 1970 into a time in UTC.
type instant struct{ to *time.Time }

func (i instant) Scan(v any) error {
	var n sql.Null[int64]
	if err := n.Scan(v); err != nil || !n.Valid {
		return fmt.Errorf("relational: time column holds %T", v)
	}
	*i.to = time.Time{}
	if n.V != 0 {
		*i.to = time.Unix(0, n.V).UTC()
	}
	return nil
}

// digest scans 32 bytes.
type digest struct{ to *[32]byte }

func (d digest) Scan(v any) error {
	var b sql.Null[[]byte]
	if err := b.Scan(v); err != nil || len(b.V) != len(d.to) {
		return errors.New("relational: hash column does not hold 32 bytes")
	}
	copy(d.to[:], b.V)
	return nil
}

// object scans a JSON object into a struct; facts it does not name stay as
// they are.
type object struct{ to any }

func (o object) Scan(v any) error {
	var text sql.Null[string]
	if err := text.Scan(v); err != nil || !text.Valid {
		return fmt.Errorf("relational: data column holds %T", v)
	}
	if err := json.Unmarshal([]byte(text.V), o.to); err != nil {
		return fmt.Errorf("relational: data column: %w", err)
	}
	return nil
}

// text writes a struct as object reads it.
func text(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// orNull is NULL for "".
func orNull(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

var _ store.Store = (*Store)(nil)
