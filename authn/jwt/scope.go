package jwt

import (
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// Scope is the scope claim (RFC 8693 section 4.2): a list here, one string of
// space-separated values on the wire. Nil is no claim, and limits nothing. An
// empty list would limit to nothing; as text it is too easily taken for no
// limit, so it is neither minted nor accepted.
type Scope []string

// protocolScope reports whether value asks for something of the authorization
// server and so is no permission.
func protocolScope(value string) bool { return value == "openid" || value == "offline_access" }

// MarshalJSON writes the values separated by spaces.
func (s Scope) MarshalJSON() ([]byte, error) {
	if err := s.wellFormed(); err != nil {
		return nil, err
	}
	return json.Marshal(strings.Join(s, " "))
}

// UnmarshalJSON reads a string of at least one value.
func (s *Scope) UnmarshalJSON(data []byte) error {
	var text *string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	if text == nil {
		return errors.New("scope is null")
	}
	*s = strings.Split(*text, " ")
	return s.wellFormed()
}

// wellFormed checks each value against RFC 6749 section 3.3.
func (s Scope) wellFormed() error {
	if s == nil {
		return nil
	}
	if len(s) == 0 {
		return refuse("scope", "scope must not be empty")
	}
	for _, value := range s {
		if value == "" || len(value) > maxClaim || strings.ContainsFunc(value, outsideScope) {
			return refuse("scope", "scope must be values of 1 to %d printable characters separated by one space", maxClaim)
		}
	}
	return nil
}

func outsideScope(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }

// permissions returns the values that are permissions. It is nil only when s
// is: a scope of protocol values alone grants nothing.
func (s Scope) permissions() []string {
	return slices.DeleteFunc(slices.Clone([]string(s)), protocolScope)
}
