package sidecar

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/canonical"
	"github.com/rampart-security/rampart/network/egress"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/profile"
)

// maxOutBody bounds what a service sends out in one request.
const maxOutBody = 8 << 20

// exit is a declared way out of the system.
type exit struct {
	flow      spec.Flow
	base      *url.URL
	transport http.RoundTripper
}

// departure is one outbound request.
type departure struct {
	w     http.ResponseWriter
	r     *http.Request
	table *table
	dest  string
	path  string
	trace string
}

// outboundMux is the only way out: declared flows, nothing else.
func (s *Sidecar) outboundMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(agent.PathOut+"{dest}/{path...}", s.out)
	mux.HandleFunc("POST "+agent.PathPublish+"{store}/{topic}", s.publish)
	mux.HandleFunc("POST "+agent.PathSign+"{store}/{topic}", s.signMessage)
	return mux
}

// notBrowsers keeps web pages from using the way out: whatever page a browser on
// this machine shows may send requests to loopback. Services are no browsers,
// and do not call it by a name that someone else's DNS answers for.
func notBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		addr, perr := netip.ParseAddr(host)
		local := err == nil && (host == "localhost" || perr == nil && addr.IsLoopback())
		if !local || r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			problem.Write(w, rampart.Errorf(rampart.Denied, "egress.allow", "the way out is for the service, not for browsers"), trace.Of(r.Header))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// out sends a request to a declared service or external party.
func (s *Sidecar) out(w http.ResponseWriter, r *http.Request) {
	d := &departure{w: w, table: s.table.Load(), dest: r.PathValue("dest"), trace: trace.Of(r.Header)}
	d.r = r.WithContext(rampart.WithTrace(r.Context(), d.trace))
	d.r.Body = http.MaxBytesReader(w, d.r.Body, maxOutBody)
	if err := s.depart(d); err != nil {
		s.refuseOut(d, err)
	}
}

func (s *Sidecar) depart(d *departure) error {
	if err := canonical.Headers(d.r); err != nil {
		return err
	}
	if err := canonical.Body(d.r, d.r.Method == http.MethodDelete); err != nil { // some parties ask for a body there
		return err
	}
	raw := strings.TrimPrefix(d.r.URL.EscapedPath(), agent.PathOut+d.dest)
	path, err := canonical.Path(raw, d.r.URL.RawQuery)
	if err != nil {
		return err
	}
	d.path = path
	if flow, ok := d.table.internal[d.dest]; ok {
		return s.toPeer(d, flow)
	}
	if e, ok := d.table.external[d.dest]; ok {
		return s.toExternal(d, e)
	}
	return rampart.Errorf(rampart.Denied, "egress.allow", "no flow leads from %s to %q", s.opt.Service, d.dest)
}

// mayLeave closes a way out to a service that was disabled, and to every service
// when this plane may have missed that.
func (s *Sidecar) mayLeave(t *table, flow spec.Flow) error {
	if err := s.opt.Link.Bound(t.sys, flow); err != nil {
		return err
	}
	return s.opt.Link.Disabled()
}

func (s *Sidecar) refuseOut(d *departure, err error) {
	e := audit.Event{Class: "network", Action: "egress " + d.r.Method + " " + d.dest, Outcome: audit.Refused, Subject: d.table.id,
		Resource: d.dest, Trace: d.trace, Control: "egress.allow", Detail: map[string]string{"error": err.Error()}}
	if re, ok := asError(err); ok && re.Control != "" {
		e.Control = re.Control
	}
	if rampart.KindOf(err) == rampart.Unavailable {
		e.Outcome = audit.Failed
	}
	s.record(d.r.Context(), e)
	problem.Write(d.w, err, d.trace)
}

// toPeer calls another service of the system: mutual TLS, and a token for that
// service alone, exchanged from what the caller arrived with.
func (s *Sidecar) toPeer(d *departure, flow spec.Flow) error {
	if err := s.mayLeave(d.table, flow); err != nil {
		return err
	}
	gen := s.opt.Link.Now()
	rt, addr, err := gen.Service(d.dest)
	if err != nil {
		return err
	}
	out := d.request(&url.URL{Scheme: "https", Host: addr, Path: d.path, RawQuery: d.r.URL.RawQuery})
	if err := s.onward(d, flow, gen, out.Header); err != nil {
		return err
	}
	out.Host = d.dest
	out.Header.Set(trace.Header, trace.Parent(d.trace))
	return d.send(out, await(d.dest, flow, rt))
}

// request is our own, with none of the headers that are the planes' to set.
func (d *departure) request(to *url.URL) *http.Request {
	return relay.Request(d.r, to, relay.Outbound)
}

// send passes the answer back, without what one plane says to another. What the way
// out itself refused keeps its reason.
func (d *departure) send(out *http.Request, rt http.RoundTripper) error {
	err := relay.Send(d.w, out, rt, dropOurs)
	if _, ok := asError(err); err == nil || ok {
		return err
	}
	return &rampart.Error{Kind: rampart.Unavailable, Control: "egress.allow", Msg: d.dest + " does not answer", Err: err}
}

