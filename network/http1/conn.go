package http1

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const firstBuffer = 4 << 10

// States of a connection.
const (
	fresh  int32 = iota // no request has come yet: the zero value
	idle                // waits for the next one
	active              // a byte of a request has come
	gone                // closed while it was idle
)

// conn is one connection. Its goroutine reads requests and runs their handlers.
type conn struct {
	srv    *Server
	rwc    net.Conn
	tls    *tls.ConnectionState // nil: not over TLS
	remote string
	state  atomic.Int32

	buf     []byte // bytes that were read: buf[at:end] are not taken yet
	at, end int

	mu      sync.Mutex    // guards below
	now     *exchange     // whose handler runs; nil: none
	watcher chan struct{} // closed when nobody watches the client any more; nil: nobody does
	ending  bool          // the watcher is told to end
}

func newConn(s *Server, rwc net.Conn) *conn {
	c := &conn{srv: s, rwc: rwc, remote: rwc.RemoteAddr().String()}
	if t, ok := rwc.(interface{ ConnectionState() tls.ConnectionState }); ok {
		cs := t.ConnectionState()
		c.tls = &cs
	}
	return c
}

// serve runs until the connection ends. Errors of reading have nobody to tell: the
// guard has answered what was malformed.
func (c *conn) serve() {
	hijacked := false
	defer func() {
		if !hijacked {
			c.rwc.Close()
		}
	}()
	c.buf = make([]byte, firstBuffer)
	for {
		x, err := c.next()
		if err != nil {
			return
		}
		var again bool
		if again, hijacked = c.run(x); !again {
			return
		}
	}
}

