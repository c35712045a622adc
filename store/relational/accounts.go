package relational

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"strings"
	"time"

	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/token"
)

// userData is an account without what has columns.
type userData struct {
	store.User
	Facts   hidden `json:",omitzero"`
	Name    hidden `json:",omitzero"`
	Hash    hidden `json:",omitzero"`
	Changed hidden `json:",omitzero"`
	Version hidden `json:",omitzero"`
}

const userColumns = `name, hash, facts, changed, version, data`

func userRow(u store.User) ([]any, error) {
	facts, err := text(u.Facts)
	if err != nil {
		return nil, err
	}
	data, err := text(userData{User: u})
	return []any{u.Name, u.Hash, facts, nanos(u.Changed), u.Version, data}, err
}

func scanUser(sc scanner) (store.User, error) {
	var d userData
	err := sc.Scan(&d.User.Name, &d.User.Hash, object{&d.User.Facts}, instant{&d.User.Changed}, &d.User.Version, object{&d})
	if err != nil {
		return store.User{}, err
	}
	return d.User, nil
}

// CreateUser implements store.Accounts.
func (s *Store) CreateUser(ctx context.Context, u store.User) error {
	u.Version = firstVersion()
	row, err := userRow(u)
	if err != nil {
		return err
	}
	return s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO users (`+userColumns+`) VALUES ($1,$2,$3,$4,$5,$6)`, row...); err != nil {
			return err
		}
		return dropOf(ctx, tx, subjectOf(u.Name), "factors", "links")
	})
}

// firstVersion is where a new account begins to count: anywhere, so that who
// has read an earlier account of its name changes nothing about this one.
func firstVersion() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:])>>2) + 1
}

// SwapUser implements store.Accounts.
func (s *Store) SwapUser(ctx context.Context, u store.User) (bool, error) {
	row, err := userRow(u)
	if err != nil {
		return false, err
	}
	return s.hit(ctx, `UPDATE users SET hash = $2, facts = $3, changed = $4, version = version + 1, data = $6 WHERE name = $1 AND version = $5`, row...)
}

// subjectOf is what an account's rows elsewhere call it.
func subjectOf(name string) string { return "user:" + name }

// insertOf inserts a row of a subject's while its account is there, or answers
// with missing. It locks the account's row: who deletes it comes before, and
// then there is no row, or after, and then deletes this one too.
func (s *Store) insertOf(ctx context.Context, subject string, missing error, query string, args ...any) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		n, err := s.change(ctx, tx, `UPDATE users SET version = version WHERE name = $1`, strings.TrimPrefix(subject, subjectOf("")))
		if err == nil && n == 0 {
			return missing
		}
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, query, args...)
		return err
	})
}

// dropOf deletes a subject's rows from tables.
func dropOf(ctx context.Context, tx *sql.Tx, subject string, tables ...string) error {
	for _, table := range tables {
		if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE subject = $1`, subject); err != nil {
			return err
		}
	}
	return nil
}

