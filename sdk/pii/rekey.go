package pii

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/data/envelope"
)

// Bounds of a re-encryption.
const (
	rekeyBatch   = 500 // rows of one transaction
	maxBatch     = 10_000
	maxPasses    = 5
	rekeyTries   = 20 // of one batch, while others write the same rows
	rekeyBackoff = 20 * time.Millisecond
	maxTampered  = 100 // rows that are named
)

// DB is what a re-encryption runs on: *db.DB of package sdk/db, or SQL of any
// *sql.DB that takes arguments as $1.
type DB interface {
	// View runs f in a transaction that only reads.
	View(ctx context.Context, f func(*sql.Tx) error) error
	// Update runs f in a transaction and commits when f returns nil. It may run it
	// again.
	Update(ctx context.Context, f func(*sql.Tx) error) error
}

// SQL is a DB of plain database/sql.
type SQL struct{ *sql.DB }

// View implements DB.
func (s SQL) View(ctx context.Context, f func(*sql.Tx) error) error { return s.Update(ctx, f) }

// Update implements DB.
func (s SQL) Update(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // a no-op after Commit
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// RekeyOptions of Rekey. The zero value is ready to use.
type RekeyOptions struct {
	Batch    int            // rows of one transaction; 0: 500; at most 10,000
	PerSec   int            // rows that are looked at per second at most; 0: no limit
	Progress func(Progress) // called after each batch; nil: nobody looks
}

// Progress is how far a re-encryption has come.
type Progress struct {
	Table    string
	Pass     int           // from 1; the last one finds nothing to do
	Total    int64         // rows of the table when this run began
	Done     int64         // rows of this pass, also those of runs that were killed
	Changed  int64         // rows that were sealed anew, in all passes
	Raced    int64         // rows that somebody else wrote meanwhile; the next pass looks at them
	Shredded int64         // rows with a value whose key is gone; their indexes are cleared
	Tampered int64         // rows with a value that does not open otherwise; they stay as they are
	Which    []string      // ids of those, the first hundred of this run
	ETA      time.Duration // of this pass, at the speed so far; 0: not known
	Finished bool
}

// RekeyTable is what Rekey needs of a Table.
type RekeyTable interface{ rekeyPlan() *plan }

func (p *plan) rekeyPlan() *plan { return p }

// Rekey seals every row of a table with the keys that seal now, blind indexes
// included, while the service goes on to write. It notes in the table
// rampart_rekey of the same database how far it is, in the transaction of each
// batch: whoever is killed goes on there at the next call. A row that somebody
// else changes meanwhile keeps that change. It returns when a whole pass finds
// nothing to do. One run at a time is enough for a table; two do no harm.
//
// After `rampart dek rekey` new values are sealed with the new key already; Rekey
// sees to the old ones. rampart_rekey is made when it is missing.
func Rekey(ctx context.Context, db DB, table RekeyTable, opt RekeyOptions) (Progress, error) {
	r := &rekeying{plan: table.rekeyPlan(), db: db, opt: opt}
	if r.opt.Batch <= 0 {
		r.opt.Batch = rekeyBatch
	}
	r.opt.Batch = min(r.opt.Batch, maxBatch)
	err := r.run(ctx)
	if err != nil {
		err = fmt.Errorf("pii: rekey of %s: %w", r.plan.table, err)
	}
	return r.at, err
}

// rekeying is one run.
type rekeying struct {
	*plan
	db     DB
	opt    RekeyOptions
	at     Progress
	cursor string // id of the last row that is done
	began  time.Time
	before int64 // rows of this pass that were done when this run began
	dirty  int64 // rows that this pass changed or lost to others
}

const rekeyTable = `CREATE TABLE IF NOT EXISTS rampart_rekey (
	name     TEXT   PRIMARY KEY,
	pass     BIGINT NOT NULL,
	last     TEXT   NOT NULL,
	done     BIGINT NOT NULL,
	changed  BIGINT NOT NULL,
	raced    BIGINT NOT NULL,
	shredded BIGINT NOT NULL,
	tampered BIGINT NOT NULL,
	dirty    BIGINT NOT NULL,
	finished BIGINT NOT NULL
)`

func (r *rekeying) run(ctx context.Context) error {
	if r.keys.svc.Off(sealing) {
		return rampart.Errorf(rampart.Invalid, sealing, "encryption is off in this throw-away system")
	}
	// A role that may make no tables has found it made.
	made := r.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, rekeyTable)
		return err
	})
	if err := r.begin(ctx); err != nil {
		return errors.Join(err, made)
	}
	r.began, r.before = time.Now(), r.at.Done
	for {
		n, err := r.batch(ctx)
		if err != nil {
			return err
		}
		if n < r.opt.Batch {
			if err := r.endPass(ctx); err != nil {
				return err
			}
		}
		r.tell()
		if r.at.Finished {
			return nil
		}
		if err := r.wait(ctx, n); err != nil {
			return err
		}
	}
}

