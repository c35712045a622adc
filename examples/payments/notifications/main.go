// Command notifications tells payers that a payment went through. Its mail goes
// into a folder, one file for each, in place of a mail server.
//
// That a message comes from the payment service, is as agreed and is meant for
// the person who paid was verified by its sidecar before it arrives here.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/httpguard"
	"github.com/rampart-security/rampart/sdk/rest"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(context.Background(), log); err != nil {
		log.Error("notifications ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	svc, err := sdk.Connect(ctx)
	if err != nil {
		return err
	}
	data := os.Getenv("RAMPART_DATA")
	if data == "" {
		return errors.New("RAMPART_DATA is not set: start the service with `rampart up`")
	}
	out := filepath.Join(data, "mail")
	if err := os.MkdirAll(out, 0o700); err != nil {
		return err
	}
	return sdk.Serve(ctx, httpguard.New(svc).Wrap(routes(log, mailbox(out))))
}

func routes(log *slog.Logger, out mailbox) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /_rampart/messages/payments.completed", rest.Handler(log, out.deliver))
	return mux
}

// paid is schemas/paid.json.
type paid struct {
	PaymentID string `json:"payment_id"`
	OrderID   string `json:"order_id"`
	Amount    int64  `json:"amount"`
	Currency  string `json:"currency"`
	Recipient string `json:"recipient"`
}

// mail is what is sent.
type mail struct {
	To        string `json:"to"`
	PaymentID string `json:"payment_id"`
	Amount    int64  `json:"amount"` // in minor units
	Currency  string `json:"currency"`
}

// mailbox is the folder of sent mail.
type mailbox string

var paymentID = regexp.MustCompile(`^pay_[0-9a-f]{32}$`)

// deliver sends one mail for one payment: a message that arrives again is
// acknowledged and changes nothing. The schema is the sidecar's to check; what
// becomes part of a path is checked here as well.
func (m mailbox) deliver(w http.ResponseWriter, r *http.Request) error {
	var p paid
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, rest.MaxBody)).Decode(&p); err != nil {
		return &rampart.Error{Kind: rampart.Invalid, Msg: "the message is not readable", Err: err}
	}
	if !paymentID.MatchString(p.PaymentID) {
		return rampart.Errorf(rampart.Invalid, "", "the message names no payment")
	}
	if err := m.write(mail{To: p.Recipient, PaymentID: p.PaymentID, Amount: p.Amount, Currency: p.Currency}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// write makes the file whole or not at all: Link fails when it is there.
func (m mailbox) write(v mail) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(string(m), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	err = os.Link(tmp.Name(), filepath.Join(string(m), v.PaymentID+".json"))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
