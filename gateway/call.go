package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/waf"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/validate/openapi"
)

// call is one request on its way through the stages. Each stage fills what
// later ones need; nothing here outlives the request.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	ctx   context.Context // of r, with the trace; see context
	table *table
	trace string
	path  string     // canonical: what is routed, authorized, logged and forwarded
	ip    netip.Addr // the client's, as far as it is known; of origin
	peer  string     // the same with its port, for the record
	from  string     // ip as text; see addr
	hop   string     // the proxy in front that named it; "" if none did

	target    *target // where it goes; nil for the public surface
	webSocket bool    // it asks to become one
	grpc      bool    // it is a call whose messages pass as they come
	cors      *target // whose answers pages of other origins may read; nil: none
	op        *openapi.Operation
	params    openapi.Params
	entry     *entry // flow by which the caller came in; nil until that is known
	principal rampart.Principal
	cred      credential
	issued    time.Time // when cred was, by us
	tokenID   string    // of cred, if it is a token
	bound     bool      // the token comes with a DPoP proof
	narrowed  bool      // the scope is less than that of cred
	decision  string    // id of that of layer 1, in the decision log; "" before
	plan      string
	keyID     string
	fate      relay.Outcome // of a request with an idempotency key
	fields    http.Header   // see inside
	body      []byte        // as it will be forwarded
	hasBody   bool
	doc       any      // what the body says, of openapi.Body; nil: none, or not read
	gzip      bool     // the body comes compressed
	limit     int64    // bytes of the body, expanded
	read      bool     // nothing is left of the caller's body
	refused   bool     // it was answered by refuse, and is no call of gRPC
	places    [2]place // that a request holds, to leave them
	after     func()   // if not nil, runs when the request ends, however it ends
	lines     ratelimit.Lines
	rules     waf.Request // what they look at
	pacing    pacing
}

// context is that of the request, with its trace: a request of its own for it would be
// a copy.
func (c *call) context() context.Context {
	if c.ctx == nil {
		return c.r.Context()
	}
	return c.ctx
}

// addr is the client's address as text, made once.
func (c *call) addr() string {
	if c.from == "" {
		c.from = c.ip.String()
	}
	return c.from
}

// credential is what the caller showed, on its way to the exchange.
type credential struct {
	kind  string // wire.TypeSession, wire.TypeAccess or wire.TypeAPIKey
	value string
}

// credential is what a revocation that voids the call would name.
func (c *call) credential() planelink.Credential {
	v := planelink.Credential{Principal: c.principal, Issued: c.issued, TokenID: c.tokenID, KeyID: c.keyID}
	if c.cred.kind == wire.TypeAccess {
		v.Token = c.cred.value
	}
	return v
}

// onEnd has f run when the request ends, before what was asked for earlier.
func (c *call) onEnd(f func()) {
	before := c.after
	if before == nil {
		c.after = f
		return
	}
	c.after = func() { f(); before() }
}

// stage is one step at the edge. An error ends the request; its Control names
// the stage's control.
type stage interface {
	check(*call) error
}

// errAnswered is how a stage says that it has answered, and that no other is to run.
var errAnswered = errors.New("gateway: answered")

// handle runs the stages in order and answers.
func (g *Gateway) handle(w http.ResponseWriter, r *http.Request) {
	c := &call{w: w, r: r, table: g.table.Load(), trace: trace.Of(r.Header), ip: peerIP(r), peer: r.RemoteAddr, read: r.ContentLength == 0}
	c.ctx = rampart.WithTrace(r.Context(), c.trace)
	defer g.end(c)
	c.paced(g.pace)
	stages := c.table.stages
	if isPublic(r.URL.Path) {
		stages = c.table.public
	}
	for _, s := range stages {
		err := s.check(c)
		if err == nil {
			continue
		}
		if !errors.Is(err, errAnswered) {
			g.refuse(c, err)
		}
		return
	}
	if c.entry != nil {
		g.bans.Good(c.ip)
	}
}

// end gives back what the request held. A panic is on record before it breaks
// the connection off; http.ErrAbortHandler is how an answer breaks off on
// purpose.
func (g *Gateway) end(c *call) {
	c.leavePlaces()
	if c.after != nil {
		c.after()
	}
	v := recover()
	if v == nil {
		g.linger(c)
		return
	}
	if v != http.ErrAbortHandler {
		g.opt.Logger.LogAttrs(c.context(), slog.LevelError, "panic", slog.String("trace", c.trace), slog.Any("value", v), slog.String("stack", string(debug.Stack())))
		g.record(c, c.event(fmt.Errorf("panic: %v", v)))
	}
	panic(http.ErrAbortHandler)
}

