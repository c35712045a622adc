package pii

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/rampart-security/rampart"
)

// redacted is what personal data shows of itself.
const redacted = "[redacted]"

// String is a text that identifies people. It does not print, log or marshal:
// what it holds is read with Reveal alone, so that every place that shows it can be
// found by name. Neither does it go into a database as it is: a Table seals it.
// The zero String is "".
type String struct {
	// A closure, as fmt shows nothing of a func but its address; it follows pointers
	// and reads structs past every method.
	reveal func() string
}

// NewString returns a String that holds text.
func NewString(text string) String { return String{func() string { return text }} }

// Reveal returns the text.
func (s String) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// Equal reports whether both hold the same text.
func (s String) Equal(other String) bool { return s.Reveal() == other.Reveal() }

// Format prints "[redacted]" for every verb and flag.
func (String) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue returns "[redacted]".
func (String) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON returns "[redacted]" in quotes.
func (String) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText returns "[redacted]".
func (String) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalJSON takes a JSON string in.
func (s *String) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	*s = NewString(text)
	return nil
}

// Value refuses: a plaintext does not slip into a database.
func (String) Value() (driver.Value, error) { return nil, unsealed() }

// Scan refuses, as Value does.
func (*String) Scan(any) error { return unsealed() }

// Bytes is String for what is no text. The zero Bytes holds nil.
type Bytes struct{ reveal func() []byte }

// NewBytes returns Bytes that hold b, which must not be changed any more.
func NewBytes(b []byte) Bytes { return Bytes{func() []byte { return b }} }

// Reveal returns what it holds. It must not be changed.
func (b Bytes) Reveal() []byte {
	if b.reveal == nil {
		return nil
	}
	return b.reveal()
}

// Equal reports whether both hold the same bytes.
func (b Bytes) Equal(other Bytes) bool { return string(b.Reveal()) == string(other.Reveal()) }

// Format prints "[redacted]" for every verb and flag.
func (Bytes) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue returns "[redacted]".
func (Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON returns "[redacted]" in quotes.
func (Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText returns "[redacted]".
func (Bytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalJSON takes a JSON string of base64 in.
func (b *Bytes) UnmarshalJSON(text []byte) error {
	var raw []byte
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	*b = NewBytes(raw)
	return nil
}

// Value refuses: a plaintext does not slip into a database.
func (Bytes) Value() (driver.Value, error) { return nil, unsealed() }

// Scan refuses, as Value does.
func (*Bytes) Scan(any) error { return unsealed() }

func unsealed() error {
	return rampart.Errorf(rampart.Internal, sealing, "pii: personal data goes through a Table, which seals it")
}
