// Package apikey makes and checks API keys of the form
//
//	rk_ID_SECRET
//
// where ID is public, and SECRET is 256 random bits in base 62 followed by a
// checksum, so that secret scanners find a leaked key without false alarms and
// a mistyped one costs no look-up.
//
// The store sees HMAC-SHA256 of the secret alone.
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

// Create makes a key of client and returns it whole; it is shown once.
func (m *Manager) Create(ctx context.Context, client string) (string, Key, error) {
	raw := make([]byte, idLen/2+32)
	rand.Read(raw)
	id, value := hex.EncodeToString(raw[:idLen/2]), base62(raw[idLen/2:], valueLen)
	k := Key{ID: id, Hash: m.hash(id, value), Client: client, Created: m.opt.Now()}
	if err := m.opt.Store.PutAPIKey(ctx, k); err != nil {
		return "", Key{}, unavailable(err)
	}
	return prefix + id + "_" + value + checksum(id, value), k, nil
}

// Verify returns the key that text is. A malformed, unknown, wrong or disabled
// key is Unauthenticated with one and the same message; a failing store is
// Unavailable.
func (m *Manager) Verify(ctx context.Context, text string) (Key, error) {
	id, value, ok := parse(text)
	if !ok {
		return Key{}, refused()
	}
	k, err := m.opt.Store.APIKey(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Key{}, unavailable(err)
	}
	// An unknown id costs the same compare, against a hash that nothing has.
	sum := m.hash(id, value)
	if same := hmac.Equal(sum[:], k.Hash[:]); err != nil || !same || k.Disabled {
		return Key{}, refused()
	}
	return k, nil
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

func refused() error {
	return rampart.Errorf(rampart.Unauthenticated, control, "api key: not accepted")
}

func unavailable(err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "api key: store not available", Err: fmt.Errorf("apikey: %w", err)}
}
