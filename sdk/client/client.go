// Package client is how a service calls out: to other services, to declared
// external parties and to queues. Everything goes through the sidecar, which
// opens nothing that rampart.yaml does not declare, speaks mutual TLS inside,
// verifies TLS outside and adds the secrets that the service never holds.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/internal/inbound"
)

// timeout bounds one call with its answer; a context may end it sooner.
const timeout = 30 * time.Second

// Client calls out. It is safe for concurrent use.
type Client struct{ svc *sdk.Service }

// New returns a client of svc's sidecar. It panics when svc is nil.
func New(svc *sdk.Service) *Client {
	if svc == nil {
		panic("client: nil service")
	}
	return &Client{svc}
}

// Destination is one service or external party.
type Destination struct {
	name string
	http *http.Client
}

// To returns the destination with this name in rampart.yaml. Whether there is a
// flow to it is the sidecar's decision at each call.
func (c *Client) To(name string) Destination {
	return Destination{name, c.under(agent.PathOut + name)}
}

// HTTPClient returns a client for libraries that bring their own requests. They
// use BaseURL as the address of the other side and paths as the other side
// knows them; the client puts the sidecar in between. It follows no redirect.
func (d Destination) HTTPClient() *http.Client { return d.http }

// BaseURL returns the address to use with HTTPClient. It is a name only:
// HTTPClient dials the sidecar whatever it says.
func (d Destination) BaseURL() string { return "http://" + d.name }

// Do calls method on path with in as JSON and reads the answer into out; nil
// leaves either out. The internal token of the request in ctx goes along, so
// that the other side decides for the same subject. A refusal is a
// *rampart.Error of the kind that its status stands for.
func (d Destination) Do(ctx context.Context, method, path string, in, out any) error {
	return call(ctx, d.http, method, d.BaseURL()+path, in, out)
}

// Publish sends payload as JSON to a topic of a queue and returns once it is
// stored. The sidecar signs it, with the subject of the request in ctx as the
// one for whom this service acts.
func (c *Client) Publish(ctx context.Context, store, topic string, payload any) error {
	return call(ctx, c.under(agent.PathPublish+store), http.MethodPost, "http://"+store+"/"+topic, payload, nil)
}

// under returns a client whose requests go to paths of the sidecar below prefix.
func (c *Client) under(prefix string) *http.Client {
	return &http.Client{
		Transport:     carrier{prefix, c.svc.Transport()},
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func call(ctx context.Context, c *http.Client, method, url string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Msg: "the sidecar is not reachable", Err: err}
	}
	return sdk.Answer(resp, out)
}

// Authorization returns the internal token that arrived with the request in
// ctx, as "Bearer TOKEN", and WithAuthorization puts one back: for work that a
// request leaves behind, such as an outbox. The token lives for two minutes.
func Authorization(ctx context.Context) string { return inbound.From(ctx).Authorization }

// WithAuthorization returns a context whose calls out carry authorization. It
// names no caller: authz.Check refuses under it.
func WithAuthorization(ctx context.Context, authorization string) context.Context {
	return inbound.With(ctx, inbound.Inbound{Authorization: authorization})
}

// carrier sends requests below a path of the sidecar, with what it needs to know
// of the request being served.
type carrier struct {
	prefix string
	next   http.RoundTripper
}

func (c carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	out := req.Clone(ctx)
	out.URL.Path = c.prefix + req.URL.Path
	if req.URL.RawPath != "" {
		out.URL.RawPath = c.prefix + req.URL.RawPath
	}
	token := inbound.From(ctx).Authorization
	if token != "" && out.Header.Get("Authorization") == "" {
		out.Header.Set("Authorization", token)
	}
	if trace := rampart.TraceFrom(ctx); len(trace) == 32 {
		out.Header.Set("Traceparent", "00-"+trace+"-"+spanID()+"-01") // W3C Trace Context
	}
	return c.next.RoundTrip(out)
}

func spanID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	return hex.EncodeToString(b[:])
}
