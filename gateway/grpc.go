package gateway

import (
	"context"
	"errors"
	"net/http"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/network/shed"
	"github.com/rampart-security/rampart/spec"
)

// callable takes a gRPC call for one where the flow allows it, and refuses what else
// has its content type there. Elsewhere a call would end without its trailers, so it
// does not begin.
type callable struct{}

func (callable) check(c *call) error {
	is, may := relay.IsGRPC(c.r), c.streams(spec.StreamGRPC)
	switch {
	case is && !may:
		return unsupported("no gRPC is spoken here")
	case !is && may && relay.IsGRPCType(c.r.Header):
		return unsupported("gRPC is POST over HTTP/2 with TE: trailers")
	}
	c.grpc = is
	return nil
}

// acceptsCall judges the content type of a call, which caps.check does for others.
func (c *call) acceptsCall() error {
	if c.gzip {
		return unsupported("the body must come without content encoding")
	}
	if c.op == nil || c.table.sys.Off("validate.openapi") {
		return nil
	}
	return c.op.Accepts(c.r.Header.Get("Content-Type"), c.readOptions())
}

// call passes a gRPC call on. It ends when it would be refused now, as for other
// streams; what is judged at its opening includes none of its messages.
func (s forward) call(c *call) error {
	t := s.begin(c, c.w)
	defer t.end()
	rt, out, err := s.admit(t, "")
	if err != nil {
		return err
	}
	if err := c.stay(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(out.Context())
	defer cancel(nil)
	revoked := rampart.Errorf(rampart.Unauthenticated, "", "the credential is no longer valid")
	defer s.g.opt.Link.WhileValid(c.credential(), func() { cancel(revoked) })()
	defer s.mayStay(c, func() { cancel(s.whyNot()) })()
	head := func(h http.Header) { seal(h, h, c.table); varies(h, c.cors) }
	end, err := relay.GRPC(c.unpaced(), c.r, out.WithContext(ctx), c.mindedCall(rt), relay.GRPCOptions{MaxMessage: c.limit, Bounds: streamBounds, Head: head, Trailer: sealTrailer})
	if err != nil {
		if _, said := errors.AsType[*rampart.Error](err); said {
			return err
		}
		return answerError(c, err)
	}
	s.closed(c, end.Counts)
	return nil
}

// whyNot is why mayStay ends a call.
func (s forward) whyNot() error {
	select {
	case <-s.g.ending:
		return rampart.Errorf(rampart.Unavailable, "", "the gateway stops; call again")
	default:
		return rampart.Errorf(rampart.Denied, "", "you may not do this any more")
	}
}

// unpaced takes the deadlines of requests and answers that end off the call. Those of
// relay.GRPC take their place.
func (c *call) unpaced() http.ResponseWriter {
	if b, ok := c.r.Body.(*pacedBody); ok {
		c.r.Body = b.ReadCloser
	}
	if a, ok := c.w.(*pacedAnswer); ok {
		return a.ResponseWriter
	}
	return c.w
}

// sealTrailer is seal for what comes behind an answer.
func sealTrailer(h http.Header) {
	for name := range h {
		if isOurs(name) {
			delete(h, name)
		}
	}
}

// mindedCall has rt mind the service's load and health. A call says nothing of the
// load, since its client has it take as long as it likes; so it holds no place there
// either, and is only not begun when there is none.
func (c *call) mindedCall(rt http.RoundTripper) http.RoundTripper {
	b := c.target.backend
	return begun{b.load, priorities(c.target.flow.Priority), b.service.Calls(rt, c.who())}
}

// begun sends a request if the service bears another one.
type begun struct {
	load     *shed.Adaptive
	priority shed.Priority
	rt       http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b begun) RoundTrip(r *http.Request) (*http.Response, error) {
	entered, err := b.load.Enter(b.priority)
	if err != nil {
		return nil, err
	}
	b.load.Leave(entered, shed.Ignored)
	return b.rt.RoundTrip(r)
}
