package control

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/token"
)

// planeCall serves one call of an identified plane.
type planeCall func(w http.ResponseWriter, r *http.Request, id identity) error

// routes is the planes' listener. Everything but joining needs an SVID that
// the file knows; what is not listed is the public surface, for the gateway.
func (p *Plane) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathJoin, p.handle(p.serveJoin))
	mux.HandleFunc("POST "+wire.PathAttest, p.handle(p.serveAttest))
	for pattern, call := range map[string]planeCall{
		"POST " + wire.PathRenew:              p.serveRenew,
		"GET " + wire.PathWatch:               p.serveWatch,
		"POST " + wire.PathHeartbeat:          p.serveHeartbeat,
		"POST " + wire.PathResolve:            p.serveResolve,
		"GET " + wire.PathSecret + "{item}":   p.serveSecret,
		"POST " + wire.PathDEK:                p.serveDEK,
		"POST " + wire.PathEdgeCert:           p.serveEdgeCert,
		"POST " + wire.PathDBCert + "{store}": p.serveDBCert,
		"POST " + wire.PathEdgeStore:          p.serveEdgeStore,
		"POST " + wire.PathToken:              p.serveToken,
		"POST " + wire.PathJWTSVID:            p.serveJWTSVID,
		"POST " + wire.PathIntrospect:         p.serveIntrospect,
		"POST " + wire.PathSubject:            p.serveSubject,
		"POST " + wire.PathSubjects:           p.serveSubjects,
		"/":                                   p.servePublic,
	} {
		mux.HandleFunc(pattern, p.handle(p.judged(call)))
	}
	return mux
}

// handle answers an error as a problem and bounds the body.
func (p *Plane) handle(call func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return p.handleUpTo(maxBody, call)
}

// handleUpTo is handle for bodies of another size.
func (p *Plane) handleUpTo(limit int64, call func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		trace := traceOf(r)
		r = r.WithContext(rampart.WithTrace(r.Context(), trace))
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		err := call(w, r)
		if err == nil {
			return
		}
		if kind := rampart.KindOf(err); kind == rampart.Internal || kind == rampart.Unavailable {
			p.opt.Logger.LogAttrs(r.Context(), slog.LevelError, "call failed", slog.String("path", r.URL.Path), slog.String("trace", trace), slog.Any("error", err))
		}
		p.answer(w, r, err, trace)
	}
}

// traceOf takes the trace id of a W3C traceparent; the planes vouch for it.
func traceOf(r *http.Request) string {
	parts := strings.Split(r.Header.Get("Traceparent"), "-")
	if len(parts) == 4 && len(parts[1]) == 32 {
		if raw, err := hex.DecodeString(parts[1]); err == nil {
			return hex.EncodeToString(raw)
		}
	}
	return ""
}

// caller returns the plane at the other end. The listener has verified its
// certificate; here it must be one that the file still knows and nobody disabled.
func (p *Plane) caller(r *http.Request) (identity, error) {
	peer, ok := svid.PeerOf(r.TLS)
	if !ok {
		return identity{}, rampart.Errorf(rampart.Unauthenticated, "mtls.required", "control: a client certificate is required")
	}
	if err := p.declared(peer.ID); err != nil {
		return identity{}, err
	}
	if p.tokens.Disabled(peer.ID, peer.NotBefore.Add(ca.Skew)) {
		// Nothing more for it, a new certificate least of all.
		return identity{}, p.voided(r, p.ids[peer.ID])
	}
	if p.authority.off.has(peer.ID) && p.mayAct(r.Context(), p.ids[peer.ID]) != nil {
		// Whatever its certificate's date. The list here may be a moment old, so the
		// store is asked: a service that another control plane has just enabled counts.
		return identity{}, p.voided(r, p.ids[peer.ID])
	}
	if !time.Now().Before(peer.NotAfter) { // as crypto/tls does, which knows no other clock
		// A connection outlives the handshake that judged it.
		return identity{}, rampart.Errorf(rampart.Unauthenticated, "mtls.required", "control: the certificate of this connection has expired")
	}
	return p.ids[peer.ID], nil
}

func (p *Plane) refusedHandshake(peer net.Addr, err error) {
	p.note(audit.Event{Class: audit.ClassNetwork, Action: "handshake", Outcome: audit.Refused, Control: controlOf(err, "mtls.required"), Peer: peer.String(), Detail: map[string]string{"error": err.Error()}})
}

// note records an event whose failure has nobody left to tell.
func (p *Plane) note(e audit.Event) {
	ctx := context.Background()
	if err := p.opt.Audit.Record(ctx, e); err != nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "audit", slog.Any("error", err))
	}
}

