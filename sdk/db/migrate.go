package db

import (
	"context"
	"database/sql"
	"fmt"
)

// Step is one forward change of a schema, in both dialects. A step that has
// been applied anywhere is never edited: changes are new steps.
type Step struct {
	SQLite   string
	Postgres string
}

// Migrate brings the schema to the end of steps in one transaction. A database
// that is ahead of steps is refused: an old program must not write into it.
func (d *DB) Migrate(ctx context.Context, steps []Step) error {
	err := d.Update(ctx, func(tx *sql.Tx) error {
		if d.kind == Postgres {
			// Several replicas may start at once; the lock ends with the transaction.
			if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(7267)`); err != nil {
				return err
			}
		}
		at, err := version(ctx, tx)
		if err != nil {
			return err
		}
		if at > len(steps) {
			return fmt.Errorf("the database has schema %d, newer than this program's %d", at, len(steps))
		}
		for i, step := range steps[at:] {
			if err := d.apply(ctx, tx, step); err != nil {
				return fmt.Errorf("step %d: %w", at+i+1, err)
			}
		}
		_, err = tx.ExecContext(ctx, `UPDATE schema_version SET version = $1`, len(steps))
		return err
	})
	if err != nil {
		return fmt.Errorf("db: migrate: %w", err)
	}
	return nil
}

func version(ctx context.Context, tx *sql.Tx) (int, error) {
	const create = `CREATE TABLE IF NOT EXISTS schema_version (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL)`
	if _, err := tx.ExecContext(ctx, create); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO schema_version (one, version) VALUES (1, 0) ON CONFLICT (one) DO NOTHING`); err != nil {
		return 0, err
	}
	var v int
	err := tx.QueryRowContext(ctx, `SELECT version FROM schema_version`).Scan(&v)
	return v, err
}

func (d *DB) apply(ctx context.Context, tx *sql.Tx, step Step) error {
	text := step.SQLite
	if d.kind == Postgres {
		text = step.Postgres
	}
	_, err := tx.ExecContext(ctx, text)
	return err
}
