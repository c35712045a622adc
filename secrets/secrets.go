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
	"time"

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
	use func(f func([]byte) error) error
	about
}

// about is what may be shown of a secret.
type about struct {
	version int
	user    string
	until   time.Time
	lease   string
}

// New returns a Secret with a copy of b. Versions count from 1.
func New(b []byte, version int) Secret { return Make(b, Meta{Version: version}) }

// Meta is what is known of a secret beside its value. Nothing of it is secret.
type Meta struct {
	Version int       // counts from 1; 0: the backend does not count
	User    string    // name that goes with the value, such as a database role; "": none
	Until   time.Time // the value is void from then on; zero: not known to end
	Lease   string    // by which the backend renews and revokes it; "": it is not leased
}

// Make returns a Secret with a copy of b.
func Make(b []byte, m Meta) Secret {
	kept := bytes.Clone(b)
	use := func(f func([]byte) error) error {
		lent := bytes.Clone(kept)
		defer clear(lent)
		return f(lent)
	}
	return Secret{use, about{m.Version, m.User, m.Until, m.Lease}}
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

// User returns the name that goes with the value, "" if there is none.
func (s Secret) User() string { return s.user }

// Until returns when the value ends to be good; zero: it is not known to end.
func (s Secret) Until() time.Time { return s.until }

// Lease returns by which name a Leaser knows the value; "": it is not leased.
func (s Secret) Lease() string { return s.lease }

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

// Backend fetches secrets from one place, whose name in rampart.yaml ref.Backend
// is. It does not remember anything: Cache does. Errors are as those of a
// Provider: NotFound, Denied (also where the place does not say which of the
// two), Unauthenticated when the backend does not believe us, Limited, and
// Unavailable for a network, a server or a seal in the way. They name backend
// and path, never a value. Backends are safe for concurrent use.
type Backend interface {
	Fetch(ctx context.Context, ref Ref) (Secret, error)
}

// Writer is a Backend that takes secrets too.
type Writer interface {
	Backend
	// Put stores the next version of a path and returns it. With after not below
	// 0 it does so only if the newest version is that one (0: there is none), and
	// the error is of kind Conflict otherwise.
	Put(ctx context.Context, path string, value []byte, after int) (version int, err error)
	// List returns what lies below a path prefix, by path; "" is everything.
	List(ctx context.Context, prefix string) ([]Listed, error)
	// Destroy makes one version unreadable for good; 0 is all of them.
	Destroy(ctx context.Context, path string, version int) error
}

// Versions is a Backend that still has versions other than the newest.
type Versions interface {
	FetchVersion(ctx context.Context, ref Ref, version int) (Secret, error)
}

// Leaser is a Backend whose secrets end unless they are renewed.
type Leaser interface {
	// Renew returns the same value with a later Until, or an earlier one than was
	// asked for when it nears the most that its lease may have.
	Renew(ctx context.Context, s Secret, by time.Duration) (Secret, error)
	// Revoke ends the lease at once.
	Revoke(ctx context.Context, s Secret) error
}

// Listed describes one secret of a Writer.
type Listed struct {
	Path    string
	Version int       // newest
	Created time.Time // of the newest version; zero: the backend does not say
}

// KEK is a key encryption key, which never leaves where it lives. What Wrap
// returns opens again only with the same aad. Unwrap opens what earlier versions
// of the key wrapped, too. Errors are of kind Unavailable when the key cannot be
// asked, else Internal. Implementations are safe for concurrent use.
type KEK interface {
	Wrap(ctx context.Context, dek, aad []byte) ([]byte, error)
	Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error)
	// KeyID names the key and the version that wraps now. It is not secret.
	KeyID() string
}

// Rewrapper is a KEK that moves what it wrapped to the newest version of its key
// without showing the content. With other KEKs the caller unwraps and wraps.
type Rewrapper interface {
	Rewrap(ctx context.Context, wrapped, aad []byte) ([]byte, error)
}
