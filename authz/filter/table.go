package filter

import (
	"fmt"
	"strings"

	"github.com/rampart-security/rampart/authz"
)

// Table says where the attributes of a resource type are stored.
type Table struct {
	Name    string            `json:"name,omitzero"` // as in SQL, with its schema if need be: "orders", "sales.orders"; RLS alone needs it
	Columns map[string]Column `json:"columns"`       // by attribute; "id" and "tenant" too
}

// Column holds one attribute. A row whose column is NULL has no such attribute.
// What a column must be in the database, so that it says what the engines see:
//
//   - KindString: text, varchar or uuid in PostgreSQL, with a deterministic
//     collation (all are, unless made otherwise) in a UTF-8 database; TEXT in
//     SQLite. PostgreSQL may also hold it in whole numbers, see Stored.
//   - KindBool: boolean; in SQLite the integers 0 and 1.
//   - KindLong: bigint, integer or smallint; INTEGER in SQLite.
//   - KindDecimal: numeric with at most four decimals; in SQLite a number,
//     REAL or INTEGER, not scaled.
//   - KindStrings: jsonb that holds an array, or text[]; in SQLite JSON text.
type Column struct {
	Name     string         `json:"name"` // "owner_id", or with its table "orders.owner_id"
	Kind     authz.AttrKind `json:"kind"`
	Nullable bool           `json:"nullable,omitzero"` // false vouches that every row has a value of Kind
	Stored   Stored         `json:"stored,omitzero"`   // of KindString: what else but text holds it
}

// Stored says in what a string is stored. The zero value is text.
type Stored string

// How strings are stored otherwise.
const (
	StoredLong Stored = "long" // a whole number, as keys often are: 17 is "17"
	StoredUUID Stored = "uuid" // PostgreSQL's uuid; seen by engines in lower case with dashes
)

// TableOf is the table that a type declares: columns are named as the
// attributes are unless the type says otherwise. Attributes that a provider
// supplies have no column, unless the type names one. Every column but "id" may
// be NULL: that a schema demands an attribute does not stop a database from
// lacking it. Whoever knows that a column is NOT NULL may say so afterwards,
// which makes the SQL shorter.
func TableOf(typ authz.Type) Table {
	t := Table{Name: typ.Table, Columns: map[string]Column{
		"id":     {Name: columnName(typ, "id"), Kind: authz.KindString},
		"tenant": {Name: columnName(typ, "tenant"), Kind: authz.KindString, Nullable: true},
	}}
	for name, attr := range typ.Attrs {
		if attr.Provider != "" && typ.Columns[name] == "" {
			continue
		}
		t.Columns[name] = Column{Name: columnName(typ, name), Kind: attr.Kind, Nullable: true}
	}
	return t
}

func columnName(typ authz.Type, attr string) string {
	if name := typ.Columns[attr]; name != "" {
		return name
	}
	return attr
}

// identifier splits and checks a name that will stand in SQL: each part is
// [A-Za-z_][A-Za-z0-9_]* and no longer than PostgreSQL keeps names apart.
func identifier(name string, maxParts int) ([]string, error) {
	parts := strings.Split(name, ".")
	if len(parts) > maxParts {
		return nil, fmt.Errorf("the name %q has too many parts", clip(name))
	}
	for _, p := range parts {
		if !isIdentifier(p) {
			return nil, fmt.Errorf("the name %q is not made of letters, digits and \"_\", at most 63", clip(name))
		}
	}
	return parts, nil
}

func isIdentifier(s string) bool {
	if s == "" || len(s) > 63 || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	return strings.IndexFunc(s, func(c rune) bool {
		return c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	}) < 0
}

// clip keeps untrusted text short in messages.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:64], "") + "..."
}
