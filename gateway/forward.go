package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
)

// maxResponse bounds an answer on its way out.
const maxResponse = 64 << 20

// forward ends the pipeline: idempotency, token exchange, mutual TLS to the
// sidecar, and the audit event of what was allowed.
type forward struct{ g *Gateway }

func (s forward) check(c *call) error {
	idem := c.target.flow.Idempotency
	if idem == nil || !unsafeMethod(c.r.Method) || c.table.sys.Off("idempotency.key") {
		return s.proxy(c, c.w, "")
	}
	return s.once(c, idem)
}

// proxy forwards with an internal credential only and records what was let in.
func (s forward) proxy(c *call, w http.ResponseWriter, idemKey string) error {
	gen := s.g.opt.Link.Now()
	rt, addr, err := gen.Service(c.target.name)
	if err != nil {
		return err
	}
	head, err := s.identify(c, gen)
	if err != nil {
		return err
	}
	if idemKey != "" {
		head.Set(agent.HeaderIdem, idemKey)
	}
	if err := s.g.opt.Audit.Record(c.r.Context(), c.event(nil)); err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Control: "audit.log", Msg: "the request cannot be recorded, so it is not carried out", Err: err}
	}
	p := &httputil.ReverseProxy{
		Transport:      rt,
		BufferPool:     copyBuffers,
		Rewrite:        func(pr *httputil.ProxyRequest) { rewrite(pr, c, addr, head) },
		ModifyResponse: func(res *http.Response) error { return s.seal(c, res) },
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			s.g.opt.Logger.LogAttrs(r.Context(), slog.LevelWarn, "upstream", slog.String("service", c.target.name), slog.String("trace", c.trace), slog.Any("error", err))
			harden(w.Header(), c.table)
			problem.Write(w, rampart.Errorf(rampart.Unavailable, "", "%s does not answer; try again", c.target.name), c.trace)
		},
		ErrorLog: slog.NewLogLogger(s.g.opt.Logger.Handler(), slog.LevelDebug),
	}
	p.ServeHTTP(w, c.r)
	return nil
}

// identify builds the headers that say inside who asks, by the flow's pattern.
func (s forward) identify(c *call, gen *planelink.Generation) (http.Header, error) {
	h := http.Header{}
	switch c.target.flow.Authn.Pattern {
	case "gateway":
		b, err := json.Marshal(c.principal)
		if err != nil {
			return nil, err
		}
		h.Set(wire.HeaderPrinc, base64.RawURLEncoding.EncodeToString(b))
	case "per_service":
		h.Set(wire.HeaderCred, c.cred.kind+" "+c.cred.value)
	default:
		tok, err := gen.Token(c.r.Context(), c.cred.kind, c.cred.value, c.table.sys.ServiceID(c.target.name))
		if err != nil {
			return nil, exchangeError(err)
		}
		h.Set("Authorization", "Bearer "+tok)
	}
	return h, nil
}

func exchangeError(err error) error {
	kind := rampart.KindOf(err)
	msg := "you may not reach this service"
	switch kind {
	case rampart.Unauthenticated:
		msg = "the credential is no longer valid"
	case rampart.Denied, rampart.Invalid:
		kind = rampart.Denied
	default:
		kind, msg = rampart.Unavailable, "the token service does not answer; try again"
	}
	return &rampart.Error{Kind: kind, Control: "token.exchange", Msg: msg, Err: err}
}

// rewrite sends our own request: our framing, the canonical path, the checked
// body, and of the caller's headers only what is not ours to decide.
func rewrite(pr *httputil.ProxyRequest, c *call, addr string, head http.Header) {
	rest, _ := c.target.strip(c.path)
	out := pr.Out
	out.URL = &url.URL{Scheme: "https", Host: addr, Path: rest, RawQuery: c.r.URL.RawQuery}
	out.Host = c.target.name
	for name := range out.Header {
		if owned(name) {
			out.Header.Del(name)
		}
	}
	for name, v := range head {
		out.Header[name] = v
	}
	out.Header.Set("Traceparent", "00-"+c.trace+"-"+c.trace[:16]+"-01")
	if c.hasBody {
		out.Body = io.NopCloser(bytes.NewReader(c.body))
		out.ContentLength = int64(len(c.body))
	} else {
		out.Body, out.ContentLength = http.NoBody, 0
	}
}

// owned reports headers that carry credentials or identity: the caller's
// copies stop here.
func owned(name string) bool {
	switch name {
	case "Authorization", "Cookie", "X-Api-Key", "Dpop", "Proxy-Authorization", "Forwarded", "Traceparent", "Tracestate", "Te", "Trailer", "Idempotency-Key":
		return true
	}
	return strings.HasPrefix(name, "Rampart-") || strings.HasPrefix(name, "X-Forwarded-")
}

// seal hardens an answer from inside and bounds it.
func (s forward) seal(c *call, res *http.Response) error {
	res.Header.Del("Set-Cookie") // sessions are the control plane's alone
	harden(res.Header, c.table)
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxResponse), res.Body}
	return nil
}

// harden sets the security headers and removes what tells of the inside.
func harden(h http.Header, t *table) {
	for _, name := range []string{"Server", "X-Powered-By", "Via"} {
		h.Del(name)
	}
	if t.sys.Off("headers.security") {
		return
	}
	h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if h.Get("Content-Security-Policy") == "" {
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'")
	}
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
}

func bodyError(err error) error {
	if over, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(over.Limit)
	}
	return &rampart.Error{Kind: rampart.Invalid, Control: "validate.max_body", Msg: "the body could not be read in time", Err: err}
}

func decisionOf(err error) (rampart.Decision, bool) {
	d, ok := errors.AsType[decided](err)
	return d.Decision, ok
}
