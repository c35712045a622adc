package memory

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/store"
)

// sessions is a table with its indexes.
type sessions struct {
	mu        sync.RWMutex // guards the fields below
	byKey     map[session.Key]*row
	bySID     map[string]*row
	bySubject map[string][]*row
	byLogin   map[login][]*row // federated ones alone
}

// login names an account at an identity provider by its subject, or one login
// there by its sid.
type login struct{ issuer, subject, sid string }

// row is a session in less room: a time is a number, and texts that many
// sessions share are kept once.
type row struct {
	key                          session.Key
	sid, subject                 string
	created, seen, expires, auth int64
	agent, ip, acr, amr          unique.Handle[string]
	upstream                     *session.Upstream // nil: a local login
}

func newSessions() sessions {
	return sessions{
		byKey:     map[session.Key]*row{},
		bySID:     map[string]*row{},
		bySubject: map[string][]*row{},
		byLogin:   map[login][]*row{},
	}
}

func rowOf(v session.Session) *row {
	r := &row{
		key: v.Key, sid: v.SID, subject: v.Subject,
		created: nanos(v.Created), seen: nanos(v.LastSeen), expires: nanos(v.Expires), auth: nanos(v.AuthTime),
		agent: unique.Make(v.Agent), ip: unique.Make(v.IP), acr: unique.Make(v.ACR), amr: unique.Make(strings.Join(v.AMR, " ")),
	}
	if v.Upstream != (session.Upstream{}) {
		r.upstream = &v.Upstream
	}
	return r
}

func (r *row) session() session.Session {
	v := session.Session{
		Key: r.key, SID: r.sid, Subject: r.subject,
		Created: instant(r.created), LastSeen: instant(r.seen), Expires: instant(r.expires), AuthTime: instant(r.auth),
		Agent: r.agent.Value(), IP: r.ip.Value(), ACR: r.acr.Value(),
	}
	if amr := r.amr.Value(); amr != "" {
		v.AMR = strings.Split(amr, " ") // their names have no spaces (RFC 8176)
	}
	if r.upstream != nil {
		v.Upstream = *r.upstream
	}
	return v
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func instant(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func (t *sessions) addLocked(r *row) {
	t.byKey[r.key], t.bySID[r.sid] = r, r
	t.bySubject[r.subject] = append(t.bySubject[r.subject], r)
	for _, at := range r.logins() {
		t.byLogin[at] = append(t.byLogin[at], r)
	}
}

// logins are the names that a session is found by.
func (r *row) logins() []login {
	if r.upstream == nil {
		return nil
	}
	names := []login{{issuer: r.upstream.Issuer, subject: r.upstream.Subject}}
	if r.upstream.SID != "" {
		names = append(names, login{issuer: r.upstream.Issuer, sid: r.upstream.SID})
	}
	return names
}

func (t *sessions) dropLocked(r *row) {
	delete(t.byKey, r.key)
	delete(t.bySID, r.sid)
	without(t.bySubject, r.subject, r)
	for _, at := range r.logins() {
		without(t.byLogin, at, r)
	}
}

func without[K comparable](index map[K][]*row, key K, r *row) {
	left := slices.DeleteFunc(index[key], func(other *row) bool { return other == r })
	if len(left) == 0 {
		delete(index, key)
		return
	}
	index[key] = left
}

// PutSession implements session.Store.
func (s *Store) PutSession(_ context.Context, v session.Session) error {
	t := &s.sessions
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey[v.Key] != nil || t.bySID[v.SID] != nil {
		return store.ErrExists
	}
	if len(t.byKey) >= maxSessions {
		return full("sessions")
	}
	t.addLocked(rowOf(v))
	return nil
}

// Session implements session.Store.
func (s *Store) Session(_ context.Context, key session.Key) (session.Session, error) {
	t := &s.sessions
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.byKey[key]
	if r == nil {
		return session.Session{}, session.ErrNotFound
	}
	return r.session(), nil
}

// Sessions implements session.Store.
func (s *Store) Sessions(_ context.Context, subject string) ([]session.Session, error) {
	t := &s.sessions
	t.mu.RLock()
	defer t.mu.RUnlock()
	return newestFirst(t.bySubject[subject]), nil
}

// UpstreamSessions implements session.Store.
func (s *Store) UpstreamSessions(_ context.Context, issuer, subject, sid string) ([]session.Session, error) {
	t := &s.sessions
	t.mu.RLock()
	defer t.mu.RUnlock()
	at := login{issuer: issuer, sid: sid}
	if sid == "" {
		at.subject = subject
	}
	return newestFirst(t.byLogin[at]), nil
}

func newestFirst(rows []*row) []session.Session {
	var out []session.Session
	for _, r := range rows {
		out = append(out, r.session())
	}
	slices.SortFunc(out, func(a, b session.Session) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.SID, b.SID))
	})
	return out
}

// RekeySession implements session.Store.
func (s *Store) RekeySession(_ context.Context, old session.Key, v session.Session) (bool, error) {
	t := &s.sessions
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.byKey[old]
	if r == nil || r.sid != v.SID {
		return false, nil
	}
	if t.byKey[v.Key] != nil {
		return false, store.ErrExists
	}
	t.dropLocked(r)
	t.addLocked(rowOf(v))
	return true, nil
}

// TouchSession implements session.Store.
func (s *Store) TouchSession(_ context.Context, key session.Key, seen time.Time) error {
	t := &s.sessions
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.byKey[key]; r != nil {
		r.seen = max(r.seen, nanos(seen))
	}
	return nil
}

// EndSession implements session.Store.
func (s *Store) EndSession(_ context.Context, sid string) (bool, error) {
	t := &s.sessions
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.bySID[sid]
	if r == nil {
		return false, nil
	}
	t.dropLocked(r)
	return true, nil
}

// EndSessions implements session.Store.
func (s *Store) EndSessions(_ context.Context, subject string) ([]string, error) {
	t := &s.sessions
	t.mu.Lock()
	defer t.mu.Unlock()
	var ended []string
	for _, r := range slices.Clone(t.bySubject[subject]) {
		t.dropLocked(r)
		ended = append(ended, r.sid)
	}
	return ended, nil
}

// SweepSessions implements session.Store.
func (s *Store) SweepSessions(_ context.Context, expires, seen time.Time) error {
	t := &s.sessions
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.byKey {
		if r.expires < nanos(expires) || r.seen < nanos(seen) {
			t.dropLocked(r)
		}
	}
	return nil
}
