package filter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Dialect is a dialect of SQL.
type Dialect string

// The dialects.
const (
	Postgres Dialect = "postgres"
	SQLite   Dialect = "sqlite"
)

// MaxSQL bounds the bytes of SQL text; SQL and RLS enforce it.
const MaxSQL = 1 << 20

// errTooLarge wants a policy that says less at once.
var errTooLarge = errors.New("the condition is too large for SQL")

// errRelation: the graph of relations is not in the database of the rows.
var errRelation = errors.New("it reads a relation, which must be resolved first")

// SQL renders f as a condition for WHERE, and the values of its placeholders,
// which are $N in PostgreSQL and ?N in SQLite, counted from firstArg (1 where
// the query has no other). No value of a policy or a principal ever stands in
// the text. The condition is true for the rows that f keeps and false or NULL
// for all others; so nothing but AND may be put around it. A filter that keeps
// all rows or none is a condition as well.
//
// Lists are one argument each: JSON text in SQLite, a []string or []int64 in
// PostgreSQL, as github.com/jackc/pgx takes them, through database/sql or
// without it.
//
// An error means that f cannot be said for t, so whoever asks must deny.
// Relations must have been resolved, see Resolve; RLS alone can look them up.
func (f Filter) SQL(d Dialect, t Table, firstArg int) (text string, args []any, err error) {
	if firstArg < 1 {
		return "", nil, fmt.Errorf("filter: the first placeholder is number 1 or higher, not %d", firstArg)
	}
	b := &bound{seen: map[string]string{}}
	var s dialect
	mark := "$"
	switch d {
	case Postgres:
		s = postgres{table: t, literal: b.postgres}
	case SQLite:
		s, mark = sqlite{table: t, bound: b}, "?"
	default:
		return "", nil, fmt.Errorf("filter: %q is neither %s nor %s", clip(string(d)), Postgres, SQLite)
	}
	text, err = f.render(t, s)
	if err != nil {
		return "", nil, fmt.Errorf("filter: %w", err)
	}
	text, args = b.number(text, mark, firstArg)
	return text, args, nil
}

// sql is a condition as text, or a constant.
type sql struct {
	text  string
	known bool // then value counts
	value bool
}

func literally(b bool) sql { return sql{known: true, value: b} }

func (f Filter) render(t Table, d dialect) (string, error) {
	if f.keep != some {
		return d.constant(f.keep == all), nil
	}
	if err := checkBounds(f.cond); err != nil {
		return "", err
	}
	n, ok := lower(f.cond, t.total)
	if !ok {
		return "", errTooLarge
	}
	s, err := renderNode(n, d, t)
	if err != nil {
		return "", err
	}
	if s.known {
		return d.constant(s.value), nil
	}
	if len(s.text) > MaxSQL {
		return "", errTooLarge
	}
	return s.text, nil
}

func renderNode(n node, d dialect, t Table) (sql, error) {
	switch n := n.(type) {
	case fixed:
		return literally(bool(n)), nil
	case both:
		return renderPair(n.l, n.r, d, t, and)
	case either:
		return renderPair(n.l, n.r, d, t, or)
	case leaf:
		return renderLeaf(n, d, t)
	}
	return sql{}, errors.New("a condition is missing")
}

func renderPair(l, r node, d dialect, t Table, join func(l, r sql) sql) (sql, error) {
	left, err := renderNode(l, d, t)
	if err != nil {
		return sql{}, err
	}
	right, err := renderNode(r, d, t)
	if err != nil {
		return sql{}, err
	}
	if len(left.text)+len(right.text) > MaxSQL {
		return sql{}, errTooLarge
	}
	return join(left, right), nil
}

func and(l, r sql) sql {
	switch {
	case l.known && l.value || r.known && !r.value:
		return r
	case r.known || l.known:
		return l
	}
	return sql{text: "(" + l.text + " AND " + r.text + ")"}
}

func or(l, r sql) sql {
	switch {
	case l.known && !l.value || r.known && r.value:
		return r
	case r.known || l.known:
		return l
	}
	return sql{text: "(" + l.text + " OR " + r.text + ")"}
}

// bound collects the values of placeholders. Until the whole text is known, a
// placeholder is a value's index between zero bytes: a condition that turns out
// not to matter must not leave its values behind.
type bound struct {
	values []any
	seen   map[string]string
}

const edge = "\x00"

// bind returns the placeholder of v; key tells values apart, and one that is
// used twice is bound once.
func (b *bound) bind(key string, v any) string {
	if s, ok := b.seen[key]; ok {
		return s
	}
	s := edge + strconv.Itoa(len(b.values)) + edge
	b.values, b.seen[key] = append(b.values, v), s
	return s
}

// number gives the placeholders that are left their numbers, in their order.
func (b *bound) number(text, mark string, first int) (string, []any) {
	parts := strings.Split(text, edge)
	var args []any
	numbers := map[string]string{}
	for i := 1; i < len(parts); i += 2 { // every other part is an index
		index := parts[i]
		if numbers[index] == "" {
			numbers[index] = mark + strconv.Itoa(first+len(args))
			at, _ := strconv.Atoi(index)
			args = append(args, b.values[at])
		}
		parts[i] = numbers[index]
	}
	return strings.Join(parts, ""), args
}

// column quotes the column of attr between open and close.
func (t Table) column(attr, open, close string) (string, error) {
	parts, err := identifier(t.Columns[attr].Name, 3)
	if err != nil {
		return "", err
	}
	return open + strings.Join(parts, close+"."+open) + close, nil
}
