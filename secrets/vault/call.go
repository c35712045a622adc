package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// errSlow ends an operation that took too long for us, as opposed to one whose
// caller went away.
var errSlow = errors.New("no answer in time")

// request is one call of the API.
type request struct {
	method string
	path   string // below /v1/, without escapes
	query  url.Values
	body   any  // marshalled; nil: none
	root   bool // of the root namespace, whatever ours is
}

// reply is what came back, whatever the status. Whoever gets one wipes it.
type reply struct {
	status int
	body   []byte
	wait   time.Duration // of Retry-After
}

func (r reply) wipe() { clear(r.body) }

// ask sends a request with our token and logs in for it when that is needed.
// Errors are those of the network and of the login; the reply may be a refusal.
func (c *Client) ask(ctx context.Context, r request) (reply, error) {
	rep, _, err := c.askAs(ctx, r)
	return rep, err
}

// askAs is ask, and says as whom: leases belong to that login.
func (c *Client) askAs(ctx context.Context, r request) (_ reply, lessor int, _ error) {
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, errSlow)
	defer cancel()
	tok, err := c.token(ctx, 0)
	if err != nil {
		return reply{}, 0, err
	}
	rep, err := c.exchange(ctx, r, tok.value)
	if err != nil || rep.status != http.StatusForbidden || c.fresh(ctx, tok) {
		return rep, tok.lessor, err
	}
	rep.wipe()
	tok, err = c.token(ctx, tok.number)
	if err != nil {
		return reply{}, 0, err
	}
	rep, err = c.exchange(ctx, r, tok.value)
	return rep, tok.lessor, err
}

// fetch asks and decodes a good reply into out, which may be nil.
func (c *Client) fetch(ctx context.Context, r request, out any) error {
	_, err := c.fetchAs(ctx, r, out)
	return err
}

func (c *Client) fetchAs(ctx context.Context, r request, out any) (lessor int, _ error) {
	rep, lessor, err := c.askAs(ctx, r)
	defer rep.wipe()
	if err == nil {
		err = c.verdict(r.path, rep)
	}
	if err != nil {
		return 0, err
	}
	return lessor, c.decode(r.path, rep, out)
}

func (c *Client) decode(path string, rep reply, out any) error {
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(rep.body, out); err != nil {
		// What json says may quote the body.
		return c.fail(rampart.Unavailable, path, errors.New("the reply is not what Vault answers"))
	}
	return nil
}

// exchange sends one request, with a token unless that is zero, and reads the
// reply. At most maxInFlight are under way.
func (c *Client) exchange(ctx context.Context, r request, token secrets.Secret) (rep reply, err error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return reply{}, c.fail(rampart.Unavailable, r.path, context.Cause(ctx))
	}
	if kind, err := c.breaker.allow(); err != nil {
		return reply{}, c.fail(kind, r.path, err)
	}
	rep, err = c.send(ctx, r, token)
	c.breaker.report(outcome(ctx, rep, err), rep.wait)
	if err != nil {
		rep.wipe()
		return reply{}, c.fail(rampart.Unavailable, r.path, err)
	}
	return rep, nil
}

// outcome tells the breaker what an exchange says about the server.
func outcome(ctx context.Context, rep reply, err error) result {
	switch {
	case err != nil && ctx.Err() != nil && !errors.Is(context.Cause(ctx), errSlow):
		return unknown // whoever asked went away
	case err != nil || rep.status >= 500 || rep.status == statusSecondary || rep.status == statusStandby:
		return failed
	case rep.status == http.StatusTooManyRequests:
		return busy
	}
	return good
}

// send follows one redirect, from a standby to itself under another path; with
// our token in the request it goes nowhere else.
func (c *Client) send(ctx context.Context, r request, token secrets.Secret) (reply, error) {
	body, err := marshal(r.body)
	if err != nil {
		return reply{}, err
	}
	defer clear(body)
	at := c.address(r)
	for range 2 {
		req, err := http.NewRequestWithContext(ctx, r.method, at.String(), bytes.NewReader(body))
		if err != nil {
			return reply{}, errors.New("the request cannot be made")
		}
		c.head(req, r, token)
		resp, err := c.http.Do(req)
		if err != nil {
			return reply{}, plain(ctx, err)
		}
		rep, err := read(resp)
		if err != nil || rep.status != http.StatusTemporaryRedirect && rep.status != http.StatusPermanentRedirect {
			return rep, err
		}
		if at, err = c.elsewhere(at, resp.Header.Get("Location")); err != nil {
			return reply{}, err
		}
	}
	return reply{}, errors.New("the server redirects in a circle")
}

// elsewhere is where a redirect leads, if it stays with this server over https.
func (c *Client) elsewhere(from *url.URL, location string) (*url.URL, error) {
	to, err := from.Parse(location)
	if err != nil || location == "" || to.Scheme != "https" || to.Host != c.base.Host || to.User != nil {
		return nil, errors.New("this node sends us to another host, where our token does not go: give the address of the active node or of a load balancer")
	}
	return to, nil
}

func (c *Client) address(r request) *url.URL {
	u := *c.base
	u.Path = "/v1/" + r.path
	var escaped []string
	for seg := range strings.SplitSeq(r.path, "/") {
		escaped = append(escaped, url.PathEscape(seg))
	}
	u.RawPath = "/v1/" + strings.Join(escaped, "/")
	u.RawQuery = r.query.Encode()
	return &u
}

