package filter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart/authz"
)

// postgres renders for PostgreSQL 13 or newer.
type postgres struct {
	table     Table
	literal   func(v any, of authz.AttrKind) string // of a known value, or of a list of one kind
	subject   bool                                  // facts of the principal may be read, see RLS
	relations []Relation                            // that may be read
}

func (p postgres) constant(b bool) string {
	if b {
		return "TRUE"
	}
	return "FALSE"
}

// keeps: no text of PostgreSQL holds a zero byte.
func (p postgres) keeps(text string) bool { return strings.IndexByte(text, 0) < 0 }

func (p postgres) has(attr string) (presence, error) {
	c, err := p.column(attr)
	switch {
	case err != nil:
		return presence{}, err
	case attr == "tenant":
		return p.present(Attr{attr})
	case !p.table.Columns[attr].Nullable:
		return presence{}, nil
	}
	return presence{yes: c + " IS NOT NULL", no: c + " IS NULL"}, nil
}

func (p postgres) present(o Operand) (presence, error) {
	switch o := o.(type) {
	case Attr:
		return p.presentColumn(o.Name)
	case Subject:
		return p.presentFact(o.Name)
	}
	return presence{}, nil
}

func (p postgres) presentColumn(attr string) (presence, error) {
	c, err := p.column(attr)
	if err != nil {
		return presence{}, err
	}
	switch kind := p.table.Columns[attr].Kind; {
	case !p.table.Columns[attr].Nullable:
		return presence{}, nil
	case attr == "tenant": // the empty tenant is none
		return presence{yes: c + "::text <> ''", no: "(" + c + " IS NULL OR " + c + "::text = '')", byEqual: true}, nil
	case kind == authz.KindDecimal: // neither NaN, which is above all, nor infinite
		finite := c + " BETWEEN -1e300 AND 1e300"
		return presence{yes: "(" + finite + ")", no: "((" + finite + ") IS NOT TRUE)", byEqual: true}, nil
	case kind == authz.KindStrings:
		list := "jsonb_typeof(to_jsonb(" + c + "))"
		return presence{yes: list + " = 'array'", no: "(" + list + " = 'array') IS NOT TRUE"}, nil
	}
	return presence{yes: c + " IS NOT NULL", no: c + " IS NULL", strict: true}, nil
}

// setting is the principal as JSON, or NULL. A setting that was local to a
// transaction is empty after it.
const setting = "NULLIF(current_setting('" + SettingName + "', true), '')::jsonb"

// fact reads a fact of the principal; within a SELECT of its own PostgreSQL
// evaluates it once for a query instead of once for a row.
func fact(name string) string { return "(SELECT " + setting + " ->> '" + name + "')" }

func factList(name string) string {
	return "ARRAY(SELECT jsonb_array_elements_text(CASE jsonb_typeof(" + setting + " -> '" + name + "') WHEN 'array' THEN " +
		setting + " -> '" + name + "' ELSE '[]' END))"
}

var errSubject = errors.New("it reads the principal, which row-level security alone knows")

func (p postgres) presentFact(name string) (presence, error) {
	list, ok := subjectNames[name]
	if !p.subject || !ok {
		return presence{}, errSubject
	}
	if list {
		is := "(SELECT jsonb_typeof(" + setting + " -> '" + name + "')) = 'array'"
		return presence{yes: is, no: "(" + is + ") IS NOT TRUE"}, nil
	}
	return presence{yes: fact(name) + " IS NOT NULL", no: fact(name) + " IS NULL", strict: true}, nil
}

func (p postgres) column(attr string) (string, error) {
	return p.table.column(attr, `"`, `"`)
}

// operand renders a single value.
func (p postgres) operand(o Operand, of authz.AttrKind) (string, error) {
	switch o := o.(type) {
	case Attr:
		c, err := p.column(o.Name)
		if of == authz.KindString {
			c += "::text" // of citext and the like too, which would ignore case
		}
		return c, err
	case Subject:
		return fact(o.Name), nil
	case Lit:
		return p.literal(o.Value, of), nil
	}
	return "", errors.New("an operand is missing")
}

