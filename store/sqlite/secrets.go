package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/store"
)

// PutSecret implements embedded.Rows.
func (s *Store) PutSecret(ctx context.Context, path string, version int, sealed []byte, now time.Time) error {
	n, err := s.exec(ctx, `INSERT INTO secrets (path, version, sealed, created)
		SELECT ?1, ?2, ?3, ?4 WHERE ?2 = 1 + (SELECT coalesce(max(version), 0) FROM secrets WHERE path = ?1)`,
		path, version, sealed, nanos(now))
	if err == nil && n == 0 || errors.Is(err, store.ErrExists) {
		return rampart.Errorf(rampart.Conflict, "secret.manager", "sqlite: version %d is not the successor of the newest", version)
	}
	return err
}

// GetSecret implements embedded.Rows.
func (s *Store) GetSecret(ctx context.Context, path string) (version int, sealed []byte, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT version, sealed FROM secrets WHERE path = ? ORDER BY version DESC LIMIT 1`, path).Scan(&version, &sealed)
	return version, sealed, orMissing(err, rampart.Errorf(rampart.NotFound, "secret.manager", "sqlite: no such secret"))
}

// ListSecrets implements embedded.Rows.
func (s *Store) ListSecrets(ctx context.Context) ([]embedded.Meta, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT path, version, created FROM secrets s
		WHERE version = (SELECT max(version) FROM secrets WHERE path = s.path) ORDER BY path`)
	if err != nil {
		return nil, err
	}
	return collect(rows, func(sc scanner) (embedded.Meta, error) {
		var m embedded.Meta
		err := sc.Scan(&m.Path, &m.Version, instant{&m.Created})
		return m, err
	})
}
