package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/internal/inbound"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

func connect(t *testing.T, a *sdktest.Agent) *Client {
	t.Helper()
	a.Info = agent.ServiceInfo{Name: "payments"}
	sdktest.Start(t, a)
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return New(svc)
}

func TestDoCarriesTheCaller(t *testing.T) {
	var got *http.Request
	c := connect(t, &sdktest.Agent{Out: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		io.WriteString(w, `{"total":2580}`)
	})})
	ctx := rampart.WithTrace(from(t, "Bearer internal"), strings.Repeat("ab", 16))
	var order struct{ Total int64 }
	if err := c.To("orders").Do(ctx, "GET", "/orders/1", nil, &order); err != nil {
		t.Fatal(err)
	}
	if order.Total != 2580 || got.URL.Path != "/out/orders/orders/1" {
		t.Errorf("total %d from %s", order.Total, got.URL.Path)
	}
	if h := got.Header.Get("Authorization"); h != "Bearer internal" {
		t.Errorf("authorization %q", h)
	}
	if h := got.Header.Get("Traceparent"); !strings.HasPrefix(h, "00-"+strings.Repeat("ab", 16)+"-") || len(h) != 55 {
		t.Errorf("traceparent %q", h)
	}
}

// An external party never sees the internal token: a library's own
// Authorization stays, for the sidecar to replace with the secret.
func TestDoKeepsTheTokenInside(t *testing.T) {
	var got string
	c := connect(t, &sdktest.Agent{Out: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
	})})
	ctx := from(t, "Bearer internal")
	req, err := http.NewRequestWithContext(ctx, "POST", c.To("processor").BaseURL()+"/v1/payment_intents", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer injected-by-sidecar")
	resp, err := c.To("processor").HTTPClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got != "Bearer injected-by-sidecar" {
		t.Errorf("authorization %q", got)
	}
}

func TestRefusalsKeepTheirKind(t *testing.T) {
	for status, want := range map[int]rampart.Kind{
		400: rampart.Invalid, 401: rampart.Unauthenticated, 403: rampart.Denied, 404: rampart.NotFound, 409: rampart.Conflict,
		422: rampart.Invalid, 429: rampart.Limited, 500: rampart.Internal, 502: rampart.Unavailable, 503: rampart.Unavailable, 302: rampart.Internal,
	} {
		c := connect(t, &sdktest.Agent{Out: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://169.254.169.254/")
			w.WriteHeader(status)
		})})
		if err := c.To("orders").Do(t.Context(), "GET", "/", nil, nil); rampart.KindOf(err) != want || err == nil {
			t.Errorf("%d: kind %v, want %v", status, rampart.KindOf(err), want)
		}
	}
}

// from returns the context of a request that arrived with this token.
func from(t *testing.T, token string) context.Context {
	return inbound.With(t.Context(), inbound.Inbound{Authorization: token})
}

func TestPublish(t *testing.T) {
	a := &sdktest.Agent{}
	c := connect(t, a)
	identity := a.Identity(rampart.Principal{Subject: "user:alice"}, "2")
	ctx := inbound.With(t.Context(), inbound.Inbound{Identity: identity})
	signed, err := c.Sign(ctx, "events", "payments.completed", map[string]int{"amount": 1})
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Messages(); len(got) != 0 {
		t.Errorf("signing alone sent %+v", got)
	}
	if err := c.PublishSigned(t.Context(), "events", "payments.completed", signed); err != nil { // later, in no request
		t.Fatal(err)
	}
	if err := c.Publish(ctx, "events", "payments.completed", map[string]int{"amount": 2}); err != nil {
		t.Fatal(err)
	}
	want := []sdktest.Message{
		{Store: "events", Topic: "payments.completed", Subject: "user:alice", Payload: json.RawMessage(`{"amount":1}`)},
		{Store: "events", Topic: "payments.completed", Subject: "user:alice", Payload: json.RawMessage(`{"amount":2}`)},
	}
	if diff := cmp.Diff(want, a.Messages()); diff != "" {
		t.Error(diff)
	}
	if err := c.Publish(t.Context(), "events", "payments.completed", 1); rampart.KindOf(err) != rampart.Unauthenticated {
		t.Errorf("for nobody: %v, want unauthenticated", err)
	}
}
