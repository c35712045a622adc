package relational

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/token"
)

// codeData is a code without what has columns.
type codeData struct {
	token.Code
	Hash      hidden `json:",omitzero"`
	Client    hidden `json:",omitzero"`
	Redirect  hidden `json:",omitzero"`
	Challenge hidden `json:",omitzero"`
	Subject   hidden `json:",omitzero"`
	SID       hidden `json:",omitzero"`
	AuthTime  hidden `json:",omitzero"`
	Expires   hidden `json:",omitzero"`
	Family    hidden `json:",omitzero"`
}

const codeColumns = `hash, client, redirect, challenge, subject, sid, auth_time, expires, family, data`

// PutCode implements token.Store.
func (s *Store) PutCode(ctx context.Context, c token.Code) error {
	data, err := text(codeData{Code: c})
	if err != nil {
		return err
	}
	return s.run(ctx, `INSERT INTO codes (`+codeColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)`,
		c.Hash[:], c.Client, c.Redirect, c.Challenge, c.Subject, c.SID, nanos(c.AuthTime), nanos(c.Expires), orNull(c.Family), data)
}

// Code implements token.Store.
func (s *Store) Code(ctx context.Context, hash [sha256.Size]byte) (token.Code, error) {
	var d codeData
	var family sql.NullString
	c := &d.Code
	err := s.db.Read.QueryRowContext(ctx, `SELECT `+codeColumns+` FROM codes WHERE hash = $1`, hash[:]).
		Scan(digest{&c.Hash}, &c.Client, &c.Redirect, &c.Challenge, &c.Subject, &c.SID, instant{&c.AuthTime}, instant{&c.Expires}, &family, object{&d})
	c.Family = family.String
	return d.Code, s.orMissing(err, token.ErrNotFound)
}

// UseCode implements token.Store.
func (s *Store) UseCode(ctx context.Context, hash [sha256.Size]byte, f token.Family) error {
	data, err := text(familyData{Family: f})
	if err != nil {
		return err
	}
	return s.inTx(ctx, func(tx *sql.Tx) error {
		n, err := s.change(ctx, tx, `UPDATE codes SET family = $1 WHERE hash = $2 AND family IS NULL`, f.ID, hash[:])
		if err != nil {
			return err
		}
		if n == 0 {
			return token.ErrUsed
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO refresh_tokens (`+familyColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)`,
			f.ID, f.Generation, nanos(f.Rotated), f.Client, f.Subject, f.SID, nanos(f.AuthTime), nanos(f.Expires), nanos(f.Absolute), f.Revoked, data)
		return err
	})
}

// familyData is a family without what has columns.
type familyData struct {
	token.Family
	ID         hidden `json:",omitzero"`
	Generation hidden `json:",omitzero"`
	Rotated    hidden `json:",omitzero"`
	Client     hidden `json:",omitzero"`
	Subject    hidden `json:",omitzero"`
	SID        hidden `json:",omitzero"`
	AuthTime   hidden `json:",omitzero"`
	Expires    hidden `json:",omitzero"`
	Absolute   hidden `json:",omitzero"`
	Revoked    hidden `json:",omitzero"`
}

const familyColumns = `family, generation, rotated, client, subject, sid, auth_time, expires, absolute, revoked, data`

// Family implements token.Store.
func (s *Store) Family(ctx context.Context, id string) (token.Family, error) {
	f, err := scanFamily(s.db.Read.QueryRowContext(ctx, `SELECT `+familyColumns+` FROM refresh_tokens WHERE family = $1`, id))
	return f, s.orMissing(err, token.ErrNotFound)
}

// Families implements token.Store.
func (s *Store) Families(ctx context.Context, subject string) ([]token.Family, error) {
	return list(ctx, s.db.Read, scanFamily, `SELECT `+familyColumns+` FROM refresh_tokens
		WHERE subject = $1 AND revoked = FALSE ORDER BY auth_time DESC, family`, subject)
}

func scanFamily(sc scanner) (token.Family, error) {
	var d familyData
	f := &d.Family
	err := sc.Scan(&f.ID, &f.Generation, instant{&f.Rotated}, &f.Client, &f.Subject, &f.SID, instant{&f.AuthTime}, instant{&f.Expires}, instant{&f.Absolute},
		&f.Revoked, object{&d})
	if err != nil {
		return token.Family{}, err
	}
	return d.Family, nil
}

// RotateFamily implements token.Store.
func (s *Store) RotateFamily(ctx context.Context, id string, from int, at, expires time.Time) (bool, error) {
	return s.hit(ctx, `UPDATE refresh_tokens SET generation = generation + 1, rotated = $1, expires = CASE WHEN $2 < absolute THEN $2 ELSE absolute END
		WHERE family = $3 AND generation = $4 AND revoked = FALSE`, nanos(at), nanos(expires), id, from)
}

// RevokeFamilies implements token.Store.
func (s *Store) RevokeFamilies(ctx context.Context, kind, id string) ([]string, error) {
	column, ok := map[string]string{"family": "family", "sid": "sid", "sub": "subject", "client": "client"}[kind]
	if !ok {
		return nil, fmt.Errorf("relational: families have no %q", kind)
	}
	return list(ctx, s.db.Write, scanText, `UPDATE refresh_tokens SET revoked = TRUE WHERE revoked = FALSE AND `+column+` = $1 RETURNING family`, id)
}

// revocationData is a revocation without what has columns.
type revocationData struct {
	wire.Revocation
	Seq       hidden `json:"seq,omitzero"`
	Kind      hidden `json:"kind,omitzero"`
	ID        hidden `json:"id,omitzero"`
	NotBefore hidden `json:"not_before,omitzero"`
	Expires   hidden `json:"expires,omitzero"`
}

// PutRevocation implements token.Store. The row that counts stays locked until
// the commit, so that revocations become visible in the order of their Seq:
// who has read up to one has missed none before it.
func (s *Store) PutRevocation(ctx context.Context, r wire.Revocation) (wire.Revocation, error) {
	data, err := text(revocationData{Revocation: r})
	if err != nil {
		return wire.Revocation{}, err
	}
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `UPDATE counters SET value = value + 1 WHERE name = 'revocations' RETURNING value`).Scan(&r.Seq)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO revocations (seq, kind, id, not_before, expires, data) VALUES ($1,$2,$3,$4,$5,$6)`,
			int64(r.Seq), r.Kind, r.ID, nanos(r.NotBefore), nanos(r.Expires), data)
		return err
	})
	return r, err
}

// Revocations implements token.Store.
func (s *Store) Revocations(ctx context.Context, now time.Time) ([]wire.Revocation, error) {
	return s.RevocationsAfter(ctx, 0, now)
}

// RevocationsAfter implements token.Store.
func (s *Store) RevocationsAfter(ctx context.Context, seq uint64, now time.Time) ([]wire.Revocation, error) {
	return list(ctx, s.db.Read, func(sc scanner) (wire.Revocation, error) {
		var d revocationData
		r := &d.Revocation
		err := sc.Scan(&r.Seq, &r.Kind, &r.ID, instant{&r.NotBefore}, instant{&r.Expires}, object{&d})
		return d.Revocation, err
	}, `SELECT seq, kind, id, not_before, expires, data FROM revocations WHERE seq > $1 AND expires > $2 ORDER BY seq`, int64(seq), nanos(now))
}

// SweepTokens implements token.Store.
func (s *Store) SweepTokens(ctx context.Context, now time.Time) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		for _, table := range []string{"codes", "refresh_tokens", "revocations"} {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE expires < $1`, nanos(now)); err != nil {
				return err
			}
		}
		return nil
	})
}
