package rebac

import (
	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// SubjectOf returns how the graph names a principal: "user:ID", "client:ID", or
// "service:NAME" for spiffe://DOMAIN/service/NAME. It is "" for nobody and for
// what cannot be a subject; "" is related to nothing.
func SubjectOf(p rampart.Principal) string { return "" }

// FromToken returns what a token says of relations, as tuples for one question:
// rules map "type#relation" to the list of the principal that names the objects:
// "team", "managed_teams", "organizations", "tenant" or "roles".
func FromToken(p rampart.Principal, rules map[string]string) []authz.Tuple { return nil }