func (p postgres) boolean(x Operand, no bool) (string, error) {
	s, err := p.operand(x, authz.KindBool)
	if no {
		s = "NOT " + s
	}
	return s, err
}

func (p postgres) compare(op Op, l, r Operand, of authz.AttrKind) (string, error) {
	left, err := p.operand(l, of)
	if err != nil {
		return "", err
	}
	right, err := p.operand(r, of)
	if err != nil {
		return "", err
	}
	// Equality with a value keeps the column's collation, for the sake of its
	// index. Order is by byte, and two columns need one collation.
	_, isL := l.(Attr)
	_, isR := r.(Attr)
	if of == authz.KindString && (isL && isR || op != Eq && op != Ne) {
		left += ` COLLATE "C"`
	}
	return left + operator(op) + right, nil
}

func (p postgres) among(x Operand, list []any, of authz.AttrKind, no bool) (string, error) {
	s, err := p.operand(x, of)
	if no {
		return s + " <> ALL(" + p.literal(list, of) + ")", err
	}
	return s + " = ANY(" + p.literal(list, of) + ")", err
}

func (p postgres) holds(list, x Operand, no bool) (string, error) {
	s, err := p.operand(x, authz.KindString)
	if err != nil {
		return "", err
	}
	if fact, ok := list.(Subject); ok {
		if no {
			return s + " <> ALL(" + factList(fact.Name) + ")", nil
		}
		return s + " = ANY(" + factList(fact.Name) + ")", nil
	}
	c, err := p.operand(list, authz.KindStrings)
	yes := "to_jsonb(" + c + ") @> to_jsonb(" + s + ")"
	if no {
		return "NOT " + yes, err
	}
	return yes, err
}

func (p postgres) look(op TextOp, x, part Operand, no bool) (string, error) {
	s, err := p.operand(x, authz.KindString)
	if err != nil {
		return "", err
	}
	t, err := p.operand(part, authz.KindString)
	if err != nil {
		return "", err
	}
	yes := map[TextOp]string{
		Prefix:   "starts_with(" + s + ` COLLATE "C", ` + t + ")",
		Suffix:   `right(` + s + `, length(` + t + `)) COLLATE "C" = ` + t,
		Contains: `strpos(` + s + ` COLLATE "C", ` + t + `) > 0`,
	}[op]
	if no {
		return "NOT (" + yes + ")", nil
	}
	return yes, nil
}

// postgres binds a value. Each placeholder has a type, so that PostgreSQL does
// not have to guess it from where it stands.
func (b *bound) postgres(v any, of authz.AttrKind) string {
	if list, ok := v.([]any); ok {
		return b.postgresList(list, of)
	}
	switch v := v.(type) {
	case bool:
		return b.bind(fmt.Sprint("b", v), v) + "::boolean"
	case int64:
		return b.bind(fmt.Sprint("l", v), v) + "::bigint"
	case float64:
		return b.bind("s"+formatDecimal(v), formatDecimal(v)) + "::text::numeric"
	}
	s := b.bind("s"+asText(v), asText(v)) + "::text"
	if of == kindUUID {
		s += "::uuid"
	}
	return s
}

func (b *bound) postgresList(list []any, of authz.AttrKind) string {
	if of == authz.KindLong {
		longs := make([]int64, len(list))
		for i, v := range list {
			longs[i], _ = v.(int64)
		}
		return b.bind(fmt.Sprint("ll", longs), longs) + "::bigint[]"
	}
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = asText(v)
	}
	s := b.bind(fmt.Sprintf("ls%q", texts), texts) + "::text[]"
	switch of {
	case authz.KindDecimal:
		return s + "::numeric[]"
	case kindUUID:
		return s + "::uuid[]"
	}
	return s
}

func asText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return formatDecimal(v)
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}
