// Package hop is an HTTP/1.1 client for the next hop. The goroutine that asks
// writes the request and reads the answer itself: no two others stand by for each
// connection, as those of net/http do, and hand over what they read. What does not
// fit is left to net/http: a change of protocol, a body of unknown length or a long
// one, which a server may answer before it has read it.
//
// Answers are parsed by net/http, but for those that leave no question open.
package hop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	maxBody = 64 << 10    // bytes that any socket takes up, so that writing them cannot wait for reading
	maxHead = 64 << 10    // bytes of an answer before its body, interim answers included
	maxIdle = 256         // connections that wait for a request
	idleFor = time.Minute // they are closed after that, sooner than servers do it, and at the latest half of it later
	interim = 5           // answers with status 1xx before the one that counts
)

// Options configure a Transport. All but Now are required.
type Options struct {
	// Dial opens a connection to the host:port of the URL, over TLS or not. Its error
	// is that of RoundTrip. It must end soon by itself: its context does not end with
	// the caller's, since a handshake thrown away costs both ends another.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Else carries what does not fit.
	Else http.RoundTripper
	// Wait bounds the wait for each answer: at least that long, at most twice. It is
	// the last resort; callers bound their contexts.
	Wait time.Duration
	Now  func() time.Time // nil: time.Now
}

// Transport is an http.RoundTripper to one server, which may move: connections to
// where it was are given up. It may be used concurrently. Only a request with a method that may be repeated, and
// without a body, is sent a second time, when a connection that had served before
// turns out to be dead.
type Transport struct {
	opt Options

	mu      sync.Mutex  // guards below
	addr    string      // where the server is
	idle    []*conn     // the one used last is the last
	sweeper *time.Timer // nil: none waits
}

// New returns a Transport without connections.
func New(opt Options) *Transport {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Transport{opt: opt}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !fits(r) {
		return t.opt.Else.RoundTrip(r)
	}
	if r.Body != nil {
		defer r.Body.Close()
	}
	msg := messages.Get().(*[]byte)
	defer putMessage(msg)
	var err error
	if *msg, err = appendRequest((*msg)[:0], r); err == nil {
		err = r.Context().Err() // nothing is done for who has gone
	}
	if err != nil {
		return nil, fmt.Errorf("hop: %s: %w: %w", r.Method, ErrNotSent, err)
	}
	for c := t.last(r.URL.Host); c != nil; c = t.last(r.URL.Host) {
		res, err := c.exchange(r, *msg)
		if err == nil || r.Context().Err() != nil {
			return res, err
		}
		if errors.Is(err, errStale) {
			continue
		}
		if !errors.Is(err, errUnheard) || !repeats(r) {
			return nil, err
		}
		break
	}
	c, err := t.dial(r.Context(), r.URL.Host)
	if err != nil {
		return nil, err
	}
	return c.exchange(r, *msg)
}

// ErrNotSent is of a request of which not one byte left: it is malformed, its body
// could not be read, or its caller had gone.
var ErrNotSent = errors.New("nothing was sent")

// messages are the memory of requests as they are written.
var messages = sync.Pool{New: func() any { return new([]byte) }}

// putMessage keeps a short one: long ones are rare, and would stay.
func putMessage(msg *[]byte) {
	if cap(*msg) <= 8<<10 {
		messages.Put(msg)
	}
}

// dial opens a connection. When its caller leaves meanwhile, it serves another.
func (t *Transport) dial(ctx context.Context, addr string) (*conn, error) {
	type dialed struct {
		c   *conn
		err error
	}
	done := make(chan dialed)
	go func() {
		var d dialed
		raw, err := t.opt.Dial(context.WithoutCancel(ctx), addr)
		if d.err = err; err == nil {
			d.c = newConn(t, raw, addr)
		}
		select {
		case done <- d:
		case <-ctx.Done():
			if err == nil {
				t.give(d.c)
			}
		}
	}()
	select {
	case d := <-done:
		return d.c, d.err
	case <-ctx.Done():
		return nil, fmt.Errorf("hop: dial: %w: %w", ErrNotSent, ctx.Err())
	}
}

// fits reports whether a request is written at once and answered by one answer.
func fits(r *http.Request) bool {
	if len(r.Header["Upgrade"]) > 0 || len(r.Header["Expect"]) > 0 || r.Method == http.MethodConnect || len(r.Trailer) > 0 {
		return false
	}
	if r.Body == nil || r.Body == http.NoBody {
		return r.ContentLength == 0
	}
	return 0 < r.ContentLength && r.ContentLength <= maxBody
}

// repeats reports whether a request means the same when it arrives twice, and can be
// sent twice.
func repeats(r *http.Request) bool {
	return (r.Body == nil || r.Body == http.NoBody) && slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, r.Method)
}

// last returns the connection that was used last: the others may grow old. nil: none
// waits for a request.
func (t *Transport) last(addr string) *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.addr != addr {
		go closeAll(t.idle)
		t.addr, t.idle = addr, nil
	}
	n := len(t.idle) - 1
	if n < 0 {
		return nil
	}
	c := t.idle[n]
	t.idle[n], t.idle = nil, t.idle[:n]
	return c
}

// give has a connection wait for the next request.
func (t *Transport) give(c *conn) {
	c.waited = true
	t.mu.Lock()
	full := len(t.idle) >= maxIdle || c.addr != t.addr
	if !full {
		t.idle = append(t.idle, c)
		if t.sweeper == nil {
			t.sweeper = time.AfterFunc(idleFor/2, t.sweep)
		}
	}
	t.mu.Unlock()
	if full {
		c.Close()
	}
}

// sweep closes connections that have waited for long, and comes again while others
// wait.
func (t *Transport) sweep() {
	before := t.opt.Now().Add(-idleFor)
	t.mu.Lock()
	n := 0
	for n < len(t.idle) && t.idle[n].since.Before(before) {
		n++
	}
	old := slices.Clone(t.idle[:n])
	t.idle = slices.Delete(t.idle, 0, n)
	t.sweeper = nil
	if len(t.idle) > 0 {
		t.sweeper = time.AfterFunc(idleFor/2, t.sweep)
	}
	t.mu.Unlock()
	closeAll(old)
}

// CloseIdleConnections closes what waits for a request; http.Client looks for it.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	old := t.idle
	t.idle = nil
	t.mu.Unlock()
	closeAll(old)
	if e, ok := t.opt.Else.(interface{ CloseIdleConnections() }); ok {
		e.CloseIdleConnections()
	}
}

func closeAll(list []*conn) {
	for _, c := range list {
		c.Close()
	}
}

// errUnheard is of a server that closed the connection without a word.
var errUnheard = errors.New("the connection was closed before an answer began")

// errStale is of a connection that the server closed, or on which it spoke unasked,
// before anything was sent.
var errStale = fmt.Errorf("the connection is no longer good: %w", ErrNotSent)

func wrap(r *http.Request, err error) error {
	if cause := r.Context().Err(); cause != nil { // that is why the connection was cut
		if errors.Is(err, ErrNotSent) {
			return fmt.Errorf("hop: %s: %w: %w", r.Method, ErrNotSent, cause)
		}
		return cause
	}
	return fmt.Errorf("hop: %s: %w", r.Method, err)
}
