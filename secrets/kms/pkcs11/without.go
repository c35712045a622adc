//go:build !pkcs11 || !cgo

package pkcs11

import (
	"context"

	"github.com/rampart-security/rampart"
)

// KEK stands in for the key of a module: this program was built without.
type KEK struct{}

func without() error {
	return rampart.Errorf(rampart.Invalid, control, "pkcs11: this program was built without PKCS #11: build it with CGO_ENABLED=1 go build -tags pkcs11")
}

// Open refuses.
func Open(Options) (*KEK, error) { return nil, without() }

// KeyID returns "pkcs11".
func (*KEK) KeyID() string { return "pkcs11" }

// Wrap refuses.
func (*KEK) Wrap(context.Context, []byte, []byte) ([]byte, error) { return nil, without() }

// Unwrap refuses.
func (*KEK) Unwrap(context.Context, []byte, []byte) ([]byte, error) { return nil, without() }

// Close does nothing.
func (*KEK) Close() error { return nil }
