package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/network/idempotency"
)

// forward ends the pipeline: idempotency, token exchange, mutual TLS to the
// sidecar, and the audit event of what was allowed.
type forward struct{ g *Gateway }

func (s forward) check(c *call) error {
	if c.grpc {
		return s.call(c)
	}
	idem := c.target.flow.Idempotency
	if idem == nil || !unsafeMethod(c.r.Method) || c.table.sys.Off("idempotency.key") {
		return s.send(c, c.w, "")
	}
	return s.once(c, idem)
}

// send forwards with an internal credential only and records what was let in.
func (s forward) send(c *call, w http.ResponseWriter, idemKey string) error {
	t := s.begin(c, w)
	defer t.end()
	rt, out, err := s.admit(t, idemKey)
	if err != nil {
		return err
	}
	awaitAnswer(c)
	if err := s.open(c, w, out, t.over(rt, idemKey != ""), t.edit); err != nil {
		return answerError(c, err)
	}
	return nil
}

// admit makes the request that the service gets, and puts it on record.
func (s forward) admit(t *trip, idemKey string) (http.RoundTripper, *http.Request, error) {
	c, gen := t.c, s.g.opt.Link.Now()
	rt, addr, err := s.carrier(c, gen)
	if err != nil {
		return nil, nil, err
	}
	out := t.request(addr)
	if err := s.identify(c, gen, out.Header); err != nil {
		return nil, nil, err
	}
	if idemKey != "" {
		out.Header.Set(agent.HeaderIdem, idemKey)
		if !c.repeats() {
			out.GetBody = nil // the transport, too, may send no body twice: it would where it sees an Idempotency-Key
		}
	}
	if err := s.g.opt.Audit.Record(c.context(), c.event(nil)); err != nil {
		return nil, nil, &rampart.Error{Kind: rampart.Unavailable, Control: "audit.log", Msg: "the request cannot be recorded, so it is not carried out", Err: err}
	}
	return rt, out, nil
}

// identify sets the header that says inside who asks, by the flow's pattern.
func (s forward) identify(c *call, gen *planelink.Generation, h http.Header) error {
	switch c.target.flow.Authn.Pattern {
	case "gateway":
		b, err := json.Marshal(c.credential().Vouched())
		if err != nil {
			return err
		}
		h.Set(wire.HeaderPrinc, base64.RawURLEncoding.EncodeToString(b))
	case "per_service":
		h.Set(wire.HeaderCred, c.cred.kind+" "+c.cred.value)
		h.Set(wire.HeaderClientIP, c.addr())
	default:
		var scope []string
		if c.narrowed {
			scope = c.principal.Scope
		}
		bearer, err := gen.Bearer(c.context(), c.cred.kind, c.cred.value, c.table.sys.ServiceID(c.target.name), scope...)
		if err != nil {
			return exchangeError(err)
		}
		h["Authorization"] = bearer
	}
	return nil
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

// request is our own: our framing, the canonical path, the checked body, and of
// the caller's headers only what the service may read.
func (t *trip) request(addr string) *http.Request {
	c := t.c
	rest, _ := c.target.strip(c.path)
	t.to = url.URL{Scheme: "https", Host: addr, Path: rest, RawQuery: c.r.URL.RawQuery}
	t.out, t.parent = *relay.Outgoing(&t.leash, c.r.Method, &t.to, c.inside()), [1]string{trace.Parent(c.trace)}
	out := &t.out
	out.Host = c.target.name
	out.Header[trace.Header] = t.parent[:]
	if c.hasBody {
		t.body.Reset(c.body)
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c.body)), nil }
		out.Body, out.ContentLength = &t.body, int64(len(c.body))
	}
	return out
}

// seal hardens an answer from inside, whose header is h: what only planes may say, and
// what only the edge may decide (sessions, limits, which other sites may read along), is
// not a service's to send. to is the header that leaves, which h is put over; they may
// be one.
func seal(h, to http.Header, t *table) {
	hardened := !t.sys.Off("headers.security")
	for name := range h {
		if isOurs(name) || isInner(name) || hardened && isSecurity(name) {
			delete(h, name)
		}
	}
	if !hardened {
		return
	}
	secure(to)
	for i := range unless {
		if first(h[unless[i].name]) == "" {
			delete(h, unless[i].name) // one that is empty would be put over
			to[unless[i].name] = unless[i].value
		}
	}
}

func isOurs(name string) bool {
	switch name {
	case "Set-Cookie", "Ratelimit", "Ratelimit-Policy", "Alt-Svc", idempotency.HeaderReplayed:
		return true
	}
	return strings.HasPrefix(name, "Rampart-") || strings.HasPrefix(name, "Access-Control-")
}

// security are the headers that every answer carries. The values are shared
// between answers, which is safe as long as headers are set and never changed
// in place.
var security = [...]struct {
	name  string
	value []string
}{
	{"Strict-Transport-Security", []string{"max-age=31536000; includeSubDomains"}},
	{"X-Content-Type-Options", []string{"nosniff"}},
	{"X-Frame-Options", []string{"DENY"}},
	{"Referrer-Policy", []string{"same-origin"}},
	{"Cross-Origin-Opener-Policy", []string{"same-origin"}},
	{"Cross-Origin-Resource-Policy", []string{"same-origin"}},
}

// unless are those that an answer may choose for itself.
var unless = [...]struct {
	name  string
	value []string
}{
	{"Content-Security-Policy", []string{"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"}},
	{"Cache-Control", []string{"no-store"}},
}

// harden sets the security headers and removes what tells of the inside.
func harden(h http.Header, t *table) {
	for i := range inner {
		delete(h, inner[i])
	}
	if t.sys.Off("headers.security") {
		return
	}
	secure(h)
	for i := range unless {
		if first(h[unless[i].name]) == "" {
			h[unless[i].name] = unless[i].value
		}
	}
}

func secure(h http.Header) {
	for i := range security {
		h[security[i].name] = security[i].value
	}
}

// inner are headers that tell of the inside.
var inner = [...]string{"Server", "X-Powered-By", "Via"}

func isInner(name string) bool { return name == inner[0] || name == inner[1] || name == inner[2] }

func isSecurity(name string) bool {
	for i := range security {
		if security[i].name == name {
			return true
		}
	}
	return false
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