// User implements store.Accounts.
func (s *Store) User(ctx context.Context, name string) (store.User, error) {
	u, err := scanUser(s.db.Read.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE name = $1`, name))
	return u, s.orMissing(err, store.ErrNotFound)
}

// Users implements store.Accounts.
func (s *Store) Users(ctx context.Context) ([]store.User, error) {
	return list(ctx, s.db.Read, scanUser, `SELECT `+userColumns+` FROM users ORDER BY name`)
}

// DeleteUser implements store.Accounts.
func (s *Store) DeleteUser(ctx context.Context, name string) (found bool, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		n, err := s.change(ctx, tx, `DELETE FROM users WHERE name = $1`, name)
		found = n > 0
		if err != nil || !found {
			return err
		}
		return dropOf(ctx, tx, subjectOf(name), "factors", "links", "sessions", "codes", "refresh_tokens")
	})
	return found, s.orMissing(err, nil)
}

const linkColumns = `issuer, upstream, subject, created, last_login`

// PutLink implements store.Links.
func (s *Store) PutLink(ctx context.Context, l store.Link) error {
	return s.insertOf(ctx, l.Subject, store.ErrNotFound, `INSERT INTO links (`+linkColumns+`) VALUES ($1,$2,$3,$4,$5)`,
		l.Issuer, l.Upstream, l.Subject, nanos(l.Created), nanos(l.LastLogin))
}

// Link implements store.Links.
func (s *Store) Link(ctx context.Context, issuer, upstream string) (store.Link, error) {
	l, err := scanLink(s.db.Read.QueryRowContext(ctx, `SELECT `+linkColumns+` FROM links WHERE issuer = $1 AND upstream = $2`, issuer, upstream))
	return l, s.orMissing(err, store.ErrNotFound)
}

// Links implements store.Links.
func (s *Store) Links(ctx context.Context, subject string) ([]store.Link, error) {
	return list(ctx, s.db.Read, scanLink, `SELECT `+linkColumns+` FROM links WHERE subject = $1 ORDER BY created, issuer, upstream`, subject)
}

// TouchLink implements store.Links.
func (s *Store) TouchLink(ctx context.Context, issuer, upstream string, at time.Time) error {
	return s.run(ctx, `UPDATE links SET last_login = $1 WHERE issuer = $2 AND upstream = $3 AND last_login < $1`, nanos(at), issuer, upstream)
}

// DeleteLink implements store.Links.
func (s *Store) DeleteLink(ctx context.Context, issuer, upstream string) (bool, error) {
	return s.hit(ctx, `DELETE FROM links WHERE issuer = $1 AND upstream = $2`, issuer, upstream)
}

func scanLink(sc scanner) (store.Link, error) {
	var l store.Link
	err := sc.Scan(&l.Issuer, &l.Upstream, &l.Subject, instant{&l.Created}, instant{&l.LastLogin})
	return l, err
}

// clientData is a client without what has columns.
type clientData struct {
	token.Client
	ID        hidden `json:",omitzero"`
	Principal hidden `json:",omitzero"`
}

// PutClient implements store.Accounts.
func (s *Store) PutClient(ctx context.Context, c token.Client) error {
	data, err := text(clientData{Client: c})
	if err != nil {
		return err
	}
	return s.run(ctx, `INSERT INTO clients (id, principal, data) VALUES ($1,$2,$3)
		ON CONFLICT (id) DO UPDATE SET principal = excluded.principal, data = excluded.data`, c.ID, c.Principal, data)
}

// Client implements token.Store.
func (s *Store) Client(ctx context.Context, id string) (token.Client, error) {
	c, err := scanClient(s.db.Read.QueryRowContext(ctx, `SELECT id, principal, data FROM clients WHERE id = $1`, id))
	return c, s.orMissing(err, token.ErrNotFound)
}

// Clients implements store.Accounts.
func (s *Store) Clients(ctx context.Context) ([]token.Client, error) {
	return list(ctx, s.db.Read, scanClient, `SELECT id, principal, data FROM clients ORDER BY id`)
}

func scanClient(sc scanner) (token.Client, error) {
	var d clientData
	if err := sc.Scan(&d.Client.ID, &d.Client.Principal, object{&d}); err != nil {
		return token.Client{}, err
	}
	return d.Client, nil
}

// DeleteClient implements store.Accounts. Keys, codes and families go with
// their client by their foreign keys.
func (s *Store) DeleteClient(ctx context.Context, id string) (bool, error) {
	return s.hit(ctx, `DELETE FROM clients WHERE id = $1`, id)
}

// keyData is an API key without what has columns.
type keyData struct {
	apikey.Key
	ID       hidden `json:",omitzero"`
	Hash     hidden `json:",omitzero"`
	Client   hidden `json:",omitzero"`
	Disabled hidden `json:",omitzero"`
	Created  hidden `json:",omitzero"`
	LastUsed hidden `json:",omitzero"`
}

const keyColumns = `id, hash, client, disabled, created, last_used, data`

// PutAPIKey implements apikey.Store.
func (s *Store) PutAPIKey(ctx context.Context, k apikey.Key) error {
	data, err := text(keyData{Key: k})
	if err != nil {
		return err
	}
	return s.run(ctx, `INSERT INTO api_keys (`+keyColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7)`,
		k.ID, k.Hash[:], k.Client, k.Disabled, nanos(k.Created), nanos(k.LastUsed), data)
}

// APIKey implements apikey.Store.
func (s *Store) APIKey(ctx context.Context, id string) (apikey.Key, error) {
	k, err := scanKey(s.db.Read.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM api_keys WHERE id = $1`, id))
	return k, s.orMissing(err, apikey.ErrNotFound)
}

// APIKeys implements apikey.Store.
func (s *Store) APIKeys(ctx context.Context, client string) ([]apikey.Key, error) {
	return list(ctx, s.db.Read, scanKey, `SELECT `+keyColumns+` FROM api_keys WHERE client = $1 ORDER BY created DESC, id`, client)
}

func scanKey(sc scanner) (apikey.Key, error) {
	var d keyData
	k := &d.Key
	if err := sc.Scan(&k.ID, digest{&k.Hash}, &k.Client, &k.Disabled, instant{&k.Created}, instant{&k.LastUsed}, object{&d}); err != nil {
		return apikey.Key{}, err
	}
	return d.Key, nil
}

// TouchAPIKey implements apikey.Store.
func (s *Store) TouchAPIKey(ctx context.Context, id string, at time.Time) error {
	return s.run(ctx, `UPDATE api_keys SET last_used = $1 WHERE id = $2 AND last_used < $1`, nanos(at), id)
}

// DisableAPIKey implements apikey.Store.
func (s *Store) DisableAPIKey(ctx context.Context, id string) (bool, error) {
	return s.hit(ctx, `UPDATE api_keys SET disabled = TRUE WHERE id = $1`, id)
}

// ExpireAPIKey implements apikey.Store. The first statement takes the row's
// lock, so that of two at once the later reads what the earlier wrote.
func (s *Store) ExpireAPIKey(ctx context.Context, id string, at time.Time) (found bool, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		n, err := s.change(ctx, tx, `UPDATE api_keys SET created = created WHERE id = $1`, id)
		if found = n > 0; err != nil || !found {
			return err
		}
		k, err := scanKey(tx.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM api_keys WHERE id = $1`, id))
		if err != nil || !k.Expires.IsZero() && k.Expires.Before(at) {
			return err
		}
		k.Expires = at
		data, err := text(keyData{Key: k})
		if err != nil {
			return err
		}
		_, err = s.change(ctx, tx, `UPDATE api_keys SET data = $1 WHERE id = $2`, data, id)
		return err
	})
	return found, err
}

// DisableAPIKeys implements apikey.Store.
func (s *Store) DisableAPIKeys(ctx context.Context, client string) error {
	return s.run(ctx, `UPDATE api_keys SET disabled = TRUE WHERE client = $1`, client)
}
