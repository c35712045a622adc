package verify

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/spec"
)

// A sealed cell of version 1, as docs/data-keys.md says: a byte 1, and 33 bytes
// more than the text.
const sealedOverhead = 33

// personal is a field that the file promises to seal.
type personal struct {
	item, name string
	member     string // of the scenario's body that becomes it; "": the scenario does not carry it
	planted    string
}

func (p personal) String() string { return p.item + "." + p.name }

// personalFields lists what embedded stores are to hold sealed, sorted.
func personalFields(sys *spec.System) []personal {
	var out []personal
	body, _ := sys.Verify.Scenario.Body.(map[string]any)
	for item, d := range sys.Data {
		if d.Encrypt != "envelope" || !embedded(sys, item) {
			continue
		}
		for _, name := range d.PII {
			p := personal{item: item, name: name}
			member := cmp.Or(strings.TrimPrefix(sys.Verify.Scenario.PII[name], "/"), name)
			if _, ok := body[member].(string); ok {
				p.member = member
			}
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b personal) int { return strings.Compare(a.String(), b.String()) })
	return out
}

func embedded(sys *spec.System, item string) bool {
	for _, s := range sys.Stores {
		if s.Kind == "sqlite" && slices.Contains(s.Holds, item) {
			return true
		}
	}
	return false
}

func needPII(sys *spec.System) (bool, string) {
	fields := personalFields(sys)
	return slices.ContainsFunc(fields, func(p personal) bool { return p.member != "" }), "the consequential request carries no field that is declared as personal and enveloped"
}

// plant makes a value for each field that the scenario carries, of a length
// that no other of them has: by it its sealed cell is known.
func plant(fields []personal, body map[string]any) map[string]any {
	lengths := map[int]bool{}
	for i := range fields {
		p := &fields[i]
		if p.member == "" {
			continue
		}
		usual, _ := body[p.member].(string)
		for size := 8; p.planted == "" || lengths[len(p.planted)]; size++ {
			p.planted = marked(usual, size)
		}
		lengths[len(p.planted)] = true
		body = altered(body, p.member, p.planted)
	}
	return body
}

// marked puts random text of some size into a value so that it keeps its form:
// an address stays one, and so does a phone number and a token.
func marked(usual string, size int) string {
	name, domain, address := strings.Cut(usual, "@")
	switch {
	case address:
		return name + "-" + randomID(size) + "@" + domain
	case usual != "" && strings.Trim(usual, "+0123456789") == "":
		return usual[:min(3, len(usual))] + digits(size)
	}
	return usual + "_" + randomID(size)
}

func digits(n int) string {
	b := randomBytes(n)
	for i := range b {
		b[i] = '0' + b[i]%10
	}
	return string(b)
}

// readPII books with a planted value in every personal field, and demands of
// each that no file holds it and that a table holds it sealed.
func readPII(ctx context.Context, e *Env) (Result, error) {
	st, err := e.beginUsual(ctx)
	if err != nil {
		return Result{}, err
	}
	fields := personalFields(e.sys)
	body := plant(fields, e.body(st))
	before, err := e.sealedCells(ctx, fields)
	if err != nil {
		return Result{}, err
	}
	r, err := e.consequential(st, body)
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustPass(ctx, "the honest request", r); err != nil {
		return Result{}, err
	}
	if res, err := e.bookedInClear(ctx, st, fields); err != nil || res.Verdict != "" {
		return res, err
	}
	after, err := e.sealedCells(ctx, fields)
	if err != nil {
		return Result{}, err
	}
	for i, p := range fields {
		if why := p.unkept(before[i], after[i]); why != "" {
			return failed("%s is declared, and %s", p, why), nil
		}
		e.note("%s stands in a sealed cell", p)
	}
	return passed("%d personal fields are sealed, and none of what was planted is in a file as text, hex or base64", len(fields)), nil
}

// sealed is what was found of a field in the tables.
type sealed struct {
	cells   int64 // as long as the planted value is when it is sealed
	columns int   // of the field's name
	clear   int64 // cells of those columns that are not sealed
}

// unkept says what the promise to seal the field lacks; "" is nothing. Of a field
// that the scenario does not carry the columns of its name are all there is to see.
func (p personal) unkept(before, after sealed) string {
	switch {
	case p.planted != "" && after.cells <= before.cells:
		return "no table holds sealed what was planted in it"
	case p.planted != "":
		return ""
	case after.columns == 0:
		return "no table has a column of its name; if the request carries it, say as what: verify.scenario.pii"
	case after.clear > 0:
		return "a column of its name holds text that is not sealed"
	}
	return ""
}

