package mfa

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"
)

// Kind is what sort of factor a Factor is.
type Kind string

// The kinds of factor.
const (
	KindTOTP     Kind = "totp"
	KindPasskey  Kind = "passkey"
	KindRecovery Kind = "recovery" // one row holds all codes of a person
)

// ErrNotFound is what a Store answers for a factor it does not hold.
var ErrNotFound = errors.New("mfa: not found")

// Factor is one enrolled factor as the store knows it.
type Factor struct {
	ID         string // random, safe in an address
	Subject    string // "user:NAME"
	Kind       Kind
	Label      string            // chosen by its owner
	Credential [sha256.Size]byte // passkey: SHA-256 of the credential id, unique; else zero
	Data       []byte            // sealed under the KEK by the caller, or public
	Version    int               // grows with every change
	Created    time.Time
	LastUsed   time.Time // zero: never
}

// Store keeps factors. Every change is durable when its method returns.
// Implementations are judged by mfatest.Test.
type Store interface {
	// PutFactor inserts f; an ID or Credential that exists is an error. A subject
	// without an account is ErrNotFound: the next of that name would inherit the
	// factor.
	PutFactor(ctx context.Context, f Factor) error
	// Factor returns the factor with this ID, or ErrNotFound.
	Factor(ctx context.Context, id string) (Factor, error)
	// FactorByCredential returns the passkey with this hash, or ErrNotFound.
	FactorByCredential(ctx context.Context, hash [sha256.Size]byte) (Factor, error)
	// Factors returns the subject's factors, oldest first.
	Factors(ctx context.Context, subject string) ([]Factor, error)
	// SwapFactor stores f with Version+1 if the row's Version is still
	// f.Version, and reports whether it was. That is what makes a code good
	// once: of two at the same time, one loses.
	SwapFactor(ctx context.Context, f Factor) (bool, error)
	// DeleteFactor deletes one factor of the subject and reports whether it was there.
	DeleteFactor(ctx context.Context, subject, id string) (bool, error)
	// DeleteFactors deletes all of the subject's.
	DeleteFactors(ctx context.Context, subject string) error
}
