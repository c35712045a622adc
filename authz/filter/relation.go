package filter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
)

// Tuples is the table in which a service keeps its relations, see sdk/db/relations.
const Tuples = "rampart_tuples"

// Relation says how somebody comes to stand in a relation to an object, for
// row-level security: in one of Ways, and not at all when there are none.
type Relation struct {
	Type string // of the object
	Name string // as Rel has it
	Ways []Way
}

// Way is one way into a relation. A tuple names the subject, everyone of its
// type, or the members of something; or the principal's own facts do, and then
// no tuple counts.
type Way struct {
	Relation string    // of the tuple
	Subject  string    // type of the subject, or of what it is a member of
	Everyone bool      // the tuple says "user:*"
	Members  *Relation // the tuple says "team:red#member": the relation to the team
	Fact     string    // instead of a tuple: the fact of the principal, as of a Subject, that names the objects
}

// Relations returns the names of the relations that f still reads, each once.
func (f Filter) Relations() []string {
	var out []string
	seen := map[string]bool{}
	var walk func(e Expr)
	walk = func(e Expr) {
		switch e := e.(type) {
		case And:
			walk(e.L)
			walk(e.R)
		case Or:
			walk(e.L)
			walk(e.R)
		case Not:
			walk(e.X)
		case Total:
			walk(e.X)
		case Rel:
			if !seen[e.Name] {
				seen[e.Name], out = true, append(out, e.Name)
			}
		}
	}
	if f.keep == some {
		walk(f.cond)
	}
	return out
}

func renderRel(e Rel, w want, d dialect) (sql, error) {
	yes, err := d.related(e.Name)
	if err != nil {
		return sql{}, err
	}
	if w == wantTrue || w == notFalse {
		return sql{text: yes}, nil
	}
	return sql{text: "(" + yes + ") IS NOT TRUE"}, nil // what it compares may be NULL
}

// maxNested bounds how deep the members of something may be members of another.
const maxNested = 4

var errNested = errors.New("a relation needs too many others")

// related says that the principal stands in a relation to the row.
func (p postgres) related(name string) (string, error) {
	for _, r := range p.relations {
		if r.Name == name {
			id, err := p.rowID()
			if err != nil {
				return "", err
			}
			return p.into(r, id, 1)
		}
	}
	return "", errRelation
}

// rowID names the column of the row's id so that no column of Tuples can be
// meant instead.
func (p postgres) rowID() (string, error) {
	column, err := p.column("id")
	if err != nil {
		return "", err
	}
	if !strings.Contains(column, ".") {
		column = `"` + p.table.Name[strings.LastIndexByte(p.table.Name, '.')+1:] + `".` + column
	}
	return column + "::text", nil
}

// into says that the principal stands in r to the object with the id.
func (p postgres) into(r Relation, id string, depth int) (string, error) {
	if depth > maxNested {
		return "", errNested
	}
	typ, err := name(r.Type)
	if err != nil {
		return "", err
	}
	var ways []string
	size := 0
	for _, w := range r.Ways {
		text, err := p.way(w, typ, id, depth)
		if err != nil {
			return "", err
		}
		if size += len(text); size > MaxSQL {
			return "", errTooLarge
		}
		ways = append(ways, text)
	}
	if ways == nil {
		return "FALSE", nil
	}
	return "(" + nameable(id, r.Type) + " AND (" + strings.Join(ways, " OR ") + "))", nil
}

// nameable: what no tuple can name has no relations. The graph keeps to the
// same rule.
func nameable(id, typ string) string {
	return id + ` <> '*' AND ` + id + ` !~ E'[#:\\x01-\\x20\\x7f]' COLLATE "C" AND octet_length(` + id + ") <= " + strconv.Itoa(maxName-len(typ)-1)
}

func (p postgres) way(w Way, typ, id string, depth int) (string, error) {
	subject, err := name(w.Subject)
	if err != nil {
		return "", err
	}
	isOfType := fact("subject_type") + " = " + subject
	if w.Fact != "" {
		list, known := subjectNames[w.Fact]
		switch {
		case !known:
			return "", errSubject
		case list:
			return "(" + isOfType + " AND " + id + " = ANY(" + factList(w.Fact) + "))", nil
		}
		return "(" + isOfType + " AND " + id + " = " + fact(w.Fact) + ")", nil
	}
	relation, err := name(w.Relation)
	if err != nil {
		return "", err
	}
	t := "rampart_" + strconv.Itoa(depth)
	who, err := p.who(w, t, isOfType, depth)
	if err != nil {
		return "", err
	}
	return "EXISTS (SELECT FROM " + Tuples + " AS " + t + " WHERE " + t + ".object_type = " + typ + " AND " + t + ".object_id = " + id +
		" AND " + t + ".relation = " + relation + " AND " + t + ".condition = '' AND " + t + ".subject_type = " + subject + " AND " + who + ")", nil
}

// who says that the tuple t names the principal.
func (p postgres) who(w Way, t, isOfType string, depth int) (string, error) {
	switch {
	case w.Everyone:
		return t + ".subject_relation = '' AND " + t + ".subject_id = '*' AND " + isOfType, nil
	case w.Members == nil:
		return t + ".subject_relation = '' AND " + t + ".subject_id = " + fact("subject_id") + " AND " + isOfType, nil
	}
	members, err := name(w.Members.Name)
	if err != nil {
		return "", err
	}
	within, err := p.into(*w.Members, t+".subject_id", depth+1)
	return t + ".subject_relation = " + members + " AND " + within, err
}

// name quotes the name of a type or a relation.
func name(s string) (string, error) {
	if s == "" || len(s) > maxName || !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return "", fmt.Errorf("%q is no name of a type or a relation", clip(s))
	}
	return quote(s), nil
}

// maxName bounds "type:id", as the graph does.
const maxName = 256

// inTuples returns how tuples name a principal, as rebac.SubjectOf does: "user"
// and "alice", or "service" and "orders" for spiffe://DOMAIN/service/orders. It
// is "" for whom no tuple can name.
func inTuples(p rampart.Principal) (typ, id string) {
	subject := p.Subject
	if rest, ok := strings.CutPrefix(subject, "spiffe://"); ok {
		_, path, _ := strings.Cut(rest, "/")
		service, ok := strings.CutPrefix(path, "service/")
		if !ok || strings.Contains(service, "/") {
			return "", ""
		}
		subject = "service:" + service
	}
	typ, id, _ = strings.Cut(subject, ":")
	odd := func(c rune) bool { return c <= ' ' || c == 0x7f || c == '#' || c == ':' }
	if typ == "" || id == "" || id == "*" || len(subject) > maxName || strings.ContainsFunc(id, odd) {
		return "", ""
	}
	return typ, id
}
