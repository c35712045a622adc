package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/network/upstream"
	"github.com/rampart-security/rampart/spec"
)

// leaseMargin is how much longer a key is held than its request may take: a
// second holder must not start while the first still waits.
const leaseMargin = 5 * time.Second

// once carries a request out at most once per key. The key belongs to the
// subject and the operation, so that nobody can read another's answer by
// guessing a key. Gateways that share a load keep keys in one store.
func (s forward) once(c *call, rule *spec.Idempotency) error {
	key := c.r.Header.Get(rule.Header)
	if key == "" && rule.Required {
		return rampart.Errorf(rampart.Invalid, "idempotency.key", "header %s is missing: a name of your choice for this request, the same for every retry of it", rule.Header)
	}
	within := time.Duration(c.target.flow.Upstream.Timeout) // here for the whole answer, second try included
	call := idempotency.Call{
		Owner: c.principal.Subject, Key: key, Required: rule.Required, Query: c.r.URL.RawQuery, Body: c.body, Keep: time.Duration(rule.Keep), Lease: within + leaseMargin,
		Outcome: c.outcome, Repeats: c.repeats(), Render: func(w http.ResponseWriter, err error) {
			harden(w.Header(), c.table)
			problem.Write(w, err, c.trace)
		},
	}
	if key != "" { // nothing else is kept, or compared
		call.Scope, call.Meant, call.Rights = c.principal.Subject+" "+c.r.Method+" "+c.path, c.meant(), c.rights()
	}
	if !call.Repeats {
		call.Lease = max(call.Lease, call.Keep) // a gateway that dies leaves a request of unknown outcome
	}
	c.fate = relay.NotSent
	whole := c.context()
	// A client that goes away does not undo what it asked for: the answer is kept for
	// when it comes back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(whole), within)
	defer cancel()
	c.ctx = ctx
	err := c.table.once.Do(ctx, c.w, call, func(w http.ResponseWriter) error { return s.send(c, w, key) })
	c.ctx = whole // what is recorded from here on waits for the disk, not for the call
	if err != nil || c.w.Header().Get(idempotency.HeaderReplayed) == "" {
		return err
	}
	e := c.event(nil)
	e.Control, e.Code = "idempotency.key", "replayed"
	s.g.record(c, e)
	return nil
}

// rights are what the caller may do, as far as the edge knows. All stages but the
// service's own policies are passed anew before an answer is repeated; those would ask
// for these facts. They are no part of the key: a request must not run again because a
// role was given or taken.
func (c *call) rights() string {
	p := c.principal
	var out strings.Builder
	fmt.Fprintf(&out, "%q%q%q%t", p.Tenant, p.Team, p.Client, p.Scope == nil) // no scope is all, an empty one nothing
	for _, list := range [][]string{p.Organizations, p.Roles, p.ManagedTeams, p.Scope} {
		fmt.Fprintf(&out, "%q", slices.Sorted(slices.Values(list)))
	}
	return out.String()
}

// preconditions change what a request does, and every service gets them.
var preconditions = [...]string{"If-Match", "If-Modified-Since", "If-None-Match", "If-Unmodified-Since"}

// meant is what the service gets beside path, query and body that changes what is
// asked of it: the type of the body, preconditions, and the headers and cookies that
// it declares. A retry repeats those. It need not repeat what is made for each try (the
// nonce, a trace), nor what the answer looks like (Accept).
func (c *call) meant() string {
	var out strings.Builder
	say := func(name, value string) { out.WriteString(name + ": " + value + "\n") } // no value has a line's end
	kind, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";")
	say("Content-Type", strings.ToLower(strings.TrimSpace(kind)))
	names := slices.Concat(preconditions[:], c.op.Headers(), c.target.svc.Headers)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if c.eachTry(name) {
			continue
		}
		for _, v := range c.r.Header[name] {
			say(name, v)
		}
	}
	if v := c.op.Cookie(c.r.Header); v != "" {
		say("Cookie", v)
	}
	return out.String()
}

// eachTry reports headers that name a try and not what is asked, or the key itself,
// whoever declares them.
func (c *call) eachTry(name string) bool {
	switch name {
	case "Traceparent", "Tracestate", "Baggage", "X-Request-Id", "X-Correlation-Id":
		return true
	}
	f := &c.target.flow
	return strings.EqualFold(name, f.Idempotency.Header) || f.Nonce != nil && strings.EqualFold(name, f.Nonce.Header)
}

// repeats reports whether the service may get the request a second time: by what its
// method means, or since the file says that the service knows the key again.
func (c *call) repeats() bool {
	idem := c.target.flow.Idempotency
	return upstream.Repeatable(c.r.Method) || idem != nil && idem.Repeat
}

// outcome is what became of a request with a key.
func (c *call) outcome() idempotency.Outcome {
	switch c.fate {
	case relay.NotSent, relay.Unreached:
		return idempotency.NotDone
	case relay.Answered:
		return idempotency.Answered
	}
	return idempotency.Unknown
}

// fated notes what becomes of a request: only the way it ends, and what the plane of
// the service says of it, tells whether it may run again.
type fated struct {
	c  *call
	rt http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (f *fated) RoundTrip(r *http.Request) (*http.Response, error) {
	before := f.c.fate
	f.c.fate = relay.Unknown // until there is news, and if the transport panics
	res, err := f.rt.RoundTrip(r)
	fate := relay.OutcomeOf(err)
	if err == nil {
		fate = relay.Told(res.Header)
		res.Body = &fatedBody{res.Body, f.c}
	}
	if before != relay.Unknown || fate == relay.Answered { // that the second try was not sent says nothing of the first
		f.c.fate = fate
	}
	return res, err
}

// fatedBody is an answer that may break off: then it told nothing.
type fatedBody struct {
	io.ReadCloser
	c *call
}

// Read implements io.Reader.
func (b *fatedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.c.fate = relay.Unknown
	}
	return n, err
}
