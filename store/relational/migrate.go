package relational

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

// Migrate brings a database to the schema of the files, NNNNN_name.sql. One
// that is ahead of them belongs to a newer program and is refused. Of several
// processes at once the caller lets in one.
func Migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect, files fs.FS) error {
	p, err := goose.NewProvider(dialect, db, files, goose.WithDisableGlobalRegistry(true))
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
