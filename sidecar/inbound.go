package sidecar

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/hop"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/internal/socket"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/canonical"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/validate/openapi"
)

// identityLife bounds how long a service may hold on to a caller's identity.
const identityLife = 2 * time.Minute

// arrival is one inbound request with what was found out about its caller.
type arrival struct {
	r         *http.Request
	table     *table
	flow      spec.Flow
	caller    string // SPIFFE ID of the direct caller
	trace     string
	path      string // canonical
	principal rampart.Principal
	by        planelink.Credential // what the principal was let in with
	forward   string               // Authorization for the service: an internal token, or a handle
	op        *openapi.Operation   // nil: the service has no document
	action    string               // that layer 2 was asked about; "": it was not
	tenant    string               // likewise
	webSocket bool                 // it asks to become one
	grpc      bool                 // it is a call whose messages pass as they come
	asked     bool                 // the service was handed the request
	body      []byte
}

// inbound is the path of a request into the service, in order.
func (s *Sidecar) inbound(w http.ResponseWriter, r *http.Request) {
	a := &arrival{table: s.table.Load(), trace: trace.Of(r.Header)}
	a.r = r.WithContext(rampart.WithTrace(r.Context(), a.trace))
	defer s.end(a)
	if err := a.through(s.peer, s.fresh); err != nil {
		s.refuse(w, a, err)
		return
	}
	if a.forDecisionPoint() {
		s.askedByCaller(w, a)
		return
	}
	if err := a.through(s.canonicalize, s.identify, s.route, s.stepUp); err != nil {
		s.refuse(w, a, err)
		return
	}
	s.toService(w, a)
}

// through takes a request past each step until one refuses it.
func (a *arrival) through(steps ...func(*arrival) error) error {
	for _, step := range steps {
		if err := step(a); err != nil {
			return err
		}
	}
	return nil
}

// end records a panic before it breaks the connection off; http.ErrAbortHandler
// is how an answer breaks off on purpose.
func (s *Sidecar) end(a *arrival) {
	v := recover()
	if v == nil {
		return
	}
	if v != http.ErrAbortHandler {
		s.opt.Logger.LogAttrs(a.r.Context(), slog.LevelError, "panic", slog.String("trace", a.trace), slog.Any("value", v), slog.String("stack", string(debug.Stack())))
		e := a.event()
		e.Outcome, e.Detail = audit.Failed, map[string]string{"error": fmt.Sprintf("panic: %v", v)}
		s.record(a.r.Context(), e)
	}
	panic(http.ErrAbortHandler)
}

// recordRefused puts a denial on record.
func (s *Sidecar) recordRefused(a *arrival, err error) {
	e := a.event()
	e.Outcome = audit.Refused
	if k := rampart.KindOf(err); k == rampart.Internal || k == rampart.Unavailable {
		e.Outcome = audit.Failed
	}
	e.Class, e.Detail = "authentication", map[string]string{"error": err.Error()}
	if re, ok := errors.AsType[*rampart.Error](err); ok {
		e.Control = re.Control
	}
	switch area, _, _ := strings.Cut(e.Control, "."); area {
	case "authz":
		e.Class = "authz_deny"
	case "validate":
		e.Class = "validation"
	}
	if d, ok := errors.AsType[decided](err); ok {
		e.Code, e.Policies, e.Detail["reason"] = string(d.Code), d.Policies, d.Reason
		if d.ID != "" {
			e.Detail["decision"] = d.ID
		}
	}
	s.record(a.r.Context(), e)
}

// refuse records the denial, then answers without saying what was judged.
func (s *Sidecar) refuse(w http.ResponseWriter, a *arrival, err error) {
	s.recordRefused(a, err)
	if a.body == nil && a.r.ContentLength != 0 && a.r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // an unread body must not become the next request
	}
	w.Header()[relay.HeaderOutcome] = []string{a.outcome(err).String()}
	if relay.IsGRPC(a.r) {
		problem.WriteGRPC(w, err)
		return
	}
	problem.Write(w, err, a.trace)
}

// outcome is what became of a request that ends with err: the caller's plane cannot
// tell a service that is away from one that died of it, nor either from this plane.
func (a *arrival) outcome(err error) relay.Outcome {
	if !a.asked {
		return relay.NotSent
	}
	return relay.OutcomeOf(err)
}

