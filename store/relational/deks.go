package relational

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rampart-security/rampart/store"
)

const dekColumns = `item, tenant, version, kek, wrapped, messages, created`

func scanDEK(sc scanner) (store.DEK, error) {
	var d store.DEK
	err := sc.Scan(&d.Item, &d.Tenant, &d.Version, &d.KEK, &d.Wrapped, &d.Messages, instant{&d.Created})
	return d, err
}

// DEK implements store.DEKs.
func (s *Store) DEK(ctx context.Context, item, tenant string, version uint32) (store.DEK, error) {
	d, err := scanDEK(s.db.Read.QueryRowContext(ctx, `SELECT `+dekColumns+` FROM deks
		WHERE item = $1 AND tenant = $2 AND (version = $3 OR CAST($3 AS BIGINT) = 0) ORDER BY version DESC LIMIT 1`, item, tenant, int64(version)))
	return d, s.orMissing(err, store.ErrNotFound)
}

// PutDEK implements store.DEKs.
func (s *Store) PutDEK(ctx context.Context, d store.DEK) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		if err := s.openSet(ctx, tx, store.KeySet{Item: d.Item, Tenant: d.Tenant, Last: d.Version}, d.Created); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO deks (`+dekColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7)`,
			d.Item, d.Tenant, int64(d.Version), d.KEK, d.Wrapped, d.Messages, nanos(d.Created))
		return err
	})
}

