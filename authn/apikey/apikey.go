// Package apikey makes and checks API keys of the form
//
//	rk_ID_SECRET
//
// where ID is public, and SECRET is 256 random bits in base 62 followed by a
// checksum, so that secret scanners find a leaked key without false alarms and
// a mistyped one costs no look-up.
//
// The store sees HMAC-SHA256 of the secret alone. A client has two live keys at
// most: one in use and one to change over to.
package apikey

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
)

const control = "authn.api_key"

const (
	prefix   = "rk_"
	idLen    = 16 // hex digits
	valueLen = 43 // base-62 digits of 256 bits
	sumLen   = 6  // base-62 digits of a CRC-32
)

const (
	maxLive    = 2
	maxOverlap = 90 * 24 * time.Hour
	touchEvery = time.Minute
)

// Key is what the store knows of an API key.
type Key struct {
	ID       string
	Hash     [sha256.Size]byte // HMAC-SHA256 of the secret, bound to the ID
	Client   string
	Label    string   // chosen by whoever made it
	Scopes   []string // permissions; nil: all that the client has
	IPs      []string // CIDR prefixes it may be used from; nil: anywhere
	Disabled bool
	Created  time.Time
	Expires  time.Time // zero: never
	LastUsed time.Time // at most a minute behind; zero: never
}

// ErrNotFound is what a Store answers for an id it does not hold.
var ErrNotFound = errors.New("apikey: not found")

// Store keeps API keys. Every method returns after the change is durable.
// Implementations are judged by apikeytest.Test.
type Store interface {
	// PutAPIKey inserts k; an id that exists is an error.
	PutAPIKey(ctx context.Context, k Key) error
	// APIKey returns the key with this id, or ErrNotFound.
	APIKey(ctx context.Context, id string) (Key, error)
	// APIKeys returns a client's keys, newest first.
	APIKeys(ctx context.Context, client string) ([]Key, error)
	// TouchAPIKey moves LastUsed forward. A key that is gone stays gone.
	TouchAPIKey(ctx context.Context, id string, at time.Time) error
	// DisableAPIKey disables one key and reports whether it was there.
	DisableAPIKey(ctx context.Context, id string) (bool, error)
	// ExpireAPIKey ends one key at the given time, unless it ends before, and
	// reports whether it was there.
	ExpireAPIKey(ctx context.Context, id string, at time.Time) (bool, error)
	// DisableAPIKeys disables every key of a client.
	DisableAPIKeys(ctx context.Context, client string) error
}

// Options configure a Manager. Store and Key are required.
type Options struct {
	Store Store
	Key   []byte           // HMAC key, 32 bytes or more
	Now   func() time.Time // nil: time.Now
}

// Manager makes and checks API keys. Safe for concurrent use.
type Manager struct {
	opt Options
}