func (a *arrival) event() audit.Event {
	path := a.r.URL.EscapedPath()
	return audit.Event{
		Class: "authz_allow", Action: a.r.Method + " " + path[:min(len(path), 256)], Outcome: audit.Allowed, Flow: a.flow.ID,
		Layer: string(rampart.LayerService), Subject: a.principal.Subject, Actor: a.caller, Peer: a.r.RemoteAddr, Trace: a.trace,
	}
}

// decided carries a decision inside an error, for the log alone.
type decided struct{ rampart.Decision }

func (d decided) Error() string {
	return string(d.Layer) + " layer: " + string(d.Code) + ": " + d.Reason
}

// peer finds the flow by which this connection's certificate may come.
func (s *Sidecar) peer(a *arrival) error {
	if a.r.TLS == nil || len(a.r.TLS.PeerCertificates) == 0 {
		return rampart.Errorf(rampart.Unauthenticated, "mtls.required", "a client certificate is required")
	}
	id, err := svid.PeerID(a.r.TLS.PeerCertificates[0])
	if err != nil {
		return &rampart.Error{Kind: rampart.Unauthenticated, Control: "mtls.required", Msg: "the client certificate names nobody", Err: err}
	}
	a.caller = id
	if leaf := a.r.TLS.PeerCertificates[0]; s.opt.Now().After(leaf.NotAfter) {
		// A connection outlives the handshake that judged it.
		return rampart.Errorf(rampart.Unauthenticated, "mtls.required", "the certificate of this connection has expired")
	}
	if s.opt.Link.State().PeerRevoked(id, a.r.TLS.PeerCertificates[0]) {
		return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "the caller is disabled")
	}
	flow, ok := a.table.callers[id]
	if !ok && a.table.sys.Off("mtls.peer_declared") {
		for _, flow = range a.table.callers {
			break // any declared flow stands in for the one that is missing
		}
		ok = len(a.table.callers) > 0
	}
	if !ok {
		return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "no flow leads from the caller to this service")
	}
	a.flow = flow
	return nil
}

// fresh closes the flow when this service was disabled, and when this plane may
// have missed a revocation.
func (s *Sidecar) fresh(a *arrival) error {
	if err := s.opt.Link.Disabled(); err != nil {
		return err
	}
	return s.opt.Link.Bound(a.table.sys, a.flow)
}

// canonicalize reads the request as the gateway does: one that speaks mutual TLS
// may still be in the wrong hands. Where messages are delivered no request goes:
// it would pass by the signature, the schema and the guard.
func (s *Sidecar) canonicalize(a *arrival) error {
	a.webSocket = slices.Contains(a.flow.Stream, spec.StreamWebSocket) && relay.TakeWebSocket(a.r)
	a.grpc = slices.Contains(a.flow.Stream, spec.StreamGRPC) && relay.IsGRPC(a.r)
	if err := canonical.Headers(a.r); err != nil {
		return err
	}
	p, err := canonical.Path(a.r.URL.EscapedPath(), a.r.URL.RawQuery)
	if err != nil {
		return err
	}
	if agent.IsReserved(p) {
		return rampart.Errorf(rampart.NotFound, "edge.route", "no such resource")
	}
	a.path = p
	return nil
}

// route settles the operation and asks layer 2: may the subject act for this
// organization, with this verb, on this service?
func (s *Sidecar) route(a *arrival) error {
	if a.table.aboutAttributes(a.path) {
		return s.attributeQuestion(a)
	}
	action, tenant, err := s.operation(a)
	if err != nil {
		return err
	}
	a.action, a.tenant = action, tenant
	if a.table.sys.Off("authz.service") {
		return nil
	}
	d := a.table.pdp.DecideService(a.r.Context(), a.principal, tenant, pdp.Route{Permission: action, Allow: a.flow.Allow, Require: a.flow.Authz.Require, Flow: a.flow.ID})
	if d.Allowed() {
		return nil
	}
	err = &rampart.Error{Kind: rampart.Denied, Control: "authz.service", Msg: "you may not do this", Err: decided{d}}
	if d.Code == rampart.CodeScope {
		return problem.Scope(err, action)
	}
	return err
}

// stepUp holds the second line where the file asks for a stronger or fresher
// login: a service calls too, and no gateway stands before that.
func (s *Sidecar) stepUp(a *arrival) error {
	if len(a.flow.StepUp) == 0 || a.table.sys.Off("authn.step_up") {
		return nil
	}
	d := a.flow.Demand(a.r.Method, a.path)
	if d.MetBy(a.principal, s.opt.Now()) {
		return nil
	}
	return problem.StepUp(d.ACR, d.MaxAge, "")
}

