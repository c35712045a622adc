package relational

import (
	"context"
	"database/sql"
	"time"

	"github.com/rampart-security/rampart/authn/session"
)

// hidden takes, in the JSON of a struct that embeds another, the place of a
// field that has a column.
type hidden *struct{}

// sessionData is a session without what has columns.
type sessionData struct {
	session.Session
	Key      hidden `json:",omitzero"`
	SID      hidden `json:",omitzero"`
	Subject  hidden `json:",omitzero"`
	Created  hidden `json:",omitzero"`
	LastSeen hidden `json:",omitzero"`
	Expires  hidden `json:",omitzero"`
	Upstream hidden `json:",omitzero"`
}

const sessionColumns = `key, sid, subject, created, last_seen, expires, upstream_issuer, upstream_subject, upstream_sid, data`

func sessionRow(v session.Session) ([]any, error) {
	data, err := text(sessionData{Session: v})
	return []any{
		v.Key[:], v.SID, v.Subject, nanos(v.Created), nanos(v.LastSeen), nanos(v.Expires),
		orNull(v.Upstream.Issuer), orNull(v.Upstream.Subject), orNull(v.Upstream.SID), data,
	}, err
}

func scanSession(sc scanner) (session.Session, error) {
	var d sessionData
	var issuer, subject, sid sql.NullString
	v := &d.Session
	err := sc.Scan(digest{(*[32]byte)(&v.Key)}, &v.SID, &v.Subject, instant{&v.Created}, instant{&v.LastSeen}, instant{&v.Expires},
		&issuer, &subject, &sid, object{&d})
	v.Upstream = session.Upstream{Issuer: issuer.String, Subject: subject.String, SID: sid.String}
	return d.Session, err
}

// PutSession implements session.Store.
func (s *Store) PutSession(ctx context.Context, v session.Session) error {
	row, err := sessionRow(v)
	if err != nil {
		return err
	}
	return s.run(ctx, `INSERT INTO sessions (`+sessionColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)`, row...)
}

// Session implements session.Store.
func (s *Store) Session(ctx context.Context, key session.Key) (session.Session, error) {
	v, err := scanSession(s.db.Read.QueryRowContext(ctx, `SELECT `+sessionColumns+` FROM sessions WHERE key = $1`, key[:]))
	return v, s.orMissing(err, session.ErrNotFound)
}

// Sessions implements session.Store.
func (s *Store) Sessions(ctx context.Context, subject string) ([]session.Session, error) {
	return list(ctx, s.db.Read, scanSession, `SELECT `+sessionColumns+` FROM sessions WHERE subject = $1 ORDER BY created DESC, sid`, subject)
}

// UpstreamSessions implements session.Store.
func (s *Store) UpstreamSessions(ctx context.Context, issuer, subject, sid string) ([]session.Session, error) {
	column, id := "upstream_sid", sid
	if sid == "" {
		column, id = "upstream_subject", subject
	}
	return list(ctx, s.db.Read, scanSession, `SELECT `+sessionColumns+` FROM sessions WHERE upstream_issuer = $1 AND `+column+` = $2 ORDER BY created DESC, sid`, issuer, id)
}

// RekeySession implements session.Store.
func (s *Store) RekeySession(ctx context.Context, old session.Key, v session.Session) (bool, error) {
	row, err := sessionRow(v)
	if err != nil {
		return false, err
	}
	return s.hit(ctx, `UPDATE sessions SET key = $1, subject = $3, created = $4, last_seen = $5, expires = $6,
		upstream_issuer = $7, upstream_subject = $8, upstream_sid = $9, data = $10 WHERE sid = $2 AND key = $11`, append(row, old[:])...)
}

// TouchSession implements session.Store.
func (s *Store) TouchSession(ctx context.Context, key session.Key, seen time.Time) error {
	return s.run(ctx, `UPDATE sessions SET last_seen = $1 WHERE key = $2 AND last_seen < $1`, nanos(seen), key[:])
}

// EndSession implements session.Store.
func (s *Store) EndSession(ctx context.Context, sid string) (bool, error) {
	return s.hit(ctx, `DELETE FROM sessions WHERE sid = $1`, sid)
}

// EndSessions implements session.Store.
func (s *Store) EndSessions(ctx context.Context, subject string) ([]string, error) {
	return list(ctx, s.db.Write, scanText, `DELETE FROM sessions WHERE subject = $1 RETURNING sid`, subject)
}

// SweepSessions implements session.Store.
func (s *Store) SweepSessions(ctx context.Context, expires, seen time.Time) error {
	return s.run(ctx, `DELETE FROM sessions WHERE expires < $1 OR last_seen < $2`, nanos(expires), nanos(seen))
}
