package sidecar

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/svid"
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
	principal rampart.Principal
	forward   string // Authorization for the service: an internal token, or a handle
	body      []byte
}

// inbound is the path of a request into the service, in order.
func (s *Sidecar) inbound(w http.ResponseWriter, r *http.Request) {
	a := &arrival{table: s.table.Load(), trace: traceOf(r)}
	a.r = r.WithContext(rampart.WithTrace(r.Context(), a.trace))
	for _, step := range []func(*arrival) error{s.peer, s.identify, s.route} {
		if err := step(a); err != nil {
			s.refuse(w, a, err)
			return
		}
	}
	s.toService(w, a)
}

// refuse records the denial, then answers without saying what was judged.
func (s *Sidecar) refuse(w http.ResponseWriter, a *arrival, err error) {
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
	}
	s.record(a.r.Context(), e)
	problem.Write(w, err, a.trace)
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

// route settles the operation and asks layer 2: may the subject act for this
// organization, with this verb, on this service?
func (s *Sidecar) route(a *arrival) error {
	action, tenant, err := s.operation(a)
	if err != nil {
		return err
	}
	if a.table.sys.Off("authz.service") {
		return nil
	}
	d := a.table.pdp.DecideService(a.r.Context(), a.principal, tenant, pdp.Route{Permission: action, Allow: a.flow.Allow, Require: a.flow.Authz.Require})
	if d.Allowed() {
		return nil
	}
	return &rampart.Error{Kind: rampart.Denied, Control: "authz.service", Msg: "you may not do this", Err: decided{d}}
}

// toService forwards to the service on loopback with a signed identity.
func (s *Sidecar) toService(w http.ResponseWriter, a *arrival) {
	if err := s.opt.Audit.Record(a.r.Context(), a.event()); err != nil {
		s.refuse(w, a, &rampart.Error{Kind: rampart.Unavailable, Control: "audit.log", Msg: "the request cannot be recorded, so it is not carried out", Err: err})
		return
	}
	up, err := url.Parse(s.opt.Upstream)
	if err != nil {
		s.refuse(w, a, err)
		return
	}
	identity := s.sign(agent.Identified{Principal: a.principal, Caller: a.caller, Flow: a.flow.ID, Trace: a.trace, Expires: s.opt.Now().Add(identityLife)})
	p := &httputil.ReverseProxy{
		Transport: loopback,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = up.Scheme, up.Host
			pr.Out.Host = up.Host
			scrub(pr.Out.Header)
			pr.Out.Header.Set(agent.HeaderIdentity, identity)
			if key := a.r.Header.Get(agent.HeaderIdem); key != "" {
				pr.Out.Header.Set(agent.HeaderIdem, key)
			}
			if a.forward != "" {
				pr.Out.Header.Set("Authorization", "Bearer "+a.forward)
			}
			a.setBody(pr.Out)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			s.opt.Logger.LogAttrs(r.Context(), slog.LevelWarn, "service", slog.String("trace", a.trace), slog.Any("error", err))
			problem.Write(w, rampart.Errorf(rampart.Unavailable, "", "%s does not answer; try again", s.opt.Service), a.trace)
		},
		ErrorLog: slog.NewLogLogger(s.opt.Logger.Handler(), slog.LevelDebug),
	}
	p.ServeHTTP(w, a.r)
}

// loopback reaches the service itself: never a proxy, never a redirect.
var loopback = &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: 30 * time.Second, DisableCompression: true}

// scrub removes what only planes may say.
func scrub(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Rampart-") || strings.HasPrefix(name, "X-Forwarded-") || name == "Authorization" || name == "Cookie" {
			h.Del(name)
		}
	}
}

// sign renders the identity header of package agent.
func (s *Sidecar) sign(id agent.Identified) string {
	b, err := json.Marshal(id)
	if err != nil {
		return "" // refused by the service: an identity that cannot be written is nobody
	}
	text := "v1." + base64.RawURLEncoding.EncodeToString(b)
	return text + "." + base64.RawURLEncoding.EncodeToString(s.mac(text))
}

func (s *Sidecar) mac(text string) []byte {
	m := hmac.New(sha256.New, s.identityKey)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// identified reads back an identity header that this process signed.
func (s *Sidecar) identified(header string) (agent.Identified, error) {
	i := strings.LastIndexByte(header, '.')
	refused := rampart.Errorf(rampart.Unauthenticated, "authn.session", "the identity header is not valid")
	if i < 3 || !strings.HasPrefix(header, "v1.") {
		return agent.Identified{}, refused
	}
	tag, err := base64.RawURLEncoding.Strict().DecodeString(header[i+1:])
	if err != nil || !hmac.Equal(tag, s.mac(header[:i])) {
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
