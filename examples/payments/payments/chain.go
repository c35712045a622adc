package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rampart-security/rampart/sdk"
)

// change is one row of payment_audit: a state that a payment took on. Its
// checksum covers the one before it, so that no row can be changed, taken out
// or put in between without all later ones failing.
type change struct {
	seq       int64
	paymentID string
	status    string
	amount    int64
	at        int64 // milliseconds
	checksum  []byte
}

// sum is SHA-256 over the checksum before and the row, texts with their length.
func (c change) sum(before []byte) []byte {
	h := sha256.New()
	h.Write(before)
	var n [8]byte
	number := func(v int64) {
		binary.BigEndian.PutUint64(n[:], uint64(v))
		h.Write(n[:])
	}
	text := func(s string) {
		number(int64(len(s)))
		h.Write([]byte(s))
	}
	number(c.seq)
	text(c.paymentID)
	text(c.status)
	number(c.amount)
	number(c.at)
	return h.Sum(nil)
}

// record appends p's state to payment_audit, in the transaction that changes p.
func (l *ledger) record(ctx context.Context, tx *sql.Tx, p payment) error {
	if !l.audited() {
		return nil
	}
	last, err := head(ctx, tx)
	if err != nil {
		return err
	}
	c := change{seq: last.seq + 1, paymentID: p.ID, status: p.Status, amount: p.Amount, at: time.Now().UnixMilli()}
	_, err = tx.ExecContext(ctx, `INSERT INTO payment_audit (seq, payment_id, status, amount, at, checksum) VALUES ($1, $2, $3, $4, $5, $6)`,
		c.seq, c.paymentID, c.status, c.amount, c.at, c.sum(last.checksum))
	return err
}

// head returns the newest change; the zero change when there is none.
func head(ctx context.Context, tx *sql.Tx) (change, error) {
	var c change
	err := tx.QueryRowContext(ctx, `SELECT seq, checksum FROM payment_audit ORDER BY seq DESC LIMIT 1`).Scan(&c.seq, &c.checksum)
	if errors.Is(err, sql.ErrNoRows) {
		return change{}, nil
	}
	return c, err
}

// seal remembers how far the chain was seen to hold, so that cutting off its
// end is noticed as well.
type seal struct {
	mu   sync.Mutex
	seen change
}

// verify walks the changes since the last call and demands that what was seen
// then is still there. A break goes to the audit log (control db.audit_log).
func (l *ledger) verify(ctx context.Context) error {
	if !l.audited() {
		return nil
	}
	l.seal.mu.Lock()
	defer l.seal.mu.Unlock()
	var seen change
	err := l.db.View(ctx, func(tx *sql.Tx) error {
		var err error
		seen, err = walk(ctx, tx, l.seal.seen)
		return err
	})
	broken, ok := errors.AsType[*brokenError](err)
	if ok {
		return errors.Join(err, l.svc.Audit(ctx, sdk.Event{
			Class: "money", Action: "ledger_broken", Outcome: "refused", Control: "db.audit_log",
			Resource: fmt.Sprintf("payment_audit/%d", broken.seq),
		}))
	}
	if err == nil {
		l.seal.seen = seen
	}
	return err
}

// brokenError says at which row the chain breaks.
type brokenError struct{ seq int64 }

func (e *brokenError) Error() string { return fmt.Sprintf("payment_audit breaks at row %d", e.seq) }

// walk verifies the chain from the last row seen on and returns the newest.
func walk(ctx context.Context, tx *sql.Tx, seen change) (change, error) {
	var below int64
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM payment_audit WHERE seq <= $1`, seen.seq).Scan(&below); err != nil {
		return change{}, err
	}
	if below != seen.seq {
		return change{}, &brokenError{seen.seq}
	}
	rows, err := tx.QueryContext(ctx, `SELECT seq, payment_id, status, amount, at, checksum FROM payment_audit WHERE seq >= $1 ORDER BY seq`, seen.seq)
	if err != nil {
		return change{}, err
	}
	defer rows.Close()
	for rows.Next() {
		var c change
		if err := rows.Scan(&c.seq, &c.paymentID, &c.status, &c.amount, &c.at, &c.checksum); err != nil {
			return change{}, err
		}
		again := c.seq == seen.seq && bytes.Equal(c.checksum, seen.checksum)
		next := c.seq == seen.seq+1 && bytes.Equal(c.checksum, c.sum(seen.checksum))
		if !again && !next {
			return change{}, &brokenError{c.seq}
		}
		seen = c
	}
	return seen, rows.Err()
}