// begin finds out where the last run stopped. One that ended makes room for the
// next.
func (r *rekeying) begin(ctx context.Context) error {
	return r.db.Update(ctx, func(tx *sql.Tx) error {
		r.at = Progress{Table: r.table, Pass: 1}
		r.cursor, r.dirty = "", 0
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM `+r.table).Scan(&r.at.Total); err != nil {
			return err
		}
		a, finished := &r.at, int64(0)
		var p Progress
		var last string
		var dirty int64
		err := tx.QueryRowContext(ctx, `SELECT pass, last, done, changed, raced, shredded, tampered, dirty, finished FROM rampart_rekey WHERE name = $1`, r.table).
			Scan(&p.Pass, &last, &p.Done, &p.Changed, &p.Raced, &p.Shredded, &p.Tampered, &dirty, &finished)
		if err == nil && finished == 0 {
			p.Table, p.Total = a.Table, a.Total
			*a, r.cursor, r.dirty = p, last, dirty
			return nil
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		return r.note(ctx, tx, r.at, "", 0)
	})
}

// note writes how far the job is.
func (r *rekeying) note(ctx context.Context, tx *sql.Tx, a Progress, last string, dirty int64) error {
	finished := 0
	if a.Finished {
		finished = 1
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO rampart_rekey (name, pass, last, done, changed, raced, shredded, tampered, dirty, finished)
		VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)
		ON CONFLICT (name) DO UPDATE SET pass = excluded.pass, last = excluded.last, done = excluded.done, changed = excluded.changed, raced = excluded.raced,
			shredded = excluded.shredded, tampered = excluded.tampered, dirty = excluded.dirty, finished = excluded.finished`,
		r.table, a.Pass, last, a.Done, a.Changed, a.Raced, a.Shredded, a.Tampered, dirty, finished)
	return err
}

// rekeyRow is one row as it was read, and as it is to be.
type rekeyRow struct {
	id       string
	cells    []rekeyCell
	changed  bool
	shredded bool
	tampered bool
}

// rekeyCell is one personal column, or the index beside it.
type rekeyCell struct {
	column   string
	old, now []byte
}

// batch does the next rows. They are read and sealed outside of the transaction
// that writes them, which is short.
func (r *rekeying) batch(ctx context.Context) (int, error) {
	rows, err := r.read(ctx)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	for _, row := range rows {
		if row.tampered && len(r.at.Which) < maxTampered {
			r.at.Which = append(r.at.Which, row.id)
		}
	}
	last := rows[len(rows)-1].id
	var next Progress
	var dirty int64
	write := func(tx *sql.Tx) error {
		next, dirty = r.at, r.dirty
		for _, row := range rows {
			won, err := r.swap(ctx, tx, row)
			if err != nil {
				return err
			}
			next.count(row, won, &dirty)
		}
		return r.note(ctx, tx, next, last, dirty)
	}
	for try := 1; ; try++ {
		if err = r.db.Update(ctx, write); err == nil {
			break
		}
		if try == rekeyTries || ctx.Err() != nil {
			return 0, err
		}
		if err := pause(ctx, time.Duration(try)*rekeyBackoff); err != nil {
			return 0, err
		}
	}
	r.at, r.cursor, r.dirty = next, last, dirty
	return len(rows), nil
}

func (a *Progress) count(row rekeyRow, won bool, dirty *int64) {
	a.Done++
	switch {
	case row.changed && won:
		a.Changed++
		*dirty++
	case row.changed:
		a.Raced++
		*dirty++
	}
	if a.Pass > 1 {
		return // these were counted in the first pass
	}
	if row.shredded {
		a.Shredded++
	}
	if row.tampered {
		a.Tampered++
	}
}

// swap writes a row if its personal columns still hold what was read.
func (r *rekeying) swap(ctx context.Context, tx *sql.Tx, row rekeyRow) (won bool, err error) {
	if !row.changed {
		return true, nil
	}
	var set, where []string
	args := []any{row.id}
	for _, c := range row.cells {
		if bytes.Equal(c.old, c.now) {
			continue
		}
		args = append(args, orNull(c.now))
		set = append(set, fmt.Sprintf("%s = $%d", c.column, len(args)))
		if c.old == nil {
			where = append(where, c.column+" IS NULL")
			continue
		}
		args = append(args, c.old)
		where = append(where, fmt.Sprintf("%s = $%d", c.column, len(args)))
	}
	res, err := tx.ExecContext(ctx, fmt.Sprintf("UPDATE %s SET %s WHERE %s = $1 AND %s",
		r.table, strings.Join(set, ", "), r.row.column, strings.Join(where, " AND ")), args...)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// orNull is NULL for nil, with every driver.
func orNull(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

// read reads the rows after the cursor and prepares what is to be written.
func (r *rekeying) read(ctx context.Context) ([]rekeyRow, error) {
	columns := []string{r.row.column, r.tenant.column}
	if r.subject != nil {
		columns = append(columns, r.subject.column)
	}
	fixed := len(columns)
	for _, f := range r.fields {
		if f.role == rolePII {
			columns = append(columns, f.column)
		}
		if f.search {
			columns = append(columns, f.column+indexSuffix)
		}
	}
	query := fmt.Sprintf("SELECT %s FROM %s WHERE %s > $1 ORDER BY %[3]s LIMIT %[4]d", strings.Join(columns, ", "), r.table, r.row.column, r.opt.Batch)
	var ids [][]string
	var cells [][][]byte
	err := r.db.View(ctx, func(tx *sql.Tx) error {
		ids, cells = nil, nil
		rows, err := tx.QueryContext(ctx, query, r.cursor)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			id, cell := make([]string, fixed), make([][]byte, len(columns)-fixed)
			dest := make([]any, 0, len(columns))
			for i := range id {
				dest = append(dest, &id[i])
			}
			for i := range cell {
				dest = append(dest, &cell[i])
			}
			if err := rows.Scan(dest...); err != nil {
				return err
			}
			ids, cells = append(ids, id), append(cells, cell)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	out := make([]rekeyRow, len(ids))
	for i := range ids {
		if out[i], err = r.prepare(ctx, ids[i], cells[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// prepare seals anew what an old key sealed.
func (r *rekeying) prepare(ctx context.Context, id []string, cells [][]byte) (rekeyRow, error) {
	row := rekeyRow{id: id[0]}
	for _, f := range r.fields {
		if f.role != rolePII {
			continue
		}
		c := Cell{Item: f.item, Tenant: id[1], Table: r.table, Column: f.column, Row: id[0]}
		if r.subject != nil {
			c.Subject = id[2]
		}
		sealed := rekeyCell{column: f.column, old: cells[0], now: cells[0]}
		index := rekeyCell{column: f.column + indexSuffix}
		cells = cells[1:]
		if f.search {
			index.old, index.now = cells[0], cells[0]
			cells = cells[1:]
		}
		if err := r.again(ctx, &row, &f, c, &sealed, &index); err != nil {
			return row, err
		}
		row.cells = append(row.cells, sealed)
		if f.search {
			row.cells = append(row.cells, index)
		}
	}
	for _, c := range row.cells {
		row.changed = row.changed || !bytes.Equal(c.old, c.now)
	}
	return row, nil
}

// again decides about one value. What does not open stays as it is; if that is
// because its key was shredded, the index must not go on to say what it was.
func (r *rekeying) again(ctx context.Context, row *rekeyRow, f *field, c Cell, sealed, index *rekeyCell) error {
	if sealed.old == nil || row.tampered {
		return nil
	}
	fresh, err := r.fresh(ctx, c, sealed.old)
	if err == nil && fresh && !f.search {
		return nil
	}
	var text []byte
	if err == nil {
		text, err = r.keys.Open(ctx, c, sealed.old)
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrNoKey):
		row.shredded = true
		index.now = nil
		return nil
	case errors.Is(err, envelope.ErrTampered) || errors.Is(err, envelope.ErrFormat):
		row.tampered = true
		return nil
	default:
		return err
	}
	if !fresh {
		if sealed.now, err = r.keys.Seal(ctx, c, text); err != nil {
			return err
		}
	}
	if f.search {
		index.now, err = r.keys.index(ctx, c, f.name, string(text))
	}
	return err
}

// fresh reports whether a value was sealed with the key that seals now.
func (r *rekeying) fresh(ctx context.Context, c Cell, sealed []byte) (bool, error) {
	if len(sealed) < Overhead {
		return false, envelope.ErrFormat
	}
	active, err := r.keys.version(ctx, c)
	return binary.BigEndian.Uint32(sealed[1:]) == active, err
}

// version is that of the key which would seal for a cell now.
func (k *Keys) version(ctx context.Context, c Cell) (uint32, error) {
	c = k.ofWhom(c)
	version, _, err := k.seal.Active(ctx, envelope.Whose{Item: c.Item, Tenant: c.Tenant, Subject: c.Subject})
	return version, err
}

// endPass begins the next pass, or ends the job when this one found nothing to do.
func (r *rekeying) endPass(ctx context.Context) error {
	next := r.at
	next.Finished = r.dirty == 0 || next.Pass == maxPasses
	if !next.Finished {
		next.Pass++
		next.Done = 0
	}
	if err := r.db.Update(ctx, func(tx *sql.Tx) error { return r.note(ctx, tx, next, "", 0) }); err != nil {
		return err
	}
	if next.Finished && r.dirty > 0 {
		r.at = next
		return rampart.Errorf(rampart.Conflict, sealing, "rows are still written with old keys after %d passes; are all replicas reached by their sidecars?", maxPasses)
	}
	r.at, r.cursor, r.dirty, r.began, r.before = next, "", 0, time.Now(), 0
	return nil
}

func (r *rekeying) tell() {
	if r.opt.Progress == nil {
		return
	}
	p := r.at
	if done := p.Done - r.before; done > 0 && p.Total > p.Done {
		p.ETA = time.Duration(float64(time.Since(r.began)) / float64(done) * float64(p.Total-p.Done)).Round(time.Second)
	}
	r.opt.Progress(p)
}

// wait holds the job to its rate.
func (r *rekeying) wait(ctx context.Context, rows int) error {
	if r.opt.PerSec <= 0 || rows == 0 {
		return ctx.Err()
	}
	due := r.began.Add(time.Duration(float64(r.at.Done-r.before) / float64(r.opt.PerSec) * float64(time.Second)))
	return pause(ctx, time.Until(due))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
