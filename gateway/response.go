package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/hop"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/validate/openapi"
)

const (
	maxJudged   = 1 << 20 // bytes of an answer that is judged
	sampleEvery = 64      // answers, of which one is judged
	maxSamples  = 16      // answers that wait to be judged; more are not
)

// samples are answers that were sent and wait to be judged, off the path of
// requests. What finds no place is dropped and counted: sampling is open by
// choice, and never slows a request down.
type samples struct {
	queue   chan sample
	seen    atomic.Uint64 // answers that could be judged
	dropped atomic.Uint64
}

func newSamples() *samples { return &samples{queue: make(chan sample, maxSamples)} }

// sample is one answer, whole, and what is to be said of it.
type sample struct {
	answer *openapi.Answer
	body   []byte
	err    error // of status or content type; then there is no answer
	event  audit.Event
}

// plain asks for the whole answer, uncompressed.
func plain(r *http.Request) {
	r.Header["Accept-Encoding"] = identity[:]
	delete(r.Header, "Range")
	delete(r.Header, "If-Range")
}

// identity is shared by all requests, and nobody changes values in place.
var identity = [...]string{"identity"}

// strictly holds an answer back until all of it is known to be as declared.
type strictly struct {
	c  *call
	rt http.RoundTripper
}

func (s *strictly) RoundTrip(r *http.Request) (*http.Response, error) {
	plain(r)
	res, err := s.rt.RoundTrip(r)
	if err != nil || res.StatusCode < http.StatusOK {
		return res, err // relay refuses it
	}
	if err := s.hold(res); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res, nil
}

// hold reads the answer and judges it. What has a schema and is too long for
// that, or without end, is refused: strict means that nothing passes unseen.
func (s *strictly) hold(res *http.Response) error {
	a, err := declared(s.c, res)
	if err != nil || !a.Judged() {
		return err
	}
	if res.ContentLength > maxJudged {
		return tooLong()
	}
	body, err := whole(res)
	switch {
	case err != nil:
		return fmt.Errorf("the answer broke off: %w", err)
	case len(body) > maxJudged:
		return tooLong()
	}
	if err := a.Check(body); err != nil {
		return err
	}
	if _, ok := res.Body.(*hop.Whole); !ok {
		res.Body.Close()
		res.Body, res.ContentLength = hop.NewWhole(body), int64(len(body))
	}
	return nil
}

// whole reads an answer, or one byte more of it than is judged. One that is in memory
// stays unread.
func whole(res *http.Response) ([]byte, error) {
	if w, ok := res.Body.(*hop.Whole); ok {
		return w.Bytes(), nil
	}
	if res.ContentLength < 0 {
		return io.ReadAll(io.LimitReader(res.Body, maxJudged+1))
	}
	body := make([]byte, res.ContentLength)
	if _, err := io.ReadFull(res.Body, body); err != nil {
		return nil, err
	}
	return body, nil
}

func tooLong() error {
	return problem.With(rampart.Errorf(rampart.Unavailable, "validate.response", "the answer was withheld: it is longer than can be checked"),
		problem.Details{Status: http.StatusBadGateway})
}

// declared judges what comes before the body.
func declared(c *call, res *http.Response) (*openapi.Answer, error) {
	if len(res.Header["Content-Type"]) > 1 || len(res.Header["Content-Encoding"]) > 0 {
		return nil, problem.With(rampart.Errorf(rampart.Unavailable, "validate.response", "the answer was withheld: it is encoded, or of two types"),
			problem.Details{Status: http.StatusBadGateway})
	}
	hasBody := c.r.Method != http.MethodHead && res.ContentLength != 0 && res.Body != http.NoBody
	return c.op.Answer(res.StatusCode, first(res.Header["Content-Type"]), hasBody)
}

// sampled lets an answer pass and keeps a copy of it.
type sampled struct {
	g  *Gateway
	c  *call
	rt http.RoundTripper
}

func (s sampled) RoundTrip(r *http.Request) (*http.Response, error) {
	plain(r)
	res, err := s.rt.RoundTrip(r)
	if err != nil || res.StatusCode < http.StatusOK {
		return res, err
	}
	a, err := declared(s.c, res)
	if err != nil {
		s.g.samples.put(sample{err: err, event: s.c.event(err)})
		return res, nil
	}
	if a.Judged() {
		found := s.c.event(nil)
		res.Body = &copied{ReadCloser: res.Body, done: func(b []byte) { s.g.samples.put(sample{answer: a, body: b, event: found}) }}
	}
	return res, nil
}

func (q *samples) put(s sample) {
	select {
	case q.queue <- s:
	default:
		q.dropped.Add(1)
	}
}

// copied hands what was read of a body to done at its end, unless it is too
// long.
type copied struct {
	io.ReadCloser
	body []byte
	over bool
	done func([]byte)
}

func (c *copied) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if c.over = c.over || len(c.body)+n > maxJudged; !c.over {
		c.body = append(c.body, p[:n]...)
	}
	if errors.Is(err, io.EOF) && !c.over && c.done != nil {
		c.done(c.body)
		c.done = nil
	}
	return n, err
}

// judgeSamples judges what was sent, one after the other, until ctx ends.
func (g *Gateway) judgeSamples(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-g.samples.queue:
			g.judgeSample(ctx, s)
		}
	}
}

// judgeSample puts a finding on record: the answer has been sent.
func (g *Gateway) judgeSample(ctx context.Context, s sample) {
	if s.err == nil {
		if s.err = s.answer.Check(s.body); s.err == nil {
			return
		}
	}
	s.event.Outcome, s.event.Control, s.event.Class, s.event.Code = audit.Failed, "validate.response", "validation", "sampled"
	s.event.Detail, s.event.Decision = map[string]string{"error": s.err.Error(), "sent": "true"}, ""
	if err := g.opt.Audit.Record(ctx, s.event); err != nil {
		g.opt.Logger.ErrorContext(ctx, "audit", "error", err)
	}
}

// answerError says why there is no answer to relay: it was withheld, or none
// came.
func answerError(c *call, err error) error {
	if _, withheld := errors.AsType[*problem.Details](err); withheld {
		return err
	}
	return &rampart.Error{Kind: rampart.Unavailable, Control: controlOf(err, ""), Msg: c.target.name + " does not answer; try again", Err: err}
}
