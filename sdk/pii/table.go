package pii

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
)

// Table turns structs into the columns of one table, with personal fields sealed,
// and back. It works with everything that binds arguments and scans into
// pointers: database/sql, pgx. Safe for concurrent use.
//
//	type Customer struct {
//		ID     string     `rampart:"row"`
//		Org    string     `rampart:"tenant,column=org"`
//		Person string     `rampart:"subject"`
//		Email  pii.String `rampart:"pii=email"`
//		City   string     `rampart:"column=city"`
//		Cached int        // without a tag: not of the table
//	}
//
// row and tenant are required; so is subject where rampart.yaml says shred:
// subject. A field that it says can be searched has a second column, COLUMN_idx.
// nil pointers and nil []byte are NULL.
type Table[T any] struct {
	*plan
}

// plan is what reflection finds, once.
type plan struct {
	keys    *Keys
	table   string
	fields  []field
	columns []string
	row     field
	tenant  field
	subject *field // nil: there is none
}

// Bind reads the tags of T, whose personal fields are of a data item of
// rampart.yaml unless their tags name another. What the file does not say to
// encrypt is refused: it would be sealed by no promise.
func Bind[T any](k *Keys, item, table string) (*Table[T], error) {
	p, err := bind(k, item, table, reflect.TypeFor[T]())
	if err != nil {
		return nil, err
	}
	return &Table[T]{p}, nil
}

func bind(k *Keys, item, table string, t reflect.Type) (*plan, error) {
	fields, err := fieldsOf(t, item)
	if err != nil {
		return nil, err
	}
	if !columnForm.MatchString(table) {
		return nil, fmt.Errorf("pii: %q is no plain name of a table", table)
	}
	p := &plan{keys: k, table: table, fields: fields}
	if err := p.sort(t); err != nil {
		return nil, err
	}
	for i := range p.fields {
		if err := p.promised(t, &p.fields[i]); err != nil {
			return nil, err
		}
		p.columns = append(p.columns, p.fields[i].column)
		if p.fields[i].search {
			p.columns = append(p.columns, p.fields[i].column+indexSuffix)
		}
	}
	if c := doubled(p.columns); c != "" {
		return nil, fmt.Errorf("pii: %s has column %s twice", t, c)
	}
	return p, nil
}

// sort finds the fields that every row needs.
func (p *plan) sort(t reflect.Type) error {
	count := map[int]int{}
	for i, f := range p.fields {
		count[f.role]++
		switch f.role {
		case roleRow:
			p.row = f
		case roleTenant:
			p.tenant = f
		case roleSubject:
			p.subject = &p.fields[i]
		}
	}
	if count[roleRow] != 1 || count[roleTenant] != 1 || count[roleSubject] > 1 || count[rolePII] == 0 {
		return fmt.Errorf(`pii: %s needs one field with rampart:"row", one with rampart:"tenant", at most one with rampart:"subject", and some with rampart:"pii=FIELD"`, t)
	}
	return nil
}

// promised demands that the file says what is done with a personal field.
func (p *plan) promised(t reflect.Type, f *field) error {
	if f.role != rolePII || p.keys.svc.Off(sealing) {
		return nil
	}
	info := p.keys.svc.Info()
	if !slices.Contains(info.Encrypt[f.item], f.name) {
		return fmt.Errorf("pii: %s seals %s, which data.%s of rampart.yaml does not encrypt; add it to pii, with encrypt: envelope", t, f.name, f.item)
	}
	if info.Shred[f.item] == "subject" && p.subject == nil {
		return fmt.Errorf(`pii: %s seals %s for a person; tag the field that says who with rampart:"subject"`, t, f.name)
	}
	_, f.search = info.Search[f.item][f.name]
	return nil
}

func doubled(columns []string) string {
	sorted := slices.Sorted(slices.Values(columns))
	for i := 1; i < len(sorted); i++ {
		if sorted[i] == sorted[i-1] {
			return sorted[i]
		}
	}
	return ""
}

// Columns returns the names of the columns, in the order of Args and Scan.
func (p *plan) Columns() []string { return slices.Clone(p.columns) }

// List is Columns for a statement: "id, org, email, email_idx".
func (p *plan) List() string { return strings.Join(p.columns, ", ") }

