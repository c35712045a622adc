package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/waf"
	"github.com/rampart-security/rampart/network/waf/guide"
	"github.com/rampart-security/rampart/spec"
)

const controlWAF = "waf.rules"

// firewall looks for known attacks in what will be forwarded. It stands behind
// the schema, which has settled what that is, and before anything is spent: no
// nonce and no idempotency key is used up by what is refused here.
type firewall struct {
	g  *Gateway
	by map[string]*inspector // by service; none: the flow has it off
}

// inspector is one flow's share of the engine.
type inspector struct {
	engine *waf.Engine // nil: the options were refused, so everything is
	guide  *guided     // nil: full
	detect bool
	turns  *turns
}

// firewall makes an inspector for each flow. The rules themselves are shared by
// all flows and by all tables that come after this one.
func (g *Gateway) firewall(t *table) firewall {
	f := firewall{g: g, by: map[string]*inspector{}}
	for _, tg := range t.targets {
		if w := tg.flow.WAF; w != nil && w.Mode != spec.WAFOff {
			f.by[tg.name] = g.inspector(tg, *w, bodyLimit(t, tg))
		}
	}
	return f
}

func bodyLimit(t *table, tg *target) int64 {
	if t.sys.Off("validate.max_body") {
		return 64 << 20
	}
	return int64(tg.flow.Validate.MaxBody)
}

func (g *Gateway) inspector(tg *target, w spec.WAF, limit int64) *inspector {
	o := waf.Options{Paranoia: w.Paranoia, Threshold: w.Threshold, MaxBody: limit, Now: g.opt.Now}
	for _, x := range w.Exclude {
		o.Exclude = append(o.Exclude, waf.Exclusion{Route: x.Route, Field: x.Field, Rules: x.Rules, Until: x.Until})
	}
	e, err := g.waf.pool.Engine(o)
	if err != nil {
		g.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "waf", slog.String("service", tg.name), slog.Any("error", err))
		return &inspector{detect: w.Detect}
	}
	i := &inspector{engine: e, detect: w.Detect, turns: g.waf.turns()}
	if w.Mode == spec.WAFGuided {
		i.guide = g.waf.guided(o.Paranoia, e.Rules())
	}
	return i
}

func (f firewall) check(c *call) error {
	i := f.by[c.target.name]
	if i == nil {
		return nil
	}
	v, err := i.inspect(c)
	switch {
	case err != nil && i.detect: // who asked for findings only wants no outage by what looks for them
		f.g.opt.Logger.LogAttrs(c.context(), slog.LevelError, "waf", slog.String("trace", c.trace), slog.Any("error", err))
		return nil
	case err != nil: // closed: what was not inspected is not forwarded
		return &rampart.Error{Kind: rampart.Unavailable, Control: controlWAF, Msg: "the request cannot be inspected; try again", Err: err}
	case i.detect && len(v.Findings) > 0:
		f.g.record(c, c.detected(v))
		return nil
	case v.Refuse && !i.detect:
		return &rampart.Error{Kind: rampart.Denied, Control: controlWAF, Msg: "this request looks like an attack", Err: found{v}}
	}
	return nil
}

func (i *inspector) inspect(c *call) (waf.Verdict, error) {
	if i.engine == nil {
		return waf.Verdict{}, rampart.Errorf(rampart.Internal, controlWAF, "the rules could not be had")
	}
	r := c.inspected()
	defer delete(r.Header, "Content-Length") // of the fields that are forwarded it is none: no service can declare it
	if i.guide != nil && i.guide.clean(r) {
		return waf.Verdict{Mode: waf.ModeSkip}, nil
	}
	leave, err := i.turns.enter(c.context(), len(r.Target)+len(r.Body))
	if err != nil {
		return waf.Verdict{}, err
	}
	defer leave()
	return i.engine.Inspect(c.context(), r)
}

// Bounds of what the rules may cost, which is some 5 µs a byte.
const (
	longText = 8 << 10         // bytes of target and body that are inspected in turn
	longWait = 5 * time.Second // for one's turn; then the request is refused: closed
)

// turns keep long texts, of which each costs the rules tens of milliseconds and up,
// on half of the processors: who sends nothing else slows down others who do, and
// no one else.
type turns struct {
	places chan struct{}
	wait   time.Duration
}

func newTurns() *turns {
	return &turns{make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), longWait}
}

func (t *turns) enter(ctx context.Context, size int) (leave func(), err error) {
	if size <= longText {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.wait)
	defer cancel()
	select {
	case t.places <- struct{}{}:
		return func() { <-t.places }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waf: too many long texts wait to be inspected: %w", ctx.Err())
	}
}

// inspected is the request as it will be forwarded, without what the planes put
// in: the internal credential, the trace.
func (c *call) inspected() *waf.Request {
	rest, _ := c.target.strip(c.path)
	to := url.URL{Path: rest, RawQuery: c.r.URL.RawQuery}
	r := &c.rules
	*r = waf.Request{
		Client: c.ip, Method: c.r.Method, Target: to.RequestURI(), Host: c.target.name,
		Header: c.alsoSent(c.inside()),
	}
	if c.hasBody {
		r.Body, r.BodyKind = c.body, bodyKind(first(c.r.Header["Content-Type"]))
	}
	if c.hasBody || unsafeMethod(c.r.Method) {
		r.Header["Content-Length"] = c.bodyLength()
	}
	if c.op != nil {
		r.Route = c.op.Method + " " + c.op.Path
	}
	for name, value := range c.params {
		r.Path = append(r.Path, waf.Arg{Name: waf.PathPrefix + name, Value: value})
	}
	return r
}

