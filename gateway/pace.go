package gateway

import (
	"io"
	"net/http"
	"time"
)

// pace is how long clients may take. All of it is real time: deadlines are the
// kernel's.
type pace struct {
	header time.Duration // for the head of a request
	idle   time.Duration // between two requests
	first  time.Duration // until a body is read, whose reading begins late
	grace  time.Duration // before a body must come at rate
	rate   int64         // bytes of a body per second
	ahead  time.Duration // a body that came fast may pause so long, and an answer may stand still so long
	whole  time.Duration // for a body in all, and for an answer in all, however they come
}

func usualPace() pace {
	return pace{header: headerTimeout, idle: idleTimeout, first: bodyTimeout, grace: bodyGrace, rate: bodyRate, ahead: stallTimeout, whole: wholeTimeout}
}

// pacing is what a call holds of its deadlines, so that all of it is one piece of
// memory.
type pacing struct {
	control http.ResponseController
	body    pacedBody
	answer  pacedAnswer
}

// paced gives the request's body and answer the deadlines of p.
func (c *call) paced(p pace) {
	c.pacing.control = *http.NewResponseController(c.w)
	control := &c.pacing.control
	if !c.read {
		_ = control.SetReadDeadline(time.Now().Add(p.first)) // from here on: who is refused may not dribble either
		c.pacing.body = pacedBody{ReadCloser: c.r.Body, pace: p, control: control}
		c.r.Body = &c.pacing.body
	}
	c.pacing.answer = pacedAnswer{ResponseWriter: c.w, pace: p, control: control}
	c.w = &c.pacing.answer
}

// pacedBody is a body that must come at a rate: after the grace, at no moment may
// less have come than the rate times the time since. net/http lifts the deadline
// when the body has ended. A writer of a test has none.
type pacedBody struct {
	io.ReadCloser
	pace    pace
	control *http.ResponseController
	began   time.Time // zero: nothing was read
	armed   time.Time
	n       int64
}

// Read implements io.Reader.
func (b *pacedBody) Read(p []byte) (int, error) {
	b.arm(time.Now())
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}

// arm sets the deadline by what has come. It is moved seldom, since in HTTP/2
// that is a word to another goroutine.
func (b *pacedBody) arm(now time.Time) {
	if b.began.IsZero() {
		b.began = now
	}
	earned := min(float64(b.n)/float64(b.pace.rate), b.pace.whole.Seconds())
	at := b.began.Add(b.pace.grace + time.Duration(earned*float64(time.Second)))
	at = earliest(at, now.Add(b.pace.grace+b.pace.ahead), b.began.Add(b.pace.whole))
	if at.Sub(b.armed) < b.pace.grace/2 {
		return
	}
	if b.control.SetReadDeadline(at) == nil {
		b.armed = at
	}
}

// pacedAnswer is an answer whose reader must take it: each write may stand still
// for a while only, and all of them together for longer. Where it is streamed
// without end, the flow's own bounds hold.
type pacedAnswer struct {
	http.ResponseWriter
	pace    pace
	control *http.ResponseController
	began   time.Time
	armed   time.Time
	endless bool
}

// Unwrap is for http.ResponseController.
func (a *pacedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (a *pacedAnswer) WriteHeader(status int) {
	a.arm(time.Now())
	a.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (a *pacedAnswer) Write(p []byte) (int, error) {
	a.arm(time.Now())
	return a.ResponseWriter.Write(p)
}

// unending lifts the bound on the whole, for answers that are a stream.
func (a *pacedAnswer) unending() { a.endless = true }

func (a *pacedAnswer) arm(now time.Time) {
	if a.began.IsZero() {
		a.began = now
	}
	at := now.Add(a.pace.ahead)
	if !a.endless {
		at = earliest(at, a.began.Add(a.pace.whole))
	}
	if at.Sub(a.armed) < a.pace.ahead/4 {
		return
	}
	if a.control.SetWriteDeadline(at) == nil {
		a.armed = at
	}
}

func earliest(first time.Time, more ...time.Time) time.Time {
	for _, t := range more {
		if t.Before(first) {
			first = t
		}
	}
	return first
}
