package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/token"
)

// PutSession implements session.Store.
func (s *Store) PutSession(ctx context.Context, v session.Session) error {
	return s.insert(ctx, `INSERT INTO sessions (key, sid, subject, created, last_seen, expires, ip, agent) VALUES (?,?,?,?,?,?,?,?)`,
		v.Key[:], v.SID, v.Subject, nanos(v.Created), nanos(v.LastSeen), nanos(v.Expires), v.IP, v.Agent)
}

// Session implements session.Store.
func (s *Store) Session(ctx context.Context, key session.Key) (session.Session, error) {
	v := session.Session{Key: key}
	err := s.r.QueryRowContext(ctx, `SELECT sid, subject, created, last_seen, expires, ip, agent FROM sessions WHERE key = ?`, key[:]).
		Scan(&v.SID, &v.Subject, instant{&v.Created}, instant{&v.LastSeen}, instant{&v.Expires}, &v.IP, &v.Agent)
	return v, orMissing(err, session.ErrNotFound)
}

// TouchSession implements session.Store.
func (s *Store) TouchSession(ctx context.Context, key session.Key, seen time.Time) error {
	_, err := s.exec(ctx, `UPDATE sessions SET last_seen = max(last_seen, ?) WHERE key = ?`, nanos(seen), key[:])
	return err
}

// EndSession implements session.Store.
func (s *Store) EndSession(ctx context.Context, sid string) (bool, error) {
	n, err := s.exec(ctx, `DELETE FROM sessions WHERE sid = ?`, sid)
	return n > 0, err
}

// EndSessions implements session.Store.
func (s *Store) EndSessions(ctx context.Context, subject string) ([]string, error) {
	rows, err := s.w.QueryContext(ctx, `DELETE FROM sessions WHERE subject = ? RETURNING sid`, subject)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanText)
}

// SweepSessions implements session.Store.
func (s *Store) SweepSessions(ctx context.Context, expires, seen time.Time) error {
	_, err := s.exec(ctx, `DELETE FROM sessions WHERE expires < ? OR last_seen < ?`, nanos(expires), nanos(seen))
	return err
}

// PutAPIKey implements apikey.Store.
func (s *Store) PutAPIKey(ctx context.Context, k apikey.Key) error {
	return s.insert(ctx, `INSERT INTO api_keys (id, hash, client, disabled, created) VALUES (?,?,?,?,?)`,
		k.ID, k.Hash[:], k.Client, k.Disabled, nanos(k.Created))
}

// APIKey implements apikey.Store.
func (s *Store) APIKey(ctx context.Context, id string) (apikey.Key, error) {
	k := apikey.Key{ID: id}
	err := s.r.QueryRowContext(ctx, `SELECT hash, client, disabled, created FROM api_keys WHERE id = ?`, id).
		Scan(digest{&k.Hash}, &k.Client, &k.Disabled, instant{&k.Created})
	return k, orMissing(err, apikey.ErrNotFound)
}

// DisableAPIKey implements apikey.Store.
func (s *Store) DisableAPIKey(ctx context.Context, id string) (bool, error) {
	n, err := s.exec(ctx, `UPDATE api_keys SET disabled = 1 WHERE id = ?`, id)
	return n > 0, err
}

// DisableAPIKeys implements apikey.Store.
func (s *Store) DisableAPIKeys(ctx context.Context, client string) error {
	_, err := s.exec(ctx, `UPDATE api_keys SET disabled = 1 WHERE client = ?`, client)
	return err
}

// PutUser implements store.Accounts.
func (s *Store) PutUser(ctx context.Context, u store.User) error {
	facts, err := json.Marshal(u.Facts)
	if err != nil {
		return err
	}
	return s.insert(ctx, `INSERT INTO users (name, hash, facts, tag, changed) VALUES (?,?,?,?,?)
		ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, facts = excluded.facts, tag = excluded.tag, changed = excluded.changed`,
		u.Name, u.Hash, string(facts), u.Tag, nanos(u.Changed))
}

const userColumns = `SELECT name, hash, facts, tag, changed FROM users`

