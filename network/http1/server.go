// Package http1 serves HTTP/1.1 on connections whose framing package framing guards.
// It is there for what it does not do: net/http keeps a second goroutine for each
// request, to learn whether the client has left, reads the head a second time with
// what it would let pass, and keeps the answer in three buffers. Here the goroutine of
// a connection does all of it, and what was guarded has one reading.
//
// What handlers find is what they find under net/http, but for this: interim answers
// and trailers are not sent, a body that was not read and has not come with the head
// ends the connection, and a client that leaves is noticed within half a second.
package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a connection.
const (
	defaultHead = 32 << 10
	lookEvery   = 200 * time.Millisecond // for clients that have left
	lingerTime  = 500 * time.Millisecond // for a client to read the answer before the connection goes
	lingerBytes = 256 << 10
)

// Options configure a Server. All but MaxHead are required.
type Options struct {
	Handler http.Handler
	Head    time.Duration // for the head of a request, from its first byte, or from the handshake
	Idle    time.Duration // between two requests
	Answer  time.Duration // from the head of a request until its answer has been taken; handlers may move it
	MaxHead int           // of a request, in bytes; 0 means 32 KiB
	Logger  *slog.Logger  // hears of handlers that panic
}

// Server serves connections. Its methods may be called concurrently.
type Server struct {
	opt  Options
	date date
	open sync.WaitGroup // connections

	closing atomic.Bool

	mu      sync.Mutex // guards below
	conns   map[*conn]struct{}
	looking bool
}

// New returns a server without connections. It panics if opt lacks what is required.
func New(opt Options) *Server {
	if opt.Handler == nil || opt.Logger == nil || opt.Head <= 0 || opt.Idle <= 0 || opt.Answer <= 0 {
		panic("http1: handler, logger and times are required")
	}
	if opt.MaxHead <= 0 {
		opt.MaxHead = defaultHead
	}
	return &Server{opt: opt, conns: map[*conn]struct{}{}}
}

// Listen returns a listener over inner, which is one of package framing, that keeps
// HTTP/1 for itself: Accept returns the connections that agreed on HTTP/2.
func (s *Server) Listen(inner net.Listener) net.Listener { return listener{inner, s} }

type listener struct {
	net.Listener
	srv *Server
}

// Accept returns the next connection that speaks another protocol.
func (l listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if _, other := c.(*tls.Conn); other {
			return c, nil
		}
		l.srv.take(c)
	}
}

// take serves a connection.
func (s *Server) take(rwc net.Conn) {
	c := newConn(s, rwc)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		rwc.Close()
		return
	}
	s.conns[c] = struct{}{}
	if !s.looking {
		s.looking = true
		go s.look()
	}
	s.open.Go(func() {
		defer s.drop(c)
		c.serve()
	})
}

func (s *Server) drop(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// look finds, while there are connections, requests that take their time, and has
// somebody watch for their clients to leave. Most have ended before it comes twice.
func (s *Server) look() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for range tick.C {
		if !s.lookOnce() {
			return
		}
	}
}

func (s *Server) lookOnce() (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.grow()
	}
	s.looking = len(s.conns) > 0
	return s.looking
}

// Shutdown closes connections that wait for a request, lets the others finish the one
// that they have, and returns when all are closed or ctx ends, with its error then.
// The caller has closed the listener.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing.Store(true)
	for c := range s.conns {
		c.closeIdle()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.open.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close closes all connections and waits for their handlers.
func (s *Server) Close() {
	s.mu.Lock()
	s.closing.Store(true)
	for c := range s.conns {
		go c.rwc.Close() // which waits for TLS to take its leave
	}
	s.mu.Unlock()
	s.open.Wait()
}

// date is the Date of answers, made once a second.
type date struct{ last atomic.Pointer[stamp] }

type stamp struct {
	second int64
	text   string
}

func (d *date) at(now time.Time) string {
	s := d.last.Load()
	if s == nil || s.second != now.Unix() {
		s = &stamp{now.Unix(), now.UTC().Format(http.TimeFormat)}
		d.last.Store(s)
	}
	return s.text
}

var errTooLong = errors.New("http1: the head of the request is too long")
