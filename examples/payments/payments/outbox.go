package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/sdk/client"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/pii"
)

const (
	queue  = "events"
	topic  = "payments.completed"
	resend = 2 * time.Second // between two attempts when the queue is away
)

// message is schemas/paid.json.
type message struct {
	PaymentID string `json:"payment_id"`
	OrderID   string `json:"order_id"`
	Amount    int64  `json:"amount"`
	Currency  string `json:"currency"`
	Recipient string `json:"recipient"` // subject of the payer
}

// outbox keeps messages from the commit of a payment until the queue has them.
type outbox struct {
	db   *db.DB
	keys *pii.Keys
	out  *client.Client
	log  *slog.Logger
	wake chan struct{} // one pending wake-up
}

// add puts p's message into the outbox, in the transaction that completes p.
// The payer's token goes with it, encrypted: by it the sidecar signs for whom
// this service acts. It lives for two minutes.
func (o *outbox) add(ctx context.Context, tx *sql.Tx, p payment, token string) error {
	payload, err := json.Marshal(message{p.ID, p.OrderID, p.Amount, p.Currency, p.Owner})
	if err != nil {
		return err
	}
	sealed, err := o.keys.Seal(ctx, tokenCell(p.Tenant, p.ID), []byte(token))
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO outbox (payment_id, tenant, payload, token, created) VALUES ($1, $2, $3, $4, $5)`,
		p.ID, p.Tenant, string(payload), sealed, time.Now().UnixMilli())
	return err
}

func tokenCell(tenant, id string) pii.Cell {
	return pii.Cell{Item: item, Tenant: tenant, Table: "outbox", Column: "token", Row: id}
}

// kick makes run look at once.
func (o *outbox) kick() {
	select {
	case o.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// run sends what is in the outbox, and what a crash left there, until ctx ends.
func (o *outbox) run(ctx context.Context) {
	for {
		if err := o.drain(ctx); err != nil && ctx.Err() == nil {
			o.log.LogAttrs(ctx, slog.LevelWarn, "messages wait in the outbox", slog.String("error", err.Error()))
		}
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		case <-time.After(resend):
		}
	}
}

// drain sends until the outbox is empty or an attempt fails.
func (o *outbox) drain(ctx context.Context) error {
	for {
		w, err := o.oldest(ctx)
		if err != nil || w == nil {
			return err
		}
		if err := o.send(ctx, *w); err != nil {
			return err
		}
	}
}

// waiting is one row of the outbox.
type waiting struct {
	id, tenant, payload string
	token               []byte
}

func (o *outbox) oldest(ctx context.Context) (*waiting, error) {
	var found *waiting
	err := o.db.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT payment_id, tenant, payload, token FROM outbox ORDER BY created, payment_id LIMIT 1`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			found = new(waiting)
			if err := rows.Scan(&found.id, &found.tenant, &found.payload, &found.token); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return found, err
}

// send publishes one message and takes it out. A crash in between sends it
// twice: consumers know a payment by its id.
//
// A token that is no longer good is left away: the message then says that the
// service acts for itself, which the consumer's recipient guard sends to the
// dead letter, where a person decides. It is not lost.
func (o *outbox) send(ctx context.Context, w waiting) error {
	token, err := o.keys.Open(ctx, tokenCell(w.tenant, w.id), w.token)
	if err != nil {
		return err
	}
	payload := json.RawMessage(w.payload)
	err = o.out.Publish(client.WithAuthorization(ctx, string(token)), queue, topic, payload)
	if rampart.KindOf(err) == rampart.Unauthenticated {
		o.log.LogAttrs(ctx, slog.LevelWarn, "the payer's token ended before the message was sent", slog.String("payment", w.id))
		err = o.out.Publish(ctx, queue, topic, payload)
	}
	if err != nil {
		return err
	}
	return o.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM outbox WHERE payment_id = $1`, w.id)
		return err
	})
}
