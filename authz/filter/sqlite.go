package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/rampart-security/rampart/authz"
)

// sqlite renders for SQLite 3.38 or newer. SQLite keeps any type in any column,
// so that each condition looks at the type as well; a value of another type is
// an absent one.
type sqlite struct {
	table Table
	bound *bound
}

func (q sqlite) constant(b bool) string {
	if b {
		return "1=1"
	}
	return "1=0"
}

func (q sqlite) keeps(string) bool { return true }

func (q sqlite) related(string) (string, error) { return "", errRelation }

// column: SQLite would read a name in double quotes that is no column as text.
func (q sqlite) column(attr string) (string, error) {
	return q.table.column(attr, "[", "]")
}

func (q sqlite) has(attr string) (presence, error) {
	c, err := q.column(attr)
	switch {
	case err != nil:
		return presence{}, err
	case !q.table.Columns[attr].Nullable:
		return presence{}, nil
	case attr == "tenant":
		return presence{yes: "(" + c + " IS NOT NULL AND " + c + " <> '')", no: "(" + c + " IS NULL OR " + c + " = '')"}, nil
	}
	return presence{yes: c + " IS NOT NULL", no: c + " IS NULL"}, nil
}

func (q sqlite) present(o Operand) (presence, error) {
	attr, ok := o.(Attr)
	if _, subject := o.(Subject); subject {
		return presence{}, errSubject
	}
	if !ok || !q.table.Columns[attr.Name].Nullable {
		return presence{}, nil
	}
	c, err := q.column(attr.Name)
	return q.presentColumn(attr.Name, c), err
}

func (q sqlite) presentColumn(attr, c string) presence {
	is := func(yes, no string) presence { return presence{yes: "(" + yes + ")", no: "(" + no + ")"} }
	switch col := q.table.Columns[attr]; {
	case col.Stored == StoredLong || col.Kind == authz.KindLong:
		return is("typeof("+c+") = 'integer'", "typeof("+c+") <> 'integer'")
	case col.Kind == authz.KindBool:
		return is("typeof("+c+") = 'integer' AND "+c+" IN (0, 1)", "typeof("+c+") <> 'integer' OR "+c+" NOT IN (0, 1)")
	case col.Kind == authz.KindDecimal:
		const finite = " BETWEEN -1e300 AND 1e300"
		return is("typeof("+c+") IN ('integer', 'real') AND "+c+finite, "typeof("+c+") NOT IN ('integer', 'real') OR NOT "+c+finite)
	case col.Kind == authz.KindStrings:
		list := "CASE WHEN json_valid(" + c + ") THEN json_type(" + c + ") END"
		return is(list+" IS 'array'", list+" IS NOT 'array'")
	case attr == "tenant": // the empty tenant is none
		return is("typeof("+c+") = 'text' AND "+c+" <> ''", "typeof("+c+") <> 'text' OR "+c+" = ''")
	}
	return is("typeof("+c+") = 'text'", "typeof("+c+") <> 'text'")
}

func (q sqlite) operand(o Operand, of authz.AttrKind) (string, error) {
	switch o := o.(type) {
	case Attr:
		c, err := q.column(o.Name)
		if of == authz.KindString && q.table.Columns[o.Name].Stored == StoredLong {
			c = "CAST(" + c + " AS TEXT)"
		}
		return c, err
	case Lit:
		return q.bound.bind(fmt.Sprintf("%T%v", o.Value, o.Value), o.Value), nil
	}
	return "", errors.New("an operand is missing")
}

func (q sqlite) boolean(x Operand, no bool) (string, error) {
	s, err := q.operand(x, authz.KindBool)
	if no {
		s = "NOT " + s
	}
	return s, err
}

// compare: a column may ignore case or blanks, so texts are compared as bytes.
// An index knows the column's way only, so equality is asked for in that way
// first; COLLATE would keep SQLite from any index below OR.
func (q sqlite) compare(op Op, l, r Operand, of authz.AttrKind) (string, error) {
	left, err := q.operand(l, of)
	if err != nil {
		return "", err
	}
	right, err := q.operand(r, of)
	if err != nil {
		return "", err
	}
	exactly := "CAST(" + left + " AS BLOB)" + operator(op) + "CAST(" + right + " AS BLOB)"
	switch {
	case of != authz.KindString && of != kindUUID:
		return left + operator(op) + right, nil
	case op == Eq:
		return "(" + left + " = " + right + " AND " + exactly + ")", nil
	}
	return exactly, nil
}

// among binds a list as one JSON text; decimals one by one, because SQLite does
// not promise to read the last digit of a number as Go does.
func (q sqlite) among(x Operand, list []any, of authz.AttrKind, no bool) (string, error) {
	s, err := q.operand(x, of)
	if err != nil {
		return "", err
	}
	in := " IN ("
	if no {
		in = " NOT IN ("
	}
	if of == authz.KindDecimal {
		return q.amongDecimals(s+in, list)
	}
	text, err := json.Marshal(list)
	each := " FROM json_each(" + q.bound.bind("j"+string(text), string(text)) + "))"
	same := s + in + "SELECT value" + each
	exactly := "CAST(" + s + " AS BLOB)" + in + "SELECT CAST(value AS BLOB)" + each
	switch {
	case of != authz.KindString && of != kindUUID:
		return same, err
	case no:
		return exactly, err
	}
	return "(" + same + " AND " + exactly + ")", err
}

// maxDecimals keeps a list of decimals below SQLite's number of placeholders.
const maxDecimals = 1000

func (q sqlite) amongDecimals(in string, list []any) (string, error) {
	if len(list) > maxDecimals {
		return "", errTooLarge
	}
	marks := make([]string, len(list))
	for i, v := range list {
		marks[i], _ = q.operand(Lit{v}, authz.KindDecimal)
	}
	return in + strings.Join(marks, ", ") + ")", nil
}

// eachColumns are the columns of json_each, which would be meant instead of the
// table's column of that name.
const eachColumns = " key value type atom id parent fullkey path json root "

func (q sqlite) holds(list, x Operand, no bool) (string, error) {
	attr, _ := list.(Attr)
	if name := q.table.Columns[attr.Name].Name; strings.Contains(eachColumns, " "+strings.ToLower(name)+" ") {
		return "", fmt.Errorf("the column %q of a list needs its table before it", name)
	}
	c, err := q.column(attr.Name)
	if err != nil {
		return "", err
	}
	s, err := q.operand(x, authz.KindString)
	in := " IN "
	if no {
		in = " NOT IN "
	}
	return s + " COLLATE BINARY" + in + "(SELECT value FROM json_each(CASE WHEN json_valid(" + c + ") THEN " + c + " ELSE '[]' END) WHERE type = 'text')", err
}

func (q sqlite) look(op TextOp, x, part Operand, no bool) (string, error) {
	s, err := q.operand(x, authz.KindString)
	if err != nil {
		return "", err
	}
	t, err := q.operand(part, authz.KindString)
	if err != nil {
		return "", err
	}
	s, t = "CAST("+s+" AS BLOB)", "CAST("+t+" AS BLOB)" // by byte, zero bytes too
	yes := map[TextOp]string{
		Prefix: "instr(" + s + ", " + t + ") = 1",
		// substr of nothing is NULL, so the empty suffix stands alone.
		Suffix:   "(length(" + t + ") = 0 OR length(" + s + ") >= length(" + t + ") AND substr(" + s + ", length(" + s + ") - length(" + t + ") + 1) = " + t + ")",
		Contains: "instr(" + s + ", " + t + ") > 0",
	}[op]
	if no {
		return "NOT (" + yes + ")", nil
	}
	return yes, nil
}