// refuse records a denial and returns it. A denial that cannot be recorded is
// answered as that failure: a denial too.
func (p *Plane) refuse(ctx context.Context, e audit.Event, err error) error {
	e.Outcome = audit.Refused
	if k := rampart.KindOf(err); k == rampart.Internal || k == rampart.Unavailable {
		e.Outcome = audit.Failed
	}
	e.Control = controlOf(err, e.Control)
	detail := map[string]string{"error": err.Error()}
	for k, v := range e.Detail {
		detail[k] = v
	}
	e.Detail = detail
	if rerr := p.opt.Audit.Record(ctx, e); rerr != nil {
		return rerr
	}
	return err
}

func controlOf(err error, fallback string) string {
	if e, ok := errors.AsType[*rampart.Error](err); ok && e.Control != "" {
		return e.Control
	}
	return fallback
}

// readJSON reads a body into v. Unknown members are refused: between planes of
// one version they are mistakes.
func readJSON(r *http.Request, v any) error {
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
		return &problem.Details{Status: http.StatusUnsupportedMediaType, Err: rampart.Errorf(rampart.Invalid, "", "control: the body must be application/json")}
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return rampart.Errorf(rampart.Invalid, "", "control: the body does not parse")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return rampart.Errorf(rampart.Invalid, "", "control: data after the body")
	}
	return nil
}

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, err = w.Write(append(b, '\n'))
	return gone(err)
}

// gone ignores an error of writing to a peer that has left.
func gone(error) error { return nil }

// serveHeartbeat notes that a plane lives, where it listens and how far its
// audit log is durable. More heartbeats than a plane sends are not looked at.
func (p *Plane) serveHeartbeat(w http.ResponseWriter, r *http.Request, id identity) error {
	if !p.beats.Allow(id.id, 1).OK {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	var hb wire.Heartbeat
	if err := readJSON(r, &hb); err != nil {
		return err
	}
	e := audit.Event{Class: audit.ClassNetwork, Action: "heartbeat", Subject: id.id, Peer: r.RemoteAddr}
	if hb.Plane != id.plane() {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: this certificate is of %s", id.plane()))
	}
	hb.Refused, hb.Unenforced = bounded(hb.Refused), hb.Unenforced[:min(len(hb.Unenforced), wire.MaxReason)]
	hb.Edge = boundedEdge(id, hb.Edge)
	hb.Bans = boundedBans(id, hb.Bans)
	hb.Health = boundedHealth(id, p.system(), hb.Health)
	head, err := headOf(hb, r.RemoteAddr, p.opt.Now())
	if err != nil {
		return p.refuse(r.Context(), e, err)
	}
	if err := p.remember(r.Context(), hb, head); err != nil {
		return err
	}
	if err := p.acknowledge(r.Context(), hb); err != nil {
		return err
	}
	p.hub.endpoint(id, hb.Listen)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// serveResolve tells the gateway whom a credential stands for.
func (p *Plane) serveResolve(w http.ResponseWriter, r *http.Request, id identity) error {
	var q wire.ResolveRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	if !p.tokens.MayShowExternal(id.name) {
		return p.refuse(r.Context(), audit.Event{Class: audit.ClassAuthentication, Action: "resolve", Actor: id.id, Peer: r.RemoteAddr},
			rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: %s may not show credentials of the outside", id.name))
	}
	res, err := p.resolve(r.Context(), q)
	if e, ok := errors.AsType[*rampart.Error](err); ok && q.Type == wire.TypeAPIKey && e.Kind == rampart.Unauthenticated {
		// The plane that asks puts the reason on record, beside who showed the key.
		return rampart.Errorf(e.Kind, e.Control, "%s", err.Error())
	}
	if err != nil {
		return err
	}
	return writeJSON(w, res)
}

// parseForm reads a form body; parameters in the URL do not count.
func parseForm(r *http.Request) error {
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/x-www-form-urlencoded" {
		return &problem.Details{Status: http.StatusUnsupportedMediaType, Err: rampart.Errorf(rampart.Invalid, "", "control: the body must be application/x-www-form-urlencoded")}
	}
	if err := r.ParseForm(); err != nil {
		return rampart.Errorf(rampart.Invalid, "", "control: the form does not parse")
	}
	return nil
}

// oauthError answers with RFC 6749 section 5.2. What is wrong inside stays
// inside.
func oauthError(w http.ResponseWriter, err error) error {
	kind := rampart.KindOf(err)
	if kind == rampart.Internal {
		return err
	}
	status := http.StatusBadRequest
	switch code := token.CodeOf(err); {
	case code == "invalid_client":
		status = http.StatusUnauthorized
	case kind == rampart.Unavailable:
		return err
	}
	body := map[string]string{"error": token.CodeOf(err), "error_description": problem.Message(err)}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	return gone(json.NewEncoder(w).Encode(body))
}

// client is the "ip:port" that the gateway saw, "" if it said nothing sensible.
func client(r *http.Request) string {
	a, err := netip.ParseAddrPort(r.Header.Get(wire.HeaderClientIP))
	if err != nil {
		return ""
	}
	return a.String()
}
