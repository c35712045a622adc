package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// SettingName is the setting of PostgreSQL that tells row-level security who
// asks. Its value is made by SubjectSetting and set for one transaction:
//
//	SELECT set_config('rampart.subject', $1, true)
const SettingName = "rampart.subject"

// RLS renders f as row-level security of PostgreSQL: statements that switch it
// on for the table, for its owner too, and (re)create the policy name for a
// command: SELECT, INSERT, UPDATE, DELETE or ALL. They belong into one
// transaction, as a migration is.
//
// Where the policy looks at the principal (Subject), it reads SettingName.
// Whatever f says, nobody sees a row while that is unset or empty, and a value
// that is no JSON is an error of the query. It defends against a query that
// forgot its condition, not against an attacker who can set the setting; and
// superusers and roles with BYPASSRLS pass it by.
//
// A relation that f reads is looked up in Tuples, of the same database, as
// relations say. Whoever reads t then needs SELECT on Tuples too, with rights of
// its own: a function that lends those of an owner could be asked by anybody.
//
// PostgreSQL takes no arguments in such statements, so values of the policy
// stand in the text, quoted, in ASCII.
func RLS(t Table, name, action string, f Filter, relations ...Relation) (string, error) {
	text, err := rls(t, name, action, f, relations)
	if err != nil {
		return "", fmt.Errorf("filter: %w", err)
	}
	return text, nil
}

func rls(t Table, name, action string, f Filter, relations []Relation) (string, error) {
	table, err := identifier(t.Name, 2)
	if err != nil {
		return "", err
	}
	policy, err := identifier(name, 1)
	if err != nil {
		return "", err
	}
	cond, err := f.render(t, postgres{table: t, literal: quoted, subject: true, relations: relations})
	if err != nil {
		return "", err
	}
	cond = "(" + fact("id") + " <> '' AND (" + cond + "))"
	clause := map[string]string{
		"SELECT": "USING " + cond,
		"DELETE": "USING " + cond,
		"INSERT": "WITH CHECK " + cond,
		"UPDATE": "USING " + cond + " WITH CHECK " + cond,
		"ALL":    "USING " + cond + " WITH CHECK " + cond,
	}[action]
	if clause == "" {
		return "", errors.New("a policy of rows is for SELECT, INSERT, UPDATE, DELETE or ALL")
	}
	on := `"` + strings.Join(table, `"."`) + `"`
	return needs(f, on) + "ALTER TABLE " + on + " ENABLE ROW LEVEL SECURITY;\n" +
		"ALTER TABLE " + on + " FORCE ROW LEVEL SECURITY;\n" +
		`DROP POLICY IF EXISTS "` + policy[0] + `" ON ` + on + ";\n" +
		`CREATE POLICY "` + policy[0] + `" ON ` + on + " FOR " + action + "\n  " + clause + ";\n", nil
}

// needs says for people what the statements cannot do by themselves.
func needs(f Filter, on string) string {
	if len(f.Relations()) == 0 {
		return ""
	}
	return "-- It looks relations up in " + Tuples + ", which sdk/db/relations makes when the service first\n" +
		"-- starts. Each role that uses " + on + " reads it with rights of its own; without them its queries\n" +
		"-- fail. If it does not own it: GRANT SELECT ON " + Tuples + " TO that_role;\n"
}

// quoted renders a value for the text of a statement.
func quoted(v any, of authz.AttrKind) string {
	if list, ok := v.([]any); ok {
		parts := make([]string, len(list))
		for i, e := range list {
			parts[i] = quoted(e, of)
		}
		return "ARRAY[" + strings.Join(parts, ", ") + "]"
	}
	switch v := v.(type) {
	case bool:
		return strings.ToUpper(strconv.FormatBool(v))
	case int64:
		return quote(asText(v)) + "::bigint"
	case float64:
		return quote(asText(v)) + "::numeric"
	}
	if of == kindUUID {
		return quote(asText(v)) + "::uuid"
	}
	return quote(asText(v)) + "::text"
}

// quote makes an escape string constant of PostgreSQL. It does not depend on
// standard_conforming_strings, nor, being ASCII, on the client's encoding. The
// text is UTF-8 without zero bytes, see checkBounds and postgres.keeps.
func quote(s string) string {
	var b strings.Builder
	b.WriteString("E'")
	for _, c := range s {
		switch {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c >= ' ' && c < 0x7f:
			b.WriteRune(c)
		case c > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, c)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// SubjectSetting is the value of SettingName for p: the facts that Subject
// names, and how tuples name p. It is "", so that nobody sees anything, for
// nobody and where a fact is no text that PostgreSQL can hold.
//
// Of p's roles it has those that count everywhere. Left out are roles for one
// organization ("manager@acme") and, when the credential's scope names roles,
// those that it does not name; "role" is there only if the first of p's roles
// counts whatever the row. So a policy that permits a role shows less than a
// check allows. One that forbids a role does not see it either: it is for the
// check to hold such a role back, before the database is asked.
func SubjectSetting(p rampart.Principal) string {
	if p.IsZero() {
		return ""
	}
	facts := map[string]any{
		"roles":         list(everywhere(p)),
		"organizations": list(p.Organizations),
		"managed_teams": list(p.ManagedTeams),
	}
	typ, id := inTuples(p)
	for name, v := range map[string]string{
		"id": p.Subject, "kind": string(p.Kind), "org": p.Tenant, "team": p.Team, "role": first(p),
		"subject_type": typ, "subject_id": id,
	} {
		if v != "" {
			facts[name] = v
		}
	}
	for _, v := range facts {
		if !storableFact(v) {
			return ""
		}
	}
	text, err := json.Marshal(facts)
	if err != nil {
		return ""
	}
	return string(text)
}

// everywhere are the roles that p acts with whatever the organization.
func everywhere(p rampart.Principal) []string {
	return slices.DeleteFunc(slices.Clone(p.Roles), func(held string) bool {
		return strings.Contains(held, "@") || !p.ActiveRole(held)
	})
}

// first is the first of p's roles, unless another is first for some rows.
func first(p rampart.Principal) string {
	if len(p.Roles) == 0 || strings.Contains(p.Roles[0], "@") || !p.ActiveRole("") {
		return ""
	}
	return p.Roles[0]
}

func list(names []string) []string { return append([]string{}, names...) }

func storableFact(v any) bool {
	texts, ok := v.([]string)
	if s, single := v.(string); single {
		texts, ok = []string{s}, true
	}
	for _, s := range texts {
		if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
			return false
		}
	}
	return ok
}