// openSet demands that a key made at this time may be written in a set, and locks
// the set's row to the end of the transaction: whoever shreds waits, or was
// first.
func (s *Store) openSet(ctx context.Context, tx *sql.Tx, k store.KeySet, made time.Time) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO key_sets (item, tenant, who, last, shredded, closed) VALUES ($1,$2,$3,0,0,$4)
		ON CONFLICT (item, tenant, who) DO NOTHING`, k.Item, k.Tenant, k.Who, false); err != nil {
		return err
	}
	n, err := s.change(ctx, tx, `UPDATE key_sets SET last = CASE WHEN last > $1 THEN last ELSE $1 END
		WHERE item = $2 AND tenant = $3 AND who = $4 AND closed = $5 AND shredded < $6`, int64(k.Last), k.Item, k.Tenant, k.Who, false, nanos(made))
	if err == nil && n == 0 {
		return store.ErrShredded
	}
	return err
}

// SwapDEK implements store.DEKs.
func (s *Store) SwapDEK(ctx context.Context, d store.DEK, old []byte) (bool, error) {
	return s.hit(ctx, `UPDATE deks SET kek = $1, wrapped = $2 WHERE item = $3 AND tenant = $4 AND version = $5 AND wrapped = $6`,
		d.KEK, d.Wrapped, d.Item, d.Tenant, int64(d.Version), old)
}

// CountMessages implements store.DEKs.
func (s *Store) CountMessages(ctx context.Context, item, tenant string, version uint32, n int64) (sum int64, err error) {
	err = s.db.Write.QueryRowContext(ctx, `UPDATE deks SET messages = messages + $1 WHERE item = $2 AND tenant = $3 AND version = $4 RETURNING messages`,
		n, item, tenant, int64(version)).Scan(&sum)
	return sum, s.orMissing(err, store.ErrNotFound)
}

// ListDEKs implements store.DEKs.
func (s *Store) ListDEKs(ctx context.Context, item, tenant string, after store.DEK, limit int) ([]store.DEK, error) {
	return list(ctx, s.db.Read, scanDEK, `SELECT `+dekColumns+` FROM deks
		WHERE (item = $1 OR CAST($1 AS TEXT) = '') AND (tenant = $2 OR CAST($2 AS TEXT) = '') AND (item, tenant, version) > ($3, $4, $5)
		ORDER BY item, tenant, version LIMIT $6`, item, tenant, after.Item, after.Tenant, int64(after.Version), limit)
}

const subkeyColumns = `item, tenant, who, version, dek, wrapped, created`

func scanSubkey(sc scanner) (store.Subkey, error) {
	var k store.Subkey
	err := sc.Scan(&k.Item, &k.Tenant, &k.Who, &k.Version, &k.DEK, &k.Wrapped, instant{&k.Created})
	return k, err
}

// Subkey implements store.DEKs.
func (s *Store) Subkey(ctx context.Context, item, tenant, who string, version uint32) (store.Subkey, error) {
	k, err := scanSubkey(s.db.Read.QueryRowContext(ctx, `SELECT `+subkeyColumns+` FROM subkeys
		WHERE item = $1 AND tenant = $2 AND who = $3 AND (version = $4 OR CAST($4 AS BIGINT) = 0) ORDER BY version DESC LIMIT 1`, item, tenant, who, int64(version)))
	return k, s.orMissing(err, store.ErrNotFound)
}

// PutSubkey implements store.DEKs. The tenant's row is locked before the
// person's, here and where it is shredded.
func (s *Store) PutSubkey(ctx context.Context, k store.Subkey) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		if err := s.openSet(ctx, tx, store.KeySet{Item: k.Item, Tenant: k.Tenant}, k.Created); err != nil {
			return err
		}
		if k.Who != "" {
			if err := s.notShredded(ctx, tx, k); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO subkeys (`+subkeyColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7)`,
			k.Item, k.Tenant, k.Who, int64(k.Version), int64(k.DEK), k.Wrapped, nanos(k.Created))
		return err
	})
}

// notShredded refuses the key of a person whose set is closed, or of before it
// was. The tenant's row, which is locked, guards that of the person.
func (s *Store) notShredded(ctx context.Context, tx *sql.Tx, k store.Subkey) error {
	var at time.Time
	var closed bool
	err := tx.QueryRowContext(ctx, `SELECT shredded, closed FROM key_sets WHERE item = $1 AND tenant = $2 AND who = $3`, k.Item, k.Tenant, k.Who).Scan(instant{&at}, &closed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil && (closed || !k.Created.After(at)) {
		return store.ErrShredded
	}
	return err
}

// ListSubkeys implements store.DEKs.
func (s *Store) ListSubkeys(ctx context.Context, after store.Subkey, limit int) ([]store.Subkey, error) {
	return list(ctx, s.db.Read, scanSubkey, `SELECT `+subkeyColumns+` FROM subkeys WHERE (item, tenant, who, version) > ($1, $2, $3, $4)
		ORDER BY item, tenant, who, version LIMIT $5`, after.Item, after.Tenant, after.Who, int64(after.Version), limit)
}

const setColumns = `item, tenant, who, last, shredded, closed`

func scanKeySet(sc scanner) (store.KeySet, error) {
	var k store.KeySet
	err := sc.Scan(&k.Item, &k.Tenant, &k.Who, &k.Last, instant{&k.Shredded}, &k.Closed)
	return k, err
}

// KeySet implements store.DEKs.
func (s *Store) KeySet(ctx context.Context, item, tenant, who string) (store.KeySet, error) {
	k, err := scanKeySet(s.db.Read.QueryRowContext(ctx, `SELECT `+setColumns+` FROM key_sets WHERE item = $1 AND tenant = $2 AND who = $3`, item, tenant, who))
	return k, s.orMissing(err, store.ErrNotFound)
}

// ListKeySets implements store.DEKs.
func (s *Store) ListKeySets(ctx context.Context, item, tenant string, after store.KeySet, limit int) ([]store.KeySet, error) {
	return list(ctx, s.db.Read, scanKeySet, `SELECT `+setColumns+` FROM key_sets
		WHERE (item = $1 OR CAST($1 AS TEXT) = '') AND (tenant = $2 OR CAST($2 AS TEXT) = '') AND (item, tenant, who) > ($3, $4, $5)
		ORDER BY item, tenant, who LIMIT $6`, item, tenant, after.Item, after.Tenant, after.Who, limit)
}

// Shred implements store.DEKs.
func (s *Store) Shred(ctx context.Context, item, tenant, who string, at time.Time) (keys int, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		keys, err = s.shred(ctx, tx, store.KeySet{Item: item, Tenant: tenant, Who: who, Shredded: at, Closed: true})
		return err
	})
	if err != nil {
		return 0, err
	}
	return keys, s.scrub(ctx)
}

func (s *Store) scrub(ctx context.Context) error {
	if s.db.Scrub == nil {
		return nil
	}
	if err := s.db.Scrub(ctx); err != nil {
		return fmt.Errorf("store: the keys are deleted, but their bytes may still be in the database's files: %w", err)
	}
	return nil
}

// shred locks the tenant's row, notes what is to be known of the set, and deletes
// its keys.
func (s *Store) shred(ctx context.Context, tx *sql.Tx, k store.KeySet) (keys int, err error) {
	if err := s.lockTenant(ctx, tx, k); err != nil {
		return 0, err
	}
	newest := `SELECT coalesce(max(version), 0) FROM subkeys WHERE item = $1 AND tenant = $2 AND who = $3`
	if k.Who == "" {
		newest = `SELECT coalesce(max(version), 0) FROM deks WHERE item = $1 AND tenant = $2 AND CAST($3 AS TEXT) = ''`
	}
	var last uint32
	if err := tx.QueryRowContext(ctx, newest, k.Item, k.Tenant, k.Who).Scan(&last); err != nil {
		return 0, err
	}
	k.Last = max(k.Last, last)
	_, err = tx.ExecContext(ctx, `INSERT INTO key_sets (`+setColumns+`) VALUES ($1,$2,$3,$4,$5,$6)
		ON CONFLICT (item, tenant, who) DO UPDATE SET shredded = excluded.shredded, closed = excluded.closed,
			last = CASE WHEN excluded.last > key_sets.last THEN excluded.last ELSE key_sets.last END`,
		k.Item, k.Tenant, k.Who, int64(k.Last), nanos(k.Shredded), k.Closed)
	if err != nil {
		return 0, err
	}
	for _, stmt := range []string{
		`DELETE FROM subkeys WHERE item = $1 AND tenant = $2 AND (who = $3 OR CAST($3 AS TEXT) = '')`,
		`DELETE FROM deks WHERE item = $1 AND tenant = $2 AND CAST($3 AS TEXT) = ''`,
	} {
		n, err := s.change(ctx, tx, stmt, k.Item, k.Tenant, k.Who)
		if err != nil {
			return 0, err
		}
		keys += int(n)
	}
	return keys, nil
}

func (s *Store) lockTenant(ctx context.Context, tx *sql.Tx, k store.KeySet) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO key_sets (item, tenant, who, last, shredded, closed) VALUES ($1,$2,'',0,0,$3)
		ON CONFLICT (item, tenant, who) DO UPDATE SET last = key_sets.last`, k.Item, k.Tenant, false)
	return err
}

