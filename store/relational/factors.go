package relational

import (
	"context"
	"crypto/sha256"

	"github.com/rampart-security/rampart/authn/mfa"
)

// factorData is a factor without what has columns.
type factorData struct {
	mfa.Factor
	ID         hidden `json:",omitzero"`
	Subject    hidden `json:",omitzero"`
	Kind       hidden `json:",omitzero"`
	Credential hidden `json:",omitzero"`
	Data       hidden `json:",omitzero"`
	Version    hidden `json:",omitzero"`
	Created    hidden `json:",omitzero"`
	LastUsed   hidden `json:",omitzero"`
}

const factorColumns = `id, subject, kind, credential, secret, version, created, last_used, data`

func factorRow(f mfa.Factor) ([]any, error) {
	data, err := text(factorData{Factor: f})
	var credential []byte // NULL
	if f.Credential != [sha256.Size]byte{} {
		credential = f.Credential[:]
	}
	secret := append([]byte{}, f.Data...) // empty is not NULL
	return []any{f.ID, f.Subject, string(f.Kind), credential, secret, f.Version, nanos(f.Created), nanos(f.LastUsed), data}, err
}

func scanFactor(sc scanner) (mfa.Factor, error) {
	var d factorData
	var credential []byte
	f := &d.Factor
	err := sc.Scan(&f.ID, &f.Subject, &f.Kind, &credential, &f.Data, &f.Version, instant{&f.Created}, instant{&f.LastUsed}, object{&d})
	if err != nil {
		return mfa.Factor{}, err
	}
	copy(f.Credential[:], credential)
	return d.Factor, nil
}

// PutFactor implements mfa.Store.
func (s *Store) PutFactor(ctx context.Context, f mfa.Factor) error {
	row, err := factorRow(f)
	if err != nil {
		return err
	}
	return s.insertOf(ctx, f.Subject, mfa.ErrNotFound, `INSERT INTO factors (`+factorColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9)`, row...)
}

// Factor implements mfa.Store.
func (s *Store) Factor(ctx context.Context, id string) (mfa.Factor, error) {
	f, err := scanFactor(s.db.Read.QueryRowContext(ctx, `SELECT `+factorColumns+` FROM factors WHERE id = $1`, id))
	return f, s.orMissing(err, mfa.ErrNotFound)
}

// FactorByCredential implements mfa.Store.
func (s *Store) FactorByCredential(ctx context.Context, hash [sha256.Size]byte) (mfa.Factor, error) {
	f, err := scanFactor(s.db.Read.QueryRowContext(ctx, `SELECT `+factorColumns+` FROM factors WHERE credential = $1`, hash[:]))
	return f, s.orMissing(err, mfa.ErrNotFound)
}

// Factors implements mfa.Store.
func (s *Store) Factors(ctx context.Context, subject string) ([]mfa.Factor, error) {
	return list(ctx, s.db.Read, scanFactor, `SELECT `+factorColumns+` FROM factors WHERE subject = $1 ORDER BY created, id`, subject)
}

// SwapFactor implements mfa.Store.
func (s *Store) SwapFactor(ctx context.Context, f mfa.Factor) (bool, error) {
	row, err := factorRow(f)
	if err != nil {
		return false, err
	}
	return s.hit(ctx, `UPDATE factors SET subject = $2, kind = $3, credential = $4, secret = $5, version = version + 1, created = $7, last_used = $8, data = $9
		WHERE id = $1 AND version = $6`, row...)
}

// DeleteFactor implements mfa.Store.
func (s *Store) DeleteFactor(ctx context.Context, subject, id string) (bool, error) {
	return s.hit(ctx, `DELETE FROM factors WHERE subject = $1 AND id = $2`, subject, id)
}

// DeleteFactors implements mfa.Store.
func (s *Store) DeleteFactors(ctx context.Context, subject string) error {
	return s.run(ctx, `DELETE FROM factors WHERE subject = $1`, subject)
}
