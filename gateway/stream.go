package gateway

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/spec"
)

// streamBounds end what stays open. Who wants to stay shows a sign of life, and
// shows again who they are once an hour.
var streamBounds = relay.Bounds{Idle: 2 * time.Minute, Total: time.Hour}

// streamCheck is how often what stays open is judged anew, if what it was judged by
// has changed. A revocation ends it at once, without that.
const streamCheck = 2 * time.Second

// upgrade takes a WebSocket's request for the GET that it is, where a flow allows
// any. Everywhere else the next stage refuses it for the Upgrade.
type upgrade struct{}

func (upgrade) check(c *call) error {
	if c.table.hasWebSocket {
		c.webSocket = relay.TakeWebSocket(c.r)
	}
	return nil
}

// upgradable refuses a WebSocket that the flow does not allow.
type upgradable struct{}

func (upgradable) check(c *call) error {
	if !c.webSocket || c.streams(spec.StreamWebSocket) {
		return nil
	}
	return rampart.Errorf(rampart.Invalid, "edge.route", "no other protocol is spoken here")
}

func (c *call) streams(kind string) bool { return slices.Contains(c.target.flow.Stream, kind) }

// sameSite refuses a WebSocket that another site's page opens: browsers send the
// cookie along, ask nobody beforehand, and let the page read. Who sends no Origin
// is no browser, and has no business with a cookie here.
type sameSite struct{}

func (sameSite) check(c *call) error {
	if !c.webSocket {
		return nil
	}
	origin := c.r.Header.Get("Origin")
	switch {
	case origin == "https://"+c.r.Host:
		return nil
	case origin == "" && c.cred.kind != sessionKind:
		return nil
	case c.cors == c.target && names(&c.target.flow, origin) && (c.cred.kind != sessionKind || c.actsForUser()):
		return nil
	}
	return rampart.Errorf(rampart.Denied, "authn.csrf", "this connection is opened by a page of another site")
}

// unhurried lets an event stream live as long as streamBounds say: an answer of
// another kind ends when answers do.
func unhurried(w http.ResponseWriter, edit func(http.Header)) func(http.Header) {
	return func(h http.Header) {
		edit(h)
		if a, ok := w.(*pacedAnswer); ok && relay.IsEvents(h) {
			a.unending()
		}
	}
}

// open sends a request whose answer may stay open, if it asks for that.
func (s forward) open(c *call, w http.ResponseWriter, out *http.Request, rt http.RoundTripper, edit func(http.Header)) error {
	switch {
	case c.webSocket:
		if err := c.stay(); err != nil {
			return err
		}
		counts, err := relay.WebSocket(w, c.r, out, rt, edit, streamBounds)
		if err == nil {
			s.closed(c, counts)
		}
		return err
	case c.streams(spec.StreamEvents):
		return relay.Events(w, out, eventual{c, rt}, unhurried(c.w, edit), streamBounds)
	}
	return relay.Send(w, out, rt, edit)
}

// eventual has an answer that is a stream of events take the place of one, or refuses
// it: only the answer's head says what it is.
type eventual struct {
	c  *call
	rt http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (e eventual) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := e.rt.RoundTrip(r)
	if err != nil || res.ContentLength >= 0 || !relay.IsEvents(res.Header) {
		return res, err
	}
	if err := e.c.stay(); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res, nil
}

// closed puts on record what went through a WebSocket.
func (s forward) closed(c *call, n relay.Counts) {
	e := c.event(nil)
	e.Code = "closed"
	if e.Detail == nil {
		e.Detail = map[string]string{}
	}
	e.Detail["bytes_in"], e.Detail["bytes_out"] = strconv.FormatInt(n.FromClient, 10), strconv.FormatInt(n.FromService, 10)
	s.g.record(c, e)
}

// mayStay has end called when what stays open would be refused now: the policies
// changed, or the file, or this gateway goes down. Revocations are WhileValid's.
func (s forward) mayStay(c *call, end func()) (stop func()) {
	if len(c.target.flow.Stream) == 0 {
		return func() {} // whatever it is, it is over in a minute
	}
	done, ctx := make(chan struct{}), c.context() // which the call may change while the other goroutine still runs
	go func() {
		tick := time.NewTicker(streamCheck)
		defer tick.Stop()
		by, table := s.g.policies.PDP(), c.table
		for {
			select {
			case <-done:
				return
			case <-s.g.ending:
				end()
				return
			case <-tick.C:
			}
			now, file := s.g.policies.PDP(), s.g.table.Load()
			if now == by && file == table {
				continue
			}
			by, table = now, file
			if err := s.judgeAgain(ctx, c, file, now); err != nil {
				s.g.recordIn(ctx, c.event(err))
				end()
				return
			}
		}
	}()
	return func() { close(done) }
}

// judgeAgain asks whether the request would be let in now.
func (s forward) judgeAgain(ctx context.Context, c *call, t *table, p *pdp.PDP) error {
	tg, op, _, err := t.find(c.r.Method, c.path)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(t.entries, func(e entry) bool { return e.flow.ID == c.entry.flow.ID && e.need == c.entry.need }) {
		return rampart.Errorf(rampart.Denied, "edge.route", "the file lets nobody in this way any more")
	}
	f := &tg.flow
	if tg.name != c.target.name || !slices.Equal(f.Stream, c.target.flow.Stream) {
		return rampart.Errorf(rampart.Denied, "edge.route", "the file allows no such stream any more")
	}
	d := p.DecideRoute(ctx, c.principal, pdp.Route{Permission: tg.permission(op, c.r.Method), Allow: f.Allow, Require: f.Authz.Require, Flow: f.ID})
	if d.Allowed() {
		return nil
	}
	return &rampart.Error{Kind: rampart.Denied, Control: "authz.gateway", Msg: "you may not do this any more", Err: decided{d}}
}

// carrier is the transport to the target's sidecar: HTTP/1, which a WebSocket needs,
// and HTTP/2 for a gRPC call.
func (s forward) carrier(c *call, gen *planelink.Generation) (http.RoundTripper, string, error) {
	if c.grpc {
		return gen.Streaming(c.target.name)
	}
	return gen.Service(c.target.name)
}
