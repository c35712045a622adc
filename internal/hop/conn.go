package hop

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// conn is one connection. One request at a time owns it.
type conn struct {
	net.Conn
	of    *Transport
	addr  string
	raw   syscall.RawConn // of the socket; nil: it cannot be asked
	peek  func(fd uintptr) bool
	alive bool // what peek found
	bare  bool // nothing is between this and the socket
	still func(bool)

	in    *bufio.Reader
	quota int       // bytes that may be read yet
	until time.Time // deadline of the socket
	since time.Time // when it began to wait
	heard bool      // a byte of the answer came
}

func newConn(t *Transport, c net.Conn, addr string) *conn {
	n := &conn{Conn: c, of: t, addr: addr, raw: rawOf(c)}
	n.in = bufio.NewReader(reader{n})
	_, n.bare = c.(syscall.Conn)
	n.still = stillOf(c)
	n.peek = n.look
	return n
}

// rawOf is the socket under TLS and whatever else wraps it.
func rawOf(c net.Conn) syscall.RawConn {
	for {
		if s, ok := c.(syscall.Conn); ok {
			raw, err := s.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = w.NetConn()
	}
}

// silent reports whether nothing has come since the last answer: neither the end nor
// what nobody asked for, which must not be taken for the next answer. One that cannot
// be asked is never used again.
func (c *conn) silent() bool {
	c.alive = false
	return c.raw != nil && c.raw.Read(c.peek) == nil && c.alive
}

func (c *conn) look(fd uintptr) bool {
	var b [1]byte
	_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	c.alive = errors.Is(err, syscall.EAGAIN)
	return true
}

// drained reports whether nothing is left of what was read. What lies in the kernel is
// for silent to find; TLS may have read more than it was asked for, and gives that
// while what is below it stands still.
func (c *conn) drained() bool {
	if c.in.Buffered() > 0 || c.still == nil {
		return c.in.Buffered() == 0 && c.bare
	}
	c.still(true)
	defer c.still(false)
	_, err := c.in.Peek(1)
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// stillOf finds what can stand still below TLS.
func stillOf(c net.Conn) func(bool) {
	for {
		if s, ok := c.(interface{ Still(bool) }); ok {
			return s.Still
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = w.NetConn()
	}
}

// reader is the connection as far as it may be read.
type reader struct{ c *conn }

var errLongHead = errors.New("the head of the answer is too long")

func (r reader) Read(p []byte) (int, error) {
	if r.c.quota <= 0 {
		return 0, errLongHead
	}
	n, err := r.c.Conn.Read(p[:min(len(p), r.c.quota)])
	r.c.quota -= n
	r.c.heard = r.c.heard || n > 0
	return n, err
}

// exchange sends msg, which is r, and returns the answer, whose body owns the
// connection from then on. An error has closed it.
func (c *conn) exchange(r *http.Request, msg []byte) (*http.Response, error) {
	ctx := r.Context()
	c.extend()
	stop := context.AfterFunc(ctx, c.cut)
	res, err := c.ask(r, msg)
	if err != nil {
		stop()
		c.Close()
		return nil, wrap(r, err)
	}
	b := &body{ReadCloser: res.Body, c: c, ctx: ctx, stop: stop, last: res.Close}
	res.Body = b
	if b.ReadCloser == http.NoBody {
		b.end(whole)
		res.Body = http.NoBody
	}
	return res, nil
}

// extend moves the deadline, seldom: it is a last resort.
func (c *conn) extend() {
	now := c.of.opt.Now()
	if c.until.Sub(now) >= c.of.opt.Wait {
		return
	}
	c.until = now.Add(2 * c.of.opt.Wait)
	_ = c.SetDeadline(c.until) // a closed one says so when it is written to
}

// cut ends whatever waits for the connection.
func (c *conn) cut() { _ = c.SetDeadline(time.Unix(1, 0)) }

func (c *conn) ask(r *http.Request, msg []byte) (*http.Response, error) {
	c.quota, c.heard = maxHead, false
	_, sent := c.Write(msg)
	res, err := c.answer(r) // also when sending failed: the server may have said why
	switch {
	case err == nil:
		res.Close = res.Close || sent != nil
		c.quota = math.MaxInt
		return res, nil
	case !c.heard:
		return nil, errors.Join(errUnheard, sent, err)
	}
	return nil, err
}

// answer reads the head of the answer that counts.
func (c *conn) answer(r *http.Request) (*http.Response, error) {
	for range interim {
		res, err := http.ReadResponse(c.in, r)
		if err != nil {
			return nil, err
		}
		if res.StatusCode == http.StatusSwitchingProtocols {
			return nil, errors.New("the answer changes the protocol, which nobody asked for")
		}
		if res.StatusCode >= http.StatusOK {
			return res, nil
		}
	}
	return nil, errors.New("too many interim answers")
}

// body is that of an answer. At its end the connection waits for the next request.
type body struct {
	io.ReadCloser // net/http's
	c             *conn
	ctx           context.Context
	stop          func() bool
	last          bool // the server closes the connection after this answer
	state         atomic.Int32
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	switch b.state.Load() {
	case whole:
		return 0, io.EOF // the connection is another's
	case left:
		return 0, http.ErrBodyReadAfterClose
	}
	b.c.extend() // an answer may go on for as long as it is read
	if b.ctx.Err() != nil {
		b.c.cut() // again, if that came before extend
	}
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.end(whole)
	case err != nil:
		b.end(left)
		if cause := b.ctx.Err(); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close ends the connection unless all was read: what is left may never end.
func (b *body) Close() error {
	b.end(left)
	return nil
}

// States of a body. The zero value is one that is being read.
const (
	whole = 1 + iota // read to its end
	left             // given up
)

func (b *body) end(state int32) {
	if !b.state.CompareAndSwap(0, state) {
		return
	}
	if uncut := b.stop(); !uncut || state == left || b.last || !b.c.drained() {
		b.c.Close()
		return
	}
	b.c.of.give(b.c)
}