// User implements store.Accounts.
func (s *Store) User(ctx context.Context, name string) (store.User, error) {
	u, err := scanUser(s.r.QueryRowContext(ctx, userColumns+` WHERE name = ?`, name))
	return u, orMissing(err, store.ErrNotFound)
}

// Users implements store.Accounts.
func (s *Store) Users(ctx context.Context) ([]store.User, error) {
	rows, err := s.r.QueryContext(ctx, userColumns+` ORDER BY name`)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanUser)
}

func scanUser(sc scanner) (store.User, error) {
	var u store.User
	var facts string
	if err := sc.Scan(&u.Name, &u.Hash, &facts, &u.Tag, instant{&u.Changed}); err != nil {
		return store.User{}, err
	}
	if err := json.Unmarshal([]byte(facts), &u.Facts); err != nil {
		return store.User{}, fmt.Errorf("sqlite: facts of user %q: %w", u.Name, err)
	}
	return u, nil
}

// PutLogin implements store.Logins.
func (s *Store) PutLogin(ctx context.Context, name, address string, at time.Time) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO logins (name, address, seen) VALUES (?,?,?)
			ON CONFLICT (name, address) DO UPDATE SET seen = max(seen, excluded.seen)`, name, address, nanos(at))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM logins WHERE name = ?1 AND address NOT IN
			(SELECT address FROM logins WHERE name = ?1 ORDER BY seen DESC, address LIMIT ?2)`, name, store.MaxLogins)
		return err
	})
}

// LoggedIn implements store.Logins.
func (s *Store) LoggedIn(ctx context.Context, name, address string, since time.Time) (bool, error) {
	var found bool
	err := s.r.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM logins WHERE name = ? AND address = ? AND seen >= ?)`, name, address, nanos(since)).Scan(&found)
	return found, err
}

// SweepLogins implements store.Logins.
func (s *Store) SweepLogins(ctx context.Context, before time.Time) error {
	_, err := s.exec(ctx, `DELETE FROM logins WHERE seen < ?`, nanos(before))
	return err
}

// PutClient implements store.Accounts.
func (s *Store) PutClient(ctx context.Context, c token.Client) error {
	redirects, err := json.Marshal(append([]string{}, c.Redirects...)) // null is no array
	if err != nil {
		return err
	}
	return s.insert(ctx, `INSERT INTO clients (id, principal, redirects, tag) VALUES (?,?,?,?)
		ON CONFLICT (id) DO UPDATE SET principal = excluded.principal, redirects = excluded.redirects, tag = excluded.tag`,
		c.ID, c.Principal, string(redirects), c.Tag)
}

// Client implements token.Store.
func (s *Store) Client(ctx context.Context, id string) (token.Client, error) {
	c := token.Client{ID: id}
	var redirects string
	err := s.r.QueryRowContext(ctx, `SELECT principal, redirects, tag FROM clients WHERE id = ?`, id).Scan(&c.Principal, &redirects, &c.Tag)
	if err != nil {
		return token.Client{}, orMissing(err, token.ErrNotFound)
	}
	if err := json.Unmarshal([]byte(redirects), &c.Redirects); err != nil {
		return token.Client{}, fmt.Errorf("sqlite: redirects of client %q: %w", id, err)
	}
	return c, nil
}

// PutJoinToken implements store.JoinTokens.
func (s *Store) PutJoinToken(ctx context.Context, hash [32]byte, identity string, expires time.Time) error {
	return s.insert(ctx, `INSERT INTO join_tokens (hash, identity, expires) VALUES (?,?,?)`, hash[:], identity, nanos(expires))
}

// UseJoinToken implements store.JoinTokens. It also forgets tokens that
// expired a day ago, so that the table stays small without a task of its own.
func (s *Store) UseJoinToken(ctx context.Context, hash [32]byte, now time.Time) (string, error) {
	var identity string
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM join_tokens WHERE expires < ?`, nanos(now.Add(-24*time.Hour))); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `UPDATE join_tokens SET used = ?1 WHERE hash = ?2 AND used IS NULL AND expires > ?1 RETURNING identity`,
			nanos(now), hash[:]).Scan(&identity)
	})
	return identity, orMissing(err, store.ErrNotFound)
}
