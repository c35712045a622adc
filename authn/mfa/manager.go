package mfa

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/ticket"
)

const control = "authn.mfa"

// MaxFactors bounds what one person may enrol.
const MaxFactors = 20

// swaps bounds how often a change that lost against another is tried again.
const swaps = 8

// Sealer encrypts what a copy of the database must not give away, bound to
// aad. A key-encryption key is one.
type Sealer interface {
	Wrap(ctx context.Context, plain, aad []byte) ([]byte, error)
	Unwrap(ctx context.Context, sealed, aad []byte) ([]byte, error)
}

// Options configure a Manager. All but Now are required.
type Options struct {
	Store   Store
	Tickets ticket.Store
	Sealer  Sealer
	Issuer  string           // how an authenticator app names the system
	Now     func() time.Time // nil: time.Now
}

// Manager enrols and verifies codes: TOTP and recovery. Passkeys are the
// package passkey's. Safe for concurrent use.
type Manager struct{ opt Options }

// New returns a Manager. It panics when a part is missing, which is an error
// of the program.
func New(opt Options) *Manager {
	if opt.Store == nil || opt.Tickets == nil || opt.Sealer == nil || opt.Issuer == "" {
		panic("mfa: stores, a sealer and an issuer are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Manager{opt: opt}
}

// Row binds the data of a factor to its row: copied to another person or
// factor, it does not open.
func (f Factor) Row() []byte {
	return []byte("rampart-factor-v1\n" + f.ID + "\n" + f.Subject + "\n" + string(f.Kind))
}

// NewID returns a random id, safe in an address.
func NewID() string {
	raw := make([]byte, 12)
	rand.Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)
}

func (m *Manager) newFactor(subject string, kind Kind, label string) Factor {
	return Factor{ID: NewID(), Subject: subject, Kind: kind, Label: label, Created: m.opt.Now()}
}

// ofKind returns the subject's factors of one kind, oldest first.
func (m *Manager) ofKind(ctx context.Context, subject string, kind Kind) ([]Factor, error) {
	all, err := m.opt.Store.Factors(ctx, subject)
	if err != nil {
		return nil, unavailable(err)
	}
	var out []Factor
	for _, f := range all {
		if f.Kind == kind {
			out = append(out, f)
		}
	}
	return out, nil
}

// again reads a factor whose version has moved on.
func (m *Manager) again(ctx context.Context, id string) (Factor, error) {
	f, err := m.opt.Store.Factor(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return Factor{}, rampart.Errorf(rampart.Conflict, control, "mfa: the factor has just been removed")
	}
	return f, unavailable(err)
}

func (m *Manager) put(ctx context.Context, f *Factor, row any) error {
	if err := m.seal(ctx, f, row); err != nil {
		return err
	}
	err := m.opt.Store.PutFactor(ctx, *f)
	if errors.Is(err, ErrNotFound) {
		return rampart.Errorf(rampart.Denied, control, "mfa: this account is gone")
	}
	return unavailable(err)
}

func (m *Manager) swap(ctx context.Context, f Factor, row any) (bool, error) {
	if err := m.seal(ctx, &f, row); err != nil {
		return false, err
	}
	ok, err := m.opt.Store.SwapFactor(ctx, f)
	return ok, unavailable(err)
}

func (m *Manager) seal(ctx context.Context, f *Factor, row any) error {
	plain, err := json.Marshal(row)
	if err != nil {
		return err
	}
	defer clear(plain)
	f.Data, err = m.opt.Sealer.Wrap(ctx, plain, f.Row())
	return unavailable(err)
}

func (m *Manager) open(ctx context.Context, f Factor, row any) error {
	plain, err := m.opt.Sealer.Unwrap(ctx, f.Data, f.Row())
	if err != nil {
		return unavailable(err)
	}
	defer clear(plain)
	return unavailable(json.Unmarshal(plain, row))
}

func contended() error {
	return rampart.Errorf(rampart.Unavailable, control, "mfa: too many tries at once; try again")
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*rampart.Error](err); ok {
		return err
	}
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "mfa: factors are not available right now", Err: fmt.Errorf("mfa: %w", err)}
}
