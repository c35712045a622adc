package valkey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/store"
)

// sweepBatch is how many sessions one script forgets: others wait meanwhile.
const sweepBatch = 500

// data is a session as JSON, without what has a field of its own.
type data struct {
	session.Session
	Key      *struct{} `json:",omitzero"`
	LastSeen *struct{} `json:",omitzero"`
}

// ofSubject names the index of a subject's sessions, by a hash: a subject may
// have any form and length.
func ofSubject(subject string) string { return "u:" + digest(subject) }

// ofLogin names the index of the sessions of one account at a provider, or of
// one login there.
func ofLogin(kind, issuer, id string) string { return "o:" + digest(kind, issuer, id) }

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func name(key session.Key) string { return hex.EncodeToString(key[:]) }

// row are the arguments of the scripts' put.
func row(v session.Session) ([]any, error) {
	text, err := json.Marshal(data{Session: v})
	if err != nil {
		return nil, err
	}
	// What has expired already is kept for a moment as well.
	args := []any{name(v.Key), v.SID, text, stamp(v.LastSeen), forget(v.Expires), ofSubject(v.Subject)}
	if up := v.Upstream; up.Issuer != "" {
		args = append(args, ofLogin("sub", up.Issuer, up.Subject))
		if up.SID != "" {
			args = append(args, ofLogin("sid", up.Issuer, up.SID))
		}
	}
	return args, nil
}

// PutSession implements session.Store.
func (s *Store) PutSession(ctx context.Context, v session.Session) error {
	args, err := row(v)
	if err != nil {
		return err
	}
	n, err := s.count(ctx, s.run.putSession, nil, append([]any{s.prefix}, args...)...)
	if err == nil && n == 0 {
		return store.ErrExists
	}
	return err
}

// Session implements session.Store.
func (s *Store) Session(ctx context.Context, key session.Key) (session.Session, error) {
	v, err := s.script(ctx, s.run.session, nil, s.prefix, name(key))
	if err != nil {
		return session.Session{}, err
	}
	if v == nil {
		return session.Session{}, session.ErrNotFound
	}
	return read(v)
}

// read decodes what the scripts' read returns.
func read(v any) (session.Session, error) {
	fields, _ := v.([]any)
	var text [3]string
	for i, f := range fields[:min(len(fields), len(text))] {
		text[i], _ = f.(string)
	}
	key, errKey := hex.DecodeString(text[0])
	seen, errSeen := strconv.ParseInt(text[2], 10, 64)
	var d data
	if err := cmp.Or(errKey, errSeen, json.Unmarshal([]byte(text[1]), &d)); err != nil {
		return session.Session{}, unavailable(err)
	}
	if len(key) != len(d.Session.Key) {
		return session.Session{}, unavailable(fmt.Errorf("a key has %d bytes", len(key)))
	}
	d.Session.Key, d.Session.LastSeen = session.Key(key), time.Unix(0, seen).UTC()
	return d.Session, nil
}

// Sessions implements session.Store.
func (s *Store) Sessions(ctx context.Context, subject string) ([]session.Session, error) {
	return s.indexed(ctx, ofSubject(subject))
}

// UpstreamSessions implements session.Store.
func (s *Store) UpstreamSessions(ctx context.Context, issuer, subject, sid string) ([]session.Session, error) {
	if sid == "" {
		return s.indexed(ctx, ofLogin("sub", issuer, subject))
	}
	return s.indexed(ctx, ofLogin("sid", issuer, sid))
}

// indexed returns the sessions that an index names, newest first.
func (s *Store) indexed(ctx context.Context, index string) ([]session.Session, error) {
	v, err := s.script(ctx, s.run.sessions, nil, s.prefix, index)
	if err != nil {
		return nil, err
	}
	rows, _ := v.([]any)
	var out []session.Session
	for _, r := range rows {
		one, err := read(r)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b session.Session) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.SID, b.SID))
	})
	return out, nil
}

// RekeySession implements session.Store.
func (s *Store) RekeySession(ctx context.Context, old session.Key, v session.Session) (bool, error) {
	args, err := row(v)
	if err != nil {
		return false, err
	}
	n, err := s.count(ctx, s.run.rekey, nil, append([]any{s.prefix, name(old)}, args...)...)
	if err == nil && n < 0 {
		return false, store.ErrExists
	}
	return n == 1, err
}

// TouchSession implements session.Store.
func (s *Store) TouchSession(ctx context.Context, key session.Key, seen time.Time) error {
	_, err := s.script(ctx, s.run.touch, nil, s.prefix, name(key), stamp(seen))
	return err
}

// EndSession implements session.Store.
func (s *Store) EndSession(ctx context.Context, sid string) (bool, error) {
	n, err := s.count(ctx, s.run.end, nil, s.prefix, sid)
	return n == 1, err
}

// EndSessions implements session.Store.
func (s *Store) EndSessions(ctx context.Context, subject string) ([]string, error) {
	v, err := s.script(ctx, s.run.endAll, nil, s.prefix, ofSubject(subject))
	if err != nil {
		return nil, err
	}
	list, _ := v.([]any)
	var ended []string
	for _, sid := range list {
		text, _ := sid.(string)
		ended = append(ended, text)
	}
	return ended, nil
}

// SweepSessions implements session.Store. Those past their absolute bound the
// server forgets by itself.
func (s *Store) SweepSessions(ctx context.Context, _, seen time.Time) error {
	for {
		n, err := s.count(ctx, s.run.sweep, nil, s.prefix, stamp(seen), sweepBatch)
		if err != nil || n < sweepBatch {
			return err
		}
	}
}