// toService forwards to the service on loopback with a signed identity.
func (s *Sidecar) toService(w http.ResponseWriter, a *arrival) {
	if err := s.opt.Audit.Record(a.r.Context(), a.event()); err != nil {
		s.refuse(w, a, &rampart.Error{Kind: rampart.Unavailable, Control: "audit.log", Msg: "the request cannot be recorded, so it is not carried out", Err: err})
		return
	}
	a.asked = true
	if a.grpc {
		s.call(w, a)
		return
	}
	ctx, cancel := context.WithCancel(a.r.Context())
	defer cancel()
	done := func() {}
	defer func() { done() }()
	edit := func(h http.Header) {
		valid, stay := s.opt.Link.WhileValid(a.by, cancel), s.mayStay(a, func(err error) {
			s.recordRefused(a, err)
			cancel()
		})
		done = func() { valid(); stay() }
		dropOurs(h)
	}
	if err := a.open(w, s.request(a).WithContext(ctx), await(s.opt.Service, a.flow, loopback), edit); err != nil {
		s.refuse(w, a, noAnswer(s.opt.Service, err))
	}
}

// noAnswer says why there is none to pass on.
func noAnswer(service string, err error) error {
	if _, said := errors.AsType[*problem.Details](err); said {
		return err // it was too slow, or said what may not be passed on
	}
	return &rampart.Error{Kind: rampart.Unavailable, Msg: service + " does not answer; try again", Err: err}
}

// request is what the service gets: the path and body that were checked and the
// headers that it may read, with a signed identity.
func (s *Sidecar) request(a *arrival) *http.Request {
	to := *s.upstream
	to.Path, to.RawQuery = a.path, a.r.URL.RawQuery
	out := relay.Request(a.r, &to, relay.Inbound(a.op.Headers(), a.table.svc.Headers))
	identity := agent.Identified{Principal: a.principal, Caller: a.caller, Flow: a.flow.ID, Trace: a.trace, Expires: s.opt.Now().Add(identityLife)}
	out.Header.Set(agent.HeaderIdentity, s.sign(identity))
	out.Header.Set(trace.Header, trace.Parent(a.trace))
	if v := a.op.Cookie(a.r.Header); v != "" {
		out.Header["Cookie"] = []string{v}
	}
	if key := a.r.Header.Get(agent.HeaderIdem); key != "" {
		out.Header.Set(agent.HeaderIdem, key)
	}
	if a.forward != "" {
		out.Header.Set("Authorization", "Bearer "+a.forward)
	}
	a.setBody(out)
	return out
}

// loopback reaches the service itself: never a proxy, never a redirect. How long it
// waits is its user's to say.
var loopback = hop.New(hop.Options{
	Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return socket.Wrap(c), nil
	},
	Else: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10, DisableCompression: true},
	Wait: 10 * time.Minute,
})

// dropOurs keeps a service from answering with what only planes may say, its
// caller's identity above all.
func dropOurs(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Rampart-") {
			delete(h, name)
		}
	}
}

// sign renders the identity header of package agent. The private key is born with
// this process and never leaves it: the service, which knows the public one, can
// check an identity and cannot make one.
func (s *Sidecar) sign(id agent.Identified) string {
	b, err := json.Marshal(id)
	if err != nil {
		return "" // refused by the service: an identity that cannot be written is nobody
	}
	text := "v1." + base64.RawURLEncoding.EncodeToString(b)
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(s.identityKey, []byte(text)))
}

// identified reads back an identity header that this process signed.
func (s *Sidecar) identified(header string) (agent.Identified, error) {
	i := strings.LastIndexByte(header, '.')
	refused := rampart.Errorf(rampart.Unauthenticated, "authn.session", "the identity header is not valid")
	if i < 3 || !strings.HasPrefix(header, "v1.") {
		return agent.Identified{}, refused
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(header[i+1:])
	if err != nil || !ed25519.Verify(s.identityPublic, []byte(header[:i]), signature) {
		return agent.Identified{}, refused
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(header[3:i])
	if err != nil {
		return agent.Identified{}, refused
	}
	var id agent.Identified
	if err := json.Unmarshal(b, &id); err != nil || s.opt.Now().After(id.Expires) {
		return agent.Identified{}, refused
	}
	return id, nil
}
