package db

import (
	"database/sql"
	"errors"
	"net/url"
	"os"

	_ "modernc.org/sqlite" // driver "sqlite"

	"github.com/rampart-security/rampart/internal/agent"
)

// openSQLite opens a file that survives a crash of the machine: each commit is
// on disk before it is acknowledged. The file is for this user alone, and so is
// what SQLite puts beside it, which takes the file's mode.
func openSQLite(info agent.StoreInfo) (*sql.DB, error) {
	f, err := os.OpenFile(info.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil { // a file of before may be readable
		return nil, err
	}
	q := url.Values{
		"_pragma": {
			"busy_timeout(5000)",
			"journal_mode(WAL)",
			"synchronous(FULL)",
			"foreign_keys(1)",
			"trusted_schema(0)",
			"secure_delete(1)",
		},
		"_txlock": {"immediate"}, // a reader that turns writer would fail under load
	}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: info.Path}).EscapedPath(), RawQuery: q.Encode()}
	return sql.Open("sqlite", u.String())
}
