package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/authz"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/pii"
	"github.com/rampart-security/rampart/sdk/rest"
)

const pageSize = "100"

// ledger is the table of payments: rows carry a checksum (control db.row_mac),
// personal fields are encrypted (data.envelope), every change is written to an
// append-only table (db.audit_log).
type ledger struct {
	svc    *sdk.Service
	db     *db.DB
	keys   *pii.Keys
	rows   *pii.Table[payment]
	outbox *outbox
	seal   seal
}

func (l *ledger) prepare(ctx context.Context) error {
	return l.db.Migrate(ctx, schema(l.svc, l.audited()))
}

// audited reports whether changes go to payment_audit.
func (l *ledger) audited() bool {
	return l.svc.Info().Stores["payments_db"].AuditTable != "" && !l.svc.Off("db.audit_log")
}

// reserve books p as pending before any money moves. When p's owner has used
// the same idempotency key before, it returns the payment made then.
func (l *ledger) reserve(ctx context.Context, p payment) (payment, error) {
	var before *payment
	err := l.db.Update(ctx, func(tx *sql.Tx) error {
		var err error
		before, err = l.sameKey(ctx, tx, p)
		if err != nil || before != nil {
			return err
		}
		if err := withinDailyLimit(ctx, tx, p); err != nil {
			return err
		}
		if err := l.insert(ctx, tx, p); err != nil {
			return err
		}
		return l.record(ctx, tx, p)
	})
	switch {
	case err != nil:
		return payment{}, err
	case before == nil:
		return p, nil
	case before.OrderID != p.OrderID || before.Amount != p.Amount:
		return payment{}, rampart.Errorf(rampart.Conflict, "idempotency.key", "the idempotency key was used for another payment")
	}
	return *before, nil
}

func (l *ledger) sameKey(ctx context.Context, tx *sql.Tx, p payment) (*payment, error) {
	if p.IdemKey == "" {
		return nil, nil
	}
	found, err := l.read(ctx, tx.QueryRowContext(ctx, l.columns()+`WHERE owner = $1 AND idem_key = $2`, p.Owner, p.IdemKey))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &found, err
}

func withinDailyLimit(ctx context.Context, tx *sql.Tx, p payment) error {
	var sum int64
	err := tx.QueryRowContext(ctx, `SELECT COALESCE(SUM(amount), 0) FROM payments WHERE owner = $1 AND created > $2 AND status <> 'failed'`,
		p.Owner, p.Created.Add(-day).UnixMilli()).Scan(&sum)
	if err != nil {
		return err
	}
	if sum+p.Amount > dailyLimit {
		return unprocessable("the amount exceeds what you may pay in 24 hours")
	}
	return nil
}

// settle ends a pending payment. What was charged is on record with the audit
// log before the commit, and its message, nil for none, is in the outbox with
// it: a crash at any point loses neither. The row stays pending until a retry
// when the audit log cannot be reached.
func (l *ledger) settle(ctx context.Context, p payment, status string, signed []byte) (payment, error) {
	p.Status = status
	err := l.db.Update(ctx, func(tx *sql.Tx) error {
		mac, err := l.keys.RowMAC(ctx, item, p.Tenant, p.integrity()...)
		if err != nil {
			return err
		}
		done, err := tx.ExecContext(ctx, `UPDATE payments SET status = $1, mac = $2 WHERE id = $3 AND status = 'pending'`, status, mac, p.ID)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, rampart.Errorf(rampart.Conflict, "", "the payment was settled meanwhile"))
		}
		if err := l.record(ctx, tx, p); err != nil {
			return err
		}
		if signed != nil {
			if err := l.outbox.add(ctx, tx, p.ID, signed); err != nil {
				return err
			}
		}
		return l.svc.Audit(ctx, settled(p))
	})
	if err != nil {
		return payment{}, err
	}
	return p, nil
}

