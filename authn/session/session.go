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
	"slices"
	"sync/atomic"
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

// MaxPerSubject is how many sessions one subject has at most.
const MaxPerSubject = 20

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
	// Sessions returns the subject's sessions, newest first.
	Sessions(ctx context.Context, subject string) ([]Session, error)
	// RekeySession replaces the row of s.SID by s, if its key is still old, and
	// reports whether it was. Of two at once, one wins.
	RekeySession(ctx context.Context, old Key, s Session) (bool, error)
	// UpstreamSessions returns the sessions that a login at an identity provider
	// opened: by the provider's sid if that is not "", else by its subject.
	UpstreamSessions(ctx context.Context, issuer, subject, sid string) ([]Session, error)
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

	// Ended is told the handles of sessions that MaxPerSubject ended, so that
	// what hangs on them can be revoked. May be nil.
	Ended func(ctx context.Context, sids []string) error
}

// Manager creates, resolves and ends sessions. Safe for concurrent use.
type Manager struct {
	opt    Options
	bounds atomic.Pointer[bounds]
}

// bounds of sessions in force.
type bounds struct{ idle, absolute time.Duration }

// SetBounds changes how long sessions may idle and live, 0 for the defaults. The
// first counts at once for all sessions; the second for those that begin from now on.
func (m *Manager) SetBounds(idle, absolute time.Duration) {
	if idle <= 0 {
		idle = 30 * time.Minute
	}
	if absolute <= 0 {
		absolute = 12 * time.Hour
	}
	m.bounds.Store(&bounds{idle, absolute})
}

// New returns a Manager. It panics without a store or with a short key, which
// is an error of the program.
func New(opt Options) *Manager {
	if opt.Store == nil || len(opt.Key) < sha256.Size {
		panic("session: a store and a 32-byte key are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	m := &Manager{opt: opt}
	m.SetBounds(opt.Idle, opt.Absolute)
	return m
}

// Login is what opens a session.
type Login struct {
	Subject  string // "user:NAME"
	IP       string
	Agent    string // User-Agent
	ACR      string // "aal1" or "aal2"
	AMR      []string
	Upstream Upstream  // zero: a local login
	Proved   time.Time // when the person proved who they are, if that was before; zero: at the login
}

// Create starts a session and returns the cookie's value, which exists nowhere
// else. When the subject has more than MaxPerSubject then, the oldest end.
func (m *Manager) Create(ctx context.Context, l Login) (string, Session, error) {
	return m.CreateAt(ctx, l, m.opt.Now())
}

// CreateAt is Create with the time of the login, for one that follows a cut-off
// of all the subject's credentials and must not fall under it.
func (m *Manager) CreateAt(ctx context.Context, l Login, at time.Time) (string, Session, error) {
	id, key := m.newID()
	s := Session{
		Key:      key,
		SID:      random(sidSize),
		Subject:  l.Subject,
		Created:  at,
		LastSeen: at,
		Expires:  at.Add(m.bounds.Load().absolute),
		IP:       cut(l.IP, maxIP),
		Agent:    cut(l.Agent, maxAgent),
		AuthTime: at,
		ACR:      l.ACR,
		AMR:      l.AMR,
		Upstream: l.Upstream,
	}
	if !l.Proved.IsZero() && l.Proved.Before(at) {
		s.AuthTime = l.Proved
	}
	if err := m.opt.Store.PutSession(ctx, s); err != nil {
		return "", Session{}, unavailable(err)
	}
	if err := m.trim(ctx, l.Subject); err != nil {
		return "", Session{}, err
	}
	return id, s, nil
}

// trim ends the oldest sessions of a subject that has too many. Each login
// trims after it has put its own, so that any number at once leaves no more.
func (m *Manager) trim(ctx context.Context, subject string) error {
	all, err := m.opt.Store.Sessions(ctx, subject)
	if err != nil {
		return unavailable(err)
	}
	if len(all) <= MaxPerSubject {
		return nil
	}
	ended, err := m.endEach(ctx, all[MaxPerSubject:])
	if err != nil || m.opt.Ended == nil || len(ended) == 0 {
		return err
	}
	return m.opt.Ended(ctx, ended)
}

// endEach ends sessions and returns the handles of those that were there.
func (m *Manager) endEach(ctx context.Context, list []Session) ([]string, error) {
	var ended []string
	for _, s := range list {
		ok, err := m.opt.Store.EndSession(ctx, s.SID)
		if err != nil {
			return ended, unavailable(err)
		}
		if ok {
			ended = append(ended, s.SID)
		}
	}
	return ended, nil
}

// Rekey gives the live session of id a new id, as every rise of its assurance
// must: whoever knew the old one, knows nothing now. raise may change AuthTime,
// ACR and AMR; all else stays, the handle included. The old id is dead when
// Rekey returns; of two calls at once, one is Unauthenticated.
func (m *Manager) Rekey(ctx context.Context, id string, raise func(*Session)) (string, Session, error) {
	old, err := m.Resolve(ctx, id)
	if err != nil {
		return "", Session{}, err
	}
	raised := old
	raise(&raised)
	s := old
	s.AuthTime, s.ACR, s.AMR = raised.AuthTime, raised.ACR, raised.AMR
	newID, key := m.newID()
	s.Key = key
	ok, err := m.opt.Store.RekeySession(ctx, old.Key, s)
	if err != nil {
		return "", Session{}, unavailable(err)
	}
	if !ok {
		return "", Session{}, refused()
	}
	return newID, s, nil
}

// List returns the subject's live sessions, newest first.
func (m *Manager) List(ctx context.Context, subject string) ([]Session, error) {
	all, err := m.opt.Store.Sessions(ctx, subject)
	if err != nil {
		return nil, unavailable(err)
	}
	now := m.opt.Now()
	return slices.DeleteFunc(all, func(s Session) bool { return !now.Before(m.Until(s)) }), nil
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
	if now.Sub(s.LastSeen) < min(touchEvery, m.bounds.Load().idle/4) {
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
	idle := s.LastSeen.Add(m.bounds.Load().idle)
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

// EndOthers deletes every session of subject but the one with this handle, and
// returns their handles. One that begins meanwhile may stay.
func (m *Manager) EndOthers(ctx context.Context, subject, keep string) ([]string, error) {
	all, err := m.opt.Store.Sessions(ctx, subject)
	if err != nil {
		return nil, unavailable(err)
	}
	return m.endEach(ctx, slices.DeleteFunc(all, func(s Session) bool { return s.SID == keep }))
}

// Sweep forgets sessions past their bounds. Resolve refuses them anyway.
func (m *Manager) Sweep(ctx context.Context) error {
	now := m.opt.Now()
	if err := m.opt.Store.SweepSessions(ctx, now, now.Add(-m.bounds.Load().idle)); err != nil {
		return unavailable(err)
	}
	return nil
}

// newID makes a cookie's value and its key.
func (m *Manager) newID() (string, Key) {
	id := random(idSize)
	return id, m.key(id)
}

// random returns n random bytes as text.
func random(n int) string {
	raw := make([]byte, n)
	rand.Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)
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