// next reads the head of the next request.
func (c *conn) next() (*exchange, error) {
	began := time.Now()
	wait, first := c.srv.opt.Idle, c.state.Load() == fresh
	if first {
		wait = c.srv.opt.Head
	}
	if err := c.rwc.SetReadDeadline(began.Add(wait)); err != nil {
		return nil, err
	}
	if c.at == c.end {
		c.rest()
		if err := c.fill(); err != nil {
			return nil, err
		}
		if !first {
			began = time.Now()
		}
	}
	if !c.wake() {
		return nil, net.ErrClosed
	}
	n, err := c.head(began)
	if err != nil {
		return nil, err
	}
	x, err := c.parse(c.buf[c.at : c.at+n])
	if err != nil {
		_, _ = io.WriteString(c.rwc, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n") // the connection ends in any case
		return nil, err
	}
	c.at += n
	return x, c.rwc.SetWriteDeadline(began.Add(c.srv.opt.Answer))
}

// rest has the buffer empty, and small.
func (c *conn) rest() {
	c.at, c.end = 0, 0
	if len(c.buf) > firstBuffer {
		c.buf = make([]byte, firstBuffer)
	}
}

// wake notes that a request comes; false: the connection was closed meanwhile.
func (c *conn) wake() bool {
	return c.state.CompareAndSwap(idle, active) || c.state.CompareAndSwap(fresh, active)
}

// closeIdle closes the connection if it waits for the next request. It does not wait
// for TLS to take its leave.
func (c *conn) closeIdle() {
	if c.state.CompareAndSwap(idle, gone) {
		go c.rwc.Close()
	}
}

// head reads until the end of a head is there, and returns its length.
func (c *conn) head(began time.Time) (int, error) {
	late := false
	for seen := c.at; ; {
		if i := bytes.Index(c.buf[seen:c.end], []byte("\r\n\r\n")); i >= 0 {
			return seen + i + 4 - c.at, nil
		}
		seen = max(c.at, c.end-3)
		if !late {
			late = true
			if err := c.rwc.SetReadDeadline(began.Add(c.srv.opt.Head)); err != nil {
				return 0, err
			}
		}
		moved := c.at
		if err := c.room(); err != nil {
			return 0, err
		}
		seen -= moved - c.at
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
}

// room makes room for more of a head.
func (c *conn) room() error {
	if c.end < len(c.buf) {
		return nil
	}
	if c.at > 0 {
		c.end = copy(c.buf, c.buf[c.at:c.end])
		c.at = 0
		return nil
	}
	if c.end > c.srv.opt.MaxHead {
		return errTooLong // the guard speaks sooner
	}
	c.buf = append(c.buf, make([]byte, len(c.buf))...)
	return nil
}

func (c *conn) fill() error {
	n, err := c.rwc.Read(c.buf[c.end:])
	c.end += n
	if n > 0 {
		return nil // the error, if there is one, comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// run runs the handler and ends the exchange. again: another request may come.
func (c *conn) run(x *exchange) (again, hijacked bool) {
	c.begin(x)
	whole := c.handle(x)
	x.leash.End(nil)
	if x.answer.hijacked {
		return false, true // the watcher ended as the connection was taken
	}
	c.unwatch()
	if !whole {
		x.answer.drop()
		return false, false
	}
	err := x.answer.finish()
	left := !x.body.settle()
	switch {
	case err != nil:
		return false, false
	case left:
		c.linger()
		return false, false
	case x.answer.last:
		return false, false
	}
	c.state.Store(idle)
	if c.srv.closing.Load() {
		return false, false
	}
	return true, false
}

// handle reports whether the handler returned. One that panics with
// http.ErrAbortHandler breaks its answer off on purpose.
func (c *conn) handle(x *exchange) (whole bool) {
	defer func() {
		v := recover()
		if v == nil || v == http.ErrAbortHandler { //nolint:errorlint // it is compared as net/http does
			return
		}
		c.srv.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "a handler panicked", slog.Any("value", v), slog.String("stack", string(debug.Stack())))
	}()
	c.srv.opt.Handler.ServeHTTP(&x.answer, x.request)
	return true
}

// linger has the client read the answer before the connection ends: closing with
// bytes unread would have the kernel throw it away.
func (c *conn) linger() {
	below := c.rwc
	if w, ok := below.(interface{ NetConn() net.Conn }); ok {
		below = w.NetConn()
	}
	half, ok := below.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if guard, ok := c.rwc.(interface{ Tunnel() }); ok {
		guard.Tunnel() // no request is read any more, so none is refused
	}
	if c.rwc.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, c.rwc, lingerBytes) // whatever ends it, the connection ends
	}
}

func (c *conn) begin(x *exchange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = x
}

// grow notes that a request has gone on until another look, and at the second has
// its client watched. The body must have been read: until then its reader sees the
// client leave.
func (c *conn) grow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.now
	if x == nil || c.watcher != nil {
		return
	}
	if x.looks++; x.looks < 2 || !x.body.over.Load() || c.at != c.end {
		return
	}
	if c.rwc.SetReadDeadline(time.Time{}) != nil {
		return
	}
	c.watcher, c.ending = make(chan struct{}), false
	go c.watch(x, c.watcher)
}

// watch waits for the next byte of the client, which belongs to its next request, or
// for its end, which ends this request.
func (c *conn) watch(x *exchange, done chan struct{}) {
	defer close(done)
	err := c.fillOne()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && !c.ending && !errors.Is(err, os.ErrDeadlineExceeded) {
		x.leash.End(nil)
	}
}

// fillOne reads one byte: of what the guard finds in it, it waits with speaking of it
// until this request has been answered.
func (c *conn) fillOne() error {
	c.rest()
	n, err := c.rwc.Read(c.buf[:1])
	c.end = n
	if n > 0 {
		return nil
	}
	return err
}

// unwatch ends the request for those who look, and waits until nobody reads.
func (c *conn) unwatch() {
	c.mu.Lock()
	done := c.watcher
	c.now = nil
	if done != nil {
		c.ending = true
		_ = c.rwc.SetReadDeadline(time.Unix(1, 0)) // if that fails, the connection is closed, and reading has ended
	}
	c.mu.Unlock()
	if done == nil {
		return
	}
	<-done
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watcher = nil
}
