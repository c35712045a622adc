// Package upstream keeps a service that is slow or fails from taking its callers
// with it. It bounds the wait for an answer, repeats a request once where that is
// safe and the budget allows it, and stops asking a service that fails, until one
// request that is let through finds it well.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/hop"
	"github.com/rampart-security/rampart/internal/leash"
	"github.com/rampart-security/rampart/internal/problem"
)

// Options configure a Service.
type Options struct {
	Name     string        // of the service, for errors
	Timeout  time.Duration // until an answer begins; 0: none but that of the request's context
	Failures int           // percent of the window that opens the breaker; 0: it never opens
	Least    int           // requests in the window before it may open
	Open     time.Duration // how long it stays open before one request is let through
	Now      func() time.Time
	OnChange func(Change) // hears of every change, in order, and must not block; may be nil
}

// Change is a change of the breaker.
type Change struct {
	Open     bool // false: it closed, since the request that was let through went well
	Requests int  // of the window
	Failed   int  // of them
}

// Service is one service as its caller sees it. Its methods may be called
// concurrently.
type Service struct {
	opt  Options
	seed maphash.Seed // tells callers apart

	mu        sync.Mutex // guards below
	window    window
	evidence  evidence
	open      bool
	since     time.Time // while open: when it opened
	until     time.Time // while open: nobody is let through before
	probing   bool      // one was let through and has not come back
	strainers []string  // while open: whose requests that were let through failed, as they may have been made to
}

// New returns a Service. Now nil means time.Now.
func New(opt Options) *Service {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Service{opt: opt, seed: maphash.MakeSeed()}
}

// Open reports whether the breaker is open, and since when. One that was tried in
// vain has been open all the time.
func (s *Service) Open() (since time.Time, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		return time.Time{}, false
	}
	return s.since, true
}

