package filter

import (
	"encoding/json"
	"errors"
	"fmt"
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
// PostgreSQL takes no arguments in such statements, so values of the policy
// stand in the text, quoted, in ASCII.
func RLS(t Table, name, action string, f Filter) (string, error) {
	text, err := rls(t, name, action, f)
	if err != nil {
		return "", fmt.Errorf("filter: %w", err)
	}
	return text, nil
}

func rls(t Table, name, action string, f Filter) (string, error) {
	table, err := identifier(t.Name, 2)
	if err != nil {
		return "", err
	}
	policy, err := identifier(name, 1)
	if err != nil {
		return "", err
	}
	cond, err := f.render(t, postgres{table: t, literal: quoted, subject: true})
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
	return "ALTER TABLE " + on + " ENABLE ROW LEVEL SECURITY;\n" +
		"ALTER TABLE " + on + " FORCE ROW LEVEL SECURITY;\n" +
		`DROP POLICY IF EXISTS "` + policy[0] + `" ON ` + on + ";\n" +
		`CREATE POLICY "` + policy[0] + `" ON ` + on + " FOR " + action + "\n  " + clause + ";\n", nil
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
// names. It is "", so that nobody sees anything, for nobody and where a fact is
// no text that PostgreSQL can hold.
func SubjectSetting(p rampart.Principal) string {
	if p.IsZero() {
		return ""
	}
	facts := map[string]any{
		"roles":         list(p.Roles),
		"organizations": list(p.Organizations),
		"managed_teams": list(p.ManagedTeams),
	}
	for name, v := range map[string]string{"id": p.Subject, "kind": string(p.Kind), "org": p.Tenant, "team": p.Team} {
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
