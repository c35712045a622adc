package db

import (
	"database/sql"
	"net/url"

	_ "modernc.org/sqlite" // driver "sqlite"

	"github.com/rampart-security/rampart/internal/agent"
)

// openSQLite opens a file that survives a crash of the machine: each commit is
// on disk before it is acknowledged.
func openSQLite(info agent.StoreInfo) (*sql.DB, error) {
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
