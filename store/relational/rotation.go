package relational

import (
	"context"
	"database/sql"
	"errors"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets/rotate"
)

// AddRotation implements rotate.Rows.
func (s *Store) AddRotation(ctx context.Context, r rotate.State) (bool, error) {
	data, err := text(r)
	if err != nil {
		return false, err
	}
	return s.hit(ctx, `INSERT INTO rotations (name, rev, data) VALUES ($1,1,$2) ON CONFLICT (name) DO NOTHING`, r.Name, data)
}

const selectRotation = `SELECT name, rev, data FROM rotations`

func scanRotation(sc scanner) (r rotate.State, err error) {
	return r, sc.Scan(&r.Name, &r.Rev, object{&r})
}

// Rotation implements rotate.Rows.
func (s *Store) Rotation(ctx context.Context, name string) (rotate.State, error) {
	r, err := scanRotation(s.db.Read.QueryRowContext(ctx, selectRotation+` WHERE name = $1`, name))
	if errors.Is(err, sql.ErrNoRows) {
		return rotate.State{}, rampart.Errorf(rampart.NotFound, "secret.manager", "store: %.100q does not rotate", name)
	}
	return r, err
}

// Rotations implements rotate.Rows.
func (s *Store) Rotations(ctx context.Context) ([]rotate.State, error) {
	return list(ctx, s.db.Read, scanRotation, selectRotation+` ORDER BY name`)
}

// SwapRotation implements rotate.Rows.
func (s *Store) SwapRotation(ctx context.Context, r rotate.State) (bool, error) {
	data, err := text(r)
	if err != nil {
		return false, err
	}
	return s.hit(ctx, `UPDATE rotations SET rev = rev + 1, data = $3 WHERE name = $1 AND rev = $2`, r.Name, r.Rev, data)
}

// PutRotationUse implements rotate.Rows.
func (s *Store) PutRotationUse(ctx context.Context, u rotate.Use) error {
	return s.run(ctx, `INSERT INTO rotation_uses (name, plane, version, seen) VALUES ($1,$2,$3,$4)
		ON CONFLICT (name, plane) DO UPDATE SET version = excluded.version, seen = excluded.seen WHERE rotation_uses.seen <= excluded.seen`,
		u.Name, u.Plane, u.Version, nanos(u.Seen))
}

// RotationUses implements rotate.Rows.
func (s *Store) RotationUses(ctx context.Context, name string) ([]rotate.Use, error) {
	scan := func(sc scanner) (u rotate.Use, err error) {
		return u, sc.Scan(&u.Name, &u.Plane, &u.Version, instant{&u.Seen})
	}
	return list(ctx, s.db.Read, scan, `SELECT name, plane, version, seen FROM rotation_uses WHERE name = $1 ORDER BY plane`, name)
}
