package relational

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"github.com/rampart-security/rampart/store"
)

// forgetLocks is how long a lock that nobody took again is remembered: its
// fence is a time, so that a later lock of the key has a greater one anyway.
const forgetLocks = 30 * 24 * time.Hour

// EdgeValue implements store.EdgeStore.
func (s *Store) EdgeValue(ctx context.Context, key string) (store.EdgeValue, error) {
	v := store.EdgeValue{Key: key}
	err := s.db.Read.QueryRowContext(ctx, `SELECT value, modified FROM edge_store WHERE key = $1`, key).Scan(&v.Sealed, instant{&v.Modified})
	return v, s.orMissing(err, store.ErrNotFound)
}

// below is the first key that sorts after all that lie below a folder.
func below(key string) (from, to string) {
	if key == "" {
		return "", "\x7f"
	}
	return key + "/", key + "0" // the character after the slash
}

// EdgeKeys implements store.EdgeStore.
func (s *Store) EdgeKeys(ctx context.Context, prefix string, limit int) ([]string, error) {
	from, to := below(prefix)
	return list(ctx, s.db.Read, scanText, `SELECT key FROM edge_store WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3`, from, to, limit)
}

// guards are the keys whose lock guards a key: itself and its folders.
func guards(key string) []string {
	out := []string{key}
	for i := strings.LastIndexByte(key, '/'); i > 0; i = strings.LastIndexByte(key, '/') {
		key = key[:i]
		out = append(out, key)
	}
	return out
}

// fenced reports whether a newer lock, or without a fence any, stands in the way.
func (s *Store) fenced(ctx context.Context, tx *sql.Tx, key string, fence uint64, now time.Time) error {
	for _, guard := range guards(key) {
		var newest, until int64
		err := tx.QueryRowContext(ctx, `SELECT fence, until FROM edge_locks WHERE key = $1`, guard).Scan(&newest, &until)
		if s.orMissing(err, store.ErrNotFound) == store.ErrNotFound {
			continue
		}
		if err != nil {
			return err
		}
		if fence == 0 && until > nanos(now) || fence != 0 && uint64(newest) > fence {
			return store.ErrFenced
		}
	}
	return nil
}

// PutEdge implements store.EdgeStore.
func (s *Store) PutEdge(ctx context.Context, v store.EdgeValue, fence uint64, limit int) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		if err := s.fenced(ctx, tx, v.Key, fence, v.Modified); err != nil {
			return err
		}
		n, err := s.change(ctx, tx, `UPDATE edge_store SET value = $1, modified = $2 WHERE key = $3`, v.Sealed, nanos(v.Modified), v.Key)
		if err != nil || n > 0 {
			return err
		}
		n, err = s.change(ctx, tx, `INSERT INTO edge_store (key, value, modified)
			SELECT CAST($1 AS TEXT), $2, CAST($3 AS BIGINT) WHERE (SELECT count(*) FROM edge_store) < $4
			ON CONFLICT (key) DO UPDATE SET value = excluded.value, modified = excluded.modified`, v.Key, v.Sealed, nanos(v.Modified), limit)
		if err == nil && n == 0 {
			return store.ErrFull
		}
		return err
	})
}

// SwapEdge implements store.EdgeStore.
func (s *Store) SwapEdge(ctx context.Context, key string, old, sealed []byte) (bool, error) {
	return s.hit(ctx, `UPDATE edge_store SET value = $1 WHERE key = $2 AND value = $3`, sealed, key, old)
}

// DeleteEdge implements store.EdgeStore.
func (s *Store) DeleteEdge(ctx context.Context, key string, fence uint64, now time.Time) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		if err := s.fenced(ctx, tx, key, fence, now); err != nil {
			return err
		}
		from, to := below(key)
		_, err := tx.ExecContext(ctx, `DELETE FROM edge_store WHERE key = $1 OR key >= $2 AND key < $3`, key, from, to)
		return err
	})
}

// LockEdge implements store.EdgeStore. A fence is the time, and more than the
// one before it.
func (s *Store) LockEdge(ctx context.Context, key, owner string, until, now time.Time) (fence uint64, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM edge_locks WHERE until <= $1 AND fence < $2`, nanos(now), nanos(now.Add(-forgetLocks))); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `INSERT INTO edge_locks (key, owner, fence, until) VALUES ($1,$2,$3,$4)
			ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, until = excluded.until,
				fence = CASE WHEN edge_locks.owner = excluded.owner THEN edge_locks.fence
					WHEN edge_locks.fence >= excluded.fence THEN edge_locks.fence + 1 ELSE excluded.fence END
			WHERE edge_locks.owner = excluded.owner AND edge_locks.until > 0 OR edge_locks.until <= $5
			RETURNING fence`, key, owner, nanos(now), nanos(until), nanos(now)).Scan(&fence)
	})
	if s.orMissing(err, store.ErrNotFound) == store.ErrNotFound {
		return 0, nil
	}
	return fence, err
}

// UnlockEdge implements store.EdgeStore. The row stays, for its fence.
func (s *Store) UnlockEdge(ctx context.Context, key, owner string) error {
	return s.run(ctx, `UPDATE edge_locks SET until = 0 WHERE key = $1 AND owner = $2`, key, owner)
}
