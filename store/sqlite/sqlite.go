// Package sqlite keeps the control plane's state in one SQLite file.
//
// The file is in WAL mode with synchronous=FULL: a commit that was
// acknowledged survives a kill -9 and a power cut. One connection writes, a
// few read; a second process may open the same file.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"time"

	"github.com/pressly/goose/v3"
	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/rampart-security/rampart/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// readers is how many connections read at once; SQLite readers never wait for
// the writer.
const readers = 4

// busy is how long a writer waits for another process that writes.
const busy = 5 * time.Second

// Store is a store.Store in one file. Safe for concurrent use.
type Store struct {
	w *sql.DB // exactly one connection
	r *sql.DB
}

// Open opens the file at path, creating it with mode 0600 and migrating it to
// this program's schema. A file of a newer program is refused.
func Open(ctx context.Context, path string) (*Store, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) // before SQLite does it with the umask's mode
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	f.Close()
	w, err := connect(path, 1, "_txlock=immediate")
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, w); err != nil {
		w.Close()
		return nil, fmt.Errorf("sqlite: %s: %w", path, err)
	}
	r, err := connect(path, readers, "_pragma=query_only(1)")
	if err != nil {
		w.Close()
		return nil, err
	}
	return &Store{w: w, r: r}, nil
}

// Close waits for running statements and closes the file.
func (s *Store) Close() error { return errors.Join(s.r.Close(), s.w.Close()) }

func connect(path string, conns int, extra string) (*sql.DB, error) {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}
	u.RawQuery = fmt.Sprintf("_pragma=busy_timeout(%d)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=trusted_schema(0)&%s",
		busy.Milliseconds(), extra)
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current > target {
		return fmt.Errorf("the database has schema %d, this program knows %d: use the newer program", current, target)
	}
	_, err = p.Up(ctx)
	return err
}

// exec runs one statement and returns how many rows it changed.
func (s *Store) exec(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := s.w.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, classify(err)
	}
	return res.RowsAffected()
}

// insert runs one statement that must change a row.
func (s *Store) insert(ctx context.Context, query string, args ...any) error {
	_, err := s.exec(ctx, query, args...)
	return err
}

// inTx runs fn in one transaction.
func (s *Store) inTx(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := s.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	if err := fn(tx); err != nil {
		return classify(err)
	}
	return tx.Commit()
}

// classify names the one failure callers expect.
func classify(err error) error {
	e, ok := errors.AsType[*driver.Error](err)
	if !ok {
		return err
	}
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE:
		return fmt.Errorf("%w: %v", store.ErrExists, err)
	}
	return err
}

// orMissing replaces "no rows" by the error of the caller's contract.
func orMissing(err, missing error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return missing
	}
	return err
}

// collect reads every row of a query with scan.
func collect[T any](rows *sql.Rows, scan func(scanner) (T, error)) ([]T, error) {
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

func nanos(t time.Time) int64 { return t.UnixNano() }

// instant scans nanoseconds since 1970 into a time in UTC.
type instant struct{ to *time.Time }

func (i instant) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("sqlite: time column holds %T", v)
	}
	*i.to = time.Unix(0, n).UTC()
	return nil
}

// digest scans 32 bytes.
type digest struct{ to *[32]byte }

func (d digest) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(d.to) {
		return errors.New("sqlite: hash column does not hold 32 bytes")
	}
	copy(d.to[:], b)
	return nil
}

var _ store.Store = (*Store)(nil)
