package relational

import (
	"context"
	"database/sql"
	"time"

	"github.com/rampart-security/rampart/store"
)

// Sealed implements store.Seals.
func (s *Store) Sealed(ctx context.Context, name string) (value []byte, err error) {
	err = s.db.Read.QueryRowContext(ctx, `SELECT value FROM sealed WHERE name = $1`, name).Scan(&value)
	return value, s.orMissing(err, store.ErrNotFound)
}

// SealNames implements store.Seals.
func (s *Store) SealNames(ctx context.Context) ([]string, error) {
	return list(ctx, s.db.Read, func(sc scanner) (name string, err error) { return name, sc.Scan(&name) }, `SELECT name FROM sealed ORDER BY name`)
}

// PutSealed implements store.Seals.
func (s *Store) PutSealed(ctx context.Context, name string, value []byte) error {
	return s.run(ctx, `INSERT INTO sealed (name, value) VALUES ($1,$2)`, name, value)
}

// ReplaceSealed implements store.Seals.
func (s *Store) ReplaceSealed(ctx context.Context, name string, value []byte) error {
	ok, err := s.hit(ctx, `UPDATE sealed SET value = $1 WHERE name = $2`, value, name)
	if err == nil && !ok {
		return store.ErrNotFound
	}
	return err
}

// SwapSealed implements store.Seals.
func (s *Store) SwapSealed(ctx context.Context, name string, old, value []byte) (bool, error) {
	if old == nil {
		return s.hit(ctx, `INSERT INTO sealed (name, value) VALUES ($1,$2) ON CONFLICT (name) DO NOTHING`, name, value)
	}
	return s.hit(ctx, `UPDATE sealed SET value = $1 WHERE name = $2 AND value = $3`, value, name, old)
}

const headColumns = `plane, instance, listen, seq, hash, seen, forgot`

// PutHead implements store.Heads.
func (s *Store) PutHead(ctx context.Context, h store.Head) (store.Head, error) {
	return scanHead(s.db.Write.QueryRowContext(ctx, `INSERT INTO plane_heads (`+headColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7)
		ON CONFLICT (plane) DO UPDATE SET instance = excluded.instance, listen = excluded.listen, seen = excluded.seen, forgot = excluded.forgot,
			seq = CASE WHEN excluded.seq > plane_heads.seq THEN excluded.seq ELSE plane_heads.seq END,
			hash = CASE WHEN excluded.seq > plane_heads.seq THEN excluded.hash ELSE plane_heads.hash END
		RETURNING `+headColumns,
		h.Plane, h.Instance, h.Listen, int64(h.Seq), h.Hash[:], nanos(h.Seen), int64(h.Forgot)))
}

// Heads implements store.Heads.
func (s *Store) Heads(ctx context.Context) ([]store.Head, error) {
	return list(ctx, s.db.Read, scanHead, `SELECT `+headColumns+` FROM plane_heads ORDER BY plane`)
}

func scanHead(sc scanner) (store.Head, error) {
	var h store.Head
	err := sc.Scan(&h.Plane, &h.Instance, &h.Listen, &h.Seq, digest{&h.Hash}, instant{&h.Seen}, &h.Forgot)
	return h, err
}

// PinMeta implements store.Meta.
func (s *Store) PinMeta(ctx context.Context, key, value string) (got string, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES ($1,$2) ON CONFLICT (key) DO NOTHING`, key, value); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = $1`, key).Scan(&got)
	})
	return got, err
}

// PutJoinToken implements store.JoinTokens.
func (s *Store) PutJoinToken(ctx context.Context, hash [32]byte, identity string, expires time.Time) error {
	return s.run(ctx, `INSERT INTO join_tokens (hash, identity, expires) VALUES ($1,$2,$3)`, hash[:], identity, nanos(expires))
}

// UseJoinToken implements store.JoinTokens. It also forgets tokens that
// expired a day ago, so that the table stays small without a task of its own.
func (s *Store) UseJoinToken(ctx context.Context, hash [32]byte, now time.Time) (identity string, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM join_tokens WHERE expires < $1`, nanos(now.Add(-24*time.Hour))); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `UPDATE join_tokens SET used = $1 WHERE hash = $2 AND used IS NULL AND expires > $1 RETURNING identity`,
			nanos(now), hash[:]).Scan(&identity)
	})
	return identity, s.orMissing(err, store.ErrNotFound)
}
