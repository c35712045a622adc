package relational

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/store"
)

// keptSecrets is how many versions of one secret stay.
const keptSecrets = 50

// tombstone stands where a version was destroyed, so that its number is not used
// again. It is no sealed value: those begin with their version, which is not 0.
func tombstone() []byte { return make([]byte, 33) }

// errNoSecret is told of paths and versions alike.
func errNoSecret() error {
	return rampart.Errorf(rampart.NotFound, "secret.manager", "store: no such secret")
}

// alive blanks the tombstone.
func alive(sealed []byte) []byte {
	if bytes.Equal(sealed, tombstone()) {
		return nil
	}
	return sealed
}

// PutSecret implements embedded.Rows. Of two writers of one version, one meets
// the other's row.
func (s *Store) PutSecret(ctx context.Context, path string, version int, sealed []byte, now time.Time) error {
	conflict := rampart.Errorf(rampart.Conflict, "secret.manager", "store: version %d is not the successor of the newest", version)
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		var newest int
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM secrets WHERE path = $1`, path).Scan(&newest); err != nil {
			return err
		}
		if version != newest+1 {
			return conflict
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM secrets WHERE path = $1 AND version <= $2`, path, version-keptSecrets); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO secrets (path, version, sealed, created) VALUES ($1,$2,$3,$4)`, path, version, sealed, nanos(now))
		return err
	})
	if errors.Is(err, store.ErrExists) {
		return conflict
	}
	return err
}

// GetSecret implements embedded.Rows.
func (s *Store) GetSecret(ctx context.Context, path string, version int) (found int, sealed []byte, err error) {
	err = s.db.Read.QueryRowContext(ctx, `SELECT version, sealed FROM secrets
		WHERE path = $1 AND (version = $2 OR CAST($2 AS BIGINT) = 0) ORDER BY version DESC LIMIT 1`, path, int64(version)).Scan(&found, &sealed)
	return found, alive(sealed), s.orMissing(err, errNoSecret())
}

// ListSecrets implements embedded.Rows.
func (s *Store) ListSecrets(ctx context.Context) ([]secrets.Listed, error) {
	return list(ctx, s.db.Read, func(sc scanner) (secrets.Listed, error) {
		var m secrets.Listed
		err := sc.Scan(&m.Path, &m.Version, instant{&m.Created})
		return m, err
	}, `SELECT path, version, created FROM secrets s
		WHERE version = (SELECT max(version) FROM secrets WHERE path = s.path) AND sealed <> $1 ORDER BY path`, tombstone())
}

// DestroySecret implements embedded.Rows.
func (s *Store) DestroySecret(ctx context.Context, path string, version int) error {
	hit, err := s.hit(ctx, `UPDATE secrets SET sealed = $1 WHERE path = $2 AND (version = $3 OR CAST($3 AS BIGINT) = 0) AND sealed <> $1`, tombstone(), path, int64(version))
	if err == nil && !hit {
		return errNoSecret()
	}
	if err == nil && s.db.Scrub != nil {
		err = s.db.Scrub(ctx)
	}
	if err != nil {
		return fmt.Errorf("store: the secret may still be in the database's files: %w", err)
	}
	return nil
}

// SecretRows implements embedded.Rows.
func (s *Store) SecretRows(ctx context.Context, after embedded.Row, limit int) ([]embedded.Row, error) {
	return list(ctx, s.db.Read, func(sc scanner) (embedded.Row, error) {
		var r embedded.Row
		err := sc.Scan(&r.Path, &r.Version, &r.Sealed)
		return r, err
	}, `SELECT path, version, sealed FROM secrets WHERE (path, version) > ($1, $2) AND sealed <> $3 ORDER BY path, version LIMIT $4`,
		after.Path, int64(after.Version), tombstone(), limit)
}

// SwapSecret implements embedded.Rows.
func (s *Store) SwapSecret(ctx context.Context, r embedded.Row, old []byte) (bool, error) {
	return s.hit(ctx, `UPDATE secrets SET sealed = $1 WHERE path = $2 AND version = $3 AND sealed = $4`, r.Sealed, r.Path, int64(r.Version), old)
}