// get returns one payment after its checksum held.
func (l *ledger) get(ctx context.Context, id string) (payment, error) {
	var p payment
	err := l.db.View(ctx, func(tx *sql.Tx) error {
		var err error
		p, err = l.read(ctx, tx.QueryRowContext(ctx, l.columns()+`WHERE id = $1`, id))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return payment{}, rampart.Errorf(rampart.NotFound, "", "no such payment")
	}
	return p, err
}

// visible returns the newest payments that a list of the policies holds, for one
// order unless order is "". One row that does not match its checksum fails the
// list.
func (l *ledger) visible(ctx context.Context, list authz.List, order string) ([]payment, error) {
	return l.search(ctx, list, `($1 = '' OR order_id = $1)`, order)
}

// under returns those of one organization that were paid under an address. Who
// was erased is not found by it, though the index knows until forget was there.
func (l *ledger) under(ctx context.Context, list authz.List, q find) ([]payment, error) {
	some, err := l.rows.Lookup(ctx, q.Org, "email", q.Email)
	if err != nil {
		return nil, err
	}
	in := make([]string, len(some))
	for i := range in {
		in[i] = "$" + strconv.Itoa(i+2)
	}
	found, err := l.search(ctx, list, `tenant = $1 AND email_idx IN (`+strings.Join(in, ", ")+`)`, append([]any{q.Org}, some...)...)
	return slices.DeleteFunc(found, func(p payment) bool { return p.Erased }), err
}

// search returns the newest payments that meet a condition, and that the
// policies let be seen.
func (l *ledger) search(ctx context.Context, list authz.List, condition string, args ...any) ([]payment, error) {
	out := []payment{}
	where, more, err := list.SQL(l.db.Kind(), len(args)+1)
	if err != nil || list.IsNone() {
		return out, err
	}
	err = l.db.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, l.columns()+`WHERE `+condition+` AND `+where+` ORDER BY id DESC LIMIT `+pageSize, append(args, more...)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			p, err := l.read(ctx, rows)
			if err != nil {
				return err
			}
			out = append(out, p)
		}
		return rows.Err()
	})
	return out, err
}

func (l *ledger) insert(ctx context.Context, tx *sql.Tx, p payment) error {
	args, err := l.rows.Args(ctx, &p)
	if errors.Is(err, pii.ErrNoKey) {
		return &rampart.Error{Kind: rampart.Conflict, Control: "data.envelope", Err: err, Msg: "how to reach this person was erased, and nothing new is taken"}
	}
	if err != nil {
		return err
	}
	mac, err := l.keys.RowMAC(ctx, item, p.Tenant, p.integrity()...)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO payments (order_id, team, amount, currency, status, description, idem_key, created, mac, `+l.rows.List()+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, `+l.rows.Placeholders(10)+`)`,
		append([]any{p.OrderID, p.Team, p.Amount, p.Currency, p.Status, p.Description,
			sql.NullString{String: p.IdemKey, Valid: p.IdemKey != ""}, p.Created.UnixMilli(), mac}, args...)...)
	return err
}

// columns begins a query of what read scans.
func (l *ledger) columns() string {
	return `SELECT ` + l.rows.List() + `, order_id, team, amount, currency, status, description, idem_key, created, frozen, mac FROM payments `
}

type row interface{ Scan(...any) error }

// read scans, verifies and decrypts one row. Nothing of a row is used before
// its checksum held. How to reach a person who was shredded is gone; what was
// paid is not.
func (l *ledger) read(ctx context.Context, r row) (payment, error) {
	var (
		p   payment
		mac []byte
		key sql.NullString
		ms  int64
	)
	sealed, open := l.rows.Dest(&p)
	err := r.Scan(append(sealed, &p.OrderID, &p.Team, &p.Amount, &p.Currency, &p.Status, &p.Description, &key, &ms, &p.Frozen, &mac)...)
	if err != nil {
		return payment{}, err
	}
	p.IdemKey, p.Created = key.String, time.UnixMilli(ms).UTC()
	if err := l.keys.CheckRowMAC(ctx, item, p.Tenant, mac, p.integrity()...); err != nil {
		return payment{}, l.tampered(ctx, p, err)
	}
	err = open(ctx)
	gone, ok := errors.AsType[*pii.GoneError](err)
	if ok && slices.Equal(gone.Fields, []string{"email"}) {
		p.Erased = true
		return p, nil
	}
	if err != nil {
		return payment{}, l.tampered(ctx, p, err)
	}
	return p, nil
}

// forget clears the blind indexes of whom was shredded, which the database could
// go on to compare. It seals anew what an old key has sealed, too.
func (l *ledger) forget(ctx context.Context) error {
	if l.svc.Off("data.envelope") {
		return nil
	}
	_, err := pii.Rekey(ctx, l.db, l.rows, pii.RekeyOptions{PerSec: 5000})
	return err
}

// tampered puts on record that a row was changed around the service, and tells
// the caller that its data is not to be trusted. A key that cannot be had is no
// proof of that and stays what it is.
func (l *ledger) tampered(ctx context.Context, p payment, err error) error {
	if rampart.KindOf(err) == rampart.Unavailable {
		return err
	}
	recorded := l.svc.Audit(ctx, sdk.Event{
		Class: "money", Action: "record_tampered", Outcome: "refused", Control: "db.row_mac", Resource: "payment/" + p.ID,
	})
	return rest.WithStatus(500, &rampart.Error{
		Kind: rampart.Unavailable, Control: "db.row_mac", Err: errors.Join(err, recorded),
		Msg: "integrity_error: a stored payment was changed outside the service",
	})
}
