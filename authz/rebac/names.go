package rebac

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of names, as OpenFGA has them.
const (
	maxObjectBytes   = 256
	maxRelationBytes = 50
	maxTypeBytes     = 254
)

// object splits "type:id". An id is "*" only in a subject that means everyone.
func object(s string) (typ, id string, ok bool) {
	typ, id, ok = strings.Cut(s, ":")
	if !ok || typ == "" || id == "" || len(s) > maxObjectBytes {
		return "", "", false
	}
	return typ, id, cleanName(typ) && cleanID(id)
}

// subject splits "user:alice", "team:red#member" and "user:*".
func subject(s string) (obj, relation string, wildcard, ok bool) {
	obj, relation, userset := strings.Cut(s, "#")
	typ, id, fits := object(obj)
	if !fits || userset && (!cleanRelation(relation) || id == "*") {
		return "", "", false, false
	}
	return obj, relation, typ != "" && id == "*", true
}

// CanName reports whether a tuple can name the object "typ:id", or the subject:
// to what none can name nobody is related, and it is related to nothing. Of a
// nil model the types are unknown, and any is taken.
func (m *Model) CanName(typ, id string) bool {
	if id == "" || id == "*" || !cleanID(id) || len(typ)+1+len(id) > maxObjectBytes {
		return false
	}
	if m == nil {
		return typ != "" && cleanName(typ)
	}
	return m.types[typ] != nil
}

// cleanID holds for every id that cannot be mistaken for other syntax. "*"
// means everyone and passes here; who must not be everyone looks for it.
func cleanID(id string) bool { return !strings.ContainsAny(id, "#:") && printable(id) }

func cleanName(s string) bool { return !strings.ContainsAny(s, ":#@*") && printable(s) }

func cleanRelation(s string) bool { return s != "" && len(s) <= maxRelationBytes && cleanName(s) }

// printable refuses white space and controls, which no log and no list of ids
// should have to escape.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}

// clip keeps untrusted text short in messages.
func clip(s string) string {
	if len(s) <= 64 {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q...", strings.ToValidUTF8(s[:64], ""))
}