// bookedInClear looks for planted values in the files that hold the booking.
func (e *Env) bookedInClear(ctx context.Context, st *story, fields []personal) (Result, error) {
	rows, err := e.ledger(ctx, st)
	if err != nil || len(rows) == 0 {
		return unsure("what was booked cannot be read back"), err
	}
	there, err := e.grep([]byte(fmt.Sprint(rows[0]["id"])))
	if err != nil {
		return Result{}, err
	}
	if len(there) == 0 {
		return unsure("not even the id of what was booked is in a database file"), nil
	}
	e.note("the id of what was booked stands in %s", strings.Join(there, ", "))
	for _, p := range fields {
		if p.planted == "" {
			continue
		}
		hits, err := e.grep(writings(p.planted)...)
		if err != nil {
			return Result{}, err
		}
		if len(hits) > 0 {
			return failed("%s can be read in %s", p, strings.Join(hits, ", ")), nil
		}
	}
	return Result{}, nil
}

// writings are the ways in which a value may stand in a file: as it is, in hex,
// and in base64 at each of the three places within a group of bytes.
func writings(value string) [][]byte {
	digits := hex.EncodeToString([]byte(value))
	out := [][]byte{[]byte(value), []byte(digits), []byte(strings.ToUpper(digits))}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			text := enc.EncodeToString(append(make([]byte, shift), value...))
			first := (shift*8 + 5) / 6 // what the bytes before it, or after it, may change does not count
			last := (shift + len(value)) * 8 / 6
			out = append(out, []byte(text[first:last]))
		}
	}
	return out
}

// grep names the files under the data folder that hold one of some texts.
func (t *target) grep(texts ...[]byte) (hits []string, err error) {
	t.disk.Lock()
	defer t.disk.Unlock()
	err = filepath.WalkDir(filepath.Join(t.dir, "data"), func(name string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // a file that went away holds nothing
		}
		b, err := os.ReadFile(name)
		if err == nil && slices.ContainsFunc(texts, func(text []byte) bool { return bytes.Contains(b, text) }) {
			hits = append(hits, filepath.Base(name))
		}
		return nil
	})
	return hits, err
}

// sealedCells looks for each field through every embedded store. Copies are
// read, so that no statement of ours is in the way of a service.
func (t *target) sealedCells(ctx context.Context, fields []personal) ([]sealed, error) {
	t.disk.RLock()
	defer t.disk.RUnlock()
	dir, err := os.MkdirTemp("", "rampart-verify-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	found := make([]sealed, len(fields))
	for i, file := range t.databases() {
		copied := filepath.Join(dir, fmt.Sprint(i, ".db"))
		if err := snapshot(ctx, file, copied); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
		if err := findSealed(ctx, copied, fields, found); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return found, nil
}

// snapshot copies a database as it is between two transactions.
func snapshot(ctx context.Context, file, to string) error {
	db, err := openDB(file)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, `VACUUM INTO $1`, to)
	return err
}

func findSealed(ctx context.Context, file string, fields []personal, found []sealed) error {
	db, err := openDB(file)
	if err != nil {
		return err
	}
	defer db.Close()
	tables, err := texts(ctx, db, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`)
	if err != nil {
		return err
	}
	for _, table := range tables {
		columns, err := texts(ctx, db, `SELECT name FROM pragma_table_info($1)`, table)
		if err != nil {
			return err
		}
		for _, column := range columns {
			for i, p := range fields {
				if err := p.look(ctx, db, table, column, &found[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// look adds what one column says of the field.
func (p personal) look(ctx context.Context, db *sql.DB, table, column string, s *sealed) error {
	c := quoted(column)
	shape := `typeof(` + c + `) = 'blob' AND substr(` + c + `, 1, 1) = x'01' AND length(` + c + `)`
	count := func(n *int64, where string, arg int) error {
		var more int64
		err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+quoted(table)+` WHERE `+where, arg).Scan(&more)
		*n += more
		return err
	}
	if p.planted != "" {
		return count(&s.cells, shape+` = $1`, sealedOverhead+len(p.planted))
	}
	if column != p.name {
		return nil
	}
	s.columns++
	return count(&s.clear, c+` IS NOT NULL AND NOT (`+shape+` >= $1)`, sealedOverhead)
}