// Repeatable reports whether a method means the same when it arrives twice (RFC
// 9110, section 9.2.2).
func Repeatable(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// Over returns a transport over rt that minds the service. With repeat, a request
// may be sent a second time; its body must then have GetBody, or be none. who is the
// caller: what its requests may have provoked, no answer in time or none at all, opens
// the breaker together with that of three others at least. "" is for a caller that
// cannot choose what it sends; all of its failures count. That no connection can be
// opened counts whoever asked.
//
// The errors that Over adds are of kind Unavailable: with Retry-After when the
// breaker is open, with status 504 when no answer began in time. Those of rt pass.
//
// A request whose context is a leash.Leash, which only it has, is ended by that when no
// answer begins in time; any other gets one of its own.
func (s *Service) Over(rt http.RoundTripper, who string, repeat bool) *Way {
	return &Way{service: s, rt: rt, who: who, repeat: repeat}
}

// Calls is Over for calls whose answer may begin when they end, as their caller
// likes: nothing is repeated, and nobody waits for less than the request's context
// says. The one that is let through to try has the usual time, since others wait for
// what comes of it.
func (s *Service) Calls(rt http.RoundTripper, who string) *Way {
	return &Way{service: s, rt: rt, who: who, call: true}
}

// Way is an http.RoundTripper to a Service.
type Way struct {
	service *Service
	rt      http.RoundTripper
	who     string
	repeat  bool
	call    bool
}

// errSlow ends a wait.
var errSlow = errors.New("upstream: no answer began in time")

// RoundTrip implements http.RoundTripper.
func (t *Way) RoundTrip(r *http.Request) (*http.Response, error) {
	probe, err := t.service.enter(t.who)
	if err != nil {
		return nil, err
	}
	l, theirs := r.Context().(*leash.Leash)
	if !theirs {
		l = new(leash.Leash)
		l.Begin(r.Context())
		r = r.WithContext(l)
	}
	var wait *wait
	if !t.call || probe {
		wait = t.service.wait(l)
	}
	v := unknown // of a transport that panics: nothing was learned, and the next may try
	defer func() { t.service.leave(probe, v, t.who) }()
	res, err := t.twice(r, probe)
	if inTime := wait.stop(); err == nil && inTime {
		v = verdictOf(res)
		t.attend(res, l, !theirs)
		return res, nil
	}
	if err == nil {
		res.Body.Close() // it began as the time ended
		err = errSlow
	}
	slow := errors.Is(err, errSlow) || errors.Is(l.Cause(), errSlow) || errors.Is(l.Cause(), context.DeadlineExceeded)
	v = verdictOn(l, slow, err)
	if !theirs {
		l.End(nil)
	}
	if slow {
		return nil, t.service.tooSlow(err)
	}
	return nil, err
}

// attend minds that the answer may break off, unless all of it is here, and that the
// leash ends with it, if that is ours.
func (t *Way) attend(res *http.Response, l *leash.Leash, ours bool) {
	if _, whole := res.Body.(*hop.Whole); !whole && res.Body != http.NoBody {
		res.Body = &body{res.Body, t, l, ours}
		return
	}
	if ours {
		l.End(nil)
	}
}

// wait ends a leash when no answer begins in time.
type wait struct {
	timer *time.Timer
	of    atomic.Pointer[leash.Leash]
}

// waits are those over before their time, which nothing can call any more: nobody but
// this package has ever seen one.
var waits = sync.Pool{New: func() any { return new(wait) }}

// wait begins the wait for an answer; nil: there is no bound.
func (s *Service) wait(l *leash.Leash) *wait {
	if s.opt.Timeout <= 0 {
		return nil
	}
	w, ok := waits.Get().(*wait)
	if !ok {
		w = new(wait)
	}
	w.of.Store(l)
	if w.timer == nil {
		w.timer = time.AfterFunc(s.opt.Timeout, w.over)
	} else {
		w.timer.Reset(s.opt.Timeout)
	}
	return w
}

func (w *wait) over() { w.of.Load().End(errSlow) }

// stop ends the wait, and reports whether it was not over before.
func (w *wait) stop() bool {
	if w == nil {
		return true
	}
	if !w.timer.Stop() {
		return false
	}
	w.of.Store(nil)
	waits.Put(w)
	return true
}

// twice sends a request, and sends it again if nothing came of it. An answer,
// whatever it says, is an answer; and one that did not come in time is not waited
// for a second time.
func (t *Way) twice(r *http.Request, probe bool) (*http.Response, error) {
	res, err := t.rt.RoundTrip(r)
	if err == nil || !t.repeat || probe || r.Context().Err() != nil {
		return res, err
	}
	again, ok := rewound(r)
	if !ok || !t.service.retry() {
		return nil, err
	}
	return t.rt.RoundTrip(again)
}

// rewound is the request once more.
func rewound(r *http.Request) (*http.Request, bool) {
	again := r.Clone(r.Context())
	if r.Body == nil || r.Body == http.NoBody {
		return again, true
	}
	if r.GetBody == nil {
		return nil, false
	}
	var err error
	again.Body, err = r.GetBody()
	return again, err == nil
}

// body frees what the wait for an answer held once the answer has been read.
type body struct {
	io.ReadCloser
	of   *Way
	by   *leash.Leash
	ours bool
}

// Read implements io.Reader. An answer that breaks off is a failure too.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && b.by.Err() == nil {
		b.of.service.brokeOff(b.of.who)
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	if b.ours {
		b.by.End(nil)
	}
	return err
}

// Write is for an answer that changed the protocol: its body is the connection.
func (b *body) Write(p []byte) (int, error) {
	w, ok := b.ReadCloser.(io.Writer)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return w.Write(p)
}

func (s *Service) tooSlow(err error) error {
	return problem.With(&rampart.Error{Kind: rampart.Unavailable, Msg: s.opt.Name + " did not answer in time", Err: err}, problem.Details{Status: http.StatusGatewayTimeout})
}

func (s *Service) closedFor(d time.Duration) error {
	return problem.With(&rampart.Error{Kind: rampart.Unavailable, Msg: s.opt.Name + " fails and is left alone for a while; try again later",
		Err: fmt.Errorf("upstream: the breaker is open for %v", d)}, problem.Details{RetryAfter: max(d, time.Second), Limit: "breaker"})
}
