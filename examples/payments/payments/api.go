package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/authz"
	"github.com/rampart-security/rampart/sdk/rest"
	"github.com/rampart-security/rampart/sdk/sanitize"
)

// sealEvery is how often the chain of payment_audit is verified, forgetEvery how
// often what a shredding leaves of a person goes.
const (
	sealEvery   = time.Minute
	forgetEvery = time.Hour
)

func (s *service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /payments", rest.Handler(s.log, s.create))
	mux.Handle("GET /payments", rest.Handler(s.log, s.list))
	mux.Handle("POST /payments/find", rest.Handler(s.log, s.find))
	mux.Handle("GET /payments/{id}", rest.Handler(s.log, s.get))
	mux.Handle("GET /payments/{id}/card", rest.Handler(s.log, s.card))
	return mux
}

// work does what no request waits for, until ctx ends.
func (s *service) work(ctx context.Context) {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.outbox.run(ctx)
	}()
	forgotten := time.Time{}
	for {
		if now := time.Now(); now.Sub(forgotten) >= forgetEvery {
			forgotten = now
			if err := s.ledger.forget(ctx); err != nil && ctx.Err() == nil {
				s.log.LogAttrs(ctx, slog.LevelWarn, "the erased were not forgotten", slog.String("error", err.Error()))
			}
		}
		if err := s.ledger.verify(ctx); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelError, "ledger not verified", slog.String("error", err.Error()))
		}
		select {
		case <-ctx.Done():
			<-sent
			return
		case <-time.After(sealEvery):
		}
	}
}

// create charges and books one payment. In order: what is asked (validate), for
// which order and price (the order service), by whom (layer 3), then the
// promise in the ledger, the money, and the ledger again with audit and message.
func (s *service) create(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	var in request
	if err := rest.Read(r, &in); err != nil {
		return err
	}
	if err := in.validate(); err != nil {
		return err
	}
	p, err := s.price(ctx, in)
	if err != nil {
		return err
	}
	p.IdemKey = sdk.IdempotencyKey(r)
	if err := authz.Check(ctx, s.svc, "payments:create", p.resource()); err != nil {
		return err
	}
	if p, err = s.ledger.reserve(ctx, p); err != nil {
		return err
	}
	if p.Status == pending {
		if p, err = s.charge(ctx, p); err != nil {
			return err
		}
	}
	if p.Status == failed {
		return unprocessable("the card was refused")
	}
	return rest.Write(w, http.StatusCreated, p)
}

// price asks the order service, on the caller's behalf, what the order costs.
// The amount in the request is a claim: it must be that price (control
// field.server_owned). Where that control is off, the claim is what is charged.
func (s *service) price(ctx context.Context, in request) (payment, error) {
	var order struct {
		Org   string `json:"org"`
		Owner string `json:"owner"`
		Team  string `json:"team"`
		Total int64  `json:"total"`
	}
	if err := s.out.To("orders").Do(ctx, http.MethodGet, "/orders/"+in.OrderID, nil, &order); err != nil {
		return payment{}, err
	}
	caller := rampart.PrincipalFrom(ctx).Subject
	if order.Owner != caller {
		return payment{}, unprocessable("only the person who ordered may pay")
	}
	now := time.Now()
	p := payment{
		ID: newID(now), OrderID: in.OrderID, Tenant: order.Org, Owner: caller, Team: order.Team,
		Amount: order.Total, Currency: currency, Status: pending,
		Email: &in.Email, CardRef: in.CardToken, Description: sanitize.Text(in.Description),
		Created: now.UTC().Truncate(time.Millisecond),
	}
	if !s.svc.Compares(ctx, "amount") {
		p.Amount = in.Amount
		return p, nil
	}
	if in.Amount != order.Total {
		return payment{}, s.mismatch(ctx, in, order.Total)
	}
	return p, nil
}

func (s *service) mismatch(ctx context.Context, in request, price int64) error {
	err := rampart.Errorf(rampart.Invalid, "field.server_owned", "amount is not what the order costs")
	err.Err = s.svc.Audit(ctx, sdk.Event{
		Class: "money", Action: "amount_mismatch", Outcome: "refused", Control: "field.server_owned", Resource: "order/" + in.OrderID,
		Detail: map[string]string{"claimed": strconv.FormatInt(in.Amount, 10), "price": strconv.FormatInt(price, 10)},
	})
	return rest.WithStatus(http.StatusUnprocessableEntity, err)
}