// onward sets the identity header of a call on somebody's behalf. Without an
// Authorization the service acts as itself. The token is asked for by the very
// generation that carries the call: it is bound to that certificate.
func (s *Sidecar) onward(d *departure, flow spec.Flow, gen *planelink.Generation, h http.Header) error {
	text, _ := strings.CutPrefix(d.r.Header.Get("Authorization"), "Bearer ")
	kind, value := wire.TypeJWT, text
	var held handle
	switch {
	case text == "":
		kind = wire.TypeSVIDOnly
	case strings.HasPrefix(text, handlePrefix):
		h, ok := s.handles.get(text)
		if !ok {
			return rampart.Errorf(rampart.Unauthenticated, "token.exchange", "the handle in Authorization has expired")
		}
		held, kind, value = h, h.kind, h.value
	}
	switch flow.Authn.Pattern {
	case "gateway":
		return setPrincipal(h, held.by)
	case "per_service":
		h.Set(wire.HeaderCred, kind+" "+value)
		h.Set(wire.HeaderClientIP, held.ip)
		return nil
	}
	tok, err := gen.Token(d.r.Context(), kind, value, d.table.sys.ServiceID(flow.To))
	if err != nil {
		return &rampart.Error{Kind: rampart.KindOf(err), Control: "token.exchange", Msg: "no token for this service", Err: err}
	}
	h.Set("Authorization", "Bearer "+tok)
	return nil
}

func setPrincipal(h http.Header, c planelink.Credential) error {
	b, err := json.Marshal(c.Vouched())
	if err != nil {
		return err
	}
	h.Set(wire.HeaderPrinc, base64.RawURLEncoding.EncodeToString(b))
	return nil
}

// toExternal calls a declared party outside, with its secret put in here: the
// service never holds it.
func (s *Sidecar) toExternal(d *departure, e *exit) error {
	if err := s.mayLeave(d.table, e.flow); err != nil {
		return err
	}
	value := ""
	if in := e.flow.Inject; in != nil {
		sec, err := s.held(d.r.Context(), in.Secret)
		if err != nil {
			return &rampart.Error{Kind: rampart.Unavailable, Control: "secret.manager", Msg: "the secret for this call cannot be had", Err: err}
		}
		err = sec.Use(func(b []byte) error { value = string(b); return nil })
		if err != nil {
			return err
		}
	}
	if err := s.opt.Audit.Record(d.r.Context(), audit.Event{Class: "authz_allow", Action: "egress " + d.r.Method + " " + d.dest, Outcome: audit.Allowed,
		Flow: e.flow.ID, Subject: d.table.id, Resource: d.dest, Trace: d.trace}); err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Control: "audit.log", Msg: "the call cannot be recorded, so it is not made", Err: err}
	}
	out := d.request(&url.URL{Scheme: e.base.Scheme, Host: e.base.Host, Path: d.path, RawQuery: d.r.URL.RawQuery})
	if value != "" {
		inject(out.Header, e.flow.Inject.Into, value)
	}
	return d.send(out, e.transport)
}

// inject sets "header:NAME"; Authorization takes the Bearer scheme.
func inject(h http.Header, into, value string) {
	name := strings.TrimPrefix(into, "header:")
	if strings.EqualFold(name, "Authorization") {
		value = "Bearer " + value
	}
	h.Set(name, value)
}

// newExit compiles a flow to an external party into the one transport that can
// reach it.
func (s *Sidecar) newExit(sys *spec.System, f spec.Flow, ext spec.External) (*exit, error) {
	base, err := url.Parse(ext.URL)
	if err != nil {
		return nil, fmt.Errorf("external.%s.url: %w", f.To, err)
	}
	minTLS := uint16(tls.VersionTLS13)
	if f.TLS.Min == "1.2" {
		minTLS = tls.VersionTLS12
	}
	ca := filepath.Join(s.opt.StandIns, f.To+".pem")
	t, err := egress.New(egress.Options{
		Host: base.Host, Methods: f.Egress.Methods, Paths: f.Egress.Paths, StandIn: ext.StandIn,
		AnyPath: sys.Off("egress.allow"), AnyAddress: sys.Off("egress.private_ip"),
		TLS: func(name string) (*tls.Config, error) {
			roots, err := standInRoots(ext.StandIn, ca)
			if err != nil {
				return nil, err
			}
			return profile.External(name, roots, minTLS), nil
		},
	})
	return &exit{flow: f, base: base, transport: t}, err
}

// standInRoots reads the CA of a stand-in; nil means the system's roots.
func standInRoots(standIn, file string) (*x509.CertPool, error) {
	if standIn == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the stand-in has not left its CA yet: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Base(file))
	}
	return roots, nil
}

// secretsOf asks the control plane, which grants by flow.
type secretsOf struct {
	link interface {
		Call(ctx context.Context, method, path string, in, out any) error
	}
	fetched func(name string, version int) // told of each; not nil
}

// Get fetches one secret by its data item, or "store:NAME" for a store's password.
func (b secretsOf) Get(ctx context.Context, name string) (secrets.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var v agent.SecretValue
	if err := b.link.Call(ctx, http.MethodGet, wire.PathSecret+url.PathEscape(name), nil, &v); err != nil {
		return secrets.Secret{}, err
	}
	defer clear(v.Value)
	b.fetched(name, v.Version)
	return secrets.Make(v.Value, secrets.Meta{Version: v.Version, User: v.User, Until: v.Until}), nil
}

// cacheTime is how long the file lets a credential be remembered; 0: it does not say.
func (s *Sidecar) cacheTime(name string) time.Duration {
	if t := s.table.Load(); t != nil {
		return time.Duration(t.sys.Data[name].Cache)
	}
	return 0
}

func (s *Sidecar) staleSecret(ctx context.Context, name string, age time.Duration, cause error) {
	s.record(ctx, audit.Event{Class: "secret", Action: "serve stale", Outcome: audit.Allowed, Control: "secret.manager",
		Resource: name, Detail: map[string]string{"age": age.String(), "error": cause.Error()}})
}
