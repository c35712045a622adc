package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/shed"
	"github.com/rampart-security/rampart/network/upstream"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/spec"
)

// backend is one service as the edge sees it: how much it bears, and whether it is
// well. It outlives the tables that use it, as long as the file says the same of
// it: a reload is no reason to storm a service that is down.
type backend struct {
	rule    spec.Resilience
	service *upstream.Service
	load    *shed.Adaptive
	streams *openStreams
}

// meet gives each target of t its backend: the one that there was, or a new one.
func (g *Gateway) meet(t *table) {
	before := map[string]*backend{}
	if old := g.table.Load(); old != nil {
		for _, tg := range old.targets {
			before[tg.name] = tg.backend
		}
	}
	for _, tg := range t.targets {
		t.hasCORS = t.hasCORS || tg.flow.CORS != nil
		t.hasWebSocket = t.hasWebSocket || slices.Contains(tg.flow.Stream, spec.StreamWebSocket)
		tg.backend = before[tg.name]
		if rule := *tg.flow.Upstream; tg.backend == nil || tg.backend.rule != rule {
			streams := newOpenStreams()
			if tg.backend != nil {
				streams = tg.backend.streams // they are still open
			}
			tg.backend = g.newBackend(tg.name, rule, streams)
		}
	}
}

func (g *Gateway) newBackend(name string, rule spec.Resilience, streams *openStreams) *backend {
	return &backend{rule: rule, streams: streams, load: shed.NewAdaptive(shed.AdaptiveOptions{}), service: upstream.New(upstream.Options{
		Name: name, Timeout: time.Duration(rule.Timeout), Failures: rule.Breaker.Failures, Least: rule.Breaker.Least, Open: time.Duration(rule.Breaker.Open),
		Now: g.opt.Now, OnChange: func(c upstream.Change) { go g.backendChanged(name, c) }, // who waits for the service does not wait for the disk
	})}
}

// backendChanged puts on record that a service is left alone, and that it is well
// again.
func (g *Gateway) backendChanged(name string, c upstream.Change) {
	e := audit.Event{Class: "network", Action: "upstream.breaker", Outcome: audit.Allowed, Code: "closed", Resource: name}
	if c.Open {
		e.Outcome, e.Code = audit.Failed, "open"
		e.Detail = map[string]string{"error": fmt.Sprintf("%d of %d requests of the last 10 seconds failed", c.Failed, c.Requests)}
	}
	if err := g.opt.Audit.Record(context.Background(), e); err != nil {
		g.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "audit", slog.Any("error", err))
	}
}

// who is the caller as far as it is known: what its requests provoke is held against
// a service only together with those of others.
func (c *call) who() string {
	if c.principal.Subject != "" {
		return c.principal.Subject
	}
	return "address:" + ratelimit.IPKey(c.ip)
}

// priorities is what a flow's word says.
func priorities(word string) shed.Priority {
	switch word {
	case spec.PriorityHigh:
		return shed.High
	case spec.PriorityLow:
		return shed.Low
	}
	return shed.Normal
}

// loaded sends a request if the service bears it. A place is held until the answer
// begins: from there on the client's pace counts, which says nothing of the
// service.
type loaded struct {
	load     *shed.Adaptive
	priority shed.Priority
	rt       http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (l *loaded) RoundTrip(r *http.Request) (*http.Response, error) {
	entered, err := l.load.Enter(l.priority)
	if err != nil {
		return nil, err
	}
	outcome := shed.Ignored
	defer func() { l.load.Leave(entered, outcome) }()
	res, err := l.rt.RoundTrip(r)
	outcome = outcomeOf(res, err)
	return res, err
}

// outcomeOf is what an answer says of the load. That nobody listens, or that the
// breaker is open, took no time and says nothing.
func outcomeOf(res *http.Response, err error) shed.Outcome {
	switch {
	case err != nil && problem.Status(err) == http.StatusGatewayTimeout:
		return shed.Overload
	case err != nil:
		return shed.Ignored
	case res.StatusCode == http.StatusServiceUnavailable || res.StatusCode == http.StatusGatewayTimeout:
		return shed.Overload
	case res.StatusCode >= http.StatusInternalServerError:
		return shed.Ignored
	}
	return shed.Answered
}

// awaitAnswer lets the client's connection live as long as the flow waits for its
// service, where that is longer than other answers may take.
func awaitAnswer(c *call) {
	if wait := time.Duration(c.target.flow.Upstream.Timeout); wait > writeTimeout/2 {
		_ = http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(wait + writeTimeout)) // a writer of a test has none
	}
}