// charge takes the money of a pending payment and settles it. When the answer of
// the processor is not known the payment stays pending: a retry with the same
// key asks again, and the processor charges one payment id once.
func (s *service) charge(ctx context.Context, p payment) (payment, error) {
	ctx = context.WithoutCancel(ctx) // a caller who leaves does not stop money half way
	signed, err := s.outbox.sign(ctx, p)
	if err != nil {
		return payment{}, err
	}
	err = s.cards.charge(ctx, p)
	if rampart.KindOf(err) == rampart.Invalid {
		return s.ledger.settle(ctx, p, failed, nil)
	}
	if err != nil {
		return payment{}, err
	}
	if p, err = s.ledger.settle(ctx, p, completed, signed); err != nil {
		return payment{}, err
	}
	s.outbox.kick()
	return p, nil
}

func settled(p payment) sdk.Event {
	e := sdk.Event{
		Class: "money", Action: "payment.created", Outcome: "allowed", Resource: "payment/" + p.ID,
		Detail: map[string]string{"order": p.OrderID, "amount": strconv.FormatInt(p.Amount, 10), "currency": p.Currency},
	}
	if p.Status == failed {
		e.Action, e.Outcome = "payment.failed", "error"
	}
	return e
}

func (s *service) list(w http.ResponseWriter, r *http.Request) error {
	order := r.URL.Query().Get("order_id")
	if order != "" && !orderID.MatchString(order) {
		return unprocessable("order_id is not the id of an order")
	}
	list, err := authz.Filter(r.Context(), s.svc, "payments:read", "payment")
	if err != nil {
		return err
	}
	found, err := s.ledger.visible(r.Context(), list, order)
	if err != nil {
		return err
	}
	body, err := s.shown(r.Context(), found)
	if err != nil {
		return err
	}
	return rest.Write(w, http.StatusOK, body)
}

// find answers what was paid under an address, as support asks when somebody
// calls. The answer does not repeat the address, and who asked is on record.
func (s *service) find(w http.ResponseWriter, r *http.Request) error {
	var in find
	if err := rest.Read(r, &in); err != nil {
		return err
	}
	if !isAddress(in.Email) {
		return unprocessable("email is not an address")
	}
	list, err := authz.Filter(r.Context(), s.svc, "payments:find", "payment", authz.Of(in.Org))
	if err != nil {
		return err
	}
	found, err := s.ledger.under(r.Context(), list, in)
	if err != nil {
		return err
	}
	event := sdk.Event{Class: "api_read", Action: "payments.found", Outcome: "allowed", Resource: "org/" + in.Org, Detail: map[string]string{"found": strconv.Itoa(len(found))}}
	if err := s.svc.Audit(r.Context(), event); err != nil {
		return err
	}
	body, err := authz.Project(list.Fields, found)
	if err != nil {
		return err
	}
	return rest.Write(w, http.StatusOK, body)
}

// shown is what the policies let be seen of each payment of a list: which
// fields that are depends on the payment.
func (s *service) shown(ctx context.Context, list []payment) ([]json.RawMessage, error) {
	resources := make([]rampart.Resource, len(list))
	for i, p := range list {
		resources[i] = p.resource()
	}
	out := make([]json.RawMessage, len(list))
	for i, o := range authz.DecideMany(ctx, s.svc, "payments:read", resources) {
		if o.Err != nil {
			return nil, o.Err
		}
		var err error
		if out[i], err = authz.Project(o.Decision.Fields, list[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *service) get(w http.ResponseWriter, r *http.Request) error {
	p, err := s.ledger.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	d, err := authz.Decide(r.Context(), s.svc, "payments:read", p.resource())
	if err != nil {
		return err
	}
	body, err := authz.Project(d.Fields, p)
	if err != nil {
		return err
	}
	return rest.Write(w, http.StatusOK, body)
}

// card reveals which card paid. rampart.yaml asks for a fresh second factor
// first (step_up of flow 2): a stolen session alone does not get here.
func (s *service) card(w http.ResponseWriter, r *http.Request) error {
	p, err := s.ledger.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := authz.Check(r.Context(), s.svc, "payments:reveal", p.resource()); err != nil {
		return err
	}
	if err := s.svc.Audit(r.Context(), sdk.Event{Class: "money", Action: "card.revealed", Outcome: "allowed", Resource: "payment/" + p.ID}); err != nil {
		return err
	}
	return rest.Write(w, http.StatusOK, struct {
		CardRef string `json:"card_ref"`
	}{p.CardRef})
}

func unprocessable(format string, args ...any) error {
	return rest.WithStatus(http.StatusUnprocessableEntity, rampart.Errorf(rampart.Invalid, "", format, args...))
}
