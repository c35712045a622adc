package verify

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"
)

// maxAnswer bounds what is read of one answer.
const maxAnswer = 4 << 20

// edgeClient speaks HTTPS to the edge from one source address. It follows no
// redirect and keeps no cookie: what is sent is what the probe says.
type edgeClient struct {
	base   string
	source net.IP
	http   *http.Client
}

func newEdgeClient(t *target, source net.IP) *edgeClient {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: source}, Timeout: 5 * time.Second}
	tr := &http.Transport{
		DialContext:         d.DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: t.roots, ServerName: t.edgeName(), MinVersion: tls.VersionTLS13},
		ForceAttemptHTTP2:   true,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 8,
	}
	return &edgeClient{base: "https://" + t.edgeAddr(), source: source, http: &http.Client{
		Transport: tr, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (c *edgeClient) close() { c.http.CloseIdleConnections() }

// request is one request to the edge. path is sent as it stands, with its
// escapes.
type request struct {
	method string
	path   string
	header http.Header
	body   []byte
}

// with returns a copy with the caller's credentials.
func (r request) with(c caller) request {
	h := r.header.Clone()
	if h == nil {
		h = http.Header{}
	}
	for name, v := range c.header {
		h[name] = v
	}
	r.header = h
	return r
}

// set returns a copy with one header more.
func (r request) set(name, value string) request {
	h := r.header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set(name, value)
	r.header = h
	return r
}

// response is an answer with what it can be found by in the audit log.
type response struct {
	status int
	header http.Header
	body   []byte
	trace  string
	peer   string // our own ip:port, as the edge sees it
}

func (r response) ok() bool { return r.status/100 == 2 }

// do sends a request under a fresh trace id. Safe for concurrent use.
func (e *Env) do(ctx context.Context, r request) (response, error) { return e.http.do(ctx, r) }

func (c *edgeClient) do(ctx context.Context, r request) (response, error) {
	out := response{trace: randomID(16)}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { out.peer = i.Conn.LocalAddr().String() }})
	u, err := url.Parse(c.base + r.path)
	if err != nil {
		return out, err
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "https://edge", bytes.NewReader(r.body))
	if err != nil {
		return out, err
	}
	req.URL, req.Host = u, u.Host
	for name, v := range r.header {
		req.Header[http.CanonicalHeaderKey(name)] = v
	}
	if len(r.body) > 0 && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Traceparent", traceparent(out.trace))
	res, err := c.http.Do(req)
	if err != nil {
		return out, fmt.Errorf("the edge does not answer %s %s: %w", r.method, r.path, unwrapURL(err))
	}
	defer res.Body.Close()
	out.status, out.header = res.StatusCode, res.Header
	out.body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return out, err
}

// unwrapURL drops the URL that net/http puts in front: it may hold a code.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// traceparent is a W3C trace context of one trace.
func traceparent(trace string) string { return "00-" + trace + "-" + trace[:16] + "-01" }

// get is a request without a body.
func get(path string) request { return request{method: http.MethodGet, path: path} }

// form is a POST as browsers send it.
func form(path string, values url.Values) request {
	return request{method: http.MethodPost, path: path, body: []byte(values.Encode()), header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}}
}

// cookieOf returns the cookie of this name that an answer sets.
func cookieOf(h http.Header, name string) (*http.Cookie, bool) {
	for _, c := range (&http.Response{Header: h}).Cookies() {
		if c.Name == name {
			return c, true
		}
	}
	return nil, false
}

// splitCall reads "POST /payments".
func splitCall(call string) (method, path string, err error) {
	method, path, ok := strings.Cut(call, " ")
	if !ok || !strings.HasPrefix(path, "/") {
		return "", "", fmt.Errorf("%q is not METHOD /PATH", call)
	}
	return method, path, nil
}
