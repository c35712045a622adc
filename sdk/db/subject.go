package db

import (
	"context"
	"database/sql"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
)

// ViewAs is View for p: row-level security, as filter.RLS writes it, lets
// the transaction see p's rows alone, whatever the query asks for. SQLite has no
// such security; there it is View.
func (d *DB) ViewAs(ctx context.Context, p rampart.Principal, f func(*sql.Tx) error) error {
	return d.View(ctx, d.as(ctx, p, f))
}

// UpdateAs is Update for p, as ViewAs is View for p.
func (d *DB) UpdateAs(ctx context.Context, p rampart.Principal, f func(*sql.Tx) error) error {
	return d.Update(ctx, d.as(ctx, p, f))
}

// as tells PostgreSQL for whom the transaction is. The setting ends with it, so
// that a connection which goes back to the pool is nobody's.
func (d *DB) as(ctx context.Context, p rampart.Principal, f func(*sql.Tx) error) func(*sql.Tx) error {
	if d.kind != Postgres {
		return f
	}
	return func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `SELECT set_config('rampart.subject', $1, true)`, filter.SubjectSetting(p)); err != nil {
			return err
		}
		return f(tx)
	}
}
