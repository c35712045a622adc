package planelink

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
)

// Credential is what somebody was let in with, as far as a revocation can void
// it. What does not apply is zero; a zero Issued is before every cut-off.
type Credential struct {
	Principal rampart.Principal
	Issued    time.Time // by us; the proof of the person that it rests on may be older
	TokenID   string    // jti
	Token     string    // its text, which names the key that signed it
	KeyID     string    // of an API key
}

// Vouched is c as one plane tells the next under the pattern gateway.
func (c Credential) Vouched() wire.Vouched {
	return wire.Vouched{Principal: c.Principal, Issued: c.Issued, TokenID: c.TokenID, KeyID: c.KeyID}
}

// CredentialRevoked reports whether c is void: for its principal, as itself, or
// with the key that signed it. A single token or API key is void whatever its
// date: its id is given once, and a token's iat may lie a second ahead.
func (s *State) CredentialRevoked(c Credential) bool {
	if len(s.revoked) == 0 {
		return false
	}
	return s.PrincipalRevoked(c.Principal, c.Issued) || s.withdrawn("jti", c.TokenID) || s.withdrawn("key", c.KeyID) ||
		s.keysLost && s.withdrawn("kid", signer(c.Token))
}

// withdrawn reports whether this very id is revoked.
func (s *State) withdrawn(kind, id string) bool {
	_, ok := s.revoked[revokedID{kind, id}]
	return ok && id != ""
}

// signer reads the kid of a token that was verified before, "" if it is none.
func signer(token string) string {
	header, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.DecodeString(header)
	var h struct {
		Kid string `json:"kid"`
	}
	if err != nil || json.Unmarshal(b, &h) != nil {
		return ""
	}
	return h.Kid
}
