package gateway

import (
	"bytes"
	"net/http"
	"net/url"

	"github.com/rampart-security/rampart/internal/leash"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/network/upstream"
	"github.com/rampart-security/rampart/spec"
)

// trip is what it takes to forward one request, in one piece of memory: all of it
// lives as long.
type trip struct {
	g       *Gateway
	c       *call
	w       http.ResponseWriter
	leash   leash.Leash // the context of what the service gets
	watched planelink.Watched
	stay    func()       // if not nil, ends the judging of what stays open
	out     http.Request // what the service gets
	to      url.URL
	parent  [1]string // of the trace
	body    sentBody
	fated   fated
	way     upstream.Way
	loaded  loaded
	strict  strictly
}

// sentBody is a body in memory.
type sentBody struct{ bytes.Reader }

// Close implements io.Closer.
func (*sentBody) Close() error { return nil }

func (s forward) begin(c *call, w http.ResponseWriter) *trip {
	t := &trip{g: s.g, c: c, w: w}
	t.leash.Begin(c.context())
	return t
}

// end lets go of what held the answer.
func (t *trip) end() {
	t.watched.Over()
	if t.stay != nil {
		t.stay()
	}
	t.leash.End(nil)
}

// edit hardens an answer from inside, and has it end when the caller may not have it
// any more.
func (t *trip) edit(h http.Header) {
	c := t.c
	t.g.opt.Link.Watch(&t.watched, c.credential(), &t.leash)
	if len(c.target.flow.Stream) > 0 {
		t.stay = forward{t.g}.mayStay(c, func() { t.leash.End(nil) })
	}
	to := t.w.Header()
	if c.webSocket {
		to = h // which is written to the connection as it is
	}
	seal(h, to, c.table)
	varies(h, c.cors)
}

// over puts what minds the service and its answers over its transport.
func (t *trip) over(rt http.RoundTripper, keyed bool) http.RoundTripper {
	return t.judged(t.minded(rt, keyed))
}

// minded has rt mind the service's load and health. A request with a key that we
// hold may be sent twice where the service, which is told the key, knows the second
// for the first.
func (t *trip) minded(rt http.RoundTripper, keyed bool) http.RoundTripper {
	c, b := t.c, t.c.target.backend
	if keyed {
		t.fated = fated{c, rt}
		rt = &t.fated
	}
	t.way = *b.service.Over(rt, c.who(), keyed && c.repeats() || upstream.Repeatable(c.r.Method))
	t.loaded = loaded{b.load, priorities(c.target.flow.Priority), &t.way}
	return &t.loaded
}

// judged puts the check of the answer between a service and whoever relays its
// answers. Only what is declared as JSON can be judged: such an answer must not
// come compressed or in pieces.
func (t *trip) judged(rt http.RoundTripper) http.RoundTripper {
	c, g := t.c, t.g
	if c.op == nil || c.table.sys.Off("validate.response") {
		return rt
	}
	switch c.target.flow.Validate.Response {
	case spec.ResponseStrict:
		t.strict = strictly{c, rt}
		return &t.strict
	case spec.ResponseSampled:
		if g.samples.seen.Add(1)%sampleEvery == 1 {
			return sampled{g, c, rt}
		}
	}
	return rt
}
