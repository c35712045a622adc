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

	"github.com/rampart-security/rampart/store/relational"
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
	*relational.Store
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
	base := relational.New(relational.Database{Write: w, Read: r, Exists: exists, Unspeakable: never, Again: never, Scrub: scrubber(w)})
	return &Store{Store: base, w: w, r: r}, nil
}

// scrubber writes the log into the file and cuts it to nothing. With secure_delete
// the file holds zeros where deleted rows were; the log still held the rows.
func scrubber(w *sql.DB) func(context.Context) error {
	return func(ctx context.Context) error {
		var busy, frames, moved int
		err := w.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &moved)
		if err == nil && busy != 0 {
			err = errors.New("sqlite: a reader keeps the log; try again")
		}
		return err
	}
}

func connect(path string, conns int, extra string) (*sql.DB, error) {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}
	u.RawQuery = fmt.Sprintf("_pragma=busy_timeout(%d)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=trusted_schema(0)&_pragma=secure_delete(1)&%s",
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
	return relational.Migrate(ctx, db, goose.DialectSQLite3, files)
}

// exists reports whether err says that a key is there already.
func exists(err error) bool {
	e, ok := errors.AsType[*driver.Error](err)
	if !ok {
		return false
	}
	return e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}

// never: SQLite takes every text, and writes one transaction at a time.
func never(error) bool { return false }
