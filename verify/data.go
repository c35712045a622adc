package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/spec"
)

func dataProbes() []Probe {
	return []Probe{
		{ID: "P-070", Title: "every personal field is sealed in its table, and in no file to read", SeedRow: "checklist: PII under envelope encryption", Controls: []string{"data.envelope"},
			Proves: []string{"owasp2021:A02"}, Vantage: asDBReader, Safety: intrusive, Needs: all(needLedger, needEmbedded, needPII), Run: readPII},
		{ID: "P-071", Title: "the audit log verifies, and one flipped byte is found", SeedRow: "checklist: audit logging for auth events", Controls: []string{"audit.log"},
			Proves: []string{"owasp2021:A09"}, Vantage: onHost, Safety: safe, Run: auditChain,
			Blind:    "no plane serves without its log",
			SelfTest: "flips a byte and drops a record in copies, and finds both"},
		{ID: "P-072", Title: "a login, a denial and an act of the administrator are on record", SeedRow: "checklist: centralized security logging", Controls: []string{"audit.log"},
			Proves: []string{"owasp2021:A09"}, Vantage: fromOutside, Safety: safe, Run: onRecord,
			Blind: "no plane serves without its log"},
		{ID: "P-141", Title: "an amount changed in the database is not served", SeedRow: "payment: 4 tampered record", Controls: []string{"db.row_mac"},
			Proves: []string{"PAY-5", "owasp2021:A08"}, Vantage: asDBReader, Safety: intrusive, Needs: all(needLedger, needEmbedded, needRowMAC), Run: tamperedRow},
		{ID: "P-142", Title: "the database's own audit table cannot be changed or emptied", SeedRow: "payment: 4 tampered record", Controls: []string{"db.audit_log"},
			Proves: []string{"PAY-5", "owasp2021:A09"}, Vantage: asDBReader, Safety: intrusive, Needs: all(needLedger, needAuditTable), Run: auditTable},
		{ID: "P-143", Title: "the database refuses a row that breaks its constraints", SeedRow: "validation: database", Controls: []string{"db.check"},
			Proves: []string{"owasp2021:A03"}, Vantage: asDBReader, Safety: safe, Needs: all(needLedger, needEmbedded), Run: brokenRow},
	}
}

// needEmbedded asks that what is booked goes into a file that probes can open.
func needEmbedded(sys *spec.System) (bool, string) {
	embedded := false
	for _, f := range sys.FlowsFrom(callFlow(sys).To) {
		switch sys.Stores[f.To].Kind {
		case "sqlite":
			embedded = true
		case "postgres":
			return false, "probes do not hold the password of " + f.To
		}
	}
	return embedded, "what is booked goes into no embedded store"
}

func needRowMAC(sys *spec.System) (bool, string) {
	for _, d := range sys.Data {
		if d.RowMAC {
			return true, ""
		}
	}
	return false, "no data item has row_mac"
}

func needAuditTable(sys *spec.System) (bool, string) {
	_, ok := auditTableOf(sys)
	return ok, "no embedded store names an audit_table"
}

func auditTableOf(sys *spec.System) (string, bool) {
	for _, name := range slices.Sorted(maps.Keys(sys.Stores)) {
		if s := sys.Stores[name]; s.Kind == "sqlite" && s.AuditTable != "" {
			return s.AuditTable, true
		}
	}
	return "", false
}

