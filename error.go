package rampart

import (
	"errors"
	"fmt"
)

// Kind sorts errors by what a caller can do about them.
type Kind uint8

// The kinds. The zero value is Internal: an error nobody classified tells
// outsiders nothing.
const (
	Internal Kind = iota
	Unauthenticated
	Denied
	Invalid
	NotFound
	Conflict
	Limited
	Unavailable
)

var kindNames = [...]string{"internal", "unauthenticated", "denied", "invalid", "not_found", "conflict", "limited", "unavailable"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "internal"
}

// Error is the typed error of the house. Msg may be shown to the caller; Err
// never leaves the house. Control names the control that refused, such as
// "authn.jwt", and goes to the audit log only.
type Error struct {
	Kind    Kind
	Msg     string
	Control string
	Err     error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Msg
	}
	return e.Msg + ": " + e.Err.Error()
}

// Unwrap returns the inner error.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error whose Msg may be shown to the caller.
func Errorf(kind Kind, control, format string, args ...any) *Error {
	return &Error{Kind: kind, Control: control, Msg: fmt.Sprintf(format, args...)}
}

// KindOf returns the kind of the first *Error in err's chain, else Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}