// Placeholders is as many arguments for a statement, from $first on: "$1, $2".
func (p *plan) Placeholders(first int) string {
	out := make([]string, len(p.columns))
	for i := range out {
		out[i] = fmt.Sprintf("$%d", first+i)
	}
	return strings.Join(out, ", ")
}

// Args returns the values of a row for its columns, sealed where they are
// personal.
func (t *Table[T]) Args(ctx context.Context, v *T) ([]any, error) {
	return t.args(ctx, reflect.ValueOf(v).Elem())
}

func (p *plan) args(ctx context.Context, v reflect.Value) ([]any, error) {
	out := make([]any, 0, len(p.columns))
	for i := range p.fields {
		f := &p.fields[i]
		value := v.FieldByIndex(f.index)
		if f.role != rolePII {
			out = append(out, value.Interface())
			continue
		}
		text, ok := plaintext(value.Interface())
		sealed, index, err := p.seal(ctx, f, p.cell(v, f), text, ok)
		if err != nil {
			return nil, err
		}
		out = append(out, orNull(sealed))
		if f.search {
			out = append(out, orNull(index))
		}
	}
	return out, nil
}

// seal returns what stands in the column of a field and in that of its index:
// NULL when there is no value.
func (p *plan) seal(ctx context.Context, f *field, c Cell, text []byte, ok bool) (sealed, index []byte, err error) {
	if !ok {
		return nil, nil, nil
	}
	if sealed, err = p.keys.Seal(ctx, c, text); err != nil || !f.search {
		return sealed, nil, err
	}
	index, err = p.keys.index(ctx, c, f.name, string(text))
	return sealed, index, err
}

func (p *plan) cell(v reflect.Value, f *field) Cell {
	c := Cell{Item: f.item, Tenant: v.FieldByIndex(p.tenant.index).String(), Table: p.table, Column: f.column, Row: v.FieldByIndex(p.row.index).String()}
	if p.subject != nil {
		c.Subject = v.FieldByIndex(p.subject.index).String()
	}
	return c
}

// plaintext is what a personal field holds; false: nothing.
func plaintext(v any) ([]byte, bool) {
	switch v := v.(type) {
	case string:
		return []byte(v), true
	case String:
		return []byte(v.Reveal()), true
	case []byte:
		return v, v != nil
	case Bytes:
		return v.Reveal(), v.Reveal() != nil
	case *string:
		if v != nil {
			return []byte(*v), true
		}
	case *String:
		if v != nil {
			return []byte(v.Reveal()), true
		}
	}
	return nil, false
}

// Scanner is a row: *sql.Row, *sql.Rows, pgx.Row, pgx.Rows.
type Scanner interface{ Scan(dest ...any) error }

// Scan reads the columns of one row, in the order of Columns, into v and opens
// what is sealed. Further columns of the row go into extra. An error of the
// database comes back as it is. After a *GoneError v holds the rest of the row.
func (t *Table[T]) Scan(ctx context.Context, row Scanner, v *T, extra ...any) error {
	dest, open := t.Dest(v)
	if err := row.Scan(append(dest, extra...)...); err != nil {
		return err
	}
	return open(ctx)
}

// Dest returns pointers to scan the columns of one row into, and what opens the
// sealed ones into v afterwards: in between a row's checksum can be demanded.
// open ends with a *GoneError when all but some fields, whose keys are gone, were
// opened.
func (t *Table[T]) Dest(v *T) (dest []any, open func(context.Context) error) {
	return t.dest(reflect.ValueOf(v).Elem())
}

func (p *plan) dest(v reflect.Value) ([]any, func(context.Context) error) {
	dest := make([]any, 0, len(p.columns))
	sealed := make([][]byte, len(p.fields))
	var index []byte // of no use to the reader
	for i := range p.fields {
		f := &p.fields[i]
		if f.role != rolePII {
			dest = append(dest, v.FieldByIndex(f.index).Addr().Interface())
			continue
		}
		dest = append(dest, &sealed[i])
		if f.search {
			dest = append(dest, &index)
		}
	}
	return dest, func(ctx context.Context) error { return p.open(ctx, v, sealed) }
}

