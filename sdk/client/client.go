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
// one for whom this service acts; without a request it refuses.
func (c *Client) Publish(ctx context.Context, store, topic string, payload any) error {
	signed, err := c.Sign(ctx, store, topic, payload)
	if err != nil {
		return err
	}
	return c.PublishSigned(ctx, store, topic, signed)
}

// Sign is the first half of Publish: it returns the signed message, to be stored
// in an outbox in the transaction that it tells of. Consumers take it for as
// long as their replay_window.
func (c *Client) Sign(ctx context.Context, store, topic string, payload any) ([]byte, error) {
	b, err := json.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	var signed []byte
	err = c.message(ctx, agent.PathSign+store+"/"+topic, "application/json", b, &signed)
	return signed, err
}

// PublishSigned is the second half: it sends what Sign returned, in whatever
// context, and returns once it is stored. A message that is sent twice reaches
// consumers once.
func (c *Client) PublishSigned(ctx context.Context, store, topic string, signed []byte) error {
	return c.message(ctx, agent.PathPublish+store+"/"+topic, "application/jose", signed, nil)
}

// message posts body to the sidecar as the request in ctx, and keeps the bytes
// of the answer in out.
func (c *Client) message(ctx context.Context, path, media string, body []byte, out *[]byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sidecar"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	req.Header.Set("Content-Type", media)
	if id := inbound.From(ctx).Identity; id != "" {
		req.Header.Set(agent.HeaderIdentity, id)
	}
	resp, err := c.under("").Do(req)
	if err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Msg: "the sidecar is not reachable", Err: err}
	}
	return sdk.AnswerBytes(resp, out)
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
