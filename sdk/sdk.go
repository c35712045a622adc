// Package sdk connects a Go service with the Rampart sidecar beside it.
//
// A service needs three lines:
//
//	svc, err := sdk.Connect(ctx)
//	guard := httpguard.New(svc)
//	err = sdk.Serve(ctx, guard.Wrap(mux))
//
// The leaves below add what a service asks its sidecar for: authz (may this
// caller touch this object?), client (calls out and messages), secrets, pii
// (field encryption and row checksums) and db (the database). No policy engine,
// parser of rampart.yaml or driver is linked by a leaf that does not need it.
package sdk

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk/internal/inbound"
)

const (
	callTimeout = 10 * time.Second // of one call to the sidecar
	maxAnswer   = 1 << 20          // bytes of one answer
	firstRetry  = 50 * time.Millisecond
	lastRetry   = time.Second
	refetchGap  = time.Second // between two refetches that a bad signature asks for
)

// Service is the connection to the sidecar. It is safe for concurrent use and
// holds no goroutine but that of OnForget.
type Service struct {
	transport  *http.Transport
	info       atomic.Pointer[agent.ServiceInfo]
	forgetting forgetting

	mu        sync.Mutex
	refetched time.Time // guarded by mu
}

// Connect finds the sidecar's socket in the environment and asks it who this
// service is. While the sidecar is not up it tries again, until ctx ends.
func Connect(ctx context.Context) (*Service, error) {
	socket := os.Getenv(agent.EnvSocket)
	if socket == "" {
		return nil, fmt.Errorf("sdk: %s is not set: start the service with `rampart up`, or start a sidecar for it and set %s to the sidecar's socket",
			agent.EnvSocket, agent.EnvSocket)
	}
	s := &Service{transport: dialSocket(socket)}
	if err := s.fetchUntilUp(ctx); err != nil {
		return nil, fmt.Errorf("sdk: sidecar at %s: %w", socket, err)
	}
	if want, got := os.Getenv(agent.EnvService), s.Name(); want != "" && want != got {
		return nil, fmt.Errorf("sdk: %s is %q but the sidecar at %s serves %q", agent.EnvService, want, socket, got)
	}
	return s, nil
}

func dialSocket(socket string) *http.Transport {
	var d net.Dialer
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
}

func (s *Service) fetchUntilUp(ctx context.Context) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := s.fetch(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(wait):
		}
	}
}

func (s *Service) fetch(ctx context.Context) error {
	var info agent.ServiceInfo
	if err := s.Call(ctx, http.MethodGet, agent.PathService, nil, &info); err != nil {
		return err
	}
	if len(info.IdentityKey) != ed25519.PublicKeySize {
		return fmt.Errorf("the sidecar gave an identity key of %d bytes, want an Ed25519 public key", len(info.IdentityKey))
	}
	s.info.Store(&info)
	return nil
}

// Refetch asks the sidecar again who this service is: a sidecar that restarted
// has a new identity key. used is the answer that the caller judged by; Refetch
// reports whether there is one with another key now. Within a second of the last
// answer nobody asks again, so that forged requests cannot make the service busy.
func (s *Service) Refetch(ctx context.Context, used *agent.ServiceInfo) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.info.Load() != used {
		return true // another caller fetched it, before or after the judgement
	}
	if time.Since(s.refetched) < refetchGap {
		return false
	}
	if s.fetch(ctx) != nil {
		return false // a sidecar that was away may be there for the next request
	}
	s.refetched = time.Now()
	return !bytes.Equal(used.IdentityKey, s.info.Load().IdentityKey)
}

// Info returns the service's own configuration. It must not be changed.
func (s *Service) Info() *agent.ServiceInfo { return s.info.Load() }

// Name returns the service's name in rampart.yaml.
func (s *Service) Name() string { return s.Info().Name }

// Off reports whether rampart.yaml disables a control. Sidecars accept such a
// file in a throw-away system only; there `rampart verify` demands that the
// attack which the control stops succeeds.
func (s *Service) Off(control string) bool {
	return slices.Contains(s.Info().Off, control)
}

// Compares reports whether the flow of the request in ctx makes field
// server-owned in mode compare: the value sent is a claim that the service must
// check against its own (control field.server_owned).
func (s *Service) Compares(ctx context.Context, field string) bool {
	rule := s.Info().ServerOwned[inbound.From(ctx).Flow]
	return rule.Mode == "compare" && slices.Contains(rule.Fields, field) && !s.Off("field.server_owned")
}

// Transport returns the transport to the sidecar's socket. Hosts of URLs are
// ignored: every request goes to the sidecar.
func (s *Service) Transport() http.RoundTripper { return s.transport }

// Call sends in as JSON to a path of the sidecar and reads its answer into out;
// nil leaves either out. A refusal is a *rampart.Error of the kind that its
// status stands for; a sidecar that cannot be reached is Unavailable.
func (s *Service) Call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("sdk: %s: %w", path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sidecar"+path, body)
	if err != nil {
		return fmt.Errorf("sdk: %s: %w", path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Msg: "the sidecar is not reachable", Err: err}
	}
	return Answer(resp, out)
}

// Answer reads and closes a response of the sidecar: a 2xx answer as JSON into
// out (nil drops it), anything else as the *rampart.Error that its status stands
// for. Answers over 1 MiB are refused.
func Answer(resp *http.Response, out any) error {
	var b []byte
	if err := AnswerBytes(resp, &b); err != nil || out == nil || len(b) == 0 {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Msg: "the answer is not the expected JSON", Err: err}
	}
	return nil
}

// AnswerBytes is Answer for an answer that is not JSON; nil drops it.
func AnswerBytes(resp *http.Response, out *[]byte) error {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Msg: "the answer was cut short", Err: err}
	}
	if len(b) > maxAnswer {
		return rampart.Errorf(rampart.Unavailable, "", "the answer is over %d bytes", maxAnswer)
	}
	if resp.StatusCode/100 != 2 {
		return refusal(resp.StatusCode, b)
	}
	if out != nil {
		*out = b
	}
	return nil
}

// refusal turns an RFC 9457 answer into an error. The other side's detail goes
// to Err: what it tells this service is not meant for this service's caller.
func refusal(status int, body []byte) error {
	var p struct {
		Detail string `json:"detail"`
	}
	_ = json.Unmarshal(body, &p) // any other body has no detail
	return &rampart.Error{
		Kind: kindOf(status),
		Msg:  http.StatusText(status),
		Err:  fmt.Errorf("status %d: %s", status, p.Detail),
	}
}

func kindOf(status int) rampart.Kind {
	switch status {
	case http.StatusUnauthorized:
		return rampart.Unauthenticated
	case http.StatusForbidden:
		return rampart.Denied
	case http.StatusNotFound:
		return rampart.NotFound
	case http.StatusConflict:
		return rampart.Conflict
	case http.StatusTooManyRequests:
		return rampart.Limited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return rampart.Unavailable
	}
	if status/100 == 4 {
		return rampart.Invalid
	}
	return rampart.Internal
}

// IdempotencyKey returns the key that the gateway checked for this request, or
// "" when the client sent none or the route asks for none. Keys are unique for
// one subject only: store them together.
func IdempotencyKey(r *http.Request) string { return r.Header.Get(agent.HeaderIdem) }