// auditChain checks the live log with a reader of our own, then a copy of it
// in which one byte is flipped.
func auditChain(ctx context.Context, e *Env) (Result, error) {
	if err := e.healthy(ctx); err != nil {
		return Result{}, err
	}
	planes, records, err := checkLogs(filepath.Join(e.dir, "audit"))
	if err != nil {
		return failed("the log does not verify: %v", err), nil
	}
	e.note("%d records of %d planes verify", records, planes)
	files, err := logFiles(filepath.Join(e.dir, "audit"))
	if err != nil || records == 0 {
		return unsure("there is no record to alter a copy of"), err
	}
	b, err := firstRecords(files)
	if err != nil {
		return Result{}, err
	}
	var c chain
	if err := c.read(bytes.NewReader(b)); err != nil {
		return failed("the log does not verify: %v", err), nil
	}
	flipped := bytes.Clone(b)
	at := bytes.Index(flipped, []byte(`"action":"`)) + len(`"action":"`)
	flipped[at] ^= 1
	c = chain{}
	if err := c.read(bytes.NewReader(flipped)); err == nil {
		return failed("one flipped byte in a copy goes unnoticed"), nil
	}
	less := b[bytes.IndexByte(b, '\n')+1:]
	c = chain{}
	if err := c.read(bytes.NewReader(less)); err == nil && len(less) > 0 {
		return failed("a missing record in a copy goes unnoticed"), nil
	}
	return passed("%d records verify; a flipped byte and a missing record in copies are found", records), nil
}

// firstRecords reads the first segment of the first plane that has records.
func firstRecords(files []string) ([]byte, error) {
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		whole := bytes.LastIndexByte(b, '\n') + 1
		if filepath.Base(f) == "000001.jsonl" && bytes.Contains(b[:whole], []byte(`"action":"`)) {
			return b[:whole], nil
		}
	}
	return nil, errors.New("no plane has a first segment with records")
}

func onRecord(ctx context.Context, e *Env) (Result, error) {
	who, err := e.visitor(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	res, err := e.do(ctx, r)
	if err != nil {
		return Result{}, err
	}
	for name, fit := range map[string]func(event) bool{
		"the login": func(v event) bool {
			return v.Action == "session.login" && v.Subject == who.subject() && v.Outcome == "allowed"
		},
		"the denial":              func(v event) bool { return v.Trace == res.trace && v.refused() && v.Control != "" },
		"the administrator's act": func(v event) bool { return v.Class == "admin" && v.Resource == who.subject() },
	} {
		v, ok, err := e.trail.wait(ctx, patience, fit)
		if err != nil {
			return Result{}, err
		}
		if !ok || v.Plane == "" || v.Time.IsZero() {
			return failed("%s is not in the audit log", name), nil
		}
		e.note("%s: %s by %s", name, v.Action, v.Plane)
	}
	return passed("login, denial and administration are on record with plane, time and control"), nil
}

// booked is one honest booking and where its amount stands in a database.
func (e *Env) booked(ctx context.Context) (*story, cell, error) {
	st, err := e.beginUsual(ctx)
	if err != nil {
		return nil, cell{}, err
	}
	if _, err := e.book(ctx, st); err != nil {
		return nil, cell{}, err
	}
	rows, err := e.ledger(ctx, st)
	if err != nil {
		return nil, cell{}, err
	}
	if len(rows) != 1 {
		return nil, cell{}, fmt.Errorf("one booking, but %d rows in the ledger", len(rows))
	}
	amount, err := e.amountOf(rows[0])
	if err != nil {
		return nil, cell{}, err
	}
	c, err := e.findCell(ctx, fmt.Sprint(rows[0]["id"]), amount)
	return st, c, err
}

func tamperedRow(ctx context.Context, e *Env) (Result, error) {
	e.disk.RLock()
	defer e.disk.RUnlock()
	st, c, err := e.booked(ctx)
	if err != nil {
		return Result{}, err
	}
	e.note("booked %d, found in %s.%s", c.value, c.table, c.column)
	if err := c.put(ctx, c.value-1); err != nil {
		return Result{}, fmt.Errorf("the amount cannot be changed in the file: %w", err)
	}
	e.atClose(func() { c.put(context.WithoutCancel(ctx), c.value) })
	rows, err := e.ledger(ctx, st)
	if err == nil {
		for _, row := range rows {
			if got, err := e.amountOf(row); err == nil && got == c.value-1 {
				return failed("the changed amount is served"), nil
			}
		}
		return unsure("the ledger answers with %d rows and without the changed amount", len(rows)), nil
	}
	e.note("reading it back: %v", err)
	v, ok, err := e.trail.wait(ctx, patience, func(v event) bool { return v.Control == "db.row_mac" && strings.HasSuffix(v.Resource, c.id) })
	if err != nil || !ok {
		return unsure("the row is refused, but not by db.row_mac on record"), err
	}
	if err := c.put(ctx, c.value); err != nil {
		return Result{}, err
	}
	if _, err := e.ledger(ctx, st); err != nil {
		return unsure("the row is refused even after it was put back"), nil
	}
	return passed("the changed row was refused (%s), the row put back is served", v.Action), nil
}

func auditTable(ctx context.Context, e *Env) (Result, error) {
	e.disk.RLock()
	defer e.disk.RUnlock()
	_, c, err := e.booked(ctx)
	if err != nil {
		return Result{}, err
	}
	table, _ := auditTableOf(e.sys)
	db, err := openDB(c.file)
	if err != nil {
		return Result{}, err
	}
	defer db.Close()
	found, err := texts(ctx, db, `SELECT name FROM sqlite_master WHERE type = 'table' AND name = $1`, table)
	if err != nil {
		return Result{}, err
	}
	var records int
	if len(found) > 0 {
		if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+quoted(table)).Scan(&records); err != nil {
			return Result{}, err
		}
	}
	db.Close()
	if records == 0 {
		return failed("a booking leaves nothing in %s", table), nil
	}
	e.note("%s has %d rows after the booking", table, records)
	columns, err := e.firstColumn(ctx, c.file, table)
	if err != nil {
		return Result{}, err
	}
	for _, statement := range []string{
		`DELETE FROM ` + quoted(table),
		`UPDATE ` + quoted(table) + ` SET ` + quoted(columns) + ` = ` + quoted(columns),
	} {
		n, err := try(ctx, c.file, statement)
		verb, _, _ := strings.Cut(statement, " ")
		if err == nil {
			return failed("%s changed %d rows of %s", verb, n, table), nil
		}
		if isBusy(err) {
			return unsure("%s: the database is busy", verb), nil
		}
		e.note("%s: %v", verb, err)
	}
	return passed("UPDATE and DELETE on %s are refused by the database", table), nil
}

