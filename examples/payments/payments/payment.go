package main

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"net/mail"
	"regexp"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
)

const (
	currency   = "EUR"
	item       = "payment" // key of data in rampart.yaml: amounts and card references
	table      = "payments"
	maxAmount  = 99_999_999 // of one charge, in minor units
	dailyLimit = 10_000_000 // of one person in 24 hours, in minor units
	day        = 24 * time.Hour
)

// The states of a payment. A pending one was promised to nobody yet: the
// processor has perhaps charged it, and a retry with the same key finds out.
const (
	pending   = "pending"
	completed = "completed"
	failed    = "failed"
)

// payment is one row. What the API shows of it has a name for JSON; what the
// database must not read is sealed, bound to its row and tenant.
type payment struct {
	ID          string    `json:"id" rampart:"row"`
	OrderID     string    `json:"order_id"`
	Tenant      string    `json:"-" rampart:"tenant"`
	Owner       string    `json:"owner" rampart:"subject"` // whose keys seal how to reach them
	Team        string    `json:"-"`
	Amount      int64     `json:"amount"` // in minor units
	Currency    string    `json:"currency"`
	Status      string    `json:"status"`
	Email       *string   `json:"email" rampart:"pii=email,item=contact"` // of a data item of its own: how to reach people; nil once erased
	Erased      bool      `json:"erased"`
	CardRef     string    `json:"-" rampart:"pii=card_ref"` // the processor's token of the card
	Description string    `json:"description"`
	IdemKey     string    `json:"-"` // "" when the client sent none
	Created     time.Time `json:"created"`
	Frozen      bool      `json:"-"` // by compliance, in the database: whoever freezes a row seals it anew
}

// integrity lists what the row's checksum covers beside its tenant. That a row
// is not frozen says nothing, as before there was such a thing.
func (p payment) integrity() []string {
	list := []string{table, p.ID, p.OrderID, p.Owner, p.Team, strconv.FormatInt(p.Amount, 10), p.Currency, p.Status}
	if p.Frozen {
		list = append(list, "frozen")
	}
	return list
}

// resource is what policy/payments.cedar sees of a payment.
func (p payment) resource() rampart.Resource {
	return rampart.Resource{
		Type: "payment", ID: p.ID, Tenant: p.Tenant,
		Attrs: map[string]any{"owner": p.Owner, "team_id": p.Team, "frozen": p.Frozen},
	}
}

// request is the body of POST /payments. The gateway has checked its form; the
// service checks it again, since it must not depend on who stands in front.
type request struct {
	OrderID     string `json:"order_id"`
	Amount      int64  `json:"amount"` // a claim, in minor units
	Email       string `json:"email"`
	CardToken   string `json:"card_token"`
	Description string `json:"description"`
}

var (
	orderID   = regexp.MustCompile(`^ord_[0-9a-f]{32}$`)
	cardToken = regexp.MustCompile(`^(tok|pm)_[A-Za-z0-9_]{1,64}$`)
)

// find is the body of POST /payments/find.
type find struct {
	Org   string `json:"org"`
	Email string `json:"email"`
}

func isAddress(text string) bool {
	a, err := mail.ParseAddress(text)
	return err == nil && a.Address == text && len(text) <= 254
}

func (r request) validate() error {
	switch {
	case !orderID.MatchString(r.OrderID):
		return unprocessable("order_id is not the id of an order")
	case r.Amount < 1 || r.Amount > maxAmount:
		return unprocessable("amount is 1 to %d", maxAmount)
	case !isAddress(r.Email):
		return unprocessable("email is not an address")
	case !cardToken.MatchString(r.CardToken):
		return unprocessable("card_token is not a token of the processor")
	case len(r.Description) > 2000: // 500 characters of at most four bytes
		return unprocessable("description is too long")
	}
	return nil
}

// newID returns an id that sorts by time and cannot be guessed: 48 bits of
// milliseconds, 80 random bits.
func newID(now time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	rand.Read(b[6:])
	return "pay_" + hex.EncodeToString(b[:])
}