// open opens every field that can be. A row may hold data of several people and
// items: a key that was shredded must not hide what others are to keep.
func (p *plan) open(ctx context.Context, v reflect.Value, sealed [][]byte) error {
	var gone *GoneError
	for i := range p.fields {
		f := &p.fields[i]
		if f.role != rolePII {
			continue
		}
		to := v.FieldByIndex(f.index)
		text, err := p.openOne(ctx, p.cell(v, f), sealed[i])
		if errors.Is(err, ErrNoKey) {
			to.SetZero()
			gone = gone.and(f.name, err)
			continue
		}
		if err != nil {
			return err
		}
		if err := put(to.Addr().Interface(), text); err != nil {
			return fmt.Errorf("pii: column %s: %w", f.column, err)
		}
	}
	if gone != nil {
		return gone
	}
	return nil
}

// openOne returns nil for NULL, and for nothing else.
func (p *plan) openOne(ctx context.Context, c Cell, sealed []byte) ([]byte, error) {
	if sealed == nil {
		return nil, nil
	}
	text, err := p.keys.Open(ctx, c, sealed)
	if err == nil && text == nil {
		text = []byte{}
	}
	return text, err
}

// GoneError says that fields of a row have no key: it was shredded, or lost with
// the tables of keys. These fields are zero, all others were opened. ErrNoKey is
// in its chain.
type GoneError struct {
	Fields []string // by their names in rampart.yaml
	err    error    // of the first
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("pii: %s: %v", strings.Join(e.Fields, ", "), e.err)
}

func (e *GoneError) Unwrap() error { return e.err }

func (e *GoneError) and(name string, err error) *GoneError {
	if e == nil {
		e = &GoneError{err: err}
	}
	e.Fields = append(e.Fields, name)
	return e
}

// put writes a value into a personal field; nil is NULL.
func put(to any, text []byte) error {
	switch to := to.(type) {
	case *[]byte:
		*to = text
	case *Bytes:
		*to = NewBytes(text)
	case **string:
		*to = nil
		if text != nil {
			s := string(text)
			*to = &s
		}
	case **String:
		*to = nil
		if text != nil {
			s := NewString(string(text))
			*to = &s
		}
	case *string:
		*to = string(text)
		return notNull(text)
	case *String:
		*to = NewString(string(text))
		return notNull(text)
	}
	return nil
}

func notNull(text []byte) error {
	if text == nil {
		return rampart.Errorf(rampart.Internal, sealing, "it is NULL, and the field is no pointer")
	}
	return nil
}

// Lookup returns the arguments to find the rows of a tenant in which a searched
// field, by its name in rampart.yaml, equals a value, as Keys.Lookup does: bind
// them to WHERE COLUMN_idx IN (...), beside one on the tenant's column.
func (p *plan) Lookup(ctx context.Context, tenant, name, value string) ([]any, error) {
	i := slices.IndexFunc(p.fields, func(f field) bool { return f.search && f.name == name })
	if i < 0 {
		return nil, rampart.Errorf(rampart.Internal, sealing, "pii: rampart.yaml does not say that %s is searched", name)
	}
	f := p.fields[i]
	found, err := p.keys.lookup(ctx, Cell{Item: f.item, Tenant: tenant, Table: p.table, Column: f.column}, f.name, value)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(found))
	for i, b := range found {
		out[i] = b
	}
	return out, nil
}

// Check returns the CHECK of one sealed column, for a schema of this database
// kind, "sqlite" or "postgres": no plaintext slips in. NULL passes.
func Check(kind, column string) (string, error) {
	if !columnForm.MatchString(column) {
		return "", fmt.Errorf("pii: %q is no plain name of a column", column)
	}
	switch kind {
	case "sqlite":
		return fmt.Sprintf("CHECK (typeof(%[1]s) IN ('blob', 'null') AND length(%[1]s) >= %[2]d AND substr(%[1]s, 1, 1) = x'01')", column, Overhead), nil
	case "postgres":
		return fmt.Sprintf("CHECK (octet_length(%[1]s) >= %[2]d AND get_byte(%[1]s, 0) = 1)", column, Overhead), nil
	}
	return "", fmt.Errorf("pii: no database of kind %q", kind)
}