func (e *Env) firstColumn(ctx context.Context, file, table string) (string, error) {
	db, err := openDB(file)
	if err != nil {
		return "", err
	}
	defer db.Close()
	columns, err := texts(ctx, db, `SELECT name FROM pragma_table_info($1)`, table)
	if err != nil || len(columns) == 0 {
		return "", errors.Join(err, errors.New("the audit table has no columns"))
	}
	return columns[len(columns)-1], nil
}

func brokenRow(ctx context.Context, e *Env) (Result, error) {
	e.disk.RLock()
	defer e.disk.RUnlock()
	_, c, err := e.booked(ctx)
	if err != nil {
		return Result{}, err
	}
	set := `UPDATE ` + quoted(c.table) + ` SET ` + quoted(c.column) + ` = $2` + c.where()
	if n, err := try(ctx, c.file, set, c.id, c.value+1); err != nil || n != 1 {
		return unsure("not even a legal amount can be written: %v", err), nil
	}
	e.note("a legal amount: the database takes it (taken back)")
	n, err := try(ctx, c.file, set, c.id, -c.value)
	if err == nil {
		return failed("an amount of %d was written to %d rows", -c.value, n), nil
	}
	if isBusy(err) || !strings.Contains(strings.ToUpper(err.Error()), "CHECK") {
		return unsure("refused, but not by a constraint: %v", err), nil
	}
	e.note("an amount of %d: %v", -c.value, err)
	return passed("the database refuses an amount below zero"), nil
}

func isBusy(err error) bool {
	return strings.Contains(err.Error(), "locked") || strings.Contains(err.Error(), "busy")
}
