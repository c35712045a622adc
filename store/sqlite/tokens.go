package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/token"
)

// PutCode implements token.Store.
func (s *Store) PutCode(ctx context.Context, c token.Code) error {
	return s.insert(ctx, `INSERT INTO codes (hash, client, redirect, challenge, subject, sid, auth_time, expires) VALUES (?,?,?,?,?,?,?,?)`,
		c.Hash[:], c.Client, c.Redirect, c.Challenge, c.Subject, c.SID, nanos(c.AuthTime), nanos(c.Expires))
}

// Code implements token.Store.
func (s *Store) Code(ctx context.Context, hash [sha256.Size]byte) (token.Code, error) {
	c := token.Code{Hash: hash}
	err := s.r.QueryRowContext(ctx, `SELECT client, redirect, challenge, subject, sid, auth_time, expires, coalesce(family, '') FROM codes WHERE hash = ?`, hash[:]).
		Scan(&c.Client, &c.Redirect, &c.Challenge, &c.Subject, &c.SID, instant{&c.AuthTime}, instant{&c.Expires}, &c.Family)
	return c, orMissing(err, token.ErrNotFound)
}

// UseCode implements token.Store.
func (s *Store) UseCode(ctx context.Context, hash [sha256.Size]byte, f token.Family) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE codes SET family = ? WHERE hash = ? AND family IS NULL`, f.ID, hash[:])
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return firstOf(err, token.ErrUsed)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO refresh_tokens (family, generation, rotated, client, subject, sid, auth_time, expires, absolute) VALUES (?,?,?,?,?,?,?,?,?)`,
			f.ID, f.Generation, nanos(f.Rotated), f.Client, f.Subject, f.SID, nanos(f.AuthTime), nanos(f.Expires), nanos(f.Absolute))
		return err
	})
}

// Family implements token.Store.
func (s *Store) Family(ctx context.Context, id string) (token.Family, error) {
	f := token.Family{ID: id}
	err := s.r.QueryRowContext(ctx, `SELECT generation, rotated, client, subject, sid, auth_time, expires, absolute, revoked FROM refresh_tokens WHERE family = ?`, id).
		Scan(&f.Generation, instant{&f.Rotated}, &f.Client, &f.Subject, &f.SID, instant{&f.AuthTime}, instant{&f.Expires}, instant{&f.Absolute}, &f.Revoked)
	return f, orMissing(err, token.ErrNotFound)
}

// RotateFamily implements token.Store.
func (s *Store) RotateFamily(ctx context.Context, id string, from int, at, expires time.Time) (bool, error) {
	n, err := s.exec(ctx, `UPDATE refresh_tokens SET generation = generation + 1, rotated = ?, expires = min(?, absolute)
		WHERE family = ? AND generation = ? AND revoked = 0`, nanos(at), nanos(expires), id, from)
	return n > 0, err
}

// RevokeFamilies implements token.Store.
func (s *Store) RevokeFamilies(ctx context.Context, kind, id string) ([]string, error) {
	column, ok := map[string]string{"family": "family", "sid": "sid", "sub": "subject", "client": "client"}[kind]
	if !ok {
		return nil, fmt.Errorf("sqlite: families have no %q", kind)
	}
	rows, err := s.w.QueryContext(ctx, `UPDATE refresh_tokens SET revoked = 1 WHERE revoked = 0 AND `+column+` = ? RETURNING family`, id)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanText)
}

func scanText(sc scanner) (text string, err error) { return text, sc.Scan(&text) }

// PutRevocation implements token.Store.
func (s *Store) PutRevocation(ctx context.Context, r wire.Revocation) (wire.Revocation, error) {
	res, err := s.w.ExecContext(ctx, `INSERT INTO revocations (kind, id, not_before, expires) VALUES (?,?,?,?)`,
		r.Kind, r.ID, nanos(r.NotBefore), nanos(r.Expires))
	if err != nil {
		return wire.Revocation{}, err
	}
	seq, err := res.LastInsertId()
	r.Seq = uint64(seq)
	return r, err
}

// Revocations implements token.Store.
func (s *Store) Revocations(ctx context.Context, now time.Time) ([]wire.Revocation, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT seq, kind, id, not_before, expires FROM revocations WHERE expires > ? ORDER BY seq`, nanos(now))
	if err != nil {
		return nil, err
	}
	return collect(rows, func(sc scanner) (wire.Revocation, error) {
		var r wire.Revocation
		err := sc.Scan(&r.Seq, &r.Kind, &r.ID, instant{&r.NotBefore}, instant{&r.Expires})
		return r, err
	})
}

// SweepTokens implements token.Store.
func (s *Store) SweepTokens(ctx context.Context, now time.Time) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		for _, table := range []string{"codes", "refresh_tokens", "revocations"} {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE expires < ?`, nanos(now)); err != nil {
				return err
			}
		}
		return nil
	})
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
