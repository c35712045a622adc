package relational

import (
	"context"
	"database/sql"
	"time"

	"github.com/rampart-security/rampart/store"
)

// issuedKept is for how long an expired certificate stays on record.
const issuedKept = 24 * time.Hour

const issuedColumns = `issuer, serial, root, id, kind, not_after, issued`

// PutIssued implements store.Issued.
func (s *Store) PutIssued(ctx context.Context, list []store.Certificate) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		for _, c := range list {
			if _, err := tx.ExecContext(ctx, `INSERT INTO issued (`+issuedColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7)`,
				c.Issuer, c.Serial, c.Root, c.ID, c.Kind, nanos(c.NotAfter), nanos(c.Issued)); err != nil {
				return err
			}
		}
		return nil
	})
}

// LiveIssued implements store.Issued.
func (s *Store) LiveIssued(ctx context.Context, root string, now time.Time, limit int) ([]store.Certificate, error) {
	return list(ctx, s.db.Read, scanIssued, `SELECT `+issuedColumns+` FROM issued
		WHERE not_after > $1 AND (root = $2 OR CAST($2 AS TEXT) = '') ORDER BY id, not_after, serial LIMIT $3`, nanos(now), root, limit)
}

// CountIssued implements store.Issued.
func (s *Store) CountIssued(ctx context.Context, now time.Time) (n int, err error) {
	err = s.db.Read.QueryRowContext(ctx, `SELECT count(*) FROM issued WHERE not_after > $1`, nanos(now)).Scan(&n)
	return n, err
}

// IssuedSerial implements store.Issued.
func (s *Store) IssuedSerial(ctx context.Context, issuer, serial string) (store.Certificate, error) {
	c, err := scanIssued(s.db.Read.QueryRowContext(ctx, `SELECT `+issuedColumns+` FROM issued WHERE issuer = $1 AND serial = $2`, issuer, serial))
	return c, s.orMissing(err, store.ErrNotFound)
}

func scanIssued(sc scanner) (store.Certificate, error) {
	var c store.Certificate
	err := sc.Scan(&c.Issuer, &c.Serial, &c.Root, &c.ID, &c.Kind, instant{&c.NotAfter}, instant{&c.Issued})
	return c, err
}

// SweepIssued implements store.Issued.
func (s *Store) SweepIssued(ctx context.Context, now time.Time) error {
	before := nanos(now.Add(-issuedKept))
	return s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM issued WHERE not_after < $1`, before); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM acknowledged WHERE seen < $1`, before)
		return err
	})
}

const acknowledgedColumns = `plane, instance, version, root, ends, seen`

// PutAcknowledged implements store.Issued.
func (s *Store) PutAcknowledged(ctx context.Context, a store.Acknowledged) error {
	return s.run(ctx, `INSERT INTO acknowledged (`+acknowledgedColumns+`) VALUES ($1,$2,$3,$4,$5,$6)
		ON CONFLICT (plane, instance) DO UPDATE SET version = excluded.version, root = excluded.root, ends = excluded.ends, seen = excluded.seen`,
		a.Plane, a.Instance, int64(a.Version), a.Root, nanos(a.Until), nanos(a.Seen))
}

// AllAcknowledged implements store.Issued.
func (s *Store) AllAcknowledged(ctx context.Context) ([]store.Acknowledged, error) {
	return list(ctx, s.db.Read, func(sc scanner) (store.Acknowledged, error) {
		var a store.Acknowledged
		err := sc.Scan(&a.Plane, &a.Instance, &a.Version, &a.Root, instant{&a.Until}, instant{&a.Seen})
		return a, err
	}, `SELECT `+acknowledgedColumns+` FROM acknowledged ORDER BY plane, instance`)
}
