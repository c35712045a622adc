package sqlite

import (
	"context"
	"database/sql"

	"github.com/rampart-security/rampart/store"
)

// Sealed implements store.Seals.
func (s *Store) Sealed(ctx context.Context, name string) ([]byte, error) {
	var value []byte
	err := s.r.QueryRowContext(ctx, `SELECT value FROM sealed WHERE name = ?`, name).Scan(&value)
	return value, orMissing(err, store.ErrNotFound)
}

// PutSealed implements store.Seals.
func (s *Store) PutSealed(ctx context.Context, name string, value []byte) error {
	return s.insert(ctx, `INSERT INTO sealed (name, value) VALUES (?,?)`, name, value)
}

// ReplaceSealed implements store.Seals.
func (s *Store) ReplaceSealed(ctx context.Context, name string, value []byte) error {
	n, err := s.exec(ctx, `UPDATE sealed SET value = ? WHERE name = ?`, value, name)
	if err == nil && n == 0 {
		return store.ErrNotFound
	}
	return err
}

// DEK implements store.DEKs.
func (s *Store) DEK(ctx context.Context, item, tenant string, version uint32) (store.DEK, error) {
	d := store.DEK{Item: item, Tenant: tenant}
	err := s.r.QueryRowContext(ctx, `SELECT version, kek, wrapped, created FROM deks
		WHERE item = ?1 AND tenant = ?2 AND (?3 = 0 OR version = ?3) ORDER BY version DESC LIMIT 1`, item, tenant, version).
		Scan(&d.Version, &d.KEK, &d.Wrapped, instant{&d.Created})
	return d, orMissing(err, store.ErrNotFound)
}

// PutDEK implements store.DEKs.
func (s *Store) PutDEK(ctx context.Context, d store.DEK) error {
	return s.insert(ctx, `INSERT INTO deks (item, tenant, version, kek, wrapped, created) VALUES (?,?,?,?,?,?)`,
		d.Item, d.Tenant, d.Version, d.KEK, d.Wrapped, nanos(d.Created))
}

const headColumns = `plane, instance, listen, seq, hash, seen`

// PutHead implements store.Heads.
func (s *Store) PutHead(ctx context.Context, h store.Head) (store.Head, error) {
	return scanHead(s.w.QueryRowContext(ctx, `INSERT INTO plane_heads (`+headColumns+`) VALUES (?,?,?,?,?,?)
		ON CONFLICT (plane) DO UPDATE SET instance = excluded.instance, listen = excluded.listen, seen = excluded.seen,
			seq = max(seq, excluded.seq), hash = iif(excluded.seq > seq, excluded.hash, hash)
		RETURNING `+headColumns,
		h.Plane, h.Instance, h.Listen, int64(h.Seq), h.Hash[:], nanos(h.Seen)))
}

// Heads implements store.Heads.
func (s *Store) Heads(ctx context.Context) ([]store.Head, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+headColumns+` FROM plane_heads ORDER BY plane`)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanHead)
}

func scanHead(sc scanner) (store.Head, error) {
	var h store.Head
	err := sc.Scan(&h.Plane, &h.Instance, &h.Listen, &h.Seq, digest{&h.Hash}, instant{&h.Seen})
	return h, err
}

// PinMeta implements store.Meta.
func (s *Store) PinMeta(ctx context.Context, key, value string) (string, error) {
	var got string
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES (?,?) ON CONFLICT DO NOTHING`, key, value); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = ?`, key).Scan(&got)
	})
	return got, err
}
