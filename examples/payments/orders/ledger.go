package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/sdk/authz"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/db/relations"
)

// pageSize is the most orders one answer holds.
const pageSize = "100"

// order is an order as the API shows it. Amounts are in minor units.
type order struct {
	ID       string    `json:"id"`
	Org      string    `json:"org"`
	Owner    string    `json:"owner"`
	Team     string    `json:"team"`
	Currency string    `json:"currency"`
	Total    int64     `json:"total"`
	Created  time.Time `json:"created"`
	Items    []item    `json:"items"`
}

type item struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
	Price    int64  `json:"price"` // of one piece, when it was ordered
}

// ledger stores orders, and who may see them besides.
type ledger struct {
	db      *db.DB
	viewers *relations.Store
}

// schema's CHECKs are the last line of defence behind the API's own checks.
const schema = `
CREATE TABLE orders (
	id       TEXT   PRIMARY KEY,
	org      TEXT   NOT NULL CHECK (org <> ''),
	owner    TEXT   NOT NULL CHECK (owner <> ''),
	team     TEXT   NOT NULL,
	currency TEXT   NOT NULL CHECK (currency = 'EUR'),
	total    BIGINT NOT NULL CHECK (total > 0),
	created  BIGINT NOT NULL
);
CREATE INDEX orders_of ON orders (org, owner, id);
CREATE TABLE order_items (
	order_id TEXT   NOT NULL REFERENCES orders (id),
	line     BIGINT NOT NULL,
	sku      TEXT   NOT NULL,
	quantity BIGINT NOT NULL CHECK (quantity BETWEEN 1 AND 99),
	price    BIGINT NOT NULL CHECK (price > 0),
	PRIMARY KEY (order_id, line)
);`

// shares tells who shared what when. That a viewer may read is said by the
// relation, which is written in the same transaction.
const shares = `
CREATE TABLE order_shares (
	order_id TEXT   NOT NULL REFERENCES orders (id),
	viewer   TEXT   NOT NULL,
	by_user  TEXT   NOT NULL,
	created  BIGINT NOT NULL,
	PRIMARY KEY (order_id, viewer)
);`

// prepare makes the schema and, in an empty database, the demo's orders.
func (l ledger) prepare(ctx context.Context) error {
	if err := l.db.Migrate(ctx, []db.Step{{SQLite: schema, Postgres: schema}, {SQLite: shares, Postgres: shares}}); err != nil {
		return err
	}
	return l.db.Update(ctx, func(tx *sql.Tx) error {
		var any bool
		err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM orders)`).Scan(&any)
		if err != nil || any {
			return err
		}
		for _, o := range demoOrders() {
			if err := insert(ctx, tx, o); err != nil {
				return err
			}
		}
		return nil
	})
}

func (l ledger) add(ctx context.Context, o order) error {
	return l.db.Update(ctx, func(tx *sql.Tx) error { return insert(ctx, tx, o) })
}

func insert(ctx context.Context, tx *sql.Tx, o order) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO orders (id, org, owner, team, currency, total, created) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		o.ID, o.Org, o.Owner, o.Team, o.Currency, o.Total, o.Created.UnixMilli())
	if err != nil {
		return err
	}
	for line, it := range o.Items {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO order_items (order_id, line, sku, quantity, price) VALUES ($1, $2, $3, $4, $5)`,
			o.ID, line, it.SKU, it.Quantity, it.Price)
		if err != nil {
			return err
		}
	}
	return nil
}

const columns = `SELECT id, org, owner, team, currency, total, created FROM orders `

// get returns one order; who may see it is the caller's question.
func (l ledger) get(ctx context.Context, id string) (order, error) {
	var o order
	err := l.db.View(ctx, func(tx *sql.Tx) error {
		var err error
		o, err = scan(tx.QueryRowContext(ctx, columns+`WHERE id = $1`, id))
		if err != nil {
			return err
		}
		return addItems(ctx, tx, &o)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return order{}, rampart.Errorf(rampart.NotFound, "", "no such order")
	}
	return o, err
}

// visible returns the newest orders that a list of the policies holds, of one
// organization unless org is "".
func (l ledger) visible(ctx context.Context, list authz.List, org string) ([]order, error) {
	out := []order{}
	where, args, err := list.SQL(l.db.Kind(), 2)
	if err != nil || list.IsNone() {
		return out, err
	}
	err = l.db.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, columns+`WHERE ($1 = '' OR org = $1) AND `+where+` ORDER BY id DESC LIMIT `+pageSize, append([]any{org}, args...)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			o, err := scan(rows)
			if err != nil {
				return err
			}
			out = append(out, o)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		for i := range out {
			if err := addItems(ctx, tx, &out[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// share lets a viewer read an order.
func (l ledger) share(ctx context.Context, o order, by string, v viewer, now time.Time) error {
	return l.viewers.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO order_shares (order_id, viewer, by_user, created) VALUES ($1, $2, $3, $4) ON CONFLICT (order_id, viewer) DO NOTHING`,
			o.ID, v.name, by, now.UnixMilli())
		if err == nil {
			_, err = l.viewers.Write(ctx, tx, []relations.Tuple{v.of(o)}, nil)
		}
		return err
	})
}

// unshare ends that.
func (l ledger) unshare(ctx context.Context, o order, v viewer) error {
	return l.viewers.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM order_shares WHERE order_id = $1 AND viewer = $2`, o.ID, v.name)
		if err == nil {
			_, err = l.viewers.Write(ctx, tx, nil, []relations.Tuple{v.of(o)})
		}
		return err
	})
}

// viewer is whom an order is shared with: "user:bob", or "team:red", which means
// its members.
type viewer struct{ name string }

func (v viewer) of(o order) relations.Tuple {
	subject := v.name
	if strings.HasPrefix(subject, "team:") {
		subject += "#member"
	}
	return relations.Tuple{Object: "order:" + o.ID, Relation: "viewer", Subject: subject}
}

type row interface{ Scan(...any) error }

func scan(r row) (order, error) {
	var o order
	var ms int64
	err := r.Scan(&o.ID, &o.Org, &o.Owner, &o.Team, &o.Currency, &o.Total, &ms)
	o.Created = time.UnixMilli(ms).UTC()
	return o, err
}

func addItems(ctx context.Context, tx *sql.Tx, o *order) error {
	rows, err := tx.QueryContext(ctx, `SELECT sku, quantity, price FROM order_items WHERE order_id = $1 ORDER BY line`, o.ID)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var it item
		if err := rows.Scan(&it.SKU, &it.Quantity, &it.Price); err != nil {
			return err
		}
		o.Items = append(o.Items, it)
	}
	return rows.Err()
}

// newID returns an id that sorts by time and cannot be guessed: 48 bits of
// milliseconds, 80 random bits.
func newID(now time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	rand.Read(b[6:])
	return "ord_" + hex.EncodeToString(b[:])
}
