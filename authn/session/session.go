// Package session keeps browser sessions: 256-bit random ids in a __Host-
// cookie, an idle and an absolute bound, and an end that is final.
//
// The store sees HMAC-SHA256 of the id alone, so that a copy of the database
// opens no session.
package session

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/rampart-security/rampart"
)

const control = "authn.session"

// Bounds of what a session remembers about its browser, in bytes.
const (
	maxIP    = 45
	maxAgent = 256
)

// idSize is the entropy of a session id in bytes; sidSize that of its handle.
const (
	idSize  = 32
	sidSize = 16
)

// touchEvery bounds how often last_seen is written: a store write on every
// request would make reading a page as dear as changing one.
const touchEvery = time.Minute

// Key is HMAC-SHA256 of a session id under the manager's key.
type Key [sha256.Size]byte

// Session is one login of one browser. It never holds the cookie's value.
type Session struct {
	Key      Key
	SID      string // handle for revocation and tokens; useless as a cookie
	Subject  string // "user:NAME"
	Created  time.Time
	LastSeen time.Time // at most a minute behind
	Expires  time.Time // absolute bound
	IP       string    // at login
	Agent    string    // User-Agent at login, cut to 256 bytes
	AuthTime time.Time // of the newest proof: the login, or a step-up since
	ACR      string    // "aal1" or "aal2"
	AMR      []string  // how: "pwd", "otp", "hwk", "fed" (RFC 8176)
	Upstream Upstream  // zero: a local login
}

// Upstream names the login at an identity provider that opened a session.
type Upstream struct {
	Issuer  string
	Subject string
	SID     string // "" when the provider says none
}

// ErrNotFound is what a Store answers for a key it does not hold.
var ErrNotFound = errors.New("session: not found")

// Store keeps sessions. Every method returns after the change is durable.
// Implementations are judged by sessiontest.Test.
type Store interface {
	// PutSession inserts s; a key or SID that exists is an error.
	PutSession(ctx context.Context, s Session) error
	// Session returns the session of key, or ErrNotFound.
	Session(ctx context.Context, key Key) (Session, error)
	// TouchSession moves LastSeen forward. A key that is gone stays gone.
	TouchSession(ctx context.Context, key Key, seen time.Time) error
	// EndSession deletes the session with this SID and reports whether it was there.
	EndSession(ctx context.Context, sid string) (bool, error)
	// EndSessions deletes the subject's sessions and returns their SIDs.
	EndSessions(ctx context.Context, subject string) ([]string, error)
	// SweepSessions deletes sessions with Expires or LastSeen before the bounds.
	SweepSessions(ctx context.Context, expires, seen time.Time) error
}

// Options configure a Manager. Store and Key are required.
type Options struct {
	Store    Store
	Key      []byte           // HMAC key, 32 bytes or more
	Idle     time.Duration    // 0: 30 minutes
	Absolute time.Duration    // 0: 12 hours
	Now      func() time.Time // nil: time.Now
}

// Manager creates, resolves and ends sessions. Safe for concurrent use.
type Manager struct {
	opt Options
}

// New returns a Manager. It panics without a store or with a short key, which
// is an error of the program.
func New(opt Options) *Manager {
	if opt.Store == nil || len(opt.Key) < sha256.Size {
		panic("session: a store and a 32-byte key are required")
	}
	if opt.Idle <= 0 {
		opt.Idle = 30 * time.Minute
	}
	if opt.Absolute <= 0 {
		opt.Absolute = 12 * time.Hour
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Manager{opt: opt}
}

// Create starts a session of subject and returns the cookie's value, which
// exists nowhere else.
func (m *Manager) Create(ctx context.Context, subject, ip, agent string) (string, Session, error) {
	raw := make([]byte, idSize+sidSize)
	rand.Read(raw)
	id := base64.RawURLEncoding.EncodeToString(raw[:idSize])
	now := m.opt.Now()
	s := Session{
		Key:      m.key(id),
		SID:      base64.RawURLEncoding.EncodeToString(raw[idSize:]),
		Subject:  subject,
		Created:  now,
		LastSeen: now,
		Expires:  now.Add(m.opt.Absolute),
		IP:       cut(ip, maxIP),
		Agent:    cut(agent, maxAgent),
	}
	if err := m.opt.Store.PutSession(ctx, s); err != nil {
		return "", Session{}, unavailable(err)
	}
	return id, s, nil
}

// Resolve returns the live session of a cookie's value. An unknown, idle or
// old one is Unauthenticated; a failing store is Unavailable, never nobody.
func (m *Manager) Resolve(ctx context.Context, id string) (Session, error) {
	if !wellFormed(id) {
		return Session{}, refused()
	}
	s, err := m.opt.Store.Session(ctx, m.key(id))
	if errors.Is(err, ErrNotFound) {
		return Session{}, refused()
	}
	if err != nil {
		return Session{}, unavailable(err)
	}
	now := m.opt.Now()
	if !now.Before(m.Until(s)) {
		return Session{}, refused()
	}
	if now.Sub(s.LastSeen) < min(touchEvery, m.opt.Idle/4) {
		return s, nil
	}
	if err := m.opt.Store.TouchSession(ctx, s.Key, now); err != nil {
		return Session{}, unavailable(err)
	}
	s.LastSeen = now
	return s, nil
}

// Until is when s ends if nothing happens: the earlier of its two bounds.
func (m *Manager) Until(s Session) time.Time {
	idle := s.LastSeen.Add(m.opt.Idle)
	if idle.Before(s.Expires) {
		return idle
	}
	return s.Expires
}

// End deletes the session with this handle and reports whether it was there.
func (m *Manager) End(ctx context.Context, sid string) (bool, error) {
	ok, err := m.opt.Store.EndSession(ctx, sid)
	if err != nil {
		return false, unavailable(err)
	}
	return ok, nil
}

// EndAll deletes every session of subject and returns their handles.
func (m *Manager) EndAll(ctx context.Context, subject string) ([]string, error) {
	sids, err := m.opt.Store.EndSessions(ctx, subject)
	if err != nil {
		return nil, unavailable(err)
	}
	return sids, nil
}

// Sweep forgets sessions past their bounds. Resolve refuses them anyway.
func (m *Manager) Sweep(ctx context.Context) error {
	now := m.opt.Now()
	if err := m.opt.Store.SweepSessions(ctx, now, now.Add(-m.opt.Idle)); err != nil {
		return unavailable(err)
	}
	return nil
}

func (m *Manager) key(id string) Key {
	mac := hmac.New(sha256.New, m.opt.Key)
	mac.Write([]byte(id))
	return Key(mac.Sum(nil))
}

// wellFormed spares the store a look-up for what cannot be an id.
func wellFormed(id string) bool {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(id)
	return err == nil && len(raw) == idSize
}

func refused() error {
	return rampart.Errorf(rampart.Unauthenticated, control, "session: not signed in")
}

func unavailable(err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "session: store not available", Err: fmt.Errorf("session: %w", err)}
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