// inside are those of the caller's header fields that its service gets. They are made
// once: what the rules look at is what is forwarded.
func (c *call) inside() http.Header {
	if c.fields != nil {
		return c.fields
	}
	h := relay.Inside(c.r.Header, ownFields, c.op.Headers(), c.target.svc.Headers)
	if first(h["User-Agent"]) == "" {
		delete(h, "User-Agent") // as it will be on the wire
	}
	if v := c.op.Cookie(c.r.Header); v != "" {
		h["Cookie"] = []string{v} // of the caller's cookies those that the document declares, and no credential
	}
	c.fields = h
	return h
}

// ownFields is the room for what this plane adds: the length for the rules, the
// credential and the trace for the service.
const ownFields = 3

// alsoSent returns h with what the service gets of the caller's text by other ways
// than the fields that every service may read.
func (c *call) alsoSent(h http.Header) http.Header {
	var key, protocols []string
	if rule := c.target.flow.Idempotency; rule != nil && unsafeMethod(c.r.Method) && c.r.Header.Get(rule.Header) != "" {
		key = []string{c.r.Header.Get(rule.Header)}
	}
	if c.webSocket {
		protocols = c.r.Header["Sec-Websocket-Protocol"]
	}
	if len(key) == 0 && len(protocols) == 0 {
		return h
	}
	h = maps.Clone(h) // what adds them for the service has a say in it
	if len(key) > 0 {
		h[agent.HeaderIdem] = key
	}
	if len(protocols) > 0 {
		h["Sec-Websocket-Protocol"] = protocols
	}
	return h
}

// bodyLength is the Content-Length of the body, the caller's own if it says the same.
func (c *call) bodyLength() []string {
	var text [20]byte
	now := strconv.AppendInt(text[:0], int64(len(c.body)), 10)
	if had := c.r.Header["Content-Length"]; len(had) == 1 && had[0] == string(now) {
		return had
	}
	return []string{string(now)}
}

// first is Get of a field whose canonical name the code has in hand.
func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

func bodyKind(contentType string) waf.BodyKind {
	kind, _, _ := strings.Cut(contentType, ";")
	switch kind = strings.ToLower(strings.TrimSpace(kind)); {
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		return waf.JSONBody
	case kind == "application/x-www-form-urlencoded":
		return waf.FormBody
	case kind == "multipart/form-data":
		return waf.MultipartBody
	}
	return waf.OpaqueBody
}

// found carries a verdict inside an error, for the log alone.
type found struct{ waf.Verdict }

func (f found) Error() string { return "anomaly score " + strconv.Itoa(f.Score) }

// detected is the event of findings that refuse nothing.
func (c *call) detected(v waf.Verdict) audit.Event {
	e := c.event(nil)
	e.Class, e.Control, e.Detail, e.Decision = audit.ClassWAF, controlWAF, map[string]string{}, ""
	foundDetail(e.Detail, v)
	return e
}

func foundBy(err error) (waf.Verdict, bool) {
	f, ok := errors.AsType[found](err)
	return f.Verdict, ok
}

// maxFindings bounds what one event tells: pairs of a rule and a field.
const maxFindings = 16

// foundDetail names rules and the fields in which they matched, never values. The
// fields are spelled as an exclusion has them.
func foundDetail(detail map[string]string, v waf.Verdict) {
	var pairs []string
	for _, f := range v.Findings {
		rule := strconv.Itoa(f.Rule)
		if len(f.Fields) == 0 {
			pairs = append(pairs, rule)
		}
		for _, at := range f.Fields {
			pairs = append(pairs, rule+" in "+at)
		}
	}
	slices.Sort(pairs)
	pairs = slices.Compact(pairs)
	if more := len(pairs) - maxFindings; more > 0 {
		pairs = append(pairs[:maxFindings], fmt.Sprintf("%d more", more))
	}
	detail["rules"] = strings.Join(pairs, "; ")
	detail["score"] = fmt.Sprintf("%d of %d", v.Score, v.Threshold)
	detail["findings"] = strconv.Itoa(len(v.Findings))
}

// firewalls is what outlives a table: one compiled set of rules, and one guide,
// for each paranoia level. The zero value is ready.
type firewalls struct {
	pool   waf.Pool
	mu     sync.Mutex
	guides map[int]*guided
	long   *turns
}

// turns are one for all flows, since they share the processors.
func (f *firewalls) turns() *turns {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.long == nil {
		f.long = newTurns()
	}
	return f.long
}

func (f *firewalls) guided(paranoia int, set waf.RuleSet) *guided {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.guides == nil {
		f.guides = map[int]*guided{}
	}
	if f.guides[paranoia] == nil {
		f.guides[paranoia] = &guided{set: set}
	}
	return f.guides[paranoia]
}

// guided makes a guide when it will pay. It costs as much as some hundred
// inspections, so the first requests of a plane get these, and the same
// verdicts.
type guided struct {
	set   waf.RuleSet
	asked atomic.Int32
	guide atomic.Pointer[waf.Guide]
}

// payoff is how many requests a guide waits for.
const payoff = 64

func (s *guided) clean(r *waf.Request) bool {
	if g := s.guide.Load(); g != nil {
		return (*g).Clean(r)
	}
	if s.asked.Add(1) == payoff {
		go s.make() // ends by itself, within seconds
	}
	return false
}

// make has no way to fail that matters: without a guide everything is inspected.
func (s *guided) make() {
	made, err := guide.New(s.set)
	if err != nil {
		return
	}
	var g waf.Guide = made
	s.guide.Store(&g)
}
