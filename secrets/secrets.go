// Package secrets answers "Where does this credential come from, and who may
// hold it?" It is the contract between those who need a secret and the stores
// that keep it, with a cache between them.
//
// A Secret does not print. Its value is reached through Use alone, so that
// every place that touches one can be found by name.
package secrets

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/rampart-security/rampart"
)

// control is the id of this control in rampart.yaml and in errors.
const control = "secret.manager"

// redacted is what a secret shows of itself.
const redacted = "[redacted]"

// Secret is a secret value and its version. The zero Secret holds nothing. A
// copy shares the value. Secrets may be used concurrently.
type Secret struct {
	// A closure, as fmt shows nothing of a func but its address. It cannot
	// call methods of a Secret in an unexported field, and a pointer does
	// not stop it there: %s follows one to a struct and prints the bytes.
	use     func(f func([]byte) error) error
	version int
}

// New returns a Secret with a copy of b. Versions count from 1.
func New(b []byte, version int) Secret {
	kept := bytes.Clone(b)
	use := func(f func([]byte) error) error {
		lent := bytes.Clone(kept)
		defer clear(lent)
		return f(lent)
	}
	return Secret{use, version}
}

// Use calls f with a copy of the value, which is wiped when f returns: f must
// not keep it. Use returns what f returns, or an error when s is zero.
func (s Secret) Use(f func([]byte) error) error {
	if s.use == nil {
		return rampart.Errorf(rampart.Internal, control, "secret is empty")
	}
	return s.use(f)
}

// Version returns the version of the value, 0 for the zero Secret.
func (s Secret) Version() int { return s.version }

// IsZero reports whether s holds nothing.
func (s Secret) IsZero() bool { return s.use == nil }

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// Format prints "[redacted]" for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalJSON returns "[redacted]" in quotes.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText returns "[redacted]".
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Provider gives out secrets by name, such as "prod/stripe/api-key". Errors are
// of kind NotFound, Denied, Unauthenticated, or Unavailable when asking again
// later may help. Providers are safe for concurrent use.
type Provider interface {
	Get(ctx context.Context, name string) (Secret, error)
}

// KEK is a key encryption key, which never leaves where it lives. What Wrap
// returns opens again only with the same aad. Implementations are safe for
// concurrent use.
type KEK interface {
	Wrap(ctx context.Context, dek, aad []byte) ([]byte, error)
	Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error)
	KeyID() string // names the key, not secret
}