// New returns a Manager. It panics without a store or with a short key, which
// is an error of the program.
func New(opt Options) *Manager {
	if opt.Store == nil || len(opt.Key) < sha256.Size {
		panic("apikey: a store and a 32-byte key are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Manager{opt: opt}
}

// Create makes a key of client and returns it whole; it is shown once. Limits
// that make no sense are Invalid; a third live key is a Conflict.
func (m *Manager) Create(ctx context.Context, client string, l Limits) (string, Key, error) {
	l, err := l.check(m.opt.Now())
	if err != nil {
		return "", Key{}, err
	}
	live, err := m.live(ctx, client)
	if err != nil {
		return "", Key{}, err
	}
	if len(live) >= maxLive {
		return "", Key{}, tooMany(client, live)
	}
	text, k, err := m.put(ctx, client, l)
	if err != nil {
		return "", Key{}, err
	}
	// Somebody may have made one meanwhile: whoever sees three takes its own
	// back, so that there are never three, whatever the replicas do at once.
	if live, err = m.live(ctx, client); err == nil && len(live) > maxLive {
		err = tooMany(client, live)
	}
	if err != nil {
		_, undo := m.Disable(ctx, k.ID)
		return "", Key{}, errors.Join(err, undo)
	}
	return text, k, nil
}

func tooMany(client string, live []Key) error {
	return rampart.Errorf(rampart.Conflict, "", "api key: client %s has %d live keys, %s and %s; disable the one that is not in use",
		client, len(live), live[0].ID, live[1].ID)
}

// Rotate makes the successor of the client's live key, with the limits of that
// key, and lets the old one live for overlap more: time enough to change over.
// Of two live keys one may be in use that nobody thinks of, so that is a
// Conflict; a client without a live key has nothing to rotate.
func (m *Manager) Rotate(ctx context.Context, client string, overlap time.Duration) (string, Key, error) {
	if overlap < 0 || overlap > maxOverlap {
		return "", Key{}, invalid("the old key may live on for up to %d days", int(maxOverlap.Hours())/24)
	}
	live, err := m.live(ctx, client)
	if err != nil {
		return "", Key{}, err
	}
	if len(live) == 0 {
		return "", Key{}, rampart.Errorf(rampart.NotFound, "", "api key: client %s has no live key to rotate; create one", client)
	}
	old := live[0]
	l := LimitsOf(old)
	l.Expires = m.successorExpiry(old)
	text, k, err := m.Create(ctx, client, l)
	if err != nil {
		return "", Key{}, err
	}
	if _, err := m.opt.Store.ExpireAPIKey(ctx, old.ID, m.opt.Now().Add(overlap)); err != nil {
		_, undo := m.Disable(ctx, k.ID)
		return "", Key{}, errors.Join(unavailable(err), undo)
	}
	return text, k, nil
}

// successorExpiry gives the successor as long a life as the key had.
func (m *Manager) successorExpiry(k Key) time.Time {
	if k.Expires.IsZero() {
		return time.Time{}
	}
	return m.opt.Now().Add(k.Expires.Sub(k.Created))
}

// put makes and stores a key.
func (m *Manager) put(ctx context.Context, client string, l Limits) (string, Key, error) {
	raw := make([]byte, idLen/2+32)
	rand.Read(raw)
	id, value := hex.EncodeToString(raw[:idLen/2]), base62(raw[idLen/2:], valueLen)
	k := Key{
		ID: id, Hash: m.hash(id, value), Client: client, Created: m.opt.Now(),
		Label: l.Label, Scopes: l.Scopes, IPs: l.IPs, Expires: l.Expires,
	}
	if err := m.opt.Store.PutAPIKey(ctx, k); err != nil {
		return "", Key{}, unavailable(err)
	}
	return prefix + id + "_" + value + checksum(id, value), k, nil
}

// List returns the client's keys, dead ones too, newest first.
func (m *Manager) List(ctx context.Context, client string) ([]Key, error) {
	keys, err := m.opt.Store.APIKeys(ctx, client)
	if err != nil {
		return nil, unavailable(err)
	}
	slices.SortStableFunc(keys, func(a, b Key) int { return b.Created.Compare(a.Created) })
	return keys, nil
}

// live returns the client's live keys, newest first.
func (m *Manager) live(ctx context.Context, client string) ([]Key, error) {
	keys, err := m.List(ctx, client)
	now := m.opt.Now()
	return slices.DeleteFunc(keys, func(k Key) bool { return !k.Live(now) }), err
}

// Verify returns the key that text is. A malformed, unknown, wrong, expired or
// disabled key is Unauthenticated with one and the same message; a failing
// store is Unavailable.
func (m *Manager) Verify(ctx context.Context, text string) (Key, error) {
	id, value, ok := parse(text)
	if !ok {
		return Key{}, Refused("not in the form of a key")
	}
	k, err := m.opt.Store.APIKey(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Key{}, unavailable(err)
	}
	// An unknown id costs the same compare, against a hash that nothing has.
	sum := m.hash(id, value)
	switch same := hmac.Equal(sum[:], k.Hash[:]); {
	case err != nil:
		return Key{}, Refused("no key has this id")
	case !same:
		return Key{}, Refused("wrong secret for key " + id)
	case k.Disabled:
		return Key{}, Refused("key " + id + " is disabled")
	case !k.Live(m.opt.Now()):
		return Key{}, Refused("key " + id + " has expired")
	}
	return k, nil
}

// Admit lets a verified key in from an address, "ip" or "ip:port", and notes
// the use, at most once a minute: a store write on every call would make
// reading as dear as changing. From a foreign address it is Unauthenticated
// with Verify's message, so that a thief learns nothing of where to try.
func (m *Manager) Admit(ctx context.Context, k Key, addr string) error {
	if !k.From(addr) {
		return Refused("key " + k.ID + " is not for this address")
	}
	now := m.opt.Now()
	if now.Sub(k.LastUsed) < touchEvery {
		return nil
	}
	if err := m.opt.Store.TouchAPIKey(ctx, k.ID, now); err != nil {
		return unavailable(err)
	}
	return nil
}

// Disable voids one key and reports whether it was there.
func (m *Manager) Disable(ctx context.Context, id string) (bool, error) {
	ok, err := m.opt.Store.DisableAPIKey(ctx, id)
	if err != nil {
		return false, unavailable(err)
	}
	return ok, nil
}

// DisableAll voids every key of a client.
func (m *Manager) DisableAll(ctx context.Context, client string) error {
	if err := m.opt.Store.DisableAPIKeys(ctx, client); err != nil {
		return unavailable(err)
	}
	return nil
}

// hash binds the secret to its id: a row copied under another id opens nothing.
func (m *Manager) hash(id, value string) [sha256.Size]byte {
	mac := hmac.New(sha256.New, m.opt.Key)
	mac.Write([]byte(id + "_" + value)) // id has a fixed length
	return [sha256.Size]byte(mac.Sum(nil))
}

func parse(text string) (id, value string, ok bool) {
	rest, found := strings.CutPrefix(text, prefix)
	if !found || len(rest) != idLen+1+valueLen+sumLen || rest[idLen] != '_' {
		return "", "", false
	}
	id, secret := rest[:idLen], rest[idLen+1:]
	value, sum := secret[:valueLen], secret[valueLen:]
	return id, value, sum == checksum(id, value)
}

// checksum is no protection: it finds typing errors and lets scanners be sure.
func checksum(id, value string) string {
	sum := crc32.ChecksumIEEE([]byte(id + value))
	return base62([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}, sumLen)
}

// base62 writes b as a number with exactly n digits; n must suffice.
func base62(b []byte, n int) string {
	digits := new(big.Int).SetBytes(b).Text(62)
	return strings.Repeat("0", n-len(digits)) + digits
}

// Refused is the one answer to a key that opens nothing. The reason is for the
// log: whoever shows a key learns none.
func Refused(reason string) error {
	return &rampart.Error{Kind: rampart.Unauthenticated, Control: control, Msg: "api key: not accepted", Err: errors.New(reason)}
}

func unavailable(err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "api key: store not available", Err: fmt.Errorf("apikey: %w", err)}
}