// PutKeySet implements store.DEKs.
func (s *Store) PutKeySet(ctx context.Context, k store.KeySet) error {
	later := false
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		if err := s.lockTenant(ctx, tx, k); err != nil {
			return err
		}
		var at time.Time
		err := tx.QueryRowContext(ctx, `SELECT shredded FROM key_sets WHERE item = $1 AND tenant = $2 AND who = $3`, k.Item, k.Tenant, k.Who).Scan(instant{&at})
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if later = k.Shredded.After(at); later {
			_, err := s.shred(ctx, tx, k)
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE key_sets SET last = $1 WHERE item = $2 AND tenant = $3 AND who = $4 AND last < $1`, int64(k.Last), k.Item, k.Tenant, k.Who)
		return err
	})
	if err == nil && later {
		err = s.scrub(ctx)
	}
	return err
}

// Reopen implements store.DEKs.
func (s *Store) Reopen(ctx context.Context, item, tenant, who string) (bool, error) {
	return s.hit(ctx, `UPDATE key_sets SET closed = $1 WHERE item = $2 AND tenant = $3 AND who = $4 AND closed = $5`, false, item, tenant, who, true)
}

// PutNotice implements store.Notices.
func (s *Store) PutNotice(ctx context.Context, body []byte, at time.Time, keep time.Duration) (id uint64, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, `UPDATE counters SET value = value + 1 WHERE name = 'notices' RETURNING value`).Scan(&id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM notices WHERE made < $1`, nanos(at.Add(-keep))); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO notices (id, body, made) VALUES ($1,$2,$3)`, int64(id), string(body), nanos(at))
		return err
	})
	return id, err
}

// Notices implements store.Notices.
func (s *Store) Notices(ctx context.Context, after uint64) ([]store.Notice, error) {
	return list(ctx, s.db.Read, func(sc scanner) (store.Notice, error) {
		var n store.Notice
		err := sc.Scan(&n.ID, &n.Text, instant{&n.At})
		return n, err
	}, `SELECT id, body, made FROM notices WHERE id > $1 ORDER BY id`, int64(after))
}
