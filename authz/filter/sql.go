package filter

import (
	"context"
	"errors"

	"github.com/rampart-security/rampart"
)

// Dialect is a dialect of SQL.
type Dialect string

// The dialects.
const (
	Postgres Dialect = "postgres"
	SQLite   Dialect = "sqlite"
)

var errNotBuilt = errors.New("filter: not built yet")

// SQL renders f as a condition for WHERE, and the values of its placeholders,
// $N in PostgreSQL and ?N in SQLite, from firstArg on (1 where the query has no
// other). No value ever stands in the text. The condition is true for the rows
// that f keeps and false or NULL for all others. A filter that keeps all or no
// rows is a condition as well.
//
// An error means that f cannot be said for t; whoever asks must deny.
// Relations must have been resolved, see Resolve.
func (f Filter) SQL(d Dialect, t Table, firstArg int) (text string, args []any, err error) {
	return "", nil, errNotBuilt
}

// Validate reports the first thing of f that t does not know or that cannot be
// said of its columns.
func (f Filter) Validate(t Table) error { return errNotBuilt }

// UCAST renders f as a condition tree for other programs.
func (f Filter) UCAST() ([]byte, error) { return nil, errNotBuilt }

// Resolve replaces relations by the ids that ids returns for each.
func (f Filter) Resolve(ctx context.Context, ids func(relation string) ([]string, error)) (Filter, error) {
	return None(), errNotBuilt
}

// RLS renders f as row-level security of PostgreSQL.
func RLS(t Table, name, action string, f Filter) (string, error) { return "", errNotBuilt }

// SubjectSetting is the value of the setting rampart.subject for p.
func SubjectSetting(p rampart.Principal) string { return "" }

// MarshalJSON implements json.Marshaler.
func (f Filter) MarshalJSON() ([]byte, error) { return nil, errNotBuilt }

// UnmarshalJSON implements json.Unmarshaler.
func (f *Filter) UnmarshalJSON(b []byte) error { return errNotBuilt }