func (c *Client) head(req *http.Request, r request, token secrets.Secret) {
	req.Header.Set("X-Vault-Request", "true") // a page in a browser cannot send it
	if c.opt.Namespace != "" && !r.root {
		req.Header.Set("X-Vault-Namespace", c.opt.Namespace)
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !token.IsZero() {
		_ = token.Use(func(b []byte) error { req.Header.Set("X-Vault-Token", string(b)); return nil })
	}
}

func marshal(body any) ([]byte, error) {
	if body == nil {
		return nil, nil
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, errors.New("the request cannot be written as JSON") // what json says may quote it
	}
	return b, nil
}

// plain is why there was no reply, without the address that net/http puts in.
func plain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// read takes the body, which is bounded, and how long to wait.
func read(resp *http.Response) (reply, error) {
	defer resp.Body.Close()
	rep := reply{status: resp.StatusCode, wait: retryAfter(resp.Header.Get("Retry-After"))}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return rep, errors.New("the reply broke off")
	}
	if len(body) > maxBody {
		clear(body)
		return rep, fmt.Errorf("the reply has more than %d bytes", maxBody)
	}
	rep.body = body
	return rep, nil
}

// retryAfter reads seconds; a date, which Vault does not send, counts as one.
// More than a minute is not believed: the secret may be needed.
func retryAfter(text string) time.Duration {
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		n = 1
	}
	return time.Duration(min(n, 60)) * time.Second
}

// Status codes that Vault alone knows.
const (
	statusSecondary = 472 // of a disaster recovery cluster
	statusStandby   = 473 // of performance
)

// verdict turns a status into a kind of error; nil for a good one.
func (c *Client) verdict(path string, rep reply) error {
	why := said(rep)
	kind := rampart.Invalid
	switch s := rep.status; {
	case s >= 200 && s < 300:
		return nil
	case s == http.StatusForbidden:
		kind = rampart.Denied
	case s == http.StatusNotFound && !json.Valid(rep.body):
		kind, why = rampart.Unavailable, errors.New("the reply is not what Vault answers: a proxy in the way?")
	case s == http.StatusNotFound:
		kind = rampart.NotFound
	case s == http.StatusTooManyRequests:
		kind, why = rampart.Limited, secrets.Busy(rep.wait)
	case s == http.StatusBadRequest && bytes.Contains(rep.body, []byte("check-and-set parameter did not match")):
		kind = rampart.Conflict
	case s == http.StatusBadRequest && bytes.Contains(rep.body, []byte("unknown role")):
		kind = rampart.NotFound
	case s < 400 || s >= 500 || s == http.StatusPreconditionFailed || s == http.StatusRequestTimeout || s == statusSecondary || s == statusStandby:
		kind = rampart.Unavailable
	}
	return c.fail(kind, path, why)
}

// phrases are what Vault says in errors and may be told on. The rest is not: it
// may quote what we sent.
var phrases = []string{
	"permission denied", "invalid token", "bad token", "Vault is sealed", "check-and-set parameter did not match the current version",
	"invalid secret id", "invalid role", "invalid role or secret ID", "wrapping token is not valid or does not exist", "no handler for route",
	"lease not found", "lease is not renewable", "message authentication failed", "too old", "encryption key not found",
	"missing client token", "namespace not found", "unsupported path", "invalid certificate or no client certificate supplied", "unknown role",
}

// said is what the server gave as its reason, in words that are known.
func said(rep reply) error {
	for _, p := range phrases {
		if bytes.Contains(rep.body, []byte(p)) {
			return fmt.Errorf("HTTP %d: %s", rep.status, p)
		}
	}
	return fmt.Errorf("HTTP %d", rep.status)
}

// words says each kind to whoever asked.
var words = map[rampart.Kind]string{
	rampart.Denied:          "does not let us",
	rampart.NotFound:        "has no secret at",
	rampart.Conflict:        "has another version of",
	rampart.Limited:         "is too busy for",
	rampart.Unauthenticated: "refuses our login for",
	rampart.Unavailable:     "cannot be asked for",
	rampart.Invalid:         "does not understand",
}

// fail makes the error of an operation. It names backend and path.
func (c *Client) fail(kind rampart.Kind, path string, why error) error {
	return &rampart.Error{Kind: kind, Control: control, Msg: fmt.Sprintf("%s %s %s", c.opt.Name, words[kind], shown(path)), Err: why}
}

// shown is a path as errors may repeat it.
func shown(path string) string {
	if len(path) > 100 {
		path = path[:100] + "..."
	}
	return strconv.Quote(path)
}

// checkPath refuses what does not name one secret.
func checkPath(path string) error {
	ok := len(path) <= 512 && utf8.ValidString(path)
	for seg := range strings.SplitSeq(path, "/") {
		ok = ok && !slices.Contains([]string{"", ".", ".."}, seg)
	}
	if !ok || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return invalid("a path is at most 512 bytes of words between slashes, none of them . or ..")
	}
	return nil
}

// Health is what a server says of itself to anybody.
type Health struct {
	Version string // such as 1.20.0
	Sealed  bool
	Standby bool // it sends us to the active node, or forwards
}

// Health asks the server how it is. A sealed one is no error.
func (c *Client) Health(ctx context.Context) (Health, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, errSlow)
	defer cancel()
	r := request{method: http.MethodGet, path: "sys/health", root: true, query: url.Values{"standbyok": {"true"}, "perfstandbyok": {"true"}, "sealedcode": {"200"}}}
	rep, err := c.exchange(ctx, r, secrets.Secret{})
	if err != nil {
		return Health{}, err
	}
	if err := c.verdict(r.path, rep); err != nil {
		return Health{}, err
	}
	var h struct {
		Version string `json:"version"`
		Sealed  bool   `json:"sealed"`
		Standby bool   `json:"standby"`
	}
	if err := c.decode(r.path, rep, &h); err != nil {
		return Health{}, err
	}
	return Health(h), nil
}
