package rebac

import (
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// SubjectOf returns how the graph names a principal: "user:ID", "client:ID", or
// "service:NAME" for spiffe://DOMAIN/service/NAME. It is "" for nobody and for
// every name that would mean something else in a tuple ("user:*" is everyone,
// "user:a#member" is a group); "" is related to nothing.
func SubjectOf(p rampart.Principal) string {
	name := p.Subject
	if rest, ok := strings.CutPrefix(name, "spiffe://"); ok {
		_, path, _ := strings.Cut(rest, "/")
		service, ok := strings.CutPrefix(path, "service/")
		if !ok || strings.Contains(service, "/") {
			return ""
		}
		name = "service:" + service
	}
	if _, id, ok := object(name); !ok || id == "*" {
		return ""
	}
	return name
}

// TokenFact reports whether the rules of FromToken may name this list of the
// principal: "team", "managed_teams", "organizations", "tenant" or "roles".
func TokenFact(name string) bool {
	_, ok := tokenFact(rampart.Principal{}, name)
	return ok
}

func tokenFact(p rampart.Principal, name string) ([]string, bool) {
	switch name {
	case "team":
		return one(p.Team), true
	case "tenant":
		return one(p.Tenant), true
	case "managed_teams":
		return p.ManagedTeams, true
	case "organizations":
		return p.Organizations, true
	case "roles":
		return p.Roles, true
	}
	return nil, false
}

func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// FromToken returns what a token says of relations, as tuples for one question:
// rules map "type#relation" to the list of the principal that names the
// objects, see TokenFact. Rules that cannot be read and principals that
// SubjectOf does not name yield nothing. A name in the token that no tuple can
// hold is kept: the question then fails, for in a "but not" its loss would
// grant.
func FromToken(p rampart.Principal, rules map[string]string) []authz.Tuple {
	who := SubjectOf(p)
	if who == "" {
		return nil
	}
	var out []authz.Tuple
	for _, rule := range slices.Sorted(maps.Keys(rules)) {
		typ, relation, ok := strings.Cut(rule, "#")
		if !ok {
			continue
		}
		ids, _ := tokenFact(p, rules[rule])
		for _, id := range ids {
			out = append(out, authz.Tuple{Object: typ + ":" + id, Relation: relation, Subject: who})
		}
	}
	return out
}
