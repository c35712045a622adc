package main

import (
	"context"
	"errors"

	"github.com/stripe/stripe-go/v85"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/sdk/client"
)

// processor charges cards with Stripe's own client. The key is a word, not a
// secret: the sidecar replaces it on the way out.
type processor struct{ stripe *stripe.Client }

func newProcessor(out *client.Client) processor {
	to := out.To("processor")
	backends := stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		HTTPClient:        to.HTTPClient(),
		URL:               stripe.String(to.BaseURL()),
		MaxNetworkRetries: stripe.Int64(0), // the client's retry, with its key, is the retry
		EnableTelemetry:   stripe.Bool(false),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull},
	})
	return processor{stripe.NewClient("injected-by-sidecar", stripe.WithBackends(backends))}
}

// charge takes p's amount from its card, at most once for one payment id. A
// card that is refused is Invalid; anything else that goes wrong is
// Unavailable, and nobody knows whether the card was charged.
func (c processor) charge(ctx context.Context, p payment) error {
	params := &stripe.PaymentIntentCreateParams{
		Amount:        stripe.Int64(p.Amount),
		Currency:      stripe.String("eur"),
		PaymentMethod: stripe.String(p.CardRef),
		Confirm:       stripe.Bool(true),
		AutomaticPaymentMethods: &stripe.PaymentIntentCreateAutomaticPaymentMethodsParams{
			Enabled:        stripe.Bool(true),
			AllowRedirects: stripe.String("never"),
		},
	}
	params.SetIdempotencyKey(p.ID)
	params.AddMetadata("payment", p.ID)
	intent, err := c.stripe.V1PaymentIntents.Create(ctx, params)
	if refused, ok := errors.AsType[*stripe.Error](err); ok && refused.Type == stripe.ErrorTypeCard {
		return &rampart.Error{Kind: rampart.Invalid, Msg: "the card was refused", Err: err}
	}
	if err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Msg: "the processor is not available", Err: err}
	}
	if intent.Status != stripe.PaymentIntentStatusSucceeded || intent.Amount != p.Amount {
		return rampart.Errorf(rampart.Unavailable, "", "the processor did not confirm the charge")
	}
	return nil
}