// refuse records the denial, then answers. A denial that cannot be recorded is
// still a denial. That a browser comes without anything to show is no event:
// every visit begins so.
func (g *Gateway) refuse(c *call, err error) {
	g.refused(c, err)
	redirect, toLogin := loginRedirect(c, err)
	banned := controlOf(err, "") == controlBan // is told when the ban ends: a flood must not fill the log
	if !banned && (!toLogin || len(c.r.CookiesNamed(sessionCookie)) > 0) {
		g.record(c, c.event(err))
	}
	harden(c.w.Header(), c.table)
	if toLogin {
		http.Redirect(c.w, c.r, redirect, http.StatusSeeOther)
		return
	}
	if rampart.KindOf(err) == rampart.Internal {
		g.opt.Logger.LogAttrs(c.context(), slog.LevelError, "request failed", slog.String("trace", c.trace), slog.Any("error", err))
	}
	if !c.read && c.r.ProtoMajor == 1 {
		c.w.Header().Set("Connection", "close") // an unread body must not become the next request; HTTP/2 has frames
	}
	if relay.IsGRPC(c.r) {
		problem.WriteGRPC(c.w, err)
		return
	}
	c.refused = true
	if problem.ForPerson(c.r) {
		problem.WritePage(c.w, err, c.trace, c.table.sys.Info.Name)
		return
	}
	problem.Write(c.w, err, c.trace)
}

// record writes an event whose loss cannot change the answer any more.
func (g *Gateway) record(c *call, e audit.Event) { g.recordIn(c.context(), e) }

func (g *Gateway) recordIn(ctx context.Context, e audit.Event) {
	if err := g.opt.Audit.Record(ctx, e); err != nil {
		g.opt.Logger.LogAttrs(ctx, slog.LevelError, "audit", slog.Any("error", err))
	}
}

// event describes the request for the audit log.
func (c *call) event(err error) audit.Event {
	e := audit.Event{
		Action:  c.r.Method[:min(len(c.r.Method), 16)] + " " + c.loggedPath(),
		Outcome: audit.Allowed, Class: "authz_allow",
		Subject: c.principal.Subject, Actor: c.principal.Client,
		Peer: c.peer, Trace: c.trace, Layer: string(rampart.LayerGateway),
	}
	if c.entry != nil {
		e.Flow = c.entry.flow.ID
	}
	if c.target != nil {
		e.Resource = c.target.name
	}
	e.Decision = c.decision
	if c.hop != "" {
		e.Detail = map[string]string{"hop": c.hop}
	}
	if err == nil {
		return e
	}
	e.Outcome = audit.Refused
	if k := rampart.KindOf(err); k == rampart.Internal || k == rampart.Unavailable {
		e.Outcome = audit.Failed
	}
	e.Control = controlOf(err, "")
	e.Class = classOf(e.Control)
	if e.Detail == nil {
		e.Detail = map[string]string{}
	}
	e.Detail["error"] = err.Error()
	if d, ok := decisionOf(err); ok {
		e.Code, e.Policies, e.Layer = string(d.Code), d.Policies, string(d.Layer)
		e.Detail["reason"] = d.Reason
	}
	if at := fieldsAt(err); at != "" {
		e.Detail["fields"] = at
	}
	if v, ok := foundBy(err); ok {
		foundDetail(e.Detail, v)
	}
	return e
}

// fieldsAt names what a schema refused: the places, bounded, for their names are
// the caller's, and never a value.
func fieldsAt(err error) string {
	d, ok := errors.AsType[*problem.Details](err)
	if !ok {
		return ""
	}
	at := make([]string, 0, len(d.Errors))
	for _, f := range d.Errors {
		at = append(at, f.Pointer+" "+f.Detail)
	}
	return shortened(strings.Join(at, "; "), 400)
}

// loggedPath bounds what a client can write into the log.
func (c *call) loggedPath() string {
	p := c.path
	if p == "" {
		p = c.r.URL.EscapedPath()
	}
	return p[:min(len(p), 256)]
}

// classOf sorts controls into audit classes.
func classOf(control string) string {
	area, _, _ := strings.Cut(control, ".")
	switch area {
	case "authn", "token", "nonce":
		return "authentication"
	case "authz":
		return "authz_deny"
	case "limit":
		return "limit"
	case "waf":
		return audit.ClassWAF
	case "validate", "field", "idempotency":
		return "validation"
	}
	return "network"
}

// peerIP is the address at the other end of the connection: of whom the PROXY
// header names, where there is one.
func peerIP(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// decided carries a decision inside an error, for the log alone.
type decided struct{ rampart.Decision }

func (d decided) Error() string {
	return string(d.Layer) + " layer: " + string(d.Code) + ": " + d.Reason
}
