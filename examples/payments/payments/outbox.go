package main

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"github.com/rampart-security/rampart/sdk/client"
	"github.com/rampart-security/rampart/sdk/db"
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
	out  *client.Client
	log  *slog.Logger
	wake chan struct{} // one pending wake-up
}

// sign returns p's message, signed by the sidecar with the payer as the one for
// whom this service acts. That is known while the payer's request is served, and
// not to a later process that finds the message in the outbox.
func (o *outbox) sign(ctx context.Context, p payment) ([]byte, error) {
	return o.out.Sign(ctx, queue, topic, message{p.ID, p.OrderID, p.Amount, p.Currency, p.Owner})
}

// add puts a signed message into the outbox, in the transaction that completes
// the payment.
func (o *outbox) add(ctx context.Context, tx *sql.Tx, id string, signed []byte) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO outbox (payment_id, signed, created) VALUES ($1, $2, $3)`, id, signed, time.Now().UnixMilli())
	return err
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
	id     string
	signed []byte
}

func (o *outbox) oldest(ctx context.Context) (*waiting, error) {
	var w waiting
	err := o.db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT payment_id, signed FROM outbox ORDER BY created, payment_id LIMIT 1`).Scan(&w.id, &w.signed)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &w, err
}

// send publishes one message and takes it out. A crash in between sends it
// twice, which consumers do not notice. A message that waited longer than the
// consumer's replay_window ends in the dead letter: a person decides.
func (o *outbox) send(ctx context.Context, w waiting) error {
	if err := o.out.PublishSigned(ctx, queue, topic, w.signed); err != nil {
		return err
	}
	return o.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM outbox WHERE payment_id = $1`, w.id)
		return err
	})
}
