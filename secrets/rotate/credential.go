package rotate

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

const (
	passwordSize = 32       // random bytes of a password
	maxPassword  = 64 << 10 // bytes, as of any secret
	maxUser      = 63       // bytes: PostgreSQL cuts longer names off
)

// Credential is a user and what proves it. Password prints as any secret does:
// not at all.
type Credential struct {
	User     string // "" when the value stands alone
	Password secrets.Secret
}

// String returns the user.
func (c Credential) String() string { return c.User }

// Format prints the user for every verb and flag.
func (c Credential) Format(f fmt.State, _ rune) { io.WriteString(f, c.User) }

// LogValue returns the user.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.User) }

// encode returns what the store keeps: user and password in one value, so that
// nobody can see the one without the other. No role's name has a colon.
func (c Credential) encode() (out []byte, err error) {
	err = c.Password.Use(func(b []byte) error {
		if c.User == "" {
			out = bytes.Clone(b)
			return nil
		}
		out = append(append([]byte(c.User), ':'), b...)
		return nil
	})
	return out, err
}

// ParseCredential reads what a rotation with users published: s, with the user
// as its own. Errors do not repeat the value.
func ParseCredential(s secrets.Secret) (secrets.Secret, error) {
	var out secrets.Secret
	err := s.Use(func(b []byte) error {
		user, password, ok := bytes.Cut(b, []byte{':'})
		if !ok || !isUser(user) || len(password) == 0 || len(password) > maxPassword {
			return rampart.Errorf(rampart.Internal, control, "rotate: the stored credential is not USER:PASSWORD; run rampart secret rotate")
		}
		out = secrets.Make(password, secrets.Meta{Version: s.Version(), User: string(user)})
		return nil
	})
	return out, err
}

// isUser reports whether b is the name of a role as rampart.yaml admits it.
func isUser(b []byte) bool {
	for i, c := range b {
		letter := c >= 'a' && c <= 'z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return len(b) > 0 && len(b) <= maxUser
}

// Password returns a new one of 256 random bits in base64url: ASCII, so that no
// two programs prepare it differently (RFC 4013).
func Password(context.Context) ([]byte, error) {
	raw := make([]byte, passwordSize)
	defer clear(raw)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	return base64.RawURLEncoding.AppendEncode(nil, raw), nil
}
